//! Host commands: arrival, order, the check before the start and before the answer.

use crate::arbitration::Mode;
use crate::block::{Op, Outcome, Refusal, Request, StoreResult};
use crate::mutation::{self, Mutation};
use crate::time::Duration;

use super::api::{CommandId, Context, VolumeAction};
use super::command::{Command, Mirror, Stage};
use super::regions::regions_of;
use super::volume::{COMMAND_BASE, Check, Volume};

impl Volume {
    /// A host command arrives. The extent lies inside the volume.
    ///
    /// # Errors
    /// `Standby` while closed, `Transition` when a hold has run out, `Busy` past
    /// `Limits::commands`: nothing was done, no id is taken.
    pub fn submit(
        &mut self,
        request: Request,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) -> Result<CommandId, Refusal> {
        if self.gate.mode == Mode::Closed {
            return Err(Refusal::Standby);
        }
        let open = self.may_start(cx.now) || mutation::on(Mutation::R6NoCheckAtStart);
        if !open {
            self.note_lapse(cx.now);
            if self.hold_end().is_some_and(|end| cx.now.grantor >= end) {
                return Err(Refusal::Transition);
            }
        }
        let slot = self.commands.take(self.limits.commands).ok_or(Refusal::Busy)?;
        let (arrived, tenure) = (self.tick_clock(), self.gate.tenure);
        let flushes_both = request.op == Op::Flush && self.is_memory() && self.group.is_some();
        let command = self.commands.get(slot);
        command.stage = Stage::Parked;
        command.arrived = arrived;
        command.op = request.op;
        command.extent = request.extent;
        command.held = request.extent.physical();
        command.tenure = tenure;
        command.flushes_both = flushes_both;
        if mutation::on(Mutation::R8LogicalOverlap) {
            command.held = request.extent;
        }
        let id = self.commands.id(slot);
        if open {
            self.arrive(slot, cx, out);
            self.settle(cx, out);
        }
        Ok(id)
    }

    /// The command arrives: it belongs to the gate's tenure (rule 6) and takes its place in the
    /// ledger, behind everything it conflicts with that arrived before.
    ///
    /// A write that was parked under another tenure does not: until then the other array may have
    /// served, and its host may have left it here without a word, tried it again there and written
    /// on. It is sent back for another try; a host that is gone does not make one. (A read that
    /// nobody waits for harms nobody.)
    pub(super) fn arrive(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { op, tenure, .. } = self.commands.at(slot);
        let left = tenure != self.gate.tenure && op.writes();
        if left && !mutation::on(Mutation::R6ParkedOutlivesTenure) {
            return self.refuse(slot, Refusal::Again, cx, out);
        }
        let arrived = self.tick_clock();
        let tenure = self.gate.tenure;
        let command = self.commands.get(slot);
        command.stage = Stage::Queued;
        command.arrived = arrived;
        command.tenure = tenure;
        let (writes, held) = (command.op.writes(), command.held);
        if command.op != Op::Flush && held.blocks != 0 {
            command.in_ledger = true;
            let mut overlaps = core::mem::take(&mut self.overlaps);
            overlaps.clear();
            self.ledger.overlapping(held, &mut overlaps);
            for &number in &overlaps {
                if self.entry_conflicts(number, writes) {
                    self.commands.get(slot).blockers += 1;
                    self.add_waiter(number);
                }
            }
            self.overlaps = overlaps;
            self.ledger.insert(COMMAND_BASE + slot, held);
        }
        self.try_start(slot, cx, out);
    }

    /// Does an entry of the ledger exclude another one, of which we know whether it writes?
    fn entry_conflicts(&self, number: u32, writes: bool) -> bool {
        if number < COMMAND_BASE {
            return self.copies.excludes(number, writes);
        }
        let other = self.commands.at(number - COMMAND_BASE).op.writes();
        conflict(other, writes)
    }

    fn add_waiter(&mut self, number: u32) {
        if number < COMMAND_BASE {
            self.copies.get(number).waiters += 1;
        } else {
            self.commands.get(number - COMMAND_BASE).waiters += 1;
        }
    }

