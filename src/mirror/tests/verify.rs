//! Verify: what a check holds, asks and finds, and what ends it.

use super::*;

const OTHER: SessionId = SessionId { boot: 1, counter: 2 };

/// The digests of a region whose pieces are all alike but those named.
fn sums(differing: &[usize]) -> Vec<Sum> {
    let whole = usize::try_from(REGION_BLOCKS / PIECE_BLOCKS).unwrap();
    (0..whole).map(|at| if differing.contains(&at) { [9; 32] } else { [1; 32] }).collect()
}

fn questions(actions: &[VolumeAction]) -> Vec<(CopyId, FrameHeader)> {
    let sum = |action: &VolumeAction| match action {
        VolumeAction::Sum { check, header, .. } => Some((*check, *header)),
        _ => None,
    };
    actions.iter().filter_map(sum).collect()
}

fn asked_blocks(actions: &[VolumeAction]) -> FrameHeader {
    let ask = |action: &VolumeAction| match action {
        VolumeAction::AskBlocks { header, .. } => Some(*header),
        _ => None,
    };
    actions.iter().find_map(ask).unwrap_or_else(|| panic!("no blocks are asked for: {actions:?}"))
}

impl Rig {
    fn verify(&mut self, repair: bool) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.begin_verify(repair, cx, &mut self.out).unwrap();
        self.run()
    }

    fn summed(&mut self, check: CopyId, own: Option<Vec<Sum>>) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.summed(check, own, false, cx, &mut self.out);
        self.run()
    }

    fn sums_given(&mut self, header: FrameHeader, theirs: Vec<Sum>) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.sums_given(header, theirs, cx, &mut self.out);
        self.run()
    }

    fn weighed(&mut self, check: CopyId, differing: &[Extent], mended: bool) -> Vec<VolumeAction> {
        let cx = self.cx();
        let weighing = Weighing { differing: differing.to_vec(), mended };
        self.volume.weighed(check, Ok(weighing), cx, &mut self.out);
        self.run()
    }

    fn report(&self) -> VerifyReport {
        self.volume.verified().unwrap()
    }

    /// Answers every check alike until there is none.
    fn all_alike(&mut self, mut actions: Vec<VolumeAction>) {
        while let Some((check, header)) = questions(&actions).first().copied() {
            let mut next = self.summed(check, Some(sums(&[])));
            next.extend(self.sums_given(header, sums(&[])));
            actions.retain(|action| !matches!(action, VolumeAction::Sum { check: of, .. } if *of == check));
            actions.extend(next);
        }
    }

    /// A verify in whose first region piece 3 differs, up to the question for its blocks.
    fn differing(&mut self, repair: bool) -> (CopyId, FrameHeader, Vec<VolumeAction>) {
        let mut actions = self.verify(repair);
        let (check, header) = questions(&actions)[0];
        assert_eq!((header.op, header.extent), (Op::Read, Extent::new(0, REGION_BLOCKS)));
        self.summed(check, Some(sums(&[])));
        let asked = asked_blocks(&self.sums_given(header, sums(&[3])));
        actions.retain(|action| !matches!(action, VolumeAction::Sum { check: of, .. } if *of == check));
        (check, asked, actions)
    }
}

#[test]
fn equal_copies_are_compared_to_the_end() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(true);
    assert_eq!(questions(&actions).len(), 2, "a few regions at a time");
    rig.all_alike(actions);
    let report = rig.report();
    assert_eq!((report.compared, report.regions, report.reached), (64, 64, geometry().blocks));
    assert_eq!((report.end, report.differing, report.repaired), (Some(VerifyEnd::Complete), 0, 0));
    assert_eq!(rig.volume.take_verified(), Some(report));
    assert_eq!(rig.volume.take_verified(), None, "told once");
    assert_eq!(rig.volume.status().active_regions, 0);
}

#[test]
fn what_differs_is_named_and_without_repair_left_alone() {
    let mut rig = Rig::mirrored();
    let (check, asked, rest) = rig.differing(false);
    assert_eq!(asked.extent, Extent::new(3 * PIECE_BLOCKS, PIECE_BLOCKS), "only the piece that differs");
    assert_eq!(rig.volume.blocks_given(asked, at(0)), Some(check));
    let mut next = rig.weighed(check, &[Extent::new(400, 2), Extent::new(410, 1)], false);
    next.extend(rest);
    rig.all_alike(next);
    let report = rig.report();
    assert_eq!((report.compared, report.differing, report.repaired), (64, 3, 0));
    let differs = |lba, blocks| Difference {
        extent: Extent::new(lba, blocks),
        finding: Finding::Differs,
        repaired: false,
    };
    assert_eq!(report.differences, [differs(400, 2), differs(410, 1)]);
    assert_eq!(rig.volume.status().recovering_regions, 0);
}

