//! Copies of whole regions to the peer: resync, and recovery of regions in doubt.
//!
//! A copy is an entry of the ledger. Resync shares its region with readers; recovery shares it
//! with nobody. A copy waits for the commands of its region that have started and goes before
//! those that have not: they wait for it (a command queued on a region in doubt could otherwise
//! stand before the very copy it waits for). What cannot be read here of a region in doubt:
//! [`super::recover`].

use crate::block::{Extent, StoreResult};
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Time};

use super::api::{Context, CopyFailed, CopyId, CopyKind, LaneId, Limits, Status, VolumeAction};
use super::command::Stage;
use super::volume::{COMMAND_BASE, Volume};

/// Set in the target part of a sequence that belongs to a copy; below it the copy's slot, then
/// the frame.
pub(super) const COPY_BIT: u64 = 1 << 19;
pub(super) const FRAME_BITS: u32 = 8;
const FRAMES: usize = Limits::COPY_FRAMES_MAX as usize;

/// How long copying pauses after the store could not be read: the bad place is met again each time
/// round, and hosts come first.
const COPY_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vacant,
    /// In the ledger; waits for started commands.
    Waiting,
    Sending {
        lane: LaneId,
        /// Sequence of its first frame.
        sequence: u64,
        at: Time,
    },
    /// Nothing is asked of the peer at the moment.
    Answered,
    /// The shell compares with the peer's blocks, and may write what cannot be read.
    Weighing,
    /// As `Weighing`, and the check or copy is over: its hold stays to the end.
    Late,
    /// Its session is over; the shell still reads.
    Abandoned,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    generation: u32,
    state: State,
    pub kind: CopyKind,
    pub region: u64,
    inserted: u64,
    blockers: u32,
    pub waiters: u32,
    /// The shell has not called `copy_sent` yet.
    reading: bool,
    /// Since when.
    since: Time,
    frames: Option<u32>,
    acked: [u64; FRAMES / 64],
    /// Being copied, or asked for: the region, or a piece of it.
    pub extent: Extent,
    /// The peer is asked for its blocks of the extent.
    pub asks: bool,
    /// What the extent's block held was written anew with the peer's: once is enough.
    pub mended: bool,
    /// It goes on piece by piece, all of them over this lane.
    pub pieces_on: Option<LaneId>,
}

const VACANT: Copy = Copy {
    generation: 0,
    state: State::Vacant,
    kind: CopyKind::Resync,
    region: 0,
    inserted: 0,
    blockers: 0,
    waiters: 0,
    reading: false,
    since: Time::ZERO,
    frames: None,
    acked: [0; FRAMES / 64],
    extent: Extent::new(0, 0),
    asks: false,
    mended: false,
    pieces_on: None,
};

#[derive(Clone, Debug)]
pub(super) struct Copies {
    slots: Vec<Copy>,
    /// Copies of resync allowed at a time.
    allowed: u32,
    /// Of these, how many may still be begun; `None`: no matter how many (throttle).
    allowance: Option<u32>,
    /// Where the search for the next region goes on.
    cursor: u64,
    /// This copy's store could not be read: no more copies before then.
    halted_until: Option<Time>,
}

impl Copies {
    pub fn new(allowed: u32) -> Self {
        Self { slots: Vec::new(), allowed, allowance: None, cursor: 0, halted_until: None }
    }

    pub fn get(&mut self, slot: u32) -> &mut Copy {
        &mut self.slots[slot as usize]
    }

    pub fn at(&self, slot: u32) -> &Copy {
        &self.slots[slot as usize]
    }

    fn find(&self, id: CopyId) -> Option<&Copy> {
        self.slots.get(id.slot as usize).filter(|copy| copy.generation == id.generation)
    }

    /// Does this copy exclude a command?
    pub fn excludes(&self, slot: u32, writes: bool) -> bool {
        let kind = self.at(slot).kind;
        if mutation::on(Mutation::CopyDoesNotExclude)
            || (kind == CopyKind::Verify && mutation::on(Mutation::VerifyWithoutHold))
        {
            return false;
        }
        writes || kind == CopyKind::Recover
    }

