//! Verify: both copies of a volume that is in sync are compared on line, region by region, and what
//! differs is written anew from this array, the one that hosts read.
//!
//! A check is an entry of the ledger like a copy of resync ([`super::copy`]): it waits for the writes
//! of its region that have started, and those that have not wait for it. So while it lasts nothing of
//! the region is on its way to either disk, and a difference is one:
//!
//! ```text
//!            digests of both           equal
//! Waiting ──► Summing ───────────────────────────────────────► compared
//!                │ pieces differ, or this copy cannot be read      ▲
//!                ▼           the peer's blocks                     │
//!             Fetching ─────────────────────► Weighing ────────────┴──► found: in doubt (repair)
//! ```
//! What is found is put in doubt as after a restart (rule 15): its region is marked active, durably,
//! and copied to the peer before anything else touches it (rule 10). A weighing may write what cannot
//! be read here (F38, [`super::mend`]); it is I/O of this store, held and waited for (rule 5) even
//! when its check is over.
//!
//! A verify belongs to one tenure and to both copies in sync. A lane's loss only has the regions under
//! check checked again in the next session; a drop or a change of roles cuts the verify short.

use std::collections::{BTreeMap, BTreeSet};

use crate::arbitration::Mode;
use crate::block::{Extent, Op, StoreResult};

use super::api::{Context, CopyId, CopyKind, FrameHeader, REGION_BLOCKS, VolumeAction};
use super::copy::COPY_BIT;
use super::findings::{Finding, PIECE_BLOCKS, Sum, VerifyEnd, VerifyRefused, VerifyReport, Weighing, pieces};
use super::session::TARGET_MASK;
use super::volume::Volume;

/// Regions under check at a time, in one volume: enough to keep both disks at work.
const CHECKS: u32 = 2;
/// `None`: could not be read.
type Sums = Option<Vec<Sum>>;

#[derive(Clone, Debug)]
enum Step {
    Summing { own: Option<Sums>, theirs: Option<Sums> },
    Fetching { extent: Extent, own_unreadable: bool },
    Weighing { extent: Extent },
}

#[derive(Clone, Debug)]
pub(super) struct Verify {
    report: VerifyReport,
    /// The next region that was never begun.
    cursor: u64,
    /// Begun, and to be begun anew.
    again: BTreeSet<u64>,
    /// By slot of the copies.
    checks: BTreeMap<u32, (u64, Step)>,
    /// Regions in doubt because of what was found, with the blocks that are not alike.
    repairing: BTreeMap<u64, u64>,
    /// Regions where this verify, or an earlier one, found the copies different, until they are equal.
    unlike: BTreeSet<u64>,
    /// Its end was taken by [`Volume::take_verified`].
    told: bool,
}

impl Verify {
    const fn runs(&self) -> bool {
        self.report.end.is_none()
    }

    /// Everything before the result was compared.
    fn reached(&self) -> u64 {
        let open = self.checks.values().map(|(region, _)| *region).chain(self.again.iter().copied());
        open.min().unwrap_or(self.cursor).min(self.cursor)
    }
}

impl Volume {
    /// Begins to compare both copies; with `repair` what differs is written anew on the other array.
    ///
    /// # Errors
    /// Not primary of two copies in sync, or one is under way.
    pub fn begin_verify(
        &mut self,
        repair: bool,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) -> Result<(), VerifyRefused> {
        if self.verifies() {
            return Err(VerifyRefused::Busy);
        }
        if !self.is_primary() {
            return Err(VerifyRefused::NotPrimary);
        }
        if self.is_alone() {
            return Err(VerifyRefused::NotInSync);
        }
        if !self.can_send() {
            return Err(VerifyRefused::NoSession);
        }
        let report = VerifyReport::new(repair, self.map.activity().regions());
        // What an earlier one found and is not equal yet is still no better at the peer.
        let mut unlike = self.verify.take().map(|verify| verify.unlike).unwrap_or_default();
        unlike.retain(|&region| self.recovering.contains(region));
        self.verify = Some(Verify {
            report,
            cursor: 0,
            again: BTreeSet::new(),
            checks: BTreeMap::new(),
            repairing: BTreeMap::new(),
            unlike,
            told: false,
        });
        self.settle(cx, out);
        Ok(())
    }

