//! Write promise *memory* (DESIGN §4, ARBITRATION *the memory promise*): what the two copies hold in
//! memory and not yet on their disks, and the flushes that end that.
//!
//! Two facts are kept apart. *Here*: writes of hosts and frames of the peer that this store took without
//! making them stable, against those that a flush of this store covers. *There*, as primary: frames that
//! the peer acknowledged from its memory, against those that a flush of the peer, confirmed in this
//! session, covers. A region whose writes are over stays active until both are zero for it (rule 2 of
//! T13), so that whatever an array may lose with its memory is named by the primary's map.
//!
//! Nothing is left in memory unless control has allowed it ([`Volume::set_stable`]): from then on, in
//! {A,B}, with the mark of an unclean stop on disk, and with no vote for a configuration of one member.
//! How much is unflushed has a bound: past it writes are stable, so that a flush never takes long.

use crate::arbitration::InSync;
use crate::block::{Extent, Op, StoreResult};
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Time};

use super::api::{Context, FrameHeader, LaneId, SyncId, VolumeAction, WritePromise};
use super::command::{Command, Mirror};
use super::regions::RegionSet;
use super::volume::Volume;

/// Set in the target part of a sequence that belongs to a flush of the peer.
pub(super) const FLUSH_BIT: u64 = 1 << 18;

/// How long a write may stay unflushed: long enough to gather many, short enough that little is lost
/// when both arrays lose their memory.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// How long regions that are to be cleared wait for others.
const GATHER: Duration = Duration::from_secs(1);
/// What punching a hole counts as: its bytes never lie in memory.
const HOLE_BYTES: u64 = 4096;

/// A flush of this store under way.
#[derive(Clone, Copy, Debug)]
struct Running {
    id: SyncId,
    /// It covers so many of `written`.
    upto: u64,
    at: Time,
}

/// A flush that the peer was asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    sequence: u64,
    upto: u64,
    lane: LaneId,
    at: Time,
}

/// Regions whose bits go once both flushes have come so far.
#[derive(Clone, Debug)]
struct Clearing {
    regions: RegionSet,
    here: u64,
    there: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Unflushed {
    pub promise: WritePromise,
    /// Control's word: nothing new is left in memory.
    stable: bool,
    /// Most bytes left in memory.
    limit: u64,
    /// Writes given to this store, not to be stable, and not over.
    in_flight: u32,
    in_flight_bytes: u64,
    /// Bytes since the last flush began, and those that this one covers.
    bytes: u64,
    bytes_covered: u64,
    /// Writes over, and those of them on the disk.
    written: u64,
    flushed: u64,
    since: Option<Time>,
    running: Option<Running>,
    /// After one that failed.
    not_before: Time,
    next_id: u32,
    /// A flush failed: what was in memory may be nowhere (a kernel forgets it), and no later flush can
    /// tell. Ends when the copy is made anew.
    failed: bool,
    /// A flush failed while something was unflushed: what the kernel could not write it may show as written
    /// until it forgets it. Ends when the copy is made anew, or all that is cached is forgotten.
    phantoms: bool,
    forgetting: Option<SyncId>,
    /// As primary: the same of the peer, by its acknowledgements.
    there_written: u64,
    there_flushed: u64,
    asked: Option<Asked>,
    /// Regions that need not stay marked but for this.
    retired: RegionSet,
    retired_since: Option<Time>,
    clearing: Option<Clearing>,
    /// Here and there, as last looked.
    seen: [bool; 2],
}

impl Unflushed {
    pub fn new(regions: u64, limit: u64) -> Self {
        Self {
            promise: WritePromise::Stable,
            stable: true,
            limit,
            in_flight: 0,
            in_flight_bytes: 0,
            bytes: 0,
            bytes_covered: 0,
            written: 0,
            flushed: 0,
            since: None,
            running: None,
            not_before: Time::ZERO,
            next_id: 0,
            failed: false,
            phantoms: false,
            forgetting: None,
            there_written: 0,
            there_flushed: 0,
            asked: None,
            retired: RegionSet::new(regions),
            retired_since: None,
            clearing: None,
            seen: [false; 2],
        }
    }

    pub fn grow(&mut self, regions: u64) {
        self.retired.grow(regions);
        if let Some(clearing) = &mut self.clearing {
            clearing.regions.grow(regions);
        }
    }

    /// Something that this store took may not be on its disk.
    pub const fn here(&self) -> bool {
        self.in_flight != 0 || self.flushed < self.written || self.failed || self.forgetting.is_some()
    }

    pub const fn is_forgetting(&self) -> bool {
        self.forgetting.is_some()
    }

    pub const fn has_failed(&self) -> bool {
        self.failed
    }