    /// A command that excludes it has left, started at `started`; true when the copy can go on.
    pub fn unblock(&mut self, slot: u32, started: u64) -> bool {
        let copy = self.get(slot);
        if copy.state != State::Waiting || started == 0 || started > copy.inserted {
            return false;
        }
        copy.blockers -= 1;
        copy.blockers == 0
    }

    fn in_progress(&self) -> u32 {
        let busy = self.slots.iter().filter(|copy| copy.state.holds());
        u32::try_from(busy.count()).unwrap_or(u32::MAX)
    }

    fn has(&self, region: u64) -> bool {
        self.slots.iter().any(|copy| copy.state.holds() && copy.region == region)
    }

    /// Nothing is being copied.
    pub fn idle(&self) -> bool {
        self.in_progress() == 0
    }

    /// Region, kind of command excluded, whether it still waits and since when: for the test of
    /// the ledger's invariants.
    #[cfg(test)]
    pub fn held(&self) -> impl Iterator<Item = (u32, u64, Option<u32>, u64)> + '_ {
        (0_u32..).zip(&self.slots).filter_map(|(slot, copy)| match copy.state {
            State::Waiting => Some((slot, copy.region, Some(copy.blockers), copy.inserted)),
            State::Vacant | State::Abandoned => None,
            _ => Some((slot, copy.region, None, copy.inserted)),
        })
    }

    #[cfg(feature = "testing")]
    pub fn canonical(
        &self,
        me: u64,
        volume: u64,
        session: Option<super::api::SessionId>,
        into: &mut super::canonical::Canonical,
    ) {
        use std::hash::Hash;
        for (slot, copy) in (0_u64..).zip(&self.slots) {
            if copy.state == State::Vacant {
                continue;
            }
            into.put(slot << 8 | copy.kind as u64);
            into.rank(super::canonical::Scale::Ledger(me), copy.inserted);
            if let State::Sending { lane, sequence, .. } = copy.state {
                into.put(lane.0);
                into.sequence(volume, session.unwrap_or_default(), sequence);
            }
            (core::mem::discriminant(&copy.state), copy.region, copy.blockers, copy.reading).hash(into);
            (copy.frames, copy.acked, copy.extent, copy.asks, copy.mended, copy.pieces_on).hash(into);
        }
        (self.allowed, self.allowance, self.cursor, self.halted_until.is_some()).hash(into);
    }

    /// When copying goes on after a pause.
    pub const fn next_retry(&self) -> Option<Time> {
        self.halted_until
    }

    pub fn end_pause(&mut self, now: Time) {
        self.halted_until = self.halted_until.filter(|until| now < *until);
    }

    pub fn wait_on(&self, lane: LaneId) -> bool {
        self.slots.iter().any(|copy| {
            matches!(copy.state, State::Sending { lane: on, .. } if on == lane)
                || (copy.state.holds() && copy.pieces_on == Some(lane))
        })
    }

    pub fn add_to(&self, status: &mut Status) {
        for copy in &self.slots {
            if copy.reading {
                status.store_io += 1;
                status.oldest_store_io = Volume::oldest(status.oldest_store_io, Some(copy.since));
                status.store_io_old += u32::from(copy.state == State::Late);
            }
            if let State::Sending { at, .. } = copy.state
                && !copy.reading
            {
                status.oldest_unacked = Volume::oldest(status.oldest_unacked, Some(at));
            }
        }
    }

    pub fn take(&mut self) -> Option<u32> {
        let vacant = self.slots.iter().position(|copy| copy.state == State::Vacant);
        let at = vacant.unwrap_or(self.slots.len());
        let slot = u32::try_from(at).ok().filter(|slot| *slot < Limits::COPIES_MAX)?;
        if vacant.is_none() {
            self.slots.push(VACANT);
        }
        let copy = self.get(slot);
        *copy = Copy { generation: copy.generation.wrapping_add(1), ..VACANT };
        Some(slot)
    }

    // Checks ([`super::verify`]): one question of the peer after the other.

    /// One more check may begin, with so many under way of at most `checks`.
    pub fn have_room_for_check(&self, under_way: usize, checks: u32) -> bool {
        let limit = checks.min(self.allowed) as usize;
        under_way < limit && self.allowance != Some(0) && self.halted_until.is_none()
    }

    /// A region cost hosts nothing.
    pub fn give_back_allowance(&mut self) {
        if let Some(left) = &mut self.allowance {
            *left += 1;
        }
    }

    /// Nothing is copied any more that the throttle was meant for.
    pub fn lift_throttle(&mut self) {
        self.allowance = None;
    }

    /// The peer is asked; with `reads` the shell reads this copy meanwhile.
    pub fn ask(&mut self, slot: u32, lane: LaneId, sequence: u64, reads: bool, now: Time) -> CopyId {
        let copy = self.get(slot);
        copy.state = State::Sending { lane, sequence, at: now };
        copy.reading = reads;
        copy.since = now;
        CopyId { slot, generation: copy.generation }
    }

    /// The peer's answer to this question is waited for.
    pub fn awaits(&self, slot: u32, sequence: u64) -> bool {
        let asked = |copy: &Copy| matches!(copy.state, State::Sending { sequence: of, .. } if of == sequence);
        let asks = |copy: &Copy| copy.kind == CopyKind::Verify || copy.asks;
        self.slots.get(slot as usize).is_some_and(|copy| asks(copy) && asked(copy))
    }

    /// A piece of the region is read and sent.
    pub fn send(&mut self, slot: u32, lane: LaneId, sequence: u64, now: Time) -> CopyId {
        let copy = self.get(slot);
        copy.frames = None;
        copy.acked = VACANT.acked;
        copy.asks = false;
        self.ask(slot, lane, sequence, true, now)
    }

    pub fn answered(&mut self, slot: u32) {
        self.get(slot).state = State::Answered;
    }

    /// The shell has read this copy for the check; its slot, if the check still is one.
    pub fn own_part_done(&mut self, check: CopyId, now: Time) -> Option<u32> {
        self.find(check).filter(|copy| copy.reading)?;
        let copy = self.get(check.slot);
        copy.reading = false;
        match &mut copy.state {
            // The time that counts for the peer begins now: a slow disk here is not its fault.
            State::Sending { at, .. } => *at = now,
            State::Answered => {}
            state => {
                *state = State::Vacant;
                return None;
            }
        }
        Some(check.slot)
    }

    pub fn weigh(&mut self, slot: u32, now: Time) -> CopyId {
        let copy = self.get(slot);
        copy.state = State::Weighing;
        copy.reading = true;
        copy.since = now;
        CopyId { slot, generation: copy.generation }
    }

    /// The check, or copy, is over; true: its weighing is not, and keeps the hold.
    pub fn weighs_on(&mut self, slot: u32) -> bool {
        let copy = self.get(slot);
        if copy.state == State::Weighing {
            copy.state = State::Late;
        }
        copy.state == State::Late
    }

    /// The weighing of a check or copy is over, which itself may be (`true`).
    pub fn weighed(&mut self, check: CopyId) -> Option<(u32, bool)> {
        self.find(check).filter(|copy| matches!(copy.state, State::Weighing | State::Late))?;
        let copy = self.get(check.slot);
        copy.reading = false;
        Some((check.slot, copy.state == State::Late))
    }
}