    /// Ends a verify that is under way; what is in doubt because of it is still made equal.
    pub fn cancel_verify(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        self.end_verify(VerifyEnd::Cancelled, out);
        self.settle(cx, out);
    }

    /// The other array does not know the question.
    pub fn verify_unknown_there(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        self.end_verify(VerifyEnd::PeerTooOld, out);
        self.settle(cx, out);
    }

    /// A verify is under way here.
    pub fn verifies(&self) -> bool {
        self.verify.as_ref().is_some_and(Verify::runs)
    }

    /// The newest verify of this life.
    pub fn verified(&self) -> Option<VerifyReport> {
        let verify = self.verify.as_ref()?;
        let mut report = verify.report.clone();
        if verify.runs() {
            report.regions = self.map.activity().regions();
            report.reached = self.lba_of(verify.reached());
        }
        Some(report)
    }

    /// The newest verify, once, when it has ended.
    pub fn take_verified(&mut self) -> Option<VerifyReport> {
        let verify = self.verify.as_mut().filter(|verify| !verify.runs() && !verify.told)?;
        verify.told = true;
        Some(verify.report.clone())
    }

    fn lba_of(&self, region: u64) -> u64 {
        region.saturating_mul(REGION_BLOCKS).min(self.geometry().blocks)
    }

    fn running_verify(&mut self) -> Option<&mut Verify> {
        self.verify.as_mut().filter(|verify| verify.runs())
    }

    /// Starts checks while there is room for them; true when one was begun.
    pub(super) fn pump_checks(&mut self, cx: Context, out: &mut Vec<VolumeAction>) -> bool {
        let mut begun = false;
        while let Some(region) = self.next_check(out) {
            let Some(slot) = self.copies.take() else { break };
            let Some(verify) = self.running_verify() else { break };
            verify.again.remove(&region);
            verify.cursor = verify.cursor.max(region + 1);
            verify.checks.insert(slot, (region, Step::Summing { own: None, theirs: None }));
            self.begin_copy(slot, region, CopyKind::Verify, cx, out);
            begun = true;
        }
        begun
    }

    /// The next region to check; ends the verify when there is none left.
    fn next_check(&mut self, out: &mut Vec<VolumeAction>) -> Option<u64> {
        let verify = self.verify.as_ref().filter(|verify| verify.runs())?;
        let regions = self.map.activity().regions();
        let busy = verify.checks.len() + verify.repairing.len();
        let left = verify.cursor < regions || !verify.again.is_empty();
        if !left && busy == 0 {
            self.end_verify(VerifyEnd::Complete, out);
            return None;
        }
        let may = self.gate.mode == Mode::Both
            && self.is_primary()
            && !self.is_alone()
            && self.can_send()
            && !self.peer_failed
            && self.store_failed.is_none();
        if !may || !self.copies.have_room_for_check(busy, CHECKS) {
            return None;
        }
        if self.pass_lost() {
            return self.next_check(out);
        }
        // What is in doubt for other reasons is being copied: its turn comes after that.
        let verify = self.verify.as_ref()?;
        let mut again = verify.again.iter().copied();
        if let Some(region) = again.find(|&region| !self.recovering.contains(region)) {
            return Some(region);
        }
        let next = (verify.cursor..regions).find(|&region| !self.recovering.contains(region))?;
        let passed: Vec<u64> = (verify.cursor..next).collect();
        self.running_verify()?.again.extend(passed);
        Some(next)
    }