    /// Starts a queued command if nothing stands before it.
    pub(super) fn try_start(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { stage, blockers, tenure, op, extent, .. } = self.commands.at(slot);
        if stage != Stage::Queued || blockers != 0 {
            return;
        }
        if !mutation::on(Mutation::R6NoCheckAtStart) {
            match self.check_start(tenure, cx.now) {
                Check::Serve => {}
                Check::Wait => return,
                Check::Late => return self.refuse(slot, Refusal::Standby, cx, out),
            }
        }
        // Rules 15, 17: the region's copy takes the hold, and lets the command go when it is done.
        if op != Op::Flush && self.recovering.touches(extent) {
            let passes = mutation::on(Mutation::R15ReadsInDoubt) && op == Op::Read;
            if !passes && self.is_in_doubt(extent) {
                return;
            }
            if let Some(error) = self.lost_to(op, extent) {
                self.commands.get(slot).started = self.tick_clock();
                return self.decide(slot, StoreResult::Failed, error, cx, out);
            }
        }
        let started = self.tick_clock();
        let tenure = self.gate.tenure;
        let command = self.commands.get(slot);
        command.started = started;
        if mutation::on(Mutation::T10CommandOutlivesTenure) {
            command.tenure = tenure;
        }
        if extent.blocks == 0 && op != Op::Flush {
            command.stage = Stage::Running;
            command.decided = Some(Outcome::Good);
            return self.evaluate(slot, cx, out);
        }
        match op {
            Op::Read | Op::Flush => self.issue(slot, cx, out),
            Op::CompareAndWrite => {
                command.stage = Stage::Comparing;
                command.issued = cx.now.grantor;
                let command = self.commands.id(slot);
                out.push(VolumeAction::Compare { command });
            }
            Op::Write | Op::WriteSame | Op::WriteZeroes | Op::Unmap => {
                command.stage = Stage::Marking;
                self.proceed(slot, cx, out);
            }
        }
    }

    /// A write that holds its range: to its I/O, once its bits are durable (rule 10).
    fn proceed(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let tenure = self.commands.at(slot).tenure;
        if !mutation::on(Mutation::R6NoCheckAtStart) {
            match self.check_answer(tenure, cx.now) {
                Check::Serve => {}
                Check::Wait => return,
                Check::Late => return self.refuse(slot, Refusal::Standby, cx, out),
            }
        }
        if self.group.is_some() && !self.ensure_marks(slot) {
            return self.await_map(slot, out);
        }
        self.issue(slot, cx, out);
    }

    /// Marks the regions of a write; true when the disk holds what must be there before it starts.
    fn ensure_marks(&mut self, slot: u32) -> bool {
        let alone = self.is_alone();
        let command = self.commands.get(slot);
        let extent = command.extent;
        let new = !core::mem::replace(&mut command.marked, true);
        let (first, end) = regions_of(extent);
        for region in first..end {
            if new {
                self.active.begin(region);
            }
            self.map.mark_active(region);
            if alone {
                self.map.mark_out_of_sync(region);
            }
        }
        (self.map.sure_activity().covers(extent) || mutation::on(Mutation::R10ActivityNotDurable))
            && (!alone || self.map.sure_out_of_sync().covers(extent))
    }

    /// Local I/O, and the mirror at the same time.
    fn issue(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let issued = self.commands.get(slot);
        issued.stage = Stage::Running;
        issued.issued = cx.now.grantor;
        let memory = self.may_stay_in_memory();
        let covers = self.unflushed.written();
        let issued = self.commands.get(slot);
        let (op, extent) = (issued.op, issued.extent);
        issued.covers[0] = covers;
        issued.in_memory = memory && op.writes();
        let stable = !issued.in_memory;
        if issued.in_memory {
            self.unflushed.begin(op, extent, cx.now.grantor);
        }
        let command = self.commands.id(slot);
        out.push(VolumeAction::Local { command, stable });
        if self.commands.at(slot).must_be_mirrored() {
            self.send(slot, cx, out);
        }
    }

