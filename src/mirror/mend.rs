//! What this array cannot read while both copies are in sync: the peer gives its blocks, the host is
//! answered with them, and they are written over what is unreadable here (F38).
//!
//! The peer's blocks are never older than what was acknowledged. The command keeps its hold on whole
//! physical blocks from its start to the end of the mending: no write of them is in flight here, so
//! none is on its way to the peer; every write answered before is on the peer's stable storage (rule
//! 2); and a region in doubt lets no command start (rules 15, 17). The blocks are taken only in the
//! session in which they were asked for, and that one ends before *drop* is voted. A late mending is
//! I/O of this store like any other: a new primary's session waits for it (rule 5).
//!
//! Where the peer cannot read all of that either, it is asked piece by piece: what each array can read
//! makes up for what the other one cannot. Then this copy is read once more.

use crate::block::{BLOCKS_PER_PHYSICAL, Extent, Op, Outcome, Refusal, StoreResult};
use crate::mutation::{self, Mutation};

use super::api::{CommandId, Context, FrameHeader, Limits, VolumeAction};
use super::command::{Command, Mirror, Stage};
use super::session::TARGET_MASK;
use super::volume::{Check, Volume};

/// Of a command in [`Stage::Fetching`]: what it waited for is on this copy.
const MENDED: Mirror = Mirror::Acked(StoreResult::Done);

impl Volume {
    /// What is asked for and mended: the whole physical blocks that the command holds.
    fn mended_extent(&self, slot: u32) -> Extent {
        let held = self.commands.at(slot).held;
        Extent::new(held.lba, held.end().min(self.geometry().blocks).saturating_sub(held.lba))
    }

    /// Both copies are in sync, by what is chosen: the peer's blocks are as good as these.
    pub(super) fn peer_is_equal(&self) -> bool {
        self.is_primary() && (!self.is_alone() || mutation::on(Mutation::MendFromStaleCopy))
    }

    /// A command that could not be read here may be by the peer's blocks.
    pub(super) fn may_fetch(&self, slot: u32) -> bool {
        let &Command { fetched, answered, tenure, .. } = self.commands.at(slot);
        !fetched
            && !answered
            && self.peer_is_equal()
            && self.tenure() == Some(tenure)
            && self.mended_extent(slot).blocks <= Limits::FETCH_BLOCKS_MAX
    }

    pub(super) fn begin_fetch(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let asks = self.mended_extent(slot);
        let command = self.commands.get(slot);
        command.stage = Stage::Fetching;
        command.fetched = true;
        command.asks = asks;
        command.local = None;
        self.fetch(slot, cx, out);
    }

    /// A command that waits for the peer's blocks, looked at again: asks for them, gives up, or waits
    /// for a session.
    pub(super) fn fetch(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        if !self.is_primary() || self.tenure() != Some(self.commands.at(slot).tenure) {
            self.answer(slot, Outcome::Refused(Refusal::Standby), out);
            return self.finish(slot, cx, out);
        }
        if self.commands.at(slot).mirror == MENDED {
            return self.try_again(slot, cx, out);
        }
        if !self.peer_is_equal() {
            return self.unreadable(slot, cx, out);
        }
        self.ask(slot, cx, out);
    }

    /// Asks the peer, once within a session.
    pub(super) fn ask(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { tenure, mirror, asks: extent, .. } = self.commands.at(slot);
        if mirror != Mirror::Unsent {
            return;
        }
        let Some(session) = &mut self.session else { return };
        let Some(lane) = session.pick(cx.lane) else { return };
        let sequence = session.sequence(u64::from(slot));
        let header =
            FrameHeader { tenure, session: session.id, sequence, op: Op::Read, extent, memory: false };
        self.commands.get(slot).mirror = Mirror::Sent { sequence, lane, at: cx.now.grantor, memory: false };
        let command = self.commands.id(slot);
        out.push(VolumeAction::Fetch { command, lane, header });
    }

    /// The peer sent the blocks that `header` asked for. `Some`: keep them under the id for its `Mend`;
    /// `None`: drop them.
    pub fn fetched(
        &mut self,
        header: FrameHeader,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) -> Option<CommandId> {
        self.session.as_ref().filter(|open| open.id == header.session)?;
        let slot = u32::try_from(header.sequence & TARGET_MASK).ok()?;
        let &Command { stage, mirror, asks, .. } = self.commands.find_slot(slot)?;
        let asked = matches!(mirror, Mirror::Sent { sequence, .. } if sequence == header.sequence);
        let as_asked = header.extent == asks && header.op == Op::Read;
        if stage != Stage::Fetching || !asked || !as_asked || !self.peer_is_equal() {
            return None;
        }
        let command = self.commands.get(slot);
        command.stage = Stage::Mending;
        command.mirror = Mirror::Unsent;
        command.issued = cx.now.grantor;
        if mutation::on(Mutation::MendWithoutHold) {
            self.leave(slot);
        }
        let command = self.commands.id(slot);
        out.push(VolumeAction::Mend { command });
        self.settle(cx, out);
        Some(command)
    }

