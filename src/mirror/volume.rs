//! One volume of one array: primary side, secondary side, ledger, dirty map and resync.

use crate::arbitration::{Config, Gate, Side, Tenure};
use crate::block::{Refusal, Request, StoreResult};
use crate::time::Time;

use super::api::{
    ApplyId, CommandId, Context, CopyFailed, CopyId, FrameHeader, Geometry, LaneId, Limits, MapGeneration,
    RegionRun, SessionId, Status, VolumeAction,
};
use super::map::{DirtyMap, MapPage};

/// The pure core of one volume. Its shell keeps it behind one lock that is never held across I/O;
/// every method takes the outputs' vector from the caller and appends to it.
#[derive(Clone, Debug)]
pub struct Volume {}

impl Volume {
    /// A volume with an empty dirty map, outside any group: served at once, never mirrored, no
    /// map kept.
    pub fn new(geometry: Geometry, limits: Limits) -> Self {
        Self::restore(geometry, limits, DirtyMap::new(geometry))
    }

    /// A volume with the dirty map read from disk, outside any group until [`Volume::enrol`].
    pub fn restore(_geometry: Geometry, _limits: Limits, _map: DirtyMap) -> Self {
        unimplemented!()
    }

    pub fn geometry(&self) -> Geometry {
        unimplemented!()
    }

    // Membership and configuration: the group's control.