    /// A write that need not be stable goes to the store.
    pub fn begin(&mut self, op: Op, extent: Extent, now: Time) {
        let bytes = weight(op, extent);
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        self.bytes += bytes;
        self.since.get_or_insert(now);
    }

    /// It is over, however it ended.
    pub fn end(&mut self, op: Op, extent: Extent) {
        self.in_flight -= 1;
        self.in_flight_bytes -= weight(op, extent);
        self.written += 1;
    }

    /// What a flush that is asked for now covers here.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The same at the peer.
    pub const fn there_written(&self) -> u64 {
        self.there_written
    }

    /// The peer acknowledged a frame from its memory.
    pub const fn acknowledged(&mut self) {
        self.there_written += 1;
    }

    /// A flush of the peer that covers `upto` of its frames is confirmed.
    pub fn flushed_there(&mut self, upto: u64) {
        self.there_flushed = self.there_flushed.max(upto);
    }

    pub const fn oldest_flush(&self) -> Option<Time> {
        match self.running {
            Some(Running { at, .. }) => Some(at),
            None => None,
        }
    }

    pub const fn oldest_asked(&self) -> Option<Time> {
        match self.asked {
            Some(Asked { at, .. }) => Some(at),
            None => None,
        }
    }

    pub fn waits_on(&self, lane: LaneId) -> bool {
        self.asked.is_some_and(|asked| asked.lane == lane)
    }

    /// The session is over: what was asked for in it is asked again.
    pub const fn end_session(&mut self) {
        self.asked = None;
    }

    /// Another configuration: what the peer holds in its memory, and which regions wait for it, is of
    /// the former one. Their bits stay.
    pub fn forget_peer(&mut self) {
        self.there_flushed = self.there_written;
        self.asked = None;
        self.retired.clear();
        self.retired_since = None;
        self.clearing = None;
    }

    /// A primary that restarted: what its former life left in the peer's memory, it cannot tell.
    pub const fn forget_what_peer_flushed(&mut self) {
        self.there_written += 1;
    }

    /// The copy is to be made anew: what a flush lost here is of no matter any more.
    pub const fn give_up(&mut self) {
        self.failed = false;
    }

    /// It was, by stable writes.
    pub const fn made_anew(&mut self) {
        self.failed = false;
        self.phantoms = false;
    }

    pub const fn set_stable(&mut self, stable: bool) {
        self.stable = stable;
    }

    pub fn retire(&mut self, region: u64) {
        self.retired.insert(region);
    }
}

/// What a write counts for against the limit.
fn weight(op: Op, extent: Extent) -> u64 {
    match op {
        Op::Write | Op::CompareAndWrite | Op::WriteSame => extent.bytes(),
        Op::WriteZeroes | Op::Unmap | Op::Read | Op::Flush => HOLE_BYTES,
    }
}

impl Volume {
    /// What the volume promises of an answered write; once, before it is used. `Stable` before.
    pub const fn set_promise(&mut self, promise: WritePromise) {
        self.unflushed.promise = promise;
    }

    pub const fn promise(&self) -> WritePromise {
        self.unflushed.promise
    }

    pub(super) fn is_memory(&self) -> bool {
        self.unflushed.promise == WritePromise::Memory
    }

    /// Control's word. `true`: from now on every write, here and at the peer, is stable, and what is in
    /// memory is flushed (`Status::unflushed_here` and `unflushed_there` tell when it is; a `Poke`
    /// comes). Of no effect on a volume whose promise is *stable*. Every volume begins so, and is so outside a
    /// group.
    pub fn set_stable(&mut self, stable: bool, cx: Context, out: &mut Vec<VolumeAction>) {
        if core::mem::replace(&mut self.unflushed.stable, stable) != stable {
            self.settle(cx, out);
        }
    }

    /// Only {A,B} leaves anything in memory: one copy alone, of a solitary volume too, is no mirrored cache.
    fn both_hold(&self) -> bool {
        let both = self.group.is_some_and(|group| group.config.in_sync == InSync::Both);
        (both && !self.unflushed.stable) || mutation::on(Mutation::T13AloneNotStable)
    }

    /// A write that goes to this store now may stay in memory.
    pub(super) fn may_stay_in_memory(&self) -> bool {
        let unflushed = &self.unflushed;
        self.is_memory()
            && self.both_hold()
            && !unflushed.failed
            && unflushed.bytes.saturating_add(unflushed.bytes_covered) < unflushed.limit
    }

    /// A frame that is sent now may stay in the peer's memory, as far as this array goes: the peer has a
    /// word of its own.
    pub(super) fn may_stay_in_peers_memory(&self) -> bool {
        self.is_memory() && self.both_hold()
    }