    /// The peer cannot read what it was asked for.
    pub(super) fn not_given(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.mended_extent(slot).blocks <= BLOCKS_PER_PHYSICAL || mutation::on(Mutation::MendWholeOrNot) {
            return self.unreadable(slot, cx, out);
        }
        self.commands.get(slot).piecewise = true;
        self.next_fetch(slot, false, cx, out);
    }

    /// The peer's part of a piece is over: the next one, or this copy once more.
    fn next_fetch(&mut self, slot: u32, given: bool, cx: Context, out: &mut Vec<VolumeAction>) {
        let whole = self.mended_extent(slot);
        let command = self.commands.get(slot);
        command.stage = Stage::Fetching;
        command.mirror = Mirror::Unsent;
        match next_piece(whole, command.asks, given) {
            Some(next) => command.asks = next,
            None => command.mirror = MENDED,
        }
        self.fetch(slot, cx, out);
    }

    /// Nobody has the blocks: this copy stands alone, or the peer cannot read them either. That is no
    /// reason to hand over.
    pub(super) fn unreadable(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let command = self.commands.get(slot);
        command.mirror = Mirror::Unsent;
        self.decide(slot, StoreResult::Failed, Outcome::ReadError, cx, out);
    }

    pub(super) fn decide(
        &mut self,
        slot: u32,
        local: StoreResult,
        outcome: Outcome,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let command = self.commands.get(slot);
        command.stage = Stage::Running;
        command.local = Some(local);
        command.decided = Some(outcome);
        self.evaluate(slot, cx, out);
    }

    /// The fetched blocks are on this copy, or could not be written.
    pub(super) fn mended(
        &mut self,
        slot: u32,
        result: StoreResult,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        if result != StoreResult::Done {
            self.store_has_failed(cx, out);
        }
        let &Command { op, answered, piecewise, .. } = self.commands.at(slot);
        if answered {
            return self.finish(slot, cx, out);
        }
        if piecewise {
            return self.next_fetch(slot, true, cx, out);
        }
        if op == Op::Read {
            return self.decide(slot, StoreResult::Done, Outcome::Good, cx, out);
        }
        if result != StoreResult::Done {
            return self.decide(slot, result, Outcome::ReadError, cx, out);
        }
        let command = self.commands.get(slot);
        command.stage = Stage::Fetching;
        command.mirror = MENDED;
        self.fetch(slot, cx, out);
    }

    /// A comparison, or a read that took several pieces, is made anew, of what is readable now; as any I/O
    /// that is begun, through the gate (rule 6).
    fn try_again(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let tenure = self.commands.at(slot).tenure;
        match self.check_answer(tenure, cx.now) {
            Check::Serve => {}
            Check::Wait => return,
            Check::Late => return self.refuse(slot, Refusal::Standby, cx, out),
        }
        let reads = self.commands.at(slot).op == Op::Read;
        let command = self.commands.get(slot);
        command.stage = if reads { Stage::Running } else { Stage::Comparing };
        command.mirror = Mirror::Unsent;
        command.issued = cx.now.grantor;
        let command = self.commands.id(slot);
        out.push(if reads {
            VolumeAction::Local { command, stable: true }
        } else {
            VolumeAction::Compare { command }
        });
    }
}

/// What of `whole` comes after `piece`, which went well or did not: pieces become smaller around a bad
/// block, down to it, and larger again behind it.
pub(super) fn next_piece(whole: Extent, piece: Extent, well: bool) -> Option<Extent> {
    let (lba, blocks) = if well {
        (piece.end(), piece.blocks.saturating_mul(2))
    } else if piece.blocks > BLOCKS_PER_PHYSICAL {
        (piece.lba, piece.blocks.div_ceil(2).next_multiple_of(BLOCKS_PER_PHYSICAL))
    } else {
        (piece.end(), BLOCKS_PER_PHYSICAL)
    };
    let left = whole.end().saturating_sub(lba);
    (left != 0).then(|| Extent::new(lba, blocks.max(BLOCKS_PER_PHYSICAL).min(left)))
}