impl State {
    /// In the ledger.
    const fn holds(self) -> bool {
        !matches!(self, Self::Vacant | Self::Abandoned)
    }
}

impl Volume {
    /// How many regions may be copied at a time from now on (throttle; at most `Limits::copies`;
    /// zero pauses resync, but not recovery).
    pub fn set_copies(&mut self, copies: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        self.copies.allowed = copies.min(self.limits.copies);
        self.settle(cx, out);
    }

    /// How many regions a resync may begin to copy, or a verify to compare, until the next call, holes not counted; `None`: as many as go. Recovery
    /// of regions in doubt, which hosts wait for, does not count.
    pub fn allow_copies(&mut self, regions: Option<u32>, cx: Context, out: &mut Vec<VolumeAction>) {
        self.copies.allowance = regions;
        self.settle(cx, out);
    }

    /// A resync goes on here, as primary.
    pub fn resyncs(&self) -> bool {
        self.is_alone() && self.session.is_some() && !self.must_copy.is_empty()
    }

    /// Starts copies and checks while there is room for them; true when one was begun.
    pub(super) fn pump(&mut self, cx: Context, out: &mut Vec<VolumeAction>) -> bool {
        let copies = self.pump_copies(cx, out);
        copies | self.pump_checks(cx, out)
    }