    /// The peer may hold in memory only what it acknowledged, or is about to.
    pub(super) fn unflushed_there(&self) -> bool {
        let on_the_way = |command: &Command| matches!(command.mirror, Mirror::Sent { memory: true, .. });
        self.unflushed.there_flushed < self.unflushed.there_written
            || (self.is_memory() && self.commands.iter_live().any(on_the_way))
    }

    /// A flush of this store that covers `upto` writes is over. One that failed proves that what was
    /// acknowledged from memory is lost here: in {A,B} for good (until this copy is made anew), alone until
    /// the host that asks for a flush is told. In a configuration of one member all was stable.
    pub(super) fn flushed_here(&mut self, upto: u64, result: StoreResult, now: Time) {
        let both = self.group.is_none_or(|group| group.config.in_sync == InSync::Both);
        let unflushed = &mut self.unflushed;
        if result == StoreResult::Done {
            unflushed.flushed = unflushed.flushed.max(upto);
            return;
        }
        unflushed.not_before = now + FLUSH_AFTER;
        let lost = unflushed.flushed < unflushed.written || unflushed.in_flight != 0;
        unflushed.failed |= both && lost;
        unflushed.phantoms |= lost;
    }

    /// What a failed flush lost is given up: nobody has it any more. What the kernel still shows of it is
    /// forgotten first (`Status::forgetting`): a read of it could go back. The other copy may hold some of it
    /// all the same, and is dropped soon: until then every active region is in doubt, whatever is flushed.
    pub fn accept_loss(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        self.unflushed.failed = false;
        if self.is_primary() && !self.is_alone() && !mutation::on(Mutation::T13LossCountsAsEqual) {
            self.lost.clear();
            self.recovering.union(self.map.activity());
        }
        self.forget_phantoms(out);
        self.settle(cx, out);
    }

    /// A flush of this store failed, and the copy was not made anew since.
    pub(super) const fn has_phantoms(&self) -> bool {
        self.unflushed.phantoms
    }

    /// A primary on its own must not show what its disk lacks.
    pub(super) fn has_phantoms_alone(&self) -> bool {
        self.unflushed.phantoms && self.is_primary() && self.is_alone()
    }

    fn forget_phantoms(&mut self, out: &mut Vec<VolumeAction>) {
        if mutation::on(Mutation::T13PhantomsShown) {
            self.unflushed.phantoms = false;
        }
        let unflushed = &mut self.unflushed;
        if unflushed.phantoms && unflushed.forgetting.is_none() {
            unflushed.next_id = unflushed.next_id.wrapping_add(1);
            let sync = SyncId(unflushed.next_id);
            unflushed.forgetting = Some(sync);
            out.push(VolumeAction::Forget { sync });
        }
    }

    /// What a `Forget` action asked for is done.
    pub fn forgotten(&mut self, sync: SyncId, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.unflushed.forgetting == Some(sync) {
            self.unflushed.forgetting = None;
            self.unflushed.phantoms = false;
            self.settle(cx, out);
        }
    }

    /// A flush of this store that the `Sync` action asked for is over.
    pub fn synced(&mut self, sync: SyncId, result: StoreResult, cx: Context, out: &mut Vec<VolumeAction>) {
        let Some(running) = self.unflushed.running.filter(|running| running.id == sync) else { return };
        self.unflushed.running = None;
        self.unflushed.bytes_covered = 0;
        self.flushed_here(running.upto, result, cx.now.grantor);
        if result != StoreResult::Done {
            self.store_has_failed(cx, out);
        }
        self.settle(cx, out);
    }

    /// The peer answered a flush that it was asked for.
    pub(super) fn peer_flushed(&mut self, sequence: u64, result: StoreResult, out: &mut Vec<VolumeAction>) {
        let Some(asked) = self.unflushed.asked.filter(|asked| asked.sequence == sequence) else { return };
        self.unflushed.asked = None;
        if result == StoreResult::Done {
            self.unflushed.flushed_there(asked.upto);
        } else {
            self.peer_has_failed(out);
        }
    }

    /// Control waits for the end of what is in memory.
    fn poke_if_flushed(&mut self, out: &mut Vec<VolumeAction>) {
        let unflushed = &mut self.unflushed;
        let here = unflushed.here();
        let now = [here, unflushed.there_flushed < unflushed.there_written];
        let was = core::mem::replace(&mut unflushed.seen, now);
        let ended = (was[0] && !now[0]) || (was[1] && !now[1]);
        if ended && unflushed.stable && self.group.is_some() {
            out.push(VolumeAction::Poke);
        }
    }

