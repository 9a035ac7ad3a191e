//! The peer's frames, as secondary: fenced by tenure and session at the door, applied in the order
//! in which overlapping ones came, drained before a newer session is accepted (rules 5, 14).

use crate::arbitration::{InSync, Tenure};
use crate::block::{Extent, Op, StoreResult};
use crate::mutation::{self, Mutation};
use crate::time::Time;

use super::api::{ApplyId, Context, FrameHeader, LaneId, Limits, RegionRun, SessionId, VolumeAction};
use super::overlap::OverlapIndex;
use super::volume::Volume;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    /// Waits for this many older overlapping frames.
    Waiting(u32),
    /// Given to the store then.
    Running(Time),
}

#[derive(Clone, Copy, Debug)]
struct Apply {
    generation: u32,
    state: State,
    lane: LaneId,
    header: FrameHeader,
    held: Extent,
    /// Of the session in force when it came, counted here; an old one's frames carry another.
    life: u64,
    arrived: u64,
    /// It is under way here and need not be stable.
    in_memory: bool,
    /// A flush: what it covers.
    covers: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Applies {
    slots: Vec<Apply>,
    free: Vec<u32>,
    index: OverlapIndex,
    accepted: Option<(Tenure, SessionId)>,
    /// Grows with each accepted session, and when one ends.
    life: u64,
    arrivals: u64,
    running: u32,
    /// Of these, in the present life.
    running_now: u32,
    overlaps: Vec<u32>,
    ready: Vec<u32>,
}

impl Applies {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: OverlapIndex::new(),
            accepted: None,
            life: 0,
            arrivals: 0,
            running: 0,
            running_now: 0,
            overlaps: Vec::new(),
            ready: Vec::new(),
        }
    }

    /// When the oldest of those that run was given to the store.
    pub fn oldest_running(&self) -> Option<Time> {
        let busy = if self.running == 0 { &[][..] } else { &self.slots[..] };
        busy.iter()
            .filter_map(|apply| match apply.state {
                State::Running(since) => Some(since),
                State::Vacant | State::Waiting(_) => None,
            })
            .min()
    }

    pub const fn running(&self) -> u32 {
        self.running
    }

    /// Submitted by frames of an older session or tenure and not finished.
    pub fn running_old(&self) -> u32 {
        if mutation::on(Mutation::T9NotDrained) { 0 } else { self.running - self.running_now }
    }

    #[cfg(feature = "testing")]
    pub fn canonical(&self, me: u64, volume: u64, into: &mut super::canonical::Canonical) {
        use super::canonical::Scale;
        let mut held: Vec<&Apply> = self.slots.iter().filter(|apply| apply.state != State::Vacant).collect();
        held.sort_unstable_by_key(|apply| apply.arrived);
        for apply in held {
            into.rank(Scale::Arrivals(me), apply.arrived);
            into.put(apply.lane.0);
            into.put(match apply.state {
                State::Waiting(blockers) => u64::from(blockers),
                State::Vacant | State::Running(_) => u64::MAX,
            });
            into.put(apply.life == self.life);
            into.header(volume, &apply.header);
        }
        into.put(u64::MAX);
        into.put(self.accepted.is_some());
        if let Some((tenure, session)) = self.accepted {
            into.rank(Scale::Epochs, tenure.epoch.0);
            into.session(session);
        }
    }

    fn take(&mut self) -> Option<u32> {
        self.free
            .pop()
            .or_else(|| u32::try_from(self.slots.len()).ok().filter(|slot| *slot < Limits::APPLIES_MAX))
    }

    /// Puts a frame into its slot, behind the older ones it overlaps; true when there are none.
    fn enter(&mut self, slot: u32, lane: LaneId, header: FrameHeader) -> bool {
        let held = header.extent.physical();
        self.overlaps.clear();
        if !mutation::on(Mutation::R8AppliesOverlap) {
            self.index.overlapping(held, &mut self.overlaps);
        }
        let blockers = u32::try_from(self.overlaps.len()).unwrap_or(u32::MAX);
        if held.blocks != 0 {
            self.index.insert(slot, held);
        }
        self.arrivals += 1;
        let generation = self.slots.get(slot as usize).map_or(0, |old| old.generation);
        let apply = Apply {
            generation: generation.wrapping_add(1),
            state: State::Waiting(blockers),
            lane,
            header,
            held,
            life: self.life,
            arrived: self.arrivals,
            in_memory: false,
            covers: 0,
        };
        match self.slots.get_mut(slot as usize) {
            Some(place) => *place = apply,
            None => self.slots.push(apply),
        }
        blockers == 0
    }

    /// Takes a frame out; younger ones that waited only for it are put into `ready`.
    fn leave(&mut self, slot: u32) {
        let Apply { held, arrived, .. } = self.slots[slot as usize];
        self.slots[slot as usize].state = State::Vacant;
        if held.blocks != 0 {
            self.index.remove(slot);
        }
        self.free.push(slot);
        if mutation::on(Mutation::R8AppliesOverlap) {
            return;
        }
        self.overlaps.clear();
        self.index.overlapping(held, &mut self.overlaps);
        for &number in &self.overlaps {
            let other = &mut self.slots[number as usize];
            if let State::Waiting(blockers) = other.state
                && other.arrived > arrived
            {
                other.state = State::Waiting(blockers - 1);
                if blockers == 1 {
                    self.ready.push(number);
                }
            }
        }
    }

    fn id(&self, slot: u32) -> ApplyId {
        ApplyId { slot, generation: self.slots[slot as usize].generation }
    }
}