    /// The I/O of a `Local` or `Compare` action is over.
    pub fn local_done(
        &mut self,
        command: CommandId,
        result: StoreResult,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let Some(&Command { stage, local, tenure, .. }) = self.commands.find(command) else {
            return;
        };
        let slot = command.slot;
        match stage {
            Stage::Comparing => self.compared(slot, result, cx, out),
            Stage::Mending => self.mended(slot, result, cx, out),
            Stage::Running if local.is_none() => {
                self.commands.get(slot).local = Some(result);
                self.took_in_memory(slot, result, cx);
                if mutation::on(Mutation::T12ActivityClearedEarly) {
                    self.unmark_at_once(slot);
                }
                self.evaluate(slot, cx, out);
            }
            _ => return,
        }
        self.poke_if_drained(tenure != self.gate.tenure || !self.is_primary(), out);
        self.settle(cx, out);
    }

    /// What the end of a command's I/O means for what is in memory here.
    fn took_in_memory(&mut self, slot: u32, result: StoreResult, cx: Context) {
        let command = self.commands.get(slot);
        let (op, extent, covers) = (command.op, command.extent, command.covers[0]);
        if core::mem::take(&mut command.in_memory) {
            self.unflushed.end(op, extent);
        } else if op == Op::Flush {
            self.flushed_here(covers, result, cx.now.grantor);
        }
    }

    /// I/O of an older tenure or session is over: control may be waiting for the last of it.
    pub(super) fn poke_if_drained(&self, old: bool, out: &mut Vec<VolumeAction>) {
        if old && self.group.is_some() && self.status().store_io_old == 0 {
            out.push(VolumeAction::Poke);
        }
    }

    /// The compare half is over; nothing was written yet.
    fn compared(&mut self, slot: u32, result: StoreResult, cx: Context, out: &mut Vec<VolumeAction>) {
        let command = self.commands.get(slot);
        command.stage = Stage::Marking;
        if command.answered {
            return self.finish(slot, cx, out);
        }
        if command.aborting {
            self.answer(slot, Outcome::Aborted, out);
            return self.finish(slot, cx, out);
        }
        if result == StoreResult::Failed && self.may_fetch(slot) {
            return self.begin_fetch(slot, cx, out);
        }
        if result == StoreResult::Failed && self.commands.at(slot).piecewise {
            return self.unreadable(slot, cx, out);
        }
        let command = self.commands.get(slot);
        command.decided = match result {
            StoreResult::Done => return self.proceed(slot, cx, out),
            StoreResult::Differs { offset } => Some(Outcome::Miscompare { offset }),
            StoreResult::Failed | StoreResult::NoSpace => Some(Outcome::ReadError),
        };
        command.stage = Stage::Running;
        command.local = Some(result);
        if command.decided == Some(Outcome::ReadError) {
            self.store_has_failed(cx, out);
        }
        self.evaluate(slot, cx, out);
    }

    pub(super) fn store_has_failed(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.store_failed.is_none() {
            self.store_failed = Some(cx.now.grantor);
            out.push(VolumeAction::Poke);
        }
    }

    /// Looks at a command whose surroundings have changed.
    pub(super) fn reconsider(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        match self.commands.at(slot).stage {
            Stage::Queued => self.try_start(slot, cx, out),
            Stage::Marking => self.proceed(slot, cx, out),
            Stage::Running => self.evaluate(slot, cx, out),
            Stage::Failed => self.settle_failed(slot, cx, out),
            Stage::Fetching => self.fetch(slot, cx, out),
            Stage::Vacant | Stage::Parked | Stage::Comparing | Stage::Mending | Stage::Freed => {}
        }
    }

    /// An answer needs both copies: {A,B} is chosen, or may be (rule 2, T4).
    pub(super) fn needs_both(&self) -> bool {
        let chosen = self.is_primary() && !self.is_alone();
        let voted = (self.joining || self.gate.needs_both()) && self.group.is_some();
        chosen || (voted && !mutation::on(Mutation::T4JoinNotNeeded))
    }