#[test]
fn a_repair_is_marked_durably_before_it_begins_and_holds_the_region() {
    let mut rig = Rig::mirrored();
    rig.slow_map = true;
    let (check, asked, rest) = rig.differing(true);
    rig.volume.blocks_given(asked, at(0));
    let actions = rig.weighed(check, &[Extent::new(400, 2)], false);
    assert!(actions.contains(&VolumeAction::PersistMap), "{actions:?}");
    assert_eq!(copies(&actions), [], "not before the mark is durable (rule 10)");
    assert_eq!((rig.volume.status().recovering_regions, rig.volume.status().active_regions), (1, 1));
    let read = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), [], "nothing touches it");
    rig.write_map();
    let copied = copies(&rig.run());
    assert_eq!(copied.len(), 1);
    let (copy, kind, header) = copied[0];
    assert_eq!((kind, header.extent), (CopyKind::Recover, Extent::new(0, REGION_BLOCKS)));
    let cx = rig.cx();
    rig.volume.copy_sent(copy, Ok(1), cx, &mut rig.out);
    rig.slow_map = false;
    let actions = rig.ack(header, StoreResult::Done);
    assert!(actions.contains(&local(read)), "{actions:?}");
    rig.all_alike([rest, actions].concat());
    let report = rig.report();
    assert_eq!((report.end, report.differing, report.repaired), (Some(VerifyEnd::Complete), 2, 2));
    assert!(report.differences[0].repaired);
    assert_eq!(rig.volume.status().recovering_regions, 0);
}

#[test]
fn writers_wait_for_a_check_and_a_check_for_those_before_it() {
    let mut rig = Rig::mirrored();
    let before = rig.submit(Op::Write, 8, 8);
    let wrote = rig.run();
    let actions = rig.verify(false);
    let regions: Vec<u64> = questions(&actions).iter().map(|(_, header)| header.extent.lba).collect();
    assert_eq!(regions, [REGION_BLOCKS], "the first region is being written to");
    rig.ack(mirrored(&wrote)[0], StoreResult::Done);
    let actions = rig.local(before, StoreResult::Done);
    let (check, header) = questions(&actions)[0];
    assert_eq!(header.extent.lba, 0);
    let write = rig.submit(Op::Write, 16, 8);
    let read = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), [local(read)], "readers share");
    rig.summed(check, Some(sums(&[])));
    let actions = rig.sums_given(header, sums(&[]));
    assert!(actions.contains(&local(write)), "{actions:?}");
}

#[test]
fn what_the_other_array_cannot_read_is_found_and_repaired() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(true);
    let (check, header) = questions(&actions)[0];
    rig.summed(check, Some(sums(&[])));
    let actions = rig.ack(header, StoreResult::Failed);
    assert_eq!(copies(&actions).len(), 1, "{actions:?}");
    assert!(!rig.volume.status().peer_failed, "no reason to drop it");
    let report = rig.report();
    assert_eq!(report.differences[0].finding, Finding::UnreadableThere);
    assert_eq!(report.differing, REGION_BLOCKS);
}

#[test]
fn what_cannot_be_read_here_is_fetched_whole_and_mended() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(false);
    let (check, header) = questions(&actions)[0];
    rig.sums_given(header, sums(&[]));
    let asked = asked_blocks(&rig.summed(check, None));
    assert_eq!(asked.extent, Extent::new(0, REGION_BLOCKS));
    assert_eq!(rig.volume.blocks_given(asked, at(0)), Some(check));
    assert_eq!(rig.volume.blocks_given(asked, at(0)), None, "once");
    rig.weighed(check, &[], true);
    let report = rig.report();
    assert_eq!((report.compared, report.mended, report.differing), (1, 1, 0));
}

#[test]
fn what_neither_can_read_is_lost_and_never_repaired() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(true);
    let (check, header) = questions(&actions)[0];
    rig.summed(check, None);
    let actions = rig.ack(header, StoreResult::Failed);
    assert_eq!(copies(&actions), []);
    assert_eq!(rig.report().differences[0].finding, Finding::Lost);
    assert_eq!(rig.volume.status().recovering_regions, 0);
}

#[test]
fn a_new_session_of_the_same_tenure_goes_on_where_it_was() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(false);
    let (check, old) = questions(&actions)[0];
    assert!(rig.volume.lane_lost(LANE), "the question was on it");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    rig.run();
    assert!(rig.volume.verifies());
    rig.open(OTHER);
    let actions = rig.run();
    assert_eq!(rig.sums_given(old, sums(&[])), [], "of the older session");
    assert_eq!(rig.summed(check, Some(sums(&[]))), []);
    let again: Vec<u64> = questions(&actions).iter().map(|(_, header)| header.extent.lba).collect();
    assert_eq!(again, [0, REGION_BLOCKS]);
    rig.all_alike(actions);
    assert_eq!((rig.report().compared, rig.report().end), (64, Some(VerifyEnd::Complete)));
}

