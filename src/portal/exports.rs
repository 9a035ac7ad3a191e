//! What the array exports to a session, as a snapshot that the session keeps until it is told that
//! there is a newer one.

use crate::iscsi::pdu::LoginStatus;
use crate::iscsi::{Candidate, TargetRecord};
use crate::scsi::{Access, Changes, LogicalUnit, Lun, Port, Space};
use crate::volume::BlockVolume;

/// A unit under the LUN it has for one initiator.
#[derive(Clone, Debug)]
pub struct Export<V> {
    pub lun: Lun,
    /// Number of the unit, the same for every initiator and front end.
    pub id: u64,
    pub unit: LogicalUnit,
    pub access: Access,
    pub changes: Changes,
    pub space: Option<Space>,
    pub volume: V,
}

/// All that one initiator sees.
#[derive(Clone, Debug)]
pub struct View<V> {
    /// Grows whenever the set of LUNs of this initiator changes.
    pub inventory: u64,
    /// Ascending by LUN, no LUN twice.
    pub exports: Vec<Export<V>>,
}

/// The array behind its portals. One value for each data thread; cloning is cheap.
pub trait Exports: Clone + 'static {
    type Volume: BlockVolume;

    /// Grows whenever any [`View`] may have changed: VLUNs, hosts, sizes, access states, resets.
    /// Read before every command, so it must be no more than an atomic load.
    fn version(&self) -> u64;

    /// What the initiator sees through a portal, at least as new as the last `version`.
    fn view(&self, initiator: &str, portal_group_tag: u16) -> View<Self::Volume>;

    /// The port of a portal group, with its relative target port identifier.
    fn port(&self, portal_group_tag: u16) -> Port;

    /// See [`Service::admit`](super::Service::admit).
    ///
    /// # Errors
    /// The status the login is refused with.
    fn admit(&self, candidate: &Candidate) -> Result<(), LoginStatus>;

    /// What SendTargets tells: the own target, and the peer's with its portals.
    fn targets(&self, candidate: &Candidate) -> Vec<TargetRecord>;

    /// The unit (every unit for `None`) was reset: `Changes::resets` and the version grow, so that
    /// every nexus of every front end learns of it.
    fn reset(&self, unit: Option<u64>);
}