    /// Puts the volume into a group (at start, or by `admitrcopyvv`). The gate closes until
    /// `set_gate`; with `full` every region becomes out of sync (first sync, replaced disk).
    pub fn enrol(
        &mut self,
        _me: Side,
        _config: &Config,
        _full: bool,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// Takes the volume out of its group: solitary, its map cleared.
    pub fn withdraw(&mut self, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// A configuration was chosen (ARBITRATION `learn`): carries out what it means for maps,
    /// session and commands. Call before the `set_gate` that follows from it. What must be durable
    /// before an answer (drop: out of sync |= activity) holds the answers back by itself.
    pub fn learned(&mut self, _new: &Config, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// After a restart of this array as chosen primary, once, before the gate opens (rule 15).
    /// `both`: chosen, or an own undecided vote, is {A,B}: active regions are in doubt; else they
    /// are out of sync.
    pub fn restart_recovery(&mut self, _both: bool, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// The data path's copy of the gate. `Closed`, or another tenure, refuses every command at
    /// once (those whose I/O runs stay in the ledger until it is over); opening lets the parked
    /// ones arrive.
    pub fn set_gate(&mut self, _gate: Gate, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    // Host commands: data threads.

    /// A host command arrives. The extent lies inside the volume.
    ///
    /// # Errors
    /// `Standby` while closed, `Busy` past `Limits::commands`: nothing was done, no id is taken.
    pub fn submit(
        &mut self,
        _request: Request,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) -> Result<CommandId, Refusal> {
        unimplemented!()
    }

    /// The I/O of a `Local` or `Compare` action is over.
    pub fn local_done(
        &mut self,
        _command: CommandId,
        _result: StoreResult,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// The peer's answer to a frame of this volume (`Acknowledge` there).
    pub fn mirror_acked(
        &mut self,
        _session: SessionId,
        _sequence: u64,
        _result: Option<StoreResult>,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// The shell has dropped the payload of a command it was told to `Free`.
    pub fn release(&mut self, _command: CommandId) {
        unimplemented!()
    }

    /// Rule 9: a command that has done nothing yet is killed (`Answer` with `Aborted`); any other
    /// runs to its end and is answered with its true outcome.
    pub fn abort(&mut self, _command: CommandId, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    // The peer's frames: data threads of the secondary.

    /// A frame came in. `Some`: keep the payload under the id until `Apply` or `Discard`. `None`:
    /// refused, the `Acknowledge` is in `out`, drop the payload.
    pub fn receive(
        &mut self,
        _lane: LaneId,
        _header: FrameHeader,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) -> Option<ApplyId> {
        unimplemented!()
    }

    /// The I/O of an `Apply` action is over (stable).
    pub fn applied(
        &mut self,
        _apply: ApplyId,
        _result: StoreResult,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// Control: a hello of the primary asks for this session; the sender is the chosen primary of
    /// `tenure`. From now on only its frames are taken. True: own older I/O is drained and the
    /// hello may be answered with `dirty_runs`; else a `Poke` follows when `Status::store_io_old`
    /// has become zero. An older session than the newest changes nothing and answers false.
    pub fn accept_session(
        &mut self,
        _tenure: Tenure,
        _session: SessionId,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) -> bool {
        unimplemented!()
    }

    /// Regions marked active or out of sync here, ascending, appended to `out`.
    pub fn dirty_runs(&self, _out: &mut Vec<RegionRun>) {
        unimplemented!()
    }

    // The session as primary: control.

    /// The secondary answered the hello. Every unacknowledged write is sent again (its `Mirror`
    /// actions may name any of `lanes`); with {me} chosen the union of both maps is to be copied.
    /// A session that is still open is closed first.
    pub fn open_session(
        &mut self,
        _session: SessionId,
        _lanes: &[LaneId],
        _peer_dirty: &[RegionRun],
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// The session as primary is over (rule 14): call on every volume of the group. While alone,
    /// what was not acknowledged is dirty and answered alone.
    pub fn close_session(&mut self, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// A lane is back, or new, in the present session.
    pub fn lane_up(&mut self, _lane: LaneId) {
        unimplemented!()
    }

    /// A lane was given up. True: frames of the present session were unacknowledged on it, so the
    /// group's session must be closed (rule 14).
    #[must_use]
    pub fn lane_lost(&mut self, _lane: LaneId) -> bool {
        unimplemented!()
    }

    /// Guard of *join* (under the lock): nothing dirty or recovering, every started write sent in
    /// this session. True: from now on an answer needs both copies, until `learned` or
    /// `cancel_join`.
    #[must_use]
    pub fn try_join(&mut self) -> bool {
        unimplemented!()
    }

    /// Takes a successful `try_join` back; only while no vote for the join was cast.
    pub fn cancel_join(&mut self, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// How many regions may be copied at a time from now on (throttle; at most `Limits::copies`;
    /// zero pauses resync, but not recovery).
    pub fn set_copies(&mut self, _copies: u32, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// The region of a `Copy` action was read and sent as so many frames.
    pub fn copy_sent(
        &mut self,
        _copy: CopyId,
        _frames: Result<u32, CopyFailed>,
        _cx: Context,
        _out: &mut Vec<VolumeAction>,
    ) {
        unimplemented!()
    }

    /// Switchover, held and drained: clears all activity. True once that is durable: only then the
    /// own vote. False while a write is in flight or the map is being written; ask again after the
    /// next `Poke`.
    pub fn clear_activity(&mut self, _cx: Context, _out: &mut Vec<VolumeAction>) -> bool {
        unimplemented!()
    }

    // The dirty map: the metadata thread.

    /// Snapshot of the changed pages, appended to `pages`. `None`: nothing to write, or the last
    /// snapshot is not durable yet (its `map_durable` asks again).
    pub fn map_pages(&mut self, _pages: &mut Vec<MapPage>) -> Option<MapGeneration> {
        unimplemented!()
    }

    /// The snapshot is on stable storage.
    pub fn map_durable(&mut self, _generation: MapGeneration, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// The snapshot could not be written; what is on disk is unknown. It is asked for again.
    pub fn map_failed(&mut self, _generation: MapGeneration, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    // Time and status.

    /// Call at or after `next_timeout`: ends holds, clears activity of idle regions.
    pub fn tick(&mut self, _cx: Context, _out: &mut Vec<VolumeAction>) {
        unimplemented!()
    }

    /// When `tick` is due next (grantor clock).
    pub fn next_timeout(&self) -> Option<Time> {
        unimplemented!()
    }

    pub fn status(&self) -> Status {
        unimplemented!()
    }
}