    /// An issued command may be ready for its answer (ARBITRATION *write*, *check*).
    pub(super) fn evaluate(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { stage, op, extent, local, mirror, decided, tenure, .. } = self.commands.at(slot);
        if stage != Stage::Running {
            return;
        }
        if let Some(outcome) = decided {
            return self.conclude(slot, outcome, cx, out);
        }
        let Some(result) = local else { return };
        if !op.writes() {
            if op == Op::Read && result == StoreResult::Failed {
                if self.may_fetch(slot) {
                    return self.begin_fetch(slot, cx, out);
                }
                if self.commands.at(slot).piecewise {
                    return self.unreadable(slot, cx, out);
                }
            }
            if self.flush_waits_for_peer(slot) {
                return;
            }
            // A flush in the background failed: the host that asks for one is told, once where nobody else can be.
            let lost = op == Op::Flush && self.unflushed.has_failed();
            if lost && self.group.is_none() {
                self.unflushed.made_anew();
            }
            let outcome = read_outcome(op, if lost { StoreResult::Failed } else { result });
            if outcome != Outcome::Good {
                self.store_has_failed(cx, out);
            }
            return self.conclude(slot, outcome, cx, out);
        }
        if self.group.is_none() {
            return self.conclude(slot, write_outcome(result), cx, out);
        }
        if !self.is_primary() || self.tenure() != Some(tenure) {
            // Office lost: refused already; the other array's copy is the truth.
            self.answer(slot, Outcome::Refused(Refusal::Standby), out);
            return self.finish(slot, cx, out);
        }
        let done = result == StoreResult::Done;
        let both = self.needs_both();
        if mirror != Mirror::Acked(StoreResult::Done) {
            let sent = matches!(mirror, Mirror::Sent { .. });
            let hopeless = matches!(mirror, Mirror::Acked(_)) || self.session.is_none();
            let waits = if both { done || sent } else { sent || (done && !hopeless) };
            let broken = mutation::on(Mutation::R2AnswerWithoutMirror)
                || (mutation::on(Mutation::R3AnswerAloneBeforeDrop) && self.session.is_none());
            if waits && !broken {
                return;
            }
            if !both {
                // T5: alone, and decided so here: whatever becomes of the answer, the copies differ.
                self.mark_dirty(slot);
                if !self.map.sure_out_of_sync().covers(extent) {
                    return self.await_map(slot, out);
                }
            }
        } else if !done && !both {
            self.mark_dirty(slot);
        }
        if done {
            if both {
                self.was_written_anew(extent, out);
            }
            return self.conclude(slot, Outcome::Good, cx, out);
        }
        if result == StoreResult::Failed {
            self.store_has_failed(cx, out);
        }
        if both && !mutation::on(Mutation::R17ErrorAtOnce) {
            self.fall_into_doubt(slot, cx, out);
        } else {
            self.conclude(slot, write_outcome(result), cx, out);
        }
    }

    /// A flush of both disks is done here, and the peer has not confirmed its own. Once the peer is
    /// dropped this disk alone counts, and holds everything.
    fn flush_waits_for_peer(&self, slot: u32) -> bool {
        let &Command { local, mirror, flushes_both, tenure, .. } = self.commands.at(slot);
        let office = self.is_primary() && self.tenure() == Some(tenure);
        flushes_both
            && office
            && local == Some(StoreResult::Done)
            && self.needs_both()
            && mirror != Mirror::Acked(StoreResult::Done)
            && !mutation::on(Mutation::T13FuaHereOnly)
    }

    fn mark_dirty(&mut self, slot: u32) {
        if mutation::on(Mutation::T5AnsweredAloneUnmarked) {
            return;
        }
        let (first, end) = regions_of(self.commands.at(slot).extent);
        for region in first..end {
            self.must_copy.insert(region);
            self.map.mark_out_of_sync(region);
        }
    }