    /// Regions that have lost blocks are not compared: these are known not to be alike, whatever the disks
    /// say by now, and the rest is. True: one was next.
    fn pass_lost(&mut self) -> bool {
        let Some(verify) = self.verify.as_ref() else { return false };
        let mut next = verify.again.iter().copied().chain([verify.cursor]);
        let Some(region) = next.find(|&region| self.has_lost(region)) else { return false };
        let lost: Vec<Extent> = self.lost_of(region).collect();
        let Some(verify) = self.running_verify() else { return false };
        verify.again.remove(&region);
        verify.cursor = verify.cursor.max(region + 1);
        verify.report.compared += 1;
        for extent in lost {
            verify.report.add(extent, Finding::Lost);
        }
        true
    }

    /// The check holds its region: both arrays make their digests.
    pub(super) fn start_check(&mut self, slot: u32, region: u64, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.recovering.contains(region) {
            return self.give_up_check(slot); // a write it waited for has failed here
        }
        let Some((lane, header)) = self.address_check(slot, self.region_extent(region), cx) else {
            return self.give_up_check(slot);
        };
        let check = self.copies.ask(slot, lane, header.sequence, true, cx.now.grantor);
        out.push(VolumeAction::Sum { check, lane, header });
    }

    fn address_check(
        &mut self,
        slot: u32,
        extent: Extent,
        cx: Context,
    ) -> Option<(super::LaneId, FrameHeader)> {
        let (lane, header) = self.address_copy(slot, extent, cx)?;
        Some((lane, FrameHeader { op: Op::Read, ..header }))
    }

    /// The digests of this copy, as a `Sum` action asked for; `None`: it cannot be read. `hole`: nothing
    /// had to be read.
    pub fn summed(
        &mut self,
        check: CopyId,
        sums: Option<Vec<Sum>>,
        hole: bool,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let Some(slot) = self.copies.own_part_done(check, cx.now.grantor) else { return };
        if hole {
            self.copies.give_back_allowance();
        }
        if let Some((_, Step::Summing { own, .. })) = self.step(slot) {
            *own = Some(sums);
            self.judge(slot, cx, out);
        }
        self.settle(cx, out);
    }

    fn step(&mut self, slot: u32) -> Option<&mut (u64, Step)> {
        self.running_verify()?.checks.get_mut(&slot)
    }

    /// The slot of the check whose open question `header` answers.
    fn asked(&self, header: &FrameHeader) -> Option<u32> {
        self.session.as_ref().filter(|open| open.id == header.session)?;
        let target = header.sequence & TARGET_MASK;
        let slot = u32::try_from((target & !COPY_BIT) >> super::copy::FRAME_BITS).ok()?;
        (target & COPY_BIT != 0 && header.op == Op::Read && self.copies.awaits(slot, header.sequence))
            .then_some(slot)
    }

    /// The digests of the other copy.
    pub fn sums_given(
        &mut self,
        header: FrameHeader,
        sums: Vec<Sum>,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let Some(slot) = self.asked(&header) else { return };
        if sums.len() as u64 != pieces(header.extent) {
            return;
        }
        self.sums_known(slot, Some(sums), cx, out);
        self.settle(cx, out);
    }

    fn sums_known(&mut self, slot: u32, sums: Sums, cx: Context, out: &mut Vec<VolumeAction>) {
        if let Some((_, Step::Summing { theirs, .. })) = self.step(slot) {
            *theirs = Some(sums);
            self.copies.answered(slot);
            self.judge(slot, cx, out);
        }
    }

    /// The other array cannot do what a check asked of it.
    pub(super) fn check_failed_there(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        match self.step(slot) {
            Some((_, Step::Summing { .. })) => self.sums_known(slot, None, cx, out),
            Some((_, Step::Fetching { extent, own_unreadable })) => {
                let finding = if *own_unreadable { Finding::Lost } else { Finding::UnreadableThere };
                let found = [*extent];
                self.copies.answered(slot);
                self.conclude_check(slot, &found, finding, out);
            }
            _ => {}
        }
    }