    /// Begins the flushes that are due, and clears the regions that both disks hold.
    pub(super) fn pump_flushes(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if !self.is_memory() {
            return;
        }
        let now = cx.now.grantor;
        if self.has_phantoms_alone() {
            self.forget_phantoms(out);
        }
        self.begin_clearing(now);
        self.begin_flush(now, out);
        self.ask_for_flush(cx, out);
        self.finish_clearing();
        self.poke_if_flushed(out);
    }

    fn begin_clearing(&mut self, now: Time) {
        let unflushed = &mut self.unflushed;
        if unflushed.retired.is_empty() || unflushed.clearing.is_some() {
            return;
        }
        let since = *unflushed.retired_since.get_or_insert(now);
        if unflushed.stable || now >= since + GATHER {
            let none = RegionSet::new(unflushed.retired.regions());
            let regions = core::mem::replace(&mut unflushed.retired, none);
            unflushed.retired_since = None;
            let (here, there) = (unflushed.written, unflushed.there_written);
            unflushed.clearing = Some(Clearing { regions, here, there });
        }
    }

    fn begin_flush(&mut self, now: Time, out: &mut Vec<VolumeAction>) {
        let grouped = self.group.is_some();
        let unflushed = &mut self.unflushed;
        if unflushed.running.is_some() || unflushed.flushed >= unflushed.written {
            return;
        }
        if (unflushed.failed && grouped) || now < unflushed.not_before {
            return;
        }
        let clears = unflushed.clearing.as_ref().is_some_and(|clearing| unflushed.flushed < clearing.here);
        let old = unflushed.since.is_some_and(|since| now >= since + FLUSH_AFTER);
        if unflushed.stable || unflushed.bytes >= unflushed.limit / 2 || old || clears {
            unflushed.next_id = unflushed.next_id.wrapping_add(1);
            let id = SyncId(unflushed.next_id);
            unflushed.running = Some(Running { id, upto: unflushed.written, at: now });
            unflushed.bytes_covered = unflushed.bytes - unflushed.in_flight_bytes;
            unflushed.bytes = unflushed.in_flight_bytes;
            unflushed.since = (unflushed.in_flight != 0).then_some(now);
            out.push(VolumeAction::Sync { sync: id });
        }
    }

    fn ask_for_flush(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.unflushed.asked.is_some() || !self.is_primary() || self.is_alone() {
            return;
        }
        let (written, flushed) = (self.unflushed.there_written, self.unflushed.there_flushed);
        let clears = self.unflushed.clearing.as_ref().is_some_and(|clearing| flushed < clearing.there);
        if flushed >= written || !(self.unflushed.stable || clears) {
            return;
        }
        let Some(tenure) = self.tenure() else { return };
        let Some(session) = &mut self.session else { return };
        let Some(lane) = session.pick(cx.lane) else { return };
        let sequence = session.sequence(FLUSH_BIT);
        let (op, extent) = (Op::Flush, Extent::new(0, 0));
        let header = FrameHeader { tenure, session: session.id, sequence, op, extent, memory: false };
        self.unflushed.asked = Some(Asked { sequence, upto: written, lane, at: cx.now.grantor });
        out.push(VolumeAction::MirrorSync { lane, header });
    }

    /// Rule 2 of T13: a bit goes only when both disks hold what it stands for.
    fn finish_clearing(&mut self) {
        let unflushed = &mut self.unflushed;
        let done = |clearing: &mut Clearing| {
            unflushed.flushed >= clearing.here && unflushed.there_flushed >= clearing.there
        };
        if unflushed.failed {
            return;
        }
        let Some(Clearing { regions, .. }) = unflushed.clearing.take_if(done) else { return };
        let mut from = 0;
        while let Some(region) = regions.next_from(from) {
            from = region + 1;
            // In use again, in doubt, or used meanwhile: its turn comes with its age, its copy, or the next flushes.
            let used = self.active.contains(region) || self.unflushed.retired.contains(region);
            if !used && !self.recovering.contains(region) {
                self.map.clear_active(region);
            }
        }
    }

    /// When something here is due next.
    pub(super) fn flush_timeout(&self) -> Option<Time> {
        if !self.is_memory() {
            return None;
        }
        let unflushed = &self.unflushed;
        let idle = unflushed.running.is_none() && unflushed.flushed < unflushed.written;
        let due = |since: Time| (since + FLUSH_AFTER).max(unflushed.not_before);
        let retry = (unflushed.stable && unflushed.not_before != Time::ZERO).then_some(unflushed.not_before);
        let flush = unflushed.since.map(due).or(retry).filter(|_| idle && !unflushed.failed);
        let gather = unflushed.retired_since.filter(|_| unflushed.clearing.is_none());
        [flush, gather.map(|since| since + GATHER)].into_iter().flatten().min()
    }
}