    /// Rule 17: the write may be on the other copy and is not on this one. Its regions are in doubt,
    /// and the error waits until they are equal or the configuration has changed.
    fn fall_into_doubt(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let (first, end) = regions_of(self.commands.at(slot).extent);
        for region in first..end {
            self.recovering.insert(region);
            self.failed_here.insert(region);
            self.forget_lost(region);
        }
        self.commands.get(slot).stage = Stage::Failed;
        self.leave(slot);
        self.unmark(slot, cx);
        out.push(VolumeAction::Poke);
    }

    /// A command that failed here: answered when nothing of it is in doubt any more.
    pub(super) fn settle_failed(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { extent, local, tenure, .. } = self.commands.at(slot);
        if !self.is_primary() || self.tenure() != Some(tenure) {
            self.answer(slot, Outcome::Refused(Refusal::Standby), out);
            return self.finish(slot, cx, out);
        }
        if !self.is_in_doubt(extent) {
            self.conclude(slot, write_outcome(local.unwrap_or(StoreResult::Failed)), cx, out);
        }
    }

    /// The check right before the answer (rule 6), and the answer.
    pub(super) fn conclude(&mut self, slot: u32, outcome: Outcome, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { answered, tenure, .. } = self.commands.at(slot);
        if !answered {
            let check = self.check_answer(tenure, cx.now);
            let outcome = match check {
                _ if mutation::on(Mutation::R6NoCheckAtAnswer) => outcome,
                Check::Serve => outcome,
                Check::Wait => return,
                Check::Late => Outcome::Refused(Refusal::Standby),
            };
            if check == Check::Serve && !self.barrier_is_down() {
                return self.await_map(slot, out);
            }
            self.answer(slot, outcome, out);
        }
        self.finish(slot, cx, out);
    }

    pub(super) fn answer(&mut self, slot: u32, outcome: Outcome, out: &mut Vec<VolumeAction>) {
        if !core::mem::replace(&mut self.commands.get(slot).answered, true) {
            let command = self.commands.id(slot);
            out.push(VolumeAction::Answer { command, outcome });
        }
    }

    /// The command is over, its answer given.
    pub(super) fn finish(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        debug_assert!(self.commands.at(slot).answered, "over without an answer");
        self.leave(slot);
        self.unmark(slot, cx);
        let command = self.commands.id(slot);
        let started = self.commands.at(slot).started != 0;
        self.commands.over(slot);
        out.push(VolumeAction::Free { command });
        if started && self.gate.mode == Mode::Draining && !self.commands.iter_live().any(Command::in_flight) {
            out.push(VolumeAction::Poke); // a switchover waits for the last one
        }
    }

    /// Leaves the ledger; what waited only for this one becomes ready.
    pub(super) fn leave(&mut self, slot: u32) {
        let command = self.commands.get(slot);
        if !core::mem::replace(&mut command.in_ledger, false) {
            return;
        }
        let Command { held, op, arrived, started, waiters, .. } = *command;
        self.ledger.remove(COMMAND_BASE + slot);
        if waiters == 0 {
            return;
        }
        let writes = op.writes();
        let mut overlaps = core::mem::take(&mut self.overlaps);
        overlaps.clear();
        self.ledger.overlapping(held, &mut overlaps);
        for &number in &overlaps {
            if number < COMMAND_BASE {
                if self.copies.excludes(number, writes) && self.copies.unblock(number, started) {
                    self.ready.push(number);
                }
                continue;
            }
            let other = self.commands.get(number - COMMAND_BASE);
            if other.stage == Stage::Queued && other.arrived > arrived && conflict(writes, other.op.writes())
            {
                other.blockers -= 1;
                if other.blockers == 0 {
                    self.ready.push(number);
                }
            }
        }
        self.overlaps = overlaps;
    }

    fn unmark(&mut self, slot: u32, cx: Context) {
        let command = self.commands.get(slot);
        if !core::mem::replace(&mut command.marked, false) {
            return;
        }
        let (first, end) = regions_of(command.extent);
        for region in first..end {
            self.active.end(region, cx.now.grantor);
        }
        // By number only: age is `tick`'s.
        while let Some(region) = self.active.expire(cx.now.grantor, Duration::MAX) {
            self.retire(region);
        }
    }

