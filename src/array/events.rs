//! The event log: what happened, in words, with the epoch it happened in. Bounded; the newest
//! entries stay, over restarts too.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::arbitration::{Config, InSync, Quorum, Transition, Voter};
use crate::group::{LogEntry, SessionEnd, Trouble};
use crate::store::EventFile;

/// Entries kept in memory: some days of a pair whose links flap.
const ENTRIES: usize = 4096;

/// One line of `showeventlog`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts all entries of the array; a gap is what a disk had no room for.
    pub id: u64,
    /// Seconds since 1970.
    pub time: u64,
    /// Name of the remote copy group, if it concerns one.
    pub group: Option<String>,
    pub epoch: Option<u64>,
    pub text: String,
}

impl Entry {
    fn to_line(&self) -> String {
        let Self { id, time, group, epoch, text } = self;
        serde_json::json!({ "id": id, "time": time, "group": group, "epoch": epoch, "text": text })
            .to_string()
    }

    /// `None`: no entry, or a part of one.
    fn from_line(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(Self {
            id: value["id"].as_u64()?,
            time: value["time"].as_u64()?,
            group: value["group"].as_str().map(str::to_owned),
            epoch: value["epoch"].as_u64(),
            text: value["text"].as_str()?.to_owned(),
        })
    }
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    entries: VecDeque<Entry>,
    file: Option<EventFile>,
    /// Entries that the file had no room for since the last that it took.
    left_out: u64,
}

/// The log; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct EventLog(Arc<Mutex<Inner>>);

impl EventLog {
    /// A log that goes on where the one of the former life ended. Without its file it starts anew, and
    /// says so: an array does not stay down for want of its log.
    pub fn open(path: &Path) -> Self {
        let log = Self::default();
        match EventFile::open(path) {
            Ok((file, lines)) => {
                let mut inner = log.lock();
                let entries = lines.iter().filter_map(|line| Entry::from_line(line));
                inner.entries.extend(entries.skip(lines.len().saturating_sub(ENTRIES)));
                inner.last = inner.entries.iter().map(|entry| entry.id).max().unwrap_or(0);
                inner.file = Some(file);
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the event log starts anew, in memory only");
            }
        }
        log
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, group: Option<String>, epoch: Option<u64>, text: String) {
        tracing::info!(group = group.as_deref().unwrap_or("-"), epoch, "{text}");
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut log = self.lock();
        log.last += 1;
        let entry = Entry { id: log.last, time, group, epoch, text };
        if let Some(file) = &log.file
            && !file.append(entry.to_line())
        {
            log.left_out += 1;
            if log.left_out == 1 {
                tracing::warn!("the event log's disk does not keep up: events are left out of its file");
            }
        } else {
            log.left_out = 0;
        }
        if log.entries.len() >= ENTRIES {
            log.entries.pop_front();
        }
        log.entries.push_back(entry);
    }

    /// The entries kept, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
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

fn voter(voter: Voter) -> String {
    match voter {
        Voter::Array(side) => format!("array {side}"),
        Voter::Witness => "the witness".into(),
    }
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
        LogEntry::NotServing { reason } => format!("does not serve: {reason}"),
        LogEntry::Refused { by, promise: Some(promise), .. } => format!(
            "{} refuses: it has promised to accept nobody but array {} for another {:.1} s",
            voter(*by),
            promise.holder,
            promise.remaining.as_secs_f64()
        ),
        LogEntry::Refused { by: Voter::Witness, promise: None, higher: false } => {
            "the witness refuses: it began anew, and agrees to nothing for as long as a promise of before may last"
                .into()
        }
        LogEntry::Refused { by, promise: None, .. } => {
            format!("{} refuses: another proposal came first, or it knows more", voter(*by))
        }
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
                SessionEnd::PeerDisk => "the other array says that its disk is bad",
                SessionEnd::MirrorTimeout => "a write was not acknowledged in time",
                SessionEnd::PeerRestarted => "the other array has restarted",
                SessionEnd::PeerTainted => "the other array may lack what its memory held",
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
        LogEntry::BlocksLost(0) => "no block in doubt is lost any more: both copies are equal".into(),
        LogEntry::BlocksLost(blocks) => format!(
            "{blocks} blocks of 4 KiB, in doubt since a restart or a failed write, can be read on neither array: \
             hosts get an error there until they write them anew; no switchover meanwhile; check the disks"
        ),
        LogEntry::VolumeDisk(Some(Trouble::Hangs)) => {
            "a volume's disk does not finish its I/O; check that disk".into()
        }
        LogEntry::VolumeDisk(Some(Trouble::Fails)) => "a volume's disk fails its I/O; check that disk".into(),
        LogEntry::VolumeDisk(None) => "the volumes' disks finish their I/O again".into(),
        LogEntry::PeerDisk { bad: true, .. } => {
            "the other array says that its disk fails or does not finish its I/O; it is not mirrored to".into()
        }
        LogEntry::PeerDisk { bad: false, delay } => format!(
            "the other array says that its disk works again; it is mirrored to once that has lasted for {:.1} s",
            delay.as_secs_f64()
        ),
        LogEntry::Mixture => {
            "what this copy held before its resync cannot be kept (see the process's own log): until it is in sync again \
             it is a mixture of old and new; do not override with it"
                .into()
        }
        LogEntry::Tainted => {
            "was stopped without order: what its memory held of acknowledged writes may be gone (write promise memory); \
             until it is caught up, only the other array counts as whole"
                .into()
        }
        LogEntry::PromiseVoid => {
            "both arrays lost what their memories held: acknowledged writes of volumes with the write promise memory \
             since their last flush may be gone; this array goes on with what its disk holds"
                .into()
        }
        LogEntry::DataDirHangs(true) => {
            "data_dir does not finish a write, so that no lease is asked for; check that disk".into()
        }
        LogEntry::DataDirHangs(false) => "data_dir finishes its writes again".into(),
        LogEntry::SplitBrain => "two histories have met (override on both sides)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_on_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let log = EventLog::open(&path);
        log.add(Some("g".into()), Some(7), "one\nof two lines".into());
        log.add(None, None, "two".into());
        drop(log);
        let entries = (0..2000).find_map(|_| {
            let entries = EventLog::open(&path).entries();
            std::thread::sleep(std::time::Duration::from_millis(1));
            (entries.len() == 2).then_some(entries)
        });
        let entries = entries.unwrap();
        assert_eq!((entries[0].epoch, entries[0].text.as_str()), (Some(7), "one\nof two lines"));
        let log = EventLog::open(&path);
        log.add(None, None, "three".into());
        assert_eq!(log.entries().last().map(|entry| entry.id), Some(3));
    }
}