    fn pump_copies(&mut self, cx: Context, out: &mut Vec<VolumeAction>) -> bool {
        if self.must_copy.is_empty() && self.recovering.is_empty() {
            return false;
        }
        // Rule 5: nothing is copied from under a late write of the former primary.
        let drained = self.applies.running_old() == 0;
        // What {me} reads, and sends as stable, must be so here: else a crash turns an equal region unequal.
        let stable =
            !self.is_alone() || !self.is_memory() || !(self.unflushed.here() || self.has_phantoms_alone());
        if !self.can_send() || !drained || !stable || self.peer_failed || self.copies.halted_until.is_some() {
            return false;
        }
        let mut begun = false;
        while let Some((region, kind)) = self.next_copy() {
            let Some(slot) = self.copies.take() else { break };
            self.begin_copy(slot, region, kind, cx, out);
            begun = true;
        }
        begun
    }

    /// What to copy next: what is in doubt before what is out of sync.
    fn next_copy(&self) -> Option<(u64, CopyKind)> {
        let running = self.copies.in_progress();
        if running >= self.limits.copies {
            return None;
        }
        // With both copies needed and this store failing, a region is not made equal from where the
        // write failed: the error is held until the group is handed over or the peer dropped (rule
        // 17), for a while. What a restart left in doubt is: it stands in the way of a hand over.
        let hold = self.awaited_hand_over().is_some();
        if !self.recovering.is_empty() {
            let mut region = self.recovering.next_from(0);
            while let Some(at) = region {
                let held_back = hold && self.failed_here.contains(at);
                let waits = held_back || self.awaits_mark(at) || self.lost_may_stay(at);
                if !self.copies.has(at) && !waits {
                    return Some((at, CopyKind::Recover));
                }
                region = self.recovering.next_from(at + 1);
            }
        }
        if running >= self.copies.allowed || self.copies.allowance == Some(0) || !self.is_alone() {
            return None;
        }
        let first = self.must_copy.next_from(self.copies.cursor);
        let mut region = first.or_else(|| self.must_copy.next_from(0));
        // At most `limits.copies` regions can be in the way, on each side of the end.
        for _ in 0..=2 * self.limits.copies {
            let at = region?;
            if !self.copies.has(at) {
                return Some((at, CopyKind::Resync));
            }
            region = self.must_copy.next_from(at + 1).or_else(|| self.must_copy.next_from(0));
        }
        None
    }