    fn unmark_at_once(&mut self, slot: u32) {
        let (first, end) = regions_of(self.commands.at(slot).extent);
        for region in first..end {
            self.map.clear_active(region);
        }
    }

    /// No write of the region is in flight, and none was for a while: it need not stay marked,
    /// unless the copies may differ there.
    pub(super) fn retire(&mut self, region: u64) {
        if self.recovering.contains(region) {
            return;
        }
        let memory = self.is_memory() && self.is_primary() && !self.is_alone();
        if memory && !mutation::on(Mutation::T13ActivityClearedUnflushed) {
            return self.unflushed.retire(region);
        }
        self.map.clear_active(region);
        if self.is_alone() && !self.must_copy.contains(region) {
            self.map.clear_out_of_sync(region);
        }
    }

    /// Refuses everything: what has done nothing is over; what runs stays until it has ended.
    pub(super) fn refuse_all(
        &mut self,
        why: Refusal,
        started: bool,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let order = self.in_order();
        for &slot in &order {
            let command = self.commands.at(slot);
            if command.is_live() && (started || command.waiting()) {
                self.refuse(slot, why, cx, out);
            }
        }
        self.give_back(order);
    }

    pub(super) fn refuse(&mut self, slot: u32, why: Refusal, cx: Context, out: &mut Vec<VolumeAction>) {
        self.answer(slot, Outcome::Refused(why), out);
        match self.commands.at(slot).stage {
            Stage::Parked | Stage::Queued | Stage::Marking | Stage::Fetching => self.finish(slot, cx, out),
            Stage::Running => self.evaluate(slot, cx, out),
            Stage::Failed => self.settle_failed(slot, cx, out),
            Stage::Comparing | Stage::Mending | Stage::Vacant | Stage::Freed => {}
        }
    }

    /// Rule 9: a command that has done nothing yet is killed (`Answer` with `Aborted`); any other
    /// runs to its end and is answered with its true outcome.
    pub fn abort(&mut self, command: CommandId, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.commands.find(command).is_none() {
            return;
        }
        let slot = command.slot;
        let command = self.commands.get(slot);
        command.aborting = true;
        match command.stage {
            Stage::Parked | Stage::Queued | Stage::Marking => {
                self.answer(slot, Outcome::Aborted, out);
                self.finish(slot, cx, out);
            }
            Stage::Running if mutation::on(Mutation::R9AbortConfirmedEarly) => {
                self.answer(slot, Outcome::Aborted, out);
            }
            Stage::Comparing
            | Stage::Running
            | Stage::Fetching
            | Stage::Mending
            | Stage::Failed
            | Stage::Vacant
            | Stage::Freed => {}
        }
        self.settle(cx, out);
    }

    /// The shell has dropped the payload of a command it was told to `Free`.
    pub fn release(&mut self, command: CommandId) {
        self.commands.release(command);
    }
}

/// Readers share, writers exclude (rules 7, 8).
fn conflict(one_writes: bool, other_writes: bool) -> bool {
    if mutation::on(Mutation::R7ReadsDoNotWait) && one_writes != other_writes {
        return false;
    }
    if mutation::on(Mutation::R8WritesOverlap) && one_writes && other_writes {
        return false;
    }
    one_writes || other_writes
}

const fn read_outcome(op: Op, result: StoreResult) -> Outcome {
    match (op, result) {
        (_, StoreResult::Done) => Outcome::Good,
        (Op::Flush, _) => Outcome::WriteError,
        _ => Outcome::ReadError,
    }
}

const fn write_outcome(result: StoreResult) -> Outcome {
    match result {
        StoreResult::Done => Outcome::Good,
        StoreResult::NoSpace => Outcome::NoSpace,
        StoreResult::Failed | StoreResult::Differs { .. } => Outcome::WriteError,
    }
}
