//! What an array does before it serves: opens its directory, its votes, its volumes, its groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::arbitration::{GroupId, RECORD_FORMAT, VoterRecord};
use crate::format::EnvelopeError;
use crate::mirror::VolumeId;
use crate::store::data_dir::DataDir;
use crate::store::objects::{Group, ObjectStore, Objects};
use crate::store::records::RecordTable;
use crate::volume::Volume;

use super::run::RunError;
use super::volumes::VolumeSet;

/// The votes as they are on disk.
pub struct Votes {
    pub table: Arc<Mutex<RecordTable>>,
    pub records: BTreeMap<GroupId, VoterRecord>,
    /// Their file, for words about it.
    pub path: std::path::PathBuf,
}

/// Reads all votes; a damaged one is refused by name.
pub fn open_votes(data_dir: &DataDir) -> Result<Votes, RunError> {
    let (table, entries) = RecordTable::open(&data_dir.votes(), RECORD_FORMAT, data_dir.engine())?;
    let mut records = BTreeMap::new();
    for (key, body) in entries {
        let record = VoterRecord::decode_body(&body)
            .map_err(|source: EnvelopeError| RunError::Vote { group: uuid::Uuid::from_bytes(key), source })?;
        records.insert(GroupId(key), record);
    }
    Ok(Votes { table: Arc::new(Mutex::new(table)), records, path: data_dir.votes() })
}

/// Opens every volume. One that cannot be opened keeps the array from starting: hosts would take
/// its absence for a loss.
pub fn open_volumes(objects: &Objects, volumes: &VolumeSet) -> Result<(), RunError> {
    volumes.sweep(objects);
    for volume in objects.volumes() {
        volumes.open(volume).map_err(|source| RunError::Volume { name: volume.name.clone(), source })?;
    }
    Ok(())
}

/// The groups with their votes and volumes, ready for their controls.
pub fn groups(
    store: &ObjectStore,
    votes: &Votes,
    volumes: &VolumeSet,
) -> Result<Vec<(Group, VoterRecord, Vec<Volume>)>, RunError> {
    let objects = store.snapshot();
    let mut groups = Vec::new();
    for group in objects.groups() {
        let record = votes.records.get(&group.group_id()).filter(|record| record.chosen.is_some());
        let record =
            record.ok_or_else(|| RunError::NoVote { path: votes.path.clone(), group: group.name.clone() })?;
        let members = group
            .members
            .iter()
            .filter_map(|member| volumes.get(VolumeId(member.volume.into_bytes())))
            .collect();
        groups.push((group.clone(), *record, members));
    }
    Ok(groups)
}

/// Volumes on the device of `data_dir`: a hung disk then stops the votes as well.
pub fn warn_of_shared_device(data_dir: &DataDir, volumes: &VolumeSet) {
    let Ok(own) = data_dir.device() else { return };
    let shared = volumes.all().iter().filter(|volume| volume.file().device().is_ok_and(|d| d == own)).count();
    if shared > 0 {
        tracing::warn!(
            shared,
            "volumes lie on the same device as data_dir: if it hangs, this array cannot hand over \
             and the other one waits for its lease to run out"
        );
    }
}