    pub(super) fn begin_copy(
        &mut self,
        slot: u32,
        region: u64,
        kind: CopyKind,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let inserted = self.tick_clock();
        match kind {
            CopyKind::Resync => self.copies.cursor = region + 1,
            CopyKind::Recover => self.forget_lost(region),
            CopyKind::Verify => {}
        }
        if kind != CopyKind::Recover
            && let Some(left) = &mut self.copies.allowance
        {
            *left = left.saturating_sub(1);
        }
        let extent = self.region_extent(region);
        let mut overlaps = core::mem::take(&mut self.overlaps);
        overlaps.clear();
        self.ledger.overlapping(extent, &mut overlaps);
        let (mut blockers, mut waiters) = (0, 0);
        *self.copies.get(slot) =
            Copy { state: State::Waiting, kind, region, inserted, ..*self.copies.at(slot) };
        for &number in &overlaps {
            if number < COMMAND_BASE {
                continue; // another region's, beside it
            }
            let command = self.commands.get(number - COMMAND_BASE);
            if !self.copies.excludes(slot, command.op.writes()) {
                continue;
            }
            if command.stage == Stage::Queued {
                command.blockers += 1;
                waiters += 1;
            } else {
                command.waiters += 1;
                blockers += 1;
            }
        }
        self.overlaps = overlaps;
        self.ledger.insert(slot, extent);
        let copy = self.copies.get(slot);
        copy.blockers = blockers;
        copy.waiters = waiters;
        self.start_copy(slot, cx, out);
    }

    /// Reads and sends a region that nobody writes now.
    pub(super) fn start_copy(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Copy { state, blockers, region, kind, .. } = self.copies.at(slot);
        if state != State::Waiting || blockers != 0 {
            return;
        }
        if kind == CopyKind::Verify {
            return self.start_check(slot, region, cx, out);
        }
        let extent = self.region_extent(region);
        let Some((lane, header)) = self.address_copy(slot, extent, cx) else {
            return self.leave_copy(slot); // no lane is up: begun again when one is
        };
        self.copies.get(slot).extent = extent;
        let copy = self.copies.send(slot, lane, header.sequence, cx.now.grantor);
        out.push(VolumeAction::Copy { copy, kind, lane, header });
        if mutation::on(Mutation::R10SourceClearsEarly) {
            self.must_copy.remove(region);
            self.map.clear_out_of_sync(region);
        }
    }

    /// The region of a `Copy` action was read and sent as so many frames.
    pub fn copy_sent(
        &mut self,
        copy: CopyId,
        frames: Result<u32, CopyFailed>,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        if !self.copies.find(copy).is_some_and(|copy| copy.reading) {
            return;
        }
        let slot = copy.slot;
        let peer_is_equal = self.peer_is_equal();
        let copy = self.copies.get(slot);
        copy.reading = false;
        match (copy.state, frames) {
            (State::Sending { lane, sequence, .. }, Ok(frames))
                if (1..=Limits::COPY_FRAMES_MAX).contains(&frames) =>
            {
                // The time that counts for the peer begins when it has everything.
                copy.state = State::Sending { lane, sequence, at: cx.now.grantor };
                copy.frames = Some(frames);
                // A hole (or next to nothing) costs hosts nothing.
                if frames == 1
                    && copy.kind == CopyKind::Resync
                    && let Some(left) = &mut self.copies.allowance
                {
                    *left += 1;
                }
                self.copy_may_be_done(slot, cx, out);
            }
            // It stays, unanswered, on a lane that is lost: that is what ends the session.
            (State::Sending { .. }, Err(CopyFailed::Lane)) => {}
            (State::Sending { lane, .. }, Err(CopyFailed::Store))
                if copy.kind == CopyKind::Recover && peer_is_equal =>
            {
                self.cannot_be_read(slot, lane, cx, out);
            }
            (State::Sending { .. }, _) => {
                self.leave_copy(slot);
                self.copies.halted_until = Some(cx.now.grantor + COPY_RETRY);
                self.store_has_failed(cx, out);
            }
            _ => copy.state = State::Vacant,
        }
        self.settle(cx, out);
    }

