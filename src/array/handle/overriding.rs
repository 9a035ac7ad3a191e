//! Override: this array serves on an operator's word that the other one is off.

use std::time::Duration;

use uuid::Uuid;

use crate::arbitration::{GroupId, InSync};
use crate::group::{Command, PathView};
use crate::mutation::{self, Mutation};
use crate::store::objects::VirtualVolume;

use super::{CommandError, Handle, now_seconds};

/// The register's write is awaited so long before images are put back.
const CUT_WAIT: Duration = Duration::from_secs(10);
const CUT_LOOK: Duration = Duration::from_millis(20);

/// What a copy holds that is about to be served although it is not in sync.
#[derive(Debug)]
enum Older {
    /// What it held at one moment, all volumes the same.
    Whole,
    /// So it does, but for these volumes, which had never held anything whole.
    Without(Vec<String>),
    /// Old and new.
    Mixture,
}

impl Handle {
    /// `setrcopygroup override`, or `failover -f` without `stale`: the operator's word that the other
    /// array is off is given. What it means for the data, in words.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn override_group(&self, group: &str, stale: bool) -> Result<String, CommandError> {
        let id = self.group_id(group)?;
        let in_sync = self.view(id).is_some_and(|view| view.in_sync == InSync::Both);
        // While the other array is reached the override is refused anyway.
        let linked = self.view(id).is_some_and(|view| view.link_up);
        let older = if stale && !in_sync && !linked { self.put_back(id).await? } else { Older::Whole };
        self.command(id, Command::Override { stale }).await?;
        let witnessed = self.view(id).is_some_and(|view| view.witness.is_some());
        // Only `failover -f` asks the witness whether this copy was dropped.
        let kept = match (in_sync, witnessed) {
            (true, true) if stale => {
                "nothing is lost unless the other array went on alone; what it wrote alone is kept there until \
                 it is discarded (setrcopygroup discard)"
            }
            (true, true) => {
                "nothing is lost: this copy was in sync, and the witness knows of no later change; the other \
                 array is told by either of them when it returns"
            }
            (true, false) => {
                "nothing is lost unless the other array went on alone by the witness, which was not reached: \
                 keep that array off until it is linked with this one"
            }
            (false, true) => {
                "this array serves its own, older data; what the other one wrote alone is kept there until \
                 it is discarded (setrcopygroup discard)"
            }
            (false, false) => {
                "this array serves its own, older data; what the other one wrote alone is kept there until \
                 it is discarded (setrcopygroup discard); no witness was reached: keep that array off until \
                 it is linked with this one"
            }
        };
        Ok(match older {
            Older::Whole => kept.to_owned(),
            Older::Mixture => format!(
                "its volumes are a mixture of old and new, for not everything that they held before the resync \
                 could be kept: nothing was put back; check them before hosts use them. {kept}"
            ),
            Older::Without(blank) => format!(
                "not for use: {}, which had never been in sync and holds a part of the other array's data; {kept}",
                blank.join(", ")
            ),
        })
    }

    /// A copy that was being brought up to date is a mixture of old and new (F14): what it held before
    /// comes back, where that was kept: on all volumes of the group, or on none.
    async fn put_back(&self, group: GroupId) -> Result<Older, CommandError> {
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.group(Uuid::from_bytes(group.0)) else { return Ok(Older::Whole) };
        let members: Vec<_> = entry
            .members
            .iter()
            .filter_map(|member| snapshot.volume(member.volume))
            .filter_map(|named| Some((named, self.volumes.get(named.volume_id())?)))
            .collect();
        if !members.iter().any(|(_, volume)| volume.with(|core, _, _| core.is_behind())) {
            return Ok(Older::Whole);
        }
        let failed =
            |named: &VirtualVolume, error| CommandError::RollBack { volume: named.name.clone(), error };
        let mut held = Vec::new();
        for (named, volume) in &members {
            let copy = volume.hold_for_roll_back().await.map_err(|error| failed(named, error))?;
            held.push((named, volume, copy));
        }
        // What is being written about their images is awaited: it is told to all volumes together.
        let told = async {
            let changes =
                |view: PathView| view.cut_changes && !mutation::on(Mutation::CutChangesUnderRollBack);
            while self.view(group).is_some_and(changes) {
                tokio::time::sleep(CUT_LOOK).await;
            }
        };
        if tokio::time::timeout(CUT_WAIT, told).await.is_err() {
            return Err(CommandError::CutNotWritten);
        }
        if members.iter().any(|(_, volume)| volume.with(|core, _, _| core.is_mixture())) {
            let text = "its volumes are a mixture of old and new: nothing is put back".to_owned();
            self.log.add(Some(entry.name.clone()), None, text);
            return Ok(Older::Mixture);
        }
        let mut blank = Vec::new();
        for (named, volume, copy) in held {
            if volume.was_blank() {
                blank.push(named.name.clone());
            }
            let Some(kept) = copy.roll_back().await.map_err(|error| failed(named, error))? else { continue };
            let as_of = kept.as_of.map_or_else(
                || "before this array was started last".to_owned(),
                |as_of| format!("{} minutes ago", now_seconds().saturating_sub(as_of) / 60),
            );
            let name = &named.name;
            let text =
                format!("volume {name} holds again what it held {as_of}: {} MiB put back", kept.regions);
            self.log.add(Some(entry.name.clone()), None, text);
        }
        Ok(if blank.is_empty() { Older::Whole } else { Older::Without(blank) })
    }
}