    /// Both arrays have said what they hold, or cannot.
    fn judge(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let Some((region, Step::Summing { own: Some(own), theirs: Some(theirs) })) = self.step(slot) else {
            return;
        };
        let region = *region;
        let (own, theirs) = (own.take(), theirs.take());
        let whole = self.region_extent(region);
        match (own, theirs) {
            (Some(own), Some(theirs)) if own == theirs => {
                self.conclude_check(slot, &[], Finding::Differs, out)
            }
            (Some(own), Some(theirs)) => {
                // A volume that grew meanwhile has more pieces now: all is looked at again.
                let extent = if own.len() == theirs.len() { hull(whole, &own, &theirs) } else { whole };
                self.fetch_for_check(slot, extent, false, cx, out);
            }
            (None, Some(_)) => self.fetch_for_check(slot, whole, true, cx, out),
            (Some(_), None) => self.conclude_check(slot, &[whole], Finding::UnreadableThere, out),
            (None, None) => self.conclude_check(slot, &[whole], Finding::Lost, out),
        }
    }

    fn fetch_for_check(
        &mut self,
        slot: u32,
        extent: Extent,
        own_unreadable: bool,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let Some((lane, header)) = self.address_check(slot, extent, cx) else {
            return self.give_up_check(slot);
        };
        if let Some((_, step)) = self.step(slot) {
            *step = Step::Fetching { extent, own_unreadable };
        }
        self.copies.ask(slot, lane, header.sequence, false, cx.now.grantor);
        out.push(VolumeAction::AskBlocks { lane, header });
    }

    /// The blocks of the other copy that an `AskBlocks` asked for. `Some`: compare them with this copy's
    /// of the header's extent; blocks of it that cannot be read are written anew with the other's, stable.
    /// Then [`Volume::weighed`]. `None`: drop them.
    pub fn blocks_given(&mut self, header: FrameHeader, cx: Context) -> Option<CopyId> {
        let slot = self.asked(&header)?;
        if self.copies.at(slot).kind == CopyKind::Recover {
            return self.piece_given(slot, &header, cx);
        }
        let (_, step) = self.step(slot)?;
        match step {
            Step::Fetching { extent, .. } if *extent == header.extent => {
                *step = Step::Weighing { extent: *extent };
            }
            _ => return None,
        }
        Some(self.copies.weigh(slot, cx.now.grantor))
    }

    /// The end of a comparison; `Err`: this copy can be neither read nor written there.
    pub fn weighed(
        &mut self,
        check: CopyId,
        result: Result<Weighing, StoreResult>,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        let Some((slot, late)) = self.copies.weighed(check) else { return };
        if result.is_err() && self.is_primary() {
            self.store_has_failed(cx, out);
        }
        if late {
            // Of an older session, or tenure: only its hold was left.
            self.leave_copy(slot);
            self.poke_if_drained(true, out);
        } else if self.copies.at(slot).kind == CopyKind::Recover {
            self.piece_weighed(slot, result.is_ok(), cx, out);
        } else if let Some((_, Step::Weighing { extent })) = self.step(slot) {
            let whole = [*extent];
            match result {
                Ok(Weighing { differing, mended }) => {
                    if let Some(verify) = self.running_verify() {
                        verify.report.mended += u64::from(mended);
                    }
                    self.conclude_check(slot, &differing, Finding::Differs, out);
                }
                Err(_) => self.conclude_check(slot, &whole, Finding::Lost, out),
            }
        }
        self.settle(cx, out);
    }

    /// The end of a check: nothing, or something, was found.
    fn conclude_check(&mut self, slot: u32, found: &[Extent], finding: Finding, out: &mut Vec<VolumeAction>) {
        // While roles are changing nothing new comes in doubt: it is looked at again.
        let settled = self.gate.mode == Mode::Both;
        let Some(verify) = self.running_verify() else { return };
        let repairs = verify.report.repair && !found.is_empty() && finding != Finding::Lost;
        if repairs && !settled {
            return self.give_up_check(slot);
        }
        let Some((region, _)) = verify.checks.remove(&slot) else { return };
        verify.report.compared += 1;
        for &extent in found {
            verify.report.add(extent, finding);
        }
        if repairs {
            verify.repairing.insert(region, found.iter().map(|extent| extent.blocks).sum());
            verify.unlike.insert(region);
            // Rule 10: a crash in the middle of the repair does not forget it.
            self.map.mark_active(region);
            self.recovering.insert(region);
            self.forget_lost(region);
            self.request_map(out);
        }
        self.leave_copy(slot);
    }