    pub(super) fn copy_acked(
        &mut self,
        sequence: u64,
        target: u64,
        result: StoreResult,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let slot = u32::try_from(target >> FRAME_BITS).unwrap_or(u32::MAX);
        let frame = usize::try_from(target % Limits::COPY_FRAMES_MAX as u64).unwrap_or(0);
        let Some(copy) = self.copies.slots.get_mut(slot as usize) else { return };
        let State::Sending { sequence: first, .. } = copy.state else { return };
        if sequence - frame as u64 != first {
            return;
        }
        if copy.kind == CopyKind::Verify {
            return self.check_failed_there(slot, cx, out);
        }
        if copy.asks {
            return self.lose_block(slot, cx, out);
        }
        if result == StoreResult::Done {
            copy.acked[frame / 64] |= 1 << (frame % 64);
            self.copy_may_be_done(slot, cx, out);
        } else {
            self.leave_copy(slot);
            self.peer_has_failed(out);
        }
    }

    /// The region is equal once the peer has every frame of it on stable storage.
    fn copy_may_be_done(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Copy { frames, acked, pieces_on, .. } = self.copies.at(slot);
        let acked: u32 = acked.iter().map(|word| word.count_ones()).sum();
        if frames != Some(acked) {
            return;
        }
        if pieces_on.is_some() {
            self.next_piece_of_copy(slot, true, cx, out);
        } else {
            self.region_was_copied(slot, out);
        }
    }

    /// Both copies hold the same of the region.
    pub(super) fn region_was_copied(&mut self, slot: u32, out: &mut Vec<VolumeAction>) {
        let region = self.copies.at(slot).region;
        self.recovering.remove(region);
        self.failed_here.remove(region);
        self.must_copy.remove(region);
        self.region_is_equal(region);
        // A region in recent use stays marked: its turn comes with its age.
        if !self.active.contains(region) {
            self.retire(region);
        }
        // Errors held back are answered before what waited for the region writes there (rule 17).
        self.failed_may_be_settled();
        self.leave_copy(slot);
        if self.recovering.is_empty() && self.must_copy.is_empty() {
            out.push(VolumeAction::Poke);
        }
    }

    /// Leaves the ledger; commands that waited for it become ready.
    pub(super) fn leave_copy(&mut self, slot: u32) {
        if self.copies.at(slot).kind == CopyKind::Recover {
            self.take_found_lost(self.copies.at(slot).region);
        }
        let copy = self.copies.get(slot);
        let (region, waiters) = (copy.region, copy.waiters);
        copy.state = if copy.reading { State::Abandoned } else { State::Vacant };
        self.ledger.remove(slot);
        if waiters == 0 {
            return;
        }
        let mut overlaps = core::mem::take(&mut self.overlaps);
        overlaps.clear();
        self.ledger.overlapping(self.region_extent(region), &mut overlaps);
        for &number in &overlaps {
            if number < COMMAND_BASE {
                continue;
            }
            let command = self.commands.get(number - COMMAND_BASE);
            if command.stage == Stage::Queued && self.copies.excludes(slot, command.op.writes()) {
                command.blockers -= 1;
                if command.blockers == 0 {
                    self.ready.push(number);
                }
            }
        }
        self.overlaps = overlaps;
    }

    /// The session is over: its copies begin again in the next one.
    pub(super) fn abandon_copies(&mut self) {
        self.copies.halted_until = None;
        for slot in 0..COMMAND_BASE.min(u32::try_from(self.copies.slots.len()).unwrap_or(COMMAND_BASE)) {
            let &Copy { state, kind, region, .. } = self.copies.at(slot);
            if state.holds() && kind == CopyKind::Recover {
                self.take_found_lost(region); // not all of it was examined
            }
            if state.holds() && kind == CopyKind::Verify {
                self.give_up_check(slot);
            } else if state.holds() && !self.copies.weighs_on(slot) {
                self.leave_copy(slot);
            }
        }
    }

    /// Commands that failed here and whose regions are equal again become ready.
    pub(super) fn failed_may_be_settled(&mut self) {
        let order = self.in_order();
        for &slot in &order {
            if self.commands.at(slot).stage == Stage::Failed {
                self.ready.push(COMMAND_BASE + slot);
            }
        }
        self.give_back(order);
    }
}
