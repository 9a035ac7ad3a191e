//! What an array does before it serves: opens its directory, its votes, its volumes, its groups.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::arbitration::{GroupId, MemoryId, RECORD_FORMAT, VoterRecord};
use crate::format::EnvelopeError;
use uuid::Uuid;

use crate::mirror::VolumeId;
use crate::store::data_dir::DataDir;
use crate::store::objects::{Group, ObjectStore, Objects};
use crate::store::records::RecordTable;
use crate::sys::clock;
use crate::sys::engine::Engine;
use crate::volume::Volume;

use super::handle::AbsentCopy;
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

/// Opens every volume. One that cannot be opened makes its group's copy here count for nothing; one that is
/// in no group keeps the array from starting: hosts would take its absence for a loss.
///
/// Returns the volumes that are not open, each with the reason.
pub fn open_volumes(objects: &Objects, volumes: &VolumeSet) -> Result<BTreeMap<Uuid, String>, RunError> {
    volumes.sweep(objects);
    let mut lost = BTreeMap::new();
    for volume in objects.volumes() {
        let Err(source) = volumes.open(volume) else { continue };
        if objects.group_of_volume(volume.uuid).is_none() {
            return Err(RunError::Volume { name: volume.name.clone(), source });
        }
        tracing::error!(volume = volume.name, %source, "this volume is lost here");
        lost.insert(volume.uuid, format!("volume {}: {source}", volume.name));
    }
    Ok(lost)
}

/// What was found of the groups.
pub struct Groups {
    /// With their votes and volumes, ready for their controls.
    pub present: Vec<(Group, VoterRecord, Vec<Volume>)>,
    /// This array takes no part in them until it is enrolled (rule 18).
    pub absent: BTreeMap<Uuid, AbsentCopy>,
}

/// Which groups this array can take part in; `lost`: volumes that are not open.
pub fn groups(
    store: &ObjectStore,
    votes: &Votes,
    volumes: &VolumeSet,
    lost: &BTreeMap<Uuid, String>,
) -> Groups {
    let objects = store.snapshot();
    let mut groups = Groups { present: Vec::new(), absent: BTreeMap::new() };
    for group in objects.groups() {
        let record = votes.records.get(&group.group_id()).filter(|record| record.chosen.is_some()).copied();
        let lost = group.members.iter().find_map(|member| lost.get(&member.volume));
        let why = match (record, group.absent, lost) {
            (_, Some(_), _) => "its data or votes here are lost, or older than what was acknowledged".into(),
            (_, None, Some(lost)) => lost.clone(),
            (None, None, None) => format!("there is no vote of it in {}", votes.path.display()),
            (Some(record), None, None) => {
                let members = group
                    .members
                    .iter()
                    .filter_map(|member| volumes.get(VolumeId(member.volume.into_bytes())))
                    .collect();
                groups.present.push((group.clone(), record, members));
                continue;
            }
        };
        groups.absent.insert(group.uuid, AbsentCopy { why, chosen: record.and_then(|record| record.chosen) });
    }
    groups
}

/// Volumes on the device of `data_dir`: a hung disk then stops the votes as well.
pub fn warn_of_shared_device(data_dir: &DataDir, volumes: &VolumeSet) {
    let Ok(own) = data_dir.device() else { return };
    let shared = volumes.all().iter().filter(|volume| volume.file().device() == own).count();
    if shared > 0 {
        tracing::warn!(
            shared,
            "volumes lie on the same device as data_dir: if it hangs, this array cannot hand over \
             and the other one waits for its lease to run out"
        );
    }
}

/// What holds unflushed writes of volumes with the promise *memory* in this life (T13): the page cache of this
/// boot of the kernel, which outlives the process. All that an earlier process of this boot left there is on
/// the disks when this returns; if it cannot be brought there, or the engine holds it in the process, this
/// life has a memory of its own, and what the former one held counts as lost. Blocks.
///
/// What it rests on: every engine but the volatile one answers a write when the kernel has it (buffered, or
/// past the page cache in the device), nothing is held in this process; and a disk that loses its own cache
/// while the kernel lives on is a disk that was pulled.
pub fn memory(engine: Engine, nonce: [u8; 16], volumes: &VolumeSet) -> MemoryId {
    let own = MemoryId(nonce);
    if engine.is_volatile() {
        return own;
    }
    if let Err(error) = volumes.flush_memory() {
        tracing::error!(%error, "what a former process left in the page cache cannot be flushed: it counts as lost");
        return own;
    }
    volumes.forget_memory();
    match clock::boot_id().map(|id| Uuid::parse_str(&id)) {
        Ok(Ok(id)) => MemoryId(id.into_bytes()),
        _ => own,
    }
}
