//! The objects an operator makes, and why a change to them is refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::arbitration::{GroupId, Side, Tenure};
use crate::mirror::{VolumeId, WritePromise};
use crate::store::Stamp;

/// Longest name of a volume, host or group (as on the real array).
pub const NAME_MAX: usize = 31;
/// Longest comment, in bytes.
pub const COMMENT_MAX: usize = 511;
/// Highest LUN number in the flat addressing method (SAM-5 4.7.7.1: 14 bits).
pub const LUN_MAX: u16 = 16_383;
/// Objects of one kind: bounds memory and the length of lists; far above any real array.
pub const OBJECTS_MAX: usize = 16_384;
/// Volumes in one group.
pub const MEMBERS_MAX: usize = 300;
/// iSCSI names of one host.
pub const HOST_NAMES_MAX: usize = 64;
/// Longest iSCSI name (RFC 7143 4.2.7.2).
pub const ISCSI_NAME_MAX: usize = 223;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provisioning {
    /// Space is taken when it is written.
    Thin,
    /// Space is taken at creation.
    Full,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "WritePromise", rename_all = "lowercase")]
enum WritePromiseRepr {
    Stable,
    Memory,
}

/// A virtual volume of this array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualVolume {
    /// Number shown to operators; this array's own.
    pub id: u32,
    pub name: String,
    /// The volume's identity; the same on both arrays of a pair.
    pub uuid: Uuid,
    /// NAA type 6 designator; the same on both arrays.
    pub naa: [u8; 16],
    pub size_bytes: u64,
    /// The data file or block device on this array.
    pub path: PathBuf,
    pub provisioning: Provisioning,
    #[serde(default)]
    pub comment: String,
    /// Seconds since 1970, for display only.
    pub created: u64,
    /// Which copy of the volume this array's disk holds; grows when the disk is exchanged.
    #[serde(default)]
    pub copy: u64,
    /// The same on both arrays.
    #[serde(default, with = "WritePromiseRepr")]
    pub promise: WritePromise,
}

impl VirtualVolume {
    /// What its data file is marked with.
    pub fn stamp(&self) -> Stamp {
        Stamp { id: self.volume_id(), copy: self.copy }
    }

    pub fn volume_id(&self) -> VolumeId {
        VolumeId(self.uuid.into_bytes())
    }
}

/// An initiator identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub id: u32,
    pub name: String,
    /// The same on both arrays for a host that sees a mirrored volume.
    pub uuid: Uuid,
    /// iSCSI names of its initiators.
    #[serde(default)]
    pub iqns: Vec<String>,
    /// Host persona number as in WSAPI (2 = Generic-ALUA).
    pub persona: u8,
    #[serde(default)]
    pub comment: String,
    pub created: u64,
}

/// The export of a volume to a host under a LUN number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlun {
    pub volume: Uuid,
    pub host: Uuid,
    pub lun: u16,
}

/// A volume in a remote copy group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The volume; one UUID on both arrays.
    pub volume: Uuid,
    /// Its name on the other array.
    pub remote_name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "these are the real array's policies, each on or off")]
pub struct Policies {
    /// The secondary may be promoted without an operator (ATF).
    pub auto_failover: bool,
    /// Hosts are told which path serves (ALUA); else they find it by trying.
    pub path_management: bool,
    /// The group is mirrored again by itself after a loss of the mirror.
    pub auto_recover: bool,
    /// The same after a failover.
    #[serde(default = "on")]
    pub auto_synchronize: bool,
    pub over_period_alert: bool,
}

/// What a group has that was made before the policy was known.
const fn on() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Side")]
enum SideRepr {
    A,
    B,
}

/// A remote copy group as this array knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub id: u32,
    /// Key of the group in every vote file; the same on both arrays and the witness.
    pub uuid: Uuid,
    pub name: String,
    /// Name of the remote copy target (the other array).
    pub target: String,
    /// The array that is primary by design.
    #[serde(with = "SideRepr")]
    pub natural: Side,
    pub members: Vec<Member>,
    #[serde(default)]
    pub policies: Policies,
    /// By the operator's word: started, or stopped.
    pub started: bool,
    /// Number of the group state: counted by the primary, with each change of members or exports.
    pub sequence: u64,
    /// The term of office in which the primary told this array that state. Absent: it never was.
    #[serde(default)]
    pub told: Option<KnownTenure>,
    pub created: u64,
    /// This array takes no part in the group until its primary has enrolled it (rule 18).
    #[serde(default)]
    pub absent: Option<Absent>,
}

/// Why an array's copy of a group counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Absent {
    /// Its votes or data are lost, or older than what was acknowledged.
    Lost,
    /// As `Lost`, and the operator has given up what the copy may hold alone (`setrcopygroup discard`).
    Discarded,
}

impl Group {
    pub fn group_id(&self) -> GroupId {
        GroupId(self.uuid.into_bytes())
    }
}

/// A group that was removed; kept so that an old vote is never taken for a live group's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub uuid: Uuid,
    pub name: String,
    pub removed: u64,
}

/// The kinds of object, as they are called in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Volume,
    Host,
    Vlun,
    Group,
    Member,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Volume => "virtual volume",
            Self::Host => "host",
            Self::Vlun => "VLUN",
            Self::Group => "remote copy group",
            Self::Member => "group member",
        })
    }
}

/// Why a change to the objects is refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ObjectError {
    #[error("{kind} {name} exists already")]
    Exists { kind: Kind, name: String },
    #[error("there is no {kind} {name}")]
    Missing { kind: Kind, name: String },
    #[error("{kind} {name} is in use by {by}; remove that first")]
    InUse { kind: Kind, name: String, by: String },
    #[error("LUN {lun} of host {host} is taken by volume {volume}")]
    LunTaken { host: String, lun: u16, volume: String },
    #[error("host {host} has no free LUN number left")]
    NoLunFree { host: String },
    #[error("LUN {0} is out of range (0 to {LUN_MAX})")]
    BadLun(u16),
    #[error("iSCSI name {name} belongs to host {host} already")]
    InitiatorTaken { name: String, host: String },
    #[error("{name:?} is not a valid name for a {kind}: {why}")]
    BadName { kind: Kind, name: String, why: &'static str },
    #[error("there can be at most {limit} of {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("remote copy group {group} is started; stop it first")]
    GroupStarted { group: String },
}

/// Counter of the lineage, then epoch: the order of terms of office.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownTenure {
    pub lineage: u32,
    pub epoch: u64,
}

impl From<Tenure> for KnownTenure {
    fn from(tenure: Tenure) -> Self {
        Self { lineage: tenure.lineage.counter, epoch: tenure.epoch.0 }
    }
}

/// What belongs to one group and is the same on both arrays (DESIGN section 4, "group state").
/// Paths and id numbers are each array's own and not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupState {
    pub group: Uuid,
    pub sequence: u64,
    /// The term of office of the primary that tells it, or that told the state which a secondary's operator
    /// wants to be changed. Absent: an older version.
    #[serde(default)]
    pub tenure: Option<KnownTenure>,
    pub volumes: Vec<SharedVolume>,
    pub hosts: Vec<Host>,
    pub vluns: Vec<Vlun>,
}

/// Exports that an array has taken back of a group it is about to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unexported {
    pub group: Uuid,
    pub vluns: Vec<Vlun>,
}

/// What both arrays must agree on of one member volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedVolume {
    pub uuid: Uuid,
    pub naa: [u8; 16],
    pub size_bytes: u64,
}
