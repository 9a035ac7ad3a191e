//! What hosts see: which volumes under which LUNs, over which ports, in which access state.
//!
//! One immutable table, replaced whenever objects or access states change; its version is an atomic
//! that data threads read before every command.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::arbitration::{GroupId, Side};
use crate::group::{PathState, PathView};
use crate::iscsi::pdu::LoginStatus;
use crate::iscsi::{Candidate, TargetRecord};
use crate::portal::{Export, Exports, View as ExportView};
use crate::scsi::{Access, AccessState, Changes, Identity, Limits, LogicalUnit, Lun, Port, PortGroup};
use crate::store::objects::{Objects, VirtualVolume};
use crate::volume::Volume;

use super::groups::Views;
use super::handle::Shared;
use super::volumes::VolumeSet;

/// Implicit transition time told to hosts, in seconds (HOSTS: small and not zero).
const TRANSITION_S: u8 = 10;
/// Side A's target port groups and relative ports count from here, side B's from [`BASE_B`].
const BASE_A: u16 = 1;
const BASE_B: u16 = 256;
/// Portal group tag of every portal of an array.
pub const PORTAL_GROUP_TAG: u16 = 1;

const VENDOR: &str = "TWINLUN";
const PRODUCT: &str = "VV";

/// First target port group id and relative target port id of a side.
const fn base(side: Side) -> u16 {
    match side {
        Side::A => BASE_A,
        Side::B => BASE_B,
    }
}

/// The exports of this array; clones are the same.
#[derive(Clone)]
pub struct ExportTable(Arc<Table>);

struct Table {
    me: Side,
    target: String,
    portals: Vec<SocketAddr>,
    version: AtomicU64,
    current: ArcSwap<BTreeMap<String, Arc<ExportView<Volume>>>>,
    /// What every nexus must be told of, by volume number.
    changes: Mutex<BTreeMap<u64, Changes>>,
    /// The other array's target, as its hello told it; kept when the link is lost.
    peer: ArcSwap<Option<TargetRecord>>,
    volumes: VolumeSet,
    views: Views,
    /// The last states shown of each group, to see a change.
    shown: Mutex<BTreeMap<GroupId, (PathState, Option<PathState>)>>,
}

impl fmt::Debug for ExportTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportTable(version {})", self.0.version.load(Ordering::Relaxed))
    }
}

fn state(path: PathState) -> AccessState {
    match path {
        PathState::Optimized => AccessState::ActiveOptimized,
        PathState::Standby => AccessState::Standby,
        PathState::NonOptimized => AccessState::ActiveNonOptimized,
        PathState::Transitioning => AccessState::Transitioning,
    }
}

impl ExportTable {
    pub fn new(me: Side, target: String, portals: Vec<SocketAddr>, volumes: VolumeSet, views: Views) -> Self {
        Self(Arc::new(Table {
            me,
            target,
            portals,
            version: AtomicU64::new(1),
            current: ArcSwap::from_pointee(BTreeMap::new()),
            changes: Mutex::default(),
            peer: ArcSwap::from_pointee(None),
            volumes,
            views,
            shown: Mutex::default(),
        }))
    }

    /// The other array's target, for SendTargets.
    pub fn set_peer(&self, peer: TargetRecord) {
        self.0.peer.store(Arc::new(Some(peer)));
    }

    /// Makes the table anew from the objects as they are.
    pub fn rebuild(&self, shared: &Shared) {
        self.rebuild_from(&shared.objects.snapshot());
    }

    /// As [`Self::rebuild`].
    pub fn rebuild_from(&self, objects: &Objects) {
        let table = &self.0;
        // One at a time, so that an older table never replaces a newer one.
        let changes = table.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let views = table.views.load();
        let before = table.current.load();
        let mut by_initiator = BTreeMap::new();
        for host in objects.hosts() {
            let mut exports = Vec::new();
            for vlun in objects.vluns_of_host(host.uuid) {
                let Some(vv) = objects.volume(vlun.volume) else { continue };
                let (Some(lun), Some(volume)) = (Lun::new(vlun.lun), table.volumes.get(vv.volume_id()))
                else {
                    continue;
                };
                let id = u64::from(vv.id);
                let group = objects.group_of_volume(vv.uuid);
                let view = group.map(|group| views.get(&group.group_id()));
                let told = group.is_none_or(|group| group.policies.path_management);
                exports.push(Export {
                    lun,
                    id,
                    unit: unit(vv),
                    access: self.access(view, told),
                    changes: changes.get(&id).copied().unwrap_or_default(),
                    space: None,
                    volume,
                });
            }
            exports.sort_by_key(|export| export.lun);
            for iqn in &host.iqns {
                let luns = |view: &ExportView<Volume>| view.exports.iter().map(|e| e.lun).collect::<Vec<_>>();
                let old = before.get(iqn);
                let same =
                    old.is_some_and(|old| luns(old) == exports.iter().map(|e| e.lun).collect::<Vec<_>>());
                let inventory = old.map_or(1, |old| old.inventory + u64::from(!same));
                let view = ExportView { inventory, exports: exports.clone() };
                by_initiator.insert(iqn.clone(), Arc::new(view));
            }
        }
        table.current.store(Arc::new(by_initiator));
        drop(changes);
        table.version.fetch_add(1, Ordering::Release);
    }

