//! A region in doubt of which this array cannot read everything (rule 15, F38): it is copied piece by
//! piece, and what cannot be read is written anew with the peer's blocks.
//!
//! ```text
//!              read, acknowledged: the next piece, twice as large
//! the region ──► a piece ──► one physical block ──► asked for ──► written here ──► copied
//!                 ▲     │ cannot be read, half         │ cannot be read there, or written here
//!                 └─────┘                              └──► lost
//! ```
//! Why the peer's block may be taken. A block in doubt holds, on each copy by itself, what was
//! acknowledged last or the one write that was in flight (writes of a block exclude each other). Nobody
//! has read that write: readers wait for it until both copies hold it (rule 7), and after a restart
//! until they are equal (rule 15). So it never has to come back, and what was acknowledged may still be
//! overwritten by it: either is allowed, as long as from then on both copies hold the same. The peer's
//! is final when it is given: what older sessions sent there ended before this one was opened (rule 5),
//! and nothing of the region is sent in this one but this copy's own frames. These all go over one lane,
//! and so does the question: the answer follows what was sent before.
//!
//! What this rests on is that the region is in doubt since a restart, or a write that failed. What a
//! verify of this life found to differ is not: hosts were reading this copy, and the peer's blocks are no
//! better than none.
//!
//! What can be made equal from neither copy is *lost*. It stays in doubt, and its region stays marked;
//! but commands do not wait for it any more: what would read it is answered with an error, although one
//! of the arrays may by chance read its own block again, since the other one may hold something else
//! (T8). A write of the whole block ends that, and it is tried again in a while.

use std::collections::BTreeSet;

use crate::block::{BLOCKS_PER_PHYSICAL, Extent, Op, Outcome};
use crate::mutation::{self, Mutation};
use crate::time::Duration;

use super::api::{Context, CopyId, CopyKind, FrameHeader, LaneId, VolumeAction};
use super::mend::next_piece;
use super::regions::regions_of;
use super::volume::Volume;

/// How long lost blocks stay as they are before both arrays are tried again: the I/O of their region
/// waits meanwhile, and a disk takes its time to find that it cannot read.
const LOST_RETRY: Duration = Duration::from_secs(10);

impl Volume {
    /// A piece of a region in doubt cannot be read here; some of its frames may be on their way.
    pub(super) fn cannot_be_read(
        &mut self,
        slot: u32,
        lane: LaneId,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let copy = self.copies.get(slot);
        copy.pieces_on = Some(lane);
        let (extent, region, mended) = (copy.extent, copy.region, copy.mended);
        if extent.blocks > BLOCKS_PER_PHYSICAL {
            return self.next_piece_of_copy(slot, false, cx, out);
        }
        if mended {
            self.store_has_failed(cx, out);
            return self.cannot_be_mended(slot, cx, out);
        }
        if self.is_under_repair(region) {
            return self.lose_block(slot, cx, out);
        }
        let Some((lane, header)) = self.address_piece(slot, extent, cx) else { return };
        self.copies.ask(slot, lane, header.sequence, false, cx.now.grantor);
        self.copies.get(slot).asks = true;
        out.push(VolumeAction::AskBlocks { lane, header: FrameHeader { op: Op::Read, ..header } });
    }

    /// A header for a piece, on the lane of those before it. `None`: that one is lost, and the session's
    /// end follows.
    fn address_piece(&mut self, slot: u32, extent: Extent, cx: Context) -> Option<(LaneId, FrameHeader)> {
        if mutation::on(Mutation::PiecesOnAnyLane) {
            return self.address_copy(slot, extent, cx);
        }
        let lane = self.copies.at(slot).pieces_on;
        let up = lane.is_some_and(|lane| self.session.as_ref().is_some_and(|session| session.is_up(lane)));
        let address = if up { self.address_copy(slot, extent, Context { lane, ..cx }) } else { None };
        if address.is_none() {
            self.copies.answered(slot);
        }
        address
    }

    fn send_piece(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let extent = self.copies.at(slot).extent;
        let Some((lane, header)) = self.address_piece(slot, extent, cx) else { return };
        let copy = self.copies.send(slot, lane, header.sequence, cx.now.grantor);
        out.push(VolumeAction::Copy { copy, kind: CopyKind::Recover, lane, header });
    }

    /// What comes after a piece that went well, or did not.
    pub(super) fn next_piece_of_copy(
        &mut self,
        slot: u32,
        well: bool,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let whole = self.region_extent(self.copies.at(slot).region);
        let copy = self.copies.get(slot);
        match next_piece(whole, copy.extent, well) {
            Some(next) => {
                copy.extent = next;
                copy.mended = false;
                self.send_piece(slot, cx, out);
            }
            None => self.region_was_examined(slot, cx, out),
        }
    }

    /// The peer sent the block that it was asked for: the shell is to write it, where it is the one asked for.
    pub(super) fn piece_given(&mut self, slot: u32, header: &FrameHeader, cx: Context) -> Option<CopyId> {
        let copy = self.copies.at(slot);
        if copy.extent != header.extent || !self.peer_is_equal() {
            return None;
        }
        self.copies.get(slot).asks = false;
        Some(self.copies.weigh(slot, cx.now.grantor))
    }

    /// The id is that of a copy of a region in doubt, not of a check.
    pub fn recovers(&self, copy: CopyId) -> bool {
        self.copies.at(copy.slot).kind == CopyKind::Recover
    }

