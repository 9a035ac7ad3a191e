//! The event log: what happened, in words, with the epoch it happened in. Bounded; the newest
//! entries stay.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::arbitration::{Config, InSync, Quorum, Transition};
use crate::group::{LogEntry, SessionEnd};

/// Entries kept in memory: some days of a pair whose links flap.
const ENTRIES: usize = 4096;

/// One line of `showeventlog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts all entries since the start; gaps never occur.
    pub id: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// Name of the remote copy group, if it concerns one.
    pub group: Option<String>,
    pub epoch: Option<u64>,
    pub text: String,
}

/// The log; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct EventLog(Arc<Mutex<(u64, VecDeque<Entry>)>>);

impl EventLog {
    pub fn add(&self, group: Option<String>, epoch: Option<u64>, text: String) {
        tracing::info!(group = group.as_deref().unwrap_or("-"), epoch, "{text}");
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.0 += 1;
        let id = log.0;
        if log.1.len() == ENTRIES {
            log.1.pop_front();
        }
        log.1.push_back(Entry { id, time, group, epoch, text });
    }

    /// The entries kept, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.iter().cloned().collect()
    }
}

fn describe(config: &Config) -> String {
    let in_sync = match config.in_sync {
        InSync::Both => "in sync {A,B}".to_owned(),
        InSync::Primary => format!("in sync {{{}}}", config.primary),
    };
    let quorum = match config.quorum {
        Quorum::Majority => "majority",
        Quorum::PrimaryAlone => "primary alone",
    };
    // Only an override begins another lineage than the first.
    let lineage = match config.lineage.counter {
        1 => String::new(),
        counter => format!("lineage {counter}, "),
    };
    format!("{lineage}epoch {}: primary {}, {in_sync}, quorum {quorum}", config.epoch.0, config.primary)
}

/// A control's log entry in words.
pub fn say(entry: &LogEntry) -> String {
    match entry {
        LogEntry::Chosen { config } => format!("chosen {}", describe(config)),
        LogEntry::Proposed { transition, round } => {
            let what = match transition {
                Some(Transition::Drop) => "drop peer",
                Some(Transition::Promote) => "promote",
                Some(Transition::Join) => "join",
                Some(Transition::SwitchOver) => "switch over",
                Some(Transition::HandOver) => "hand over",
                Some(Transition::ReEnrol) => "re-enrol the witness",
                Some(Transition::PreElect) => "pre-elect (the witness is lost to both arrays)",
                None => "finish an undecided vote",
            };
            format!("proposes to {what} (round {round})")
        }
        LogEntry::Serving(true) => "serves".into(),
        LogEntry::Serving(false) => "serves no longer".into(),
        LogEntry::LeaseLost => "the lease has run out".into(),
        LogEntry::Link(true) => "the other array is reached".into(),
        LogEntry::Link(false) => "the other array is lost".into(),
        LogEntry::Witness(true) => "the witness is reached".into(),
        LogEntry::Witness(false) => "the witness is lost".into(),
        LogEntry::PeerRestarted => "the other array has restarted".into(),
        LogEntry::SessionOpened { session } => {
            format!("mirror session {}.{} is open", session.boot, session.counter)
        }
        LogEntry::SessionClosed { session, why } => {
            let why = match why {
                SessionEnd::LinkLost => "the link is lost",
                SessionEnd::LaneLost => "a lane is lost",
                SessionEnd::PeerRefused => "the other array refused a frame",
                SessionEnd::PeerFailed => "the other array's disk failed",
                SessionEnd::MirrorTimeout => "a write was not acknowledged in time",
                SessionEnd::PeerRestarted => "the other array has restarted",
                SessionEnd::Stopped => "the group was stopped",
                SessionEnd::ConfigurationChanged => "the configuration changed",
                SessionEnd::MembersChanged => "the members changed",
            };
            format!("mirror session {}.{} is closed: {why}", session.boot, session.counter)
        }
        LogEntry::SessionDeclined { why } => {
            format!("the other array declines to mirror: {why}")
        }
        LogEntry::SwitchOverGivenUp => "switchover given up: commands in flight did not end in time".into(),
        LogEntry::Override { stale: true } => {
            "override: by the operator's word the other array is off; this copy is served as it is".into()
        }
        LogEntry::Override { stale: false } => {
            "failover -f: by the operator's word the other array is off; this copy is in sync".into()
        }
        LogEntry::OverrideGivenUp { why } => format!("override given up: {why}"),
        LogEntry::Discarded => {
            "what this array wrote alone before an override is discarded by the operator".into()
        }
        LogEntry::VolumeDiskHangs(true) => "a volume's disk does not finish its I/O; check that disk".into(),
        LogEntry::VolumeDiskHangs(false) => "the volumes' disks finish their I/O again".into(),
        LogEntry::DataDirHangs(true) => {
            "data_dir does not finish a write, so that no lease is asked for; check that disk".into()
        }
        LogEntry::DataDirHangs(false) => "data_dir finishes its writes again".into(),
        LogEntry::SplitBrain => "two histories have met (override on both sides)".into(),
    }
}