    /// The access state of a group changed: its units tell every nexus (06/2A/06), if hosts can
    /// see the difference.
    pub fn path_changed(&self, objects: &Objects, group: GroupId, view: &PathView) {
        let now = (view.own, view.peer);
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shown.insert(group, now);
        drop(shown);
        if before == Some(now) {
            return;
        }
        // That the other array's state is not known (any more) is no change of state.
        let own = before.is_none_or(|(own, _)| own != view.own);
        let other = matches!((before, view.peer), (Some((_, Some(was))), Some(is)) if was != is);
        if own || other {
            let mut changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = objects.groups().find(|entry| entry.group_id() == group);
            for member in entry.iter().flat_map(|entry| &entry.members) {
                if let Some(vv) = objects.volume(member.volume) {
                    changes.entry(u64::from(vv.id)).or_default().access += 1;
                }
            }
        }
        self.rebuild_from(objects);
    }

    /// `view`: outer `None`: not in a group; inner: the group has no state yet. `told`: policy
    /// `path_management`.
    fn access(&self, view: Option<Option<&PathView>>, told: bool) -> Access {
        let (own, other) = match view {
            None => (AccessState::ActiveOptimized, None),
            Some(None) => (AccessState::Standby, None),
            Some(Some(view)) => (state(view.own), view.peer.map(state)),
        };
        let (me, peer) = (self.0.me, self.0.me.other());
        // Over iSCSI a target port is a portal group (RFC 7143 4.2.7), and every array has one.
        Access {
            own: PortGroup { id: base(me), state: own, ports: vec![base(me)] },
            other: other.map(|state| PortGroup { id: base(peer), state, ports: vec![base(peer)] }),
            transition_s: TRANSITION_S,
            told,
        }
    }
}

fn unit(vv: &VirtualVolume) -> LogicalUnit {
    let serial = vv.uuid.simple().to_string().to_uppercase();
    LogicalUnit {
        identity: Identity {
            naa: vv.naa,
            serial,
            vendor: Identity::field(VENDOR),
            product: Identity::field(PRODUCT),
            revision: Identity::field("0001"),
        },
        blocks: vv.size_bytes / u64::from(crate::block::BLOCK),
        thin: vv.provisioning == crate::store::objects::Provisioning::Thin,
        write_cache: vv.promise == crate::mirror::WritePromise::Memory,
        limits: Limits::default(),
    }
}

impl Exports for ExportTable {
    type Volume = Volume;

    fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    fn view(&self, initiator: &str, _portal_group_tag: u16) -> ExportView<Volume> {
        match self.0.current.load().get(initiator) {
            Some(view) => ExportView::clone(view),
            // Unknown: sees no unit, and an operator sees it waiting.
            None => ExportView { inventory: 0, exports: Vec::new() },
        }
    }

    fn port(&self, portal_group_tag: u16) -> Port {
        Port {
            relative: base(self.0.me),
            name: format!("{},t,0x{portal_group_tag:04x}", self.0.target),
            device: self.0.target.clone(),
        }
    }

    fn admit(&self, _candidate: &Candidate) -> Result<(), LoginStatus> {
        Ok(())
    }

    fn targets(&self, _candidate: &Candidate) -> Vec<TargetRecord> {
        let own = TargetRecord {
            name: self.0.target.clone(),
            portals: self.0.portals.iter().map(|portal| (portal.to_string(), PORTAL_GROUP_TAG)).collect(),
        };
        let peer = self.0.peer.load();
        std::iter::once(own).chain(Option::clone(&peer)).collect()
    }

    fn reset(&self, unit: Option<u64>) {
        let mut changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::clone(&self.0.current.load());
        for view in next.values_mut() {
            let mut changed = ExportView::clone(view);
            for export in changed.exports.iter_mut().filter(|export| unit.is_none_or(|id| id == export.id)) {
                export.changes.resets += 1;
                changes.insert(export.id, export.changes);
            }
            *view = Arc::new(changed);
        }
        self.0.current.store(Arc::new(next));
        drop(changes);
        self.0.version.fetch_add(1, Ordering::Release);
    }
}