#[test]
fn a_drop_cuts_it_short_and_a_late_weighing_keeps_its_hold() {
    let mut rig = Rig::mirrored();
    let (check, asked, _) = rig.differing(true);
    rig.volume.blocks_given(asked, at(0));
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    rig.run();
    assert_eq!(rig.report().end, Some(VerifyEnd::NotInSync));
    assert_eq!(rig.report().reached, 0);
    assert_eq!(rig.volume.status().store_io_old, 1, "it may write (rule 5)");
    let write = rig.submit(Op::Write, 8, 8);
    assert!(!rig.run().contains(&local(write)));
    let actions = rig.weighed(check, &[Extent::new(400, 2)], false);
    assert!(actions.contains(&local(write)), "{actions:?}");
    assert_eq!((rig.report().differing, rig.volume.status().recovering_regions), (0, 0));
    assert_eq!(rig.volume.status().store_io_old, 0);
}

#[test]
fn a_change_of_roles_cuts_it_short_and_a_late_weighing_is_waited_for() {
    let mut rig = Rig::mirrored();
    let (check, asked, _) = rig.differing(true);
    rig.volume.blocks_given(asked, at(0));
    rig.learn(config(2, 2, Side::B, InSync::Both));
    rig.run();
    assert_eq!(rig.report().end, Some(VerifyEnd::RolesChanged));
    let (cx, tenure) = (rig.cx(), rig.volume.tenure().unwrap_or_default());
    assert!(!rig.volume.accept_session(tenure, OTHER, cx, &mut rig.out));
    rig.weighed(check, &[], true);
    assert!(rig.volume.accept_session(tenure, OTHER, cx, &mut rig.out));
}

#[test]
fn it_is_refused_where_it_would_tell_nothing() {
    let refused = |rig: &mut Rig| {
        let cx = rig.cx();
        rig.volume.begin_verify(false, cx, &mut rig.out).unwrap_err()
    };
    assert_eq!(refused(&mut Rig::primary(InSync::Primary)), VerifyRefused::NotInSync);
    assert_eq!(refused(&mut Rig::primary(InSync::Both)), VerifyRefused::NoSession);
    let mut rig = Rig::mirrored();
    rig.verify(false);
    assert_eq!(refused(&mut rig), VerifyRefused::Busy);
    rig.learn(config(2, 2, Side::B, InSync::Both));
    assert_eq!(refused(&mut rig), VerifyRefused::NotPrimary);
}

#[test]
fn a_cancel_lets_go_of_every_region() {
    let mut rig = Rig::mirrored();
    let actions = rig.verify(false);
    let write = rig.submit(Op::Write, 8, 8);
    rig.run();
    let cx = rig.cx();
    rig.volume.cancel_verify(cx, &mut rig.out);
    assert!(rig.run().contains(&local(write)));
    assert_eq!(rig.report().end, Some(VerifyEnd::Cancelled));
    let (check, header) = questions(&actions)[1];
    assert_eq!(rig.sums_given(header, sums(&[1])), []);
    assert_eq!(rig.summed(check, Some(sums(&[]))), []);
    assert_eq!(rig.report().compared, 0);
}

#[test]
fn nothing_is_begun_while_roles_change_or_beyond_the_throttle() {
    let mut rig = Rig::mirrored();
    let cx = rig.cx();
    rig.volume.allow_copies(Some(0), cx, &mut rig.out);
    assert_eq!(questions(&rig.verify(false)), []);
    rig.gate(Mode::Draining);
    rig.volume.allow_copies(Some(1), cx, &mut rig.out);
    assert_eq!(questions(&rig.run()), []);
    rig.gate(Mode::Both);
    let actions = rig.run();
    assert_eq!(questions(&actions).len(), 1);
    let (check, header) = questions(&actions)[0];
    rig.summed(check, Some(sums(&[])));
    assert_eq!(questions(&rig.sums_given(header, sums(&[]))), []);
    rig.volume.allow_copies(None, cx, &mut rig.out);
    assert_eq!(questions(&rig.run()).len(), 2);
}

#[test]
fn the_list_of_differences_is_bounded_and_counts_on() {
    let mut rig = Rig::mirrored();
    let (check, asked, rest) = rig.differing(false);
    rig.volume.blocks_given(asked, at(0));
    let apart: Vec<Extent> = (0..DIFFERENCES_MAX as u64 + 10).map(|at| Extent::new(2 * at, 1)).collect();
    let next = rig.weighed(check, &apart, false);
    rig.all_alike([rest, next].concat());
    let report = rig.report();
    assert_eq!((report.differences.len(), report.left_out), (DIFFERENCES_MAX, 10));
    assert_eq!(report.differing, apart.len() as u64);
}