    /// Rule 10: what was found is marked, durably, before it is copied; all else in doubt is so already.
    pub(super) fn awaits_mark(&self, region: u64) -> bool {
        self.is_under_repair(region) && !self.map.sure_activity().contains(region)
    }

    /// A verify of this array found the copies different here: the peer's blocks are no better.
    pub(super) fn is_under_repair(&self, region: u64) -> bool {
        self.verify.as_ref().is_some_and(|verify| verify.unlike.contains(&region))
    }

    /// A region in doubt was copied, but for what neither array can read.
    pub(super) fn repair_ended(&mut self, region: u64) {
        if let Some(verify) = self.running_verify() {
            verify.repairing.remove(&region);
        }
    }

    /// A region in doubt was copied.
    pub(super) fn region_is_equal(&mut self, region: u64) {
        let extent = self.region_extent(region);
        if let Some(verify) = &mut self.verify {
            verify.unlike.remove(&region);
        }
        let Some(verify) = self.running_verify() else { return };
        let Some(blocks) = verify.repairing.remove(&region) else { return };
        let report = &mut verify.report;
        report.repaired += blocks;
        for difference in report.differences.iter_mut().filter(|one| one.extent.overlaps(extent)) {
            difference.repaired = true;
        }
    }

    /// The region is checked again from the beginning, in a session to come.
    pub(super) fn give_up_check(&mut self, slot: u32) {
        if let Some(verify) = self.running_verify()
            && let Some((region, _)) = verify.checks.remove(&slot)
        {
            verify.again.insert(region);
        }
        self.leave_check(slot);
    }

    fn leave_check(&mut self, slot: u32) {
        // A weighing may write: it keeps its hold to the end.
        if !self.copies.weighs_on(slot) {
            self.leave_copy(slot);
        }
    }

    /// A configuration was learned: is this still a primary of the same tenure, with both in sync?
    pub(super) fn verify_after_change(&mut self, same_tenure: bool, out: &mut Vec<VolumeAction>) {
        if !same_tenure || !self.is_primary() {
            self.end_verify(VerifyEnd::RolesChanged, out);
        } else if self.is_alone() {
            self.end_verify(VerifyEnd::NotInSync, out);
        }
    }

    pub(super) fn end_verify(&mut self, end: VerifyEnd, out: &mut Vec<VolumeAction>) {
        let regions = self.map.activity().regions();
        let Some(verify) = self.running_verify() else { return };
        verify.report.regions = regions;
        let reached = verify.reached();
        let slots: Vec<u32> = core::mem::take(&mut verify.checks).into_keys().collect();
        verify.report.end = Some(end);
        for slot in slots {
            self.leave_check(slot);
        }
        let reached = self.lba_of(reached);
        if let Some(verify) = &mut self.verify {
            verify.report.reached = reached;
        }
        self.copies.lift_throttle();
        out.push(VolumeAction::Poke);
    }
}

/// From the first piece that differs to the last.
fn hull(whole: Extent, own: &[Sum], theirs: &[Sum]) -> Extent {
    let differs = |(_, (own, theirs)): &(u64, (&Sum, &Sum))| own != theirs;
    let mut differing = (0..).zip(own.iter().zip(theirs)).filter(differs).map(|(at, _)| at);
    let first = differing.next().unwrap_or(0);
    let last = differing.last().unwrap_or(first);
    let lba = whole.lba + first * PIECE_BLOCKS;
    let end = whole.lba + (last + 1) * PIECE_BLOCKS;
    Extent::new(lba, end.min(whole.end()).saturating_sub(lba))
}