    /// The peer's block was written here, or could not be.
    pub(super) fn piece_weighed(&mut self, slot: u32, well: bool, cx: Context, out: &mut Vec<VolumeAction>) {
        if well {
            self.copies.get(slot).mended = true;
            self.send_piece(slot, cx, out);
        } else {
            self.cannot_be_mended(slot, cx, out);
        }
    }

    /// The peer has the block and this disk does not take it: that one is to take over, if it can (rule 17).
    fn cannot_be_mended(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.awaited_hand_over().is_none() {
            return self.lose_block(slot, cx, out);
        }
        self.failed_here.insert(self.copies.at(slot).region);
        self.leave_copy(slot);
        out.push(VolumeAction::Poke);
    }

    /// The block can be made equal from neither copy.
    pub(super) fn lose_block(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let copy = self.copies.get(slot);
        copy.asks = false;
        self.found_lost.insert(copy.extent.lba);
        self.next_piece_of_copy(slot, false, cx, out);
    }

    /// Everything of the region is equal, or lost.
    fn region_was_examined(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let region = self.copies.at(slot).region;
        let lost = self.take_found_lost(region);
        if lost.is_empty() || mutation::on(Mutation::LostCountsAsEqual) {
            return self.region_was_copied(slot, out);
        }
        self.failed_here.insert(region);
        self.repair_ended(region);
        self.failed_may_be_settled();
        self.leave_copy(slot);
        self.lost.extend(lost);
        self.lost_until = Some(cx.now.grantor + LOST_RETRY);
        out.push(VolumeAction::Poke);
    }

    /// What a copy of the region found lost, which is over or begins anew.
    pub(super) fn take_found_lost(&mut self, region: u64) -> BTreeSet<u64> {
        let extent = self.region_extent(region);
        let mut found = self.found_lost.split_off(&extent.lba);
        self.found_lost.extend(found.split_off(&extent.end()));
        found
    }

    /// The whole region is in doubt.
    pub(super) fn forget_lost(&mut self, region: u64) {
        if !self.lost.is_empty() {
            let extent = self.region_extent(region);
            self.lost.retain(|lba| !(extent.lba..extent.end()).contains(lba));
        }
    }

    /// In doubt, and not only of what is lost.
    pub(super) fn is_region_in_doubt(&self, region: u64) -> bool {
        self.recovering.contains(region) && !self.has_lost(region)
    }

    /// Something of the extent lies in a block that can be made equal from neither copy.
    pub fn is_lost(&self, extent: Extent) -> bool {
        let held = extent.physical();
        self.lost.range(held.lba..held.end()).next().is_some()
    }

    pub(super) fn has_lost(&self, region: u64) -> bool {
        self.lost_of(region).next().is_some()
    }

    /// The lost physical blocks of a region, as far as the volume goes.
    pub(super) fn lost_of(&self, region: u64) -> impl Iterator<Item = Extent> + '_ {
        let extent = self.region_extent(region);
        let end = self.geometry().blocks;
        let block = move |&lba: &u64| Extent::new(lba, BLOCKS_PER_PHYSICAL.min(end.saturating_sub(lba)));
        self.lost.range(extent.lba..extent.end()).map(block)
    }

    pub(super) fn is_in_doubt(&self, extent: Extent) -> bool {
        let (first, end) = regions_of(extent);
        !self.recovering.is_empty() && (first..end).any(|region| self.is_region_in_doubt(region))
    }

    /// The region has lost blocks, and it is not time yet to try them again.
    pub(super) fn lost_may_stay(&self, region: u64) -> bool {
        self.lost_until.is_some() && !self.is_region_in_doubt(region)
    }

    /// How a command ends that cannot do without what is lost.
    pub(super) fn lost_to(&self, op: Op, extent: Extent) -> Option<Outcome> {
        let held = extent.physical();
        let mut lost = self.lost.range(held.lba..held.end());
        match op {
            Op::Read if mutation::on(Mutation::LostIsRead) => None,
            Op::Read | Op::CompareAndWrite => lost.next().map(|_| Outcome::ReadError),
            Op::Flush => None,
            Op::Write | Op::WriteSame | Op::WriteZeroes | Op::Unmap => {
                lost.find(|&&lba| !self.covers(extent, lba)).map(|_| Outcome::WriteError)
            }
        }
    }

    /// Does a write of `extent` need nothing of the physical block at `lba`?
    fn covers(&self, extent: Extent, lba: u64) -> bool {
        extent.lba <= lba && (lba + BLOCKS_PER_PHYSICAL).min(self.geometry().blocks) <= extent.end()
    }

    /// Both copies hold this write.
    pub(super) fn was_written_anew(&mut self, extent: Extent, out: &mut Vec<VolumeAction>) {
        if self.lost.is_empty() {
            return;
        }
        let range = self.lost.range(extent.lba..extent.end()).copied();
        let anew: Vec<u64> = range.filter(|&lba| self.covers(extent, lba)).collect();
        for lba in anew {
            self.lost.remove(&lba);
            let (region, _) = regions_of(Extent::new(lba, 1));
            if self.is_region_in_doubt(region) {
                // That was the last of it: the rest was copied, or written since.
                self.recovering.remove(region);
                self.failed_here.remove(region);
                out.push(VolumeAction::Poke);
            }
        }
    }
}