impl Volume {
    /// A frame came in. `Some`: keep the payload under the id until `Apply` or `Discard`. `None`:
    /// refused, the `Acknowledge` is in `out`, drop the payload.
    pub fn receive(
        &mut self,
        lane: LaneId,
        header: FrameHeader,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) -> Option<ApplyId> {
        let slot = self.may_take(&header).then(|| self.applies.take()).flatten();
        let Some(slot) = slot else {
            let (session, sequence) = (header.session, header.sequence);
            out.push(VolumeAction::Acknowledge { lane, session, sequence, result: None });
            return None;
        };
        if self.applies.enter(slot, lane, header) {
            self.apply(slot, cx, out);
        }
        Some(self.applies.id(slot))
    }

    /// All reasons to refuse a frame.
    fn may_take(&self, header: &FrameHeader) -> bool {
        let Some(tenure) = self.tenure() else { return false };
        let accepted = self.applies.accepted;
        if accepted.is_none() && !mutation::on(Mutation::R5TenureNotFenced) {
            return false;
        }
        let (accepted_tenure, session) = accepted.unwrap_or_default();
        let end = header.extent.lba.checked_add(header.extent.blocks);
        let flush = header.op == Op::Flush;
        let inside =
            (header.extent.blocks != 0) != flush && end.is_some_and(|end| end <= self.geometry().blocks);
        let wrong_tenure = header.tenure != tenure || header.tenure != accepted_tenure;
        if mutation::on(Mutation::R5TenureNotFenced) && wrong_tenure && inside {
            return true;
        }
        !self.is_primary()
            && !wrong_tenure
            && header.op != Op::CompareAndWrite
            && (header.op != Op::Read || header.extent.blocks <= Limits::FETCH_BLOCKS_MAX)
            && inside
            && (header.session == session || mutation::on(Mutation::T11OldSessionTaken))
    }

    fn apply(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let id = self.applies.id(slot);
        let (may, covers) = (self.may_stay_in_memory(), self.unflushed.written());
        let apply = &mut self.applies.slots[slot as usize];
        let header = apply.header;
        apply.state = State::Running(cx.now.grantor);
        apply.in_memory = may && header.memory && header.op.writes();
        apply.covers = covers;
        if apply.in_memory {
            self.unflushed.begin(header.op, header.extent, cx.now.grantor);
        }
        self.applies.running += 1;
        self.applies.running_now += 1;
        let stable = !apply.in_memory;
        out.push(VolumeAction::Apply { apply: id, lane: apply.lane, header, stable });
    }

    /// The I/O of an `Apply` action is over (stable).
    pub fn applied(&mut self, apply: ApplyId, result: StoreResult, cx: Context, out: &mut Vec<VolumeAction>) {
        let Some(&Apply { generation, state, lane, header, life, in_memory, covers, .. }) =
            self.applies.slots.get(apply.slot as usize)
        else {
            return;
        };
        if generation != apply.generation || !matches!(state, State::Running(_)) {
            return;
        }
        let current = life == self.applies.life;
        if in_memory {
            self.unflushed.end(header.op, header.extent);
        } else if header.op == Op::Flush {
            self.flushed_here(covers, result, cx.now.grantor);
        }
        // Nothing that comes after a flush that failed is taken for held.
        let result = if self.unflushed.has_failed() { StoreResult::Failed } else { result };
        self.applies.leave(apply.slot);
        self.applies.running -= 1;
        if current {
            self.applies.running_now -= 1;
            let FrameHeader { session, sequence, .. } = header;
            out.push(if header.op == Op::Read && result == StoreResult::Done {
                VolumeAction::Give { apply, lane, header }
            } else {
                VolumeAction::Acknowledge { lane, session, sequence, result: Some(result) }
            });
        }
        let mut at = 0;
        while let Some(&slot) = self.applies.ready.get(at) {
            at += 1;
            self.apply(slot, cx, out);
        }
        self.applies.ready.clear();
        if !current && self.applies.running_old() == 0 {
            self.reconsider_all(cx, out); // a new primary's commands waited for it
        }
        self.poke_if_drained(!current, out);
        self.settle(cx, out);
    }

    /// Control: a hello of the primary asks for this session; the sender is the chosen primary of
    /// `tenure`. From now on only its frames are taken. True: own older I/O is drained and the
    /// hello may be answered with `dirty_runs`; else a `Poke` follows when `Status::store_io_old`
    /// has become zero (ask again with the same session). A session older than the newest changes
    /// nothing and answers false.
    pub fn accept_session(
        &mut self,
        tenure: Tenure,
        session: SessionId,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) -> bool {
        if self.is_primary() || self.tenure() != Some(tenure) || self.is_rolling_back() {
            return false;
        }
        match self.applies.accepted {
            Some((of, newest)) if of == tenure && session < newest => return false,
            Some(accepted) if accepted == (tenure, session) => {}
            _ => {
                self.end_applies(out);
                self.applies.accepted = Some((tenure, session));
                self.image_of_new_session();
                if mutation::on(Mutation::T12TargetClearsEarly) {
                    self.map.clear_all_activity();
                    self.map.clear_all_out_of_sync();
                }
                self.settle(cx, out);
            }
        }
        // What it held in memory when it was dropped is to be on its disk before anything overwrites that:
        // else a loss of power leaves a copy of no moment (F14).
        let flushed = !self.is_memory()
            || self.group.is_some_and(|group| group.config.in_sync == InSync::Both)
            || !(self.unflushed.here() || self.was_torn())
            || mutation::on(Mutation::T13CopyUnflushed);
        (self.status().store_io_old == 0 || mutation::on(Mutation::T9NotDrained)) && flushed
    }

    /// No frame is taken any more; those that wait are dropped, those on their way to the disk are
    /// old from now on.
    pub(super) fn end_applies(&mut self, out: &mut Vec<VolumeAction>) {
        self.applies.accepted = None;
        self.applies.life += 1;
        self.applies.running_now = 0;
        for at in 0..self.applies.slots.len() {
            let slot = u32::try_from(at).unwrap_or(u32::MAX);
            if matches!(self.applies.slots[at].state, State::Waiting(_)) {
                out.push(VolumeAction::Discard { apply: self.applies.id(slot) });
                self.applies.leave(slot);
            }
        }
        self.applies.ready.clear();
    }

    /// Regions marked active or out of sync here, ascending, appended to `out`.
    pub fn dirty_runs(&self, out: &mut Vec<RegionRun>) {
        let activity = (!mutation::on(Mutation::T12HelloWithoutActivity)).then(|| self.map.activity());
        let out_of_sync = Some(self.map.out_of_sync());
        let next = |from: u64| {
            let sets = [activity, out_of_sync];
            sets.into_iter().flatten().filter_map(|set| set.next_from(from)).min()
        };
        let mut run: Option<RegionRun> = None;
        let mut from = 0;
        while let Some(region) = next(from) {
            from = region + 1;
            match &mut run {
                Some(run) if run.first + run.count == region => run.count += 1,
                _ => out.extend(run.replace(RegionRun { first: region, count: 1 })),
            }
        }
        out.extend(run);
    }
}
