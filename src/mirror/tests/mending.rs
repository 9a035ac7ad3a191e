//! F38: what cannot be read here comes from the peer, and is written anew.

use super::*;

fn fetches(actions: &[VolumeAction]) -> Vec<(CommandId, FrameHeader)> {
    let fetch = |action: &VolumeAction| match action {
        VolumeAction::Fetch { command, header, .. } => Some((*command, *header)),
        _ => None,
    };
    actions.iter().filter_map(fetch).collect()
}

impl Rig {
    fn given(&mut self, header: FrameHeader) -> (Option<CommandId>, Vec<VolumeAction>) {
        let cx = self.cx();
        let command = self.volume.fetched(header, cx, &mut self.out);
        (command, self.run())
    }

    /// A command that cannot be read here, and the question it makes.
    fn unreadable(&mut self, op: Op, lba: u64, blocks: u64) -> (CommandId, FrameHeader) {
        let command = self.submit(op, lba, blocks);
        self.run();
        let asked = fetches(&self.local(command, StoreResult::Failed));
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].0, command);
        (command, asked[0].1)
    }

    fn drop_peer(&mut self) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.close_session(cx, &mut self.out);
        self.learn(config(2, 1, Side::A, InSync::Primary));
        self.gate(Mode::Alone);
        self.run()
    }
}

const fn mend(command: CommandId) -> VolumeAction {
    VolumeAction::Mend { command }
}

#[test]
fn a_read_is_answered_with_the_peers_blocks_once_they_are_written() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 9, 2);
    assert_eq!((asked.op, asked.extent, asked.session), (Op::Read, Extent::new(8, 8), SESSION));
    let status = rig.volume.status();
    assert!(status.oldest_unacked.is_some() && !status.store_failed, "{status:?}");
    assert_eq!(rig.given(asked), (Some(read), vec![mend(read)]));
    assert_eq!(rig.volume.status().store_io, 1);
    assert_eq!(rig.local(read, StoreResult::Done), [answer(read, Outcome::Good)]);
    assert!(!rig.volume.status().store_failed);
}

#[test]
fn writers_wait_until_it_is_mended() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 8, 1);
    let write = rig.submit(Op::Write, 15, 1);
    assert_eq!(rig.run(), [], "the same physical block");
    assert_eq!(rig.given(asked).1, [mend(read)]);
    let actions = rig.local(read, StoreResult::Done);
    let place = |wanted| actions.iter().position(|action| *action == wanted);
    assert!(place(answer(read, Outcome::Good)) < place(local(write)), "{actions:?}");
    assert!(actions.contains(&local(write)));
}

#[test]
fn where_it_cannot_be_written_the_host_has_its_data_and_the_store_has_failed() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 8, 8);
    rig.given(asked);
    let actions = rig.local(read, StoreResult::Failed);
    assert_eq!(actions, [VolumeAction::Poke, answer(read, Outcome::Good)]);
    assert!(rig.volume.status().store_failed);
}

#[test]
fn what_neither_can_read_is_an_error_and_no_reason_to_hand_over() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 8, 8);
    assert_eq!(rig.ack(asked, StoreResult::Failed), [answer(read, Outcome::ReadError)]);
    let status = rig.volume.status();
    assert!(!status.store_failed && !status.peer_failed);
}

#[test]
fn alone_nothing_is_guessed() {
    let mut rig = Rig::primary(InSync::Primary);
    rig.open(SESSION);
    rig.run();
    let read = rig.submit(Op::Read, 8, 8);
    rig.run();
    let actions = rig.local(read, StoreResult::Failed);
    assert!(actions.contains(&answer(read, Outcome::ReadError)), "{actions:?}");
    assert_eq!(fetches(&actions), []);
}

#[test]
fn a_drop_ends_the_wait_and_late_blocks_are_not_taken() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 8, 8);
    let actions = rig.drop_peer();
    assert!(actions.contains(&answer(read, Outcome::ReadError)), "{actions:?}");
    assert_eq!(rig.given(asked), (None, vec![]));
}

#[test]
fn a_new_session_asks_again() {
    let mut rig = Rig::mirrored();
    let (read, first) = rig.unreadable(Op::Read, 8, 8);
    assert!(rig.volume.lane_lost(LANE), "the question was on it");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    assert_eq!(rig.run(), []);
    rig.open(SessionId { boot: 1, counter: 2 });
    let again = fetches(&rig.run());
    assert_eq!(again.len(), 1);
    assert_eq!(rig.given(first), (None, vec![]), "of the older session");
    let (_, asked) = again[0];
    assert_eq!(rig.given(FrameHeader { extent: Extent::new(8, 16), ..asked }), (None, vec![]));
    assert_eq!(rig.given(asked), (Some(read), vec![mend(read)]));
    assert_eq!(rig.given(asked), (None, vec![]), "once");
}

#[test]
fn a_comparison_is_made_again() {
    let mut rig = Rig::mirrored();
    let compare = rig.submit(Op::CompareAndWrite, 8, 8);
    assert_eq!(rig.run(), [VolumeAction::Compare { command: compare }]);
    let (_, asked) = fetches(&rig.local(compare, StoreResult::Failed))[0];
    assert_eq!(rig.given(asked).1, [mend(compare)]);
    assert_eq!(rig.local(compare, StoreResult::Done), [VolumeAction::Compare { command: compare }]);
    let actions = rig.local(compare, StoreResult::Done);
    assert!(actions.contains(&local(compare)) && mirrored(&actions).len() == 1, "{actions:?}");
    rig.ack(mirrored(&actions)[0], StoreResult::Done);
    assert_eq!(rig.local(compare, StoreResult::Done), [answer(compare, Outcome::Good)]);
}

#[test]
fn what_cannot_be_read_after_it_was_mended_is_an_error() {
    let mut rig = Rig::mirrored();
    let compare = rig.submit(Op::CompareAndWrite, 8, 8);
    rig.run();
    let (_, asked) = fetches(&rig.local(compare, StoreResult::Failed))[0];
    rig.given(asked);
    rig.local(compare, StoreResult::Done);
    let actions = rig.local(compare, StoreResult::Failed);
    assert_eq!(actions, [VolumeAction::Poke, answer(compare, Outcome::ReadError)]);
}

#[test]
fn a_mending_of_an_older_tenure_is_waited_for() {
    let mut rig = Rig::mirrored();
    let (read, asked) = rig.unreadable(Op::Read, 8, 8);
    rig.given(asked);
    rig.learn(config(2, 2, Side::B, InSync::Primary));
    assert_eq!(rig.run(), [answer(read, Outcome::Refused(Refusal::Standby))]);
    assert_eq!(rig.volume.status().store_io_old, 1);
    let cx = rig.cx();
    let tenure = rig.volume.tenure().unwrap_or_default();
    assert!(!rig.volume.accept_session(tenure, SESSION, cx, &mut rig.out), "before it is on the disk");
    rig.local(read, StoreResult::Done);
    assert!(rig.volume.accept_session(tenure, SESSION, cx, &mut rig.out));
}

#[test]
fn a_comparison_waits_at_the_gate() {
    let mut rig = Rig::mirrored();
    let compare = rig.submit(Op::CompareAndWrite, 8, 8);
    rig.run();
    let (_, asked) = fetches(&rig.local(compare, StoreResult::Failed))[0];
    rig.given(asked);
    rig.gate(Mode::Held);
    assert_eq!(rig.local(compare, StoreResult::Done), []);
    rig.gate(Mode::Both);
    assert_eq!(rig.run(), [VolumeAction::Compare { command: compare }]);
}

/// A read of 256 blocks, of which this array cannot read some and the peer others: what it asked for, and
/// how it was answered.
fn in_pieces(op: Op, bad_here: &[u64], bad_there: &[u64]) -> (Vec<Extent>, Vec<VolumeAction>, bool) {
    let mut rig = Rig::mirrored();
    let mut bad: Vec<u64> = bad_here.to_vec();
    let (command, mut asked) = rig.unreadable(op, 0, 256);
    let mut extents = Vec::new();
    loop {
        extents.push(asked.extent);
        let inside = |lba: &u64| (asked.extent.lba..asked.extent.end()).contains(lba);
        let actions = if bad_there.iter().any(inside) {
            rig.ack(asked, StoreResult::Failed)
        } else {
            let whole = FrameHeader { extent: Extent::new(0, 256), ..asked };
            if asked.extent != whole.extent {
                assert_eq!(rig.given(whole).0, None, "not what was asked for");
            }
            assert_eq!(rig.given(asked), (Some(command), vec![mend(command)]));
            bad.retain(|lba| !inside(lba));
            rig.local(command, StoreResult::Done)
        };
        if let Some((_, next)) = fetches(&actions).first() {
            asked = *next;
            continue;
        }
        // Read, or compared, once more.
        let again = actions.contains(&local(command)) || actions.contains(&VolumeAction::Compare { command });
        let result = if bad.is_empty() { StoreResult::Done } else { StoreResult::Failed };
        let end = if again { rig.local(command, result) } else { actions };
        return (extents, end, rig.volume.status().store_failed);
    }
}

fn answered_good(op: Op) -> bool {
    let (asked, end, failed) = in_pieces(op, &[8, 200], &[16, 64]);
    assert!(asked.contains(&Extent::new(16, 8)) && asked.len() < 30, "{asked:?}");
    assert!(!failed, "no reason to hand over");
    end.iter().any(|action| match action {
        VolumeAction::Answer { outcome, .. } => *outcome == Outcome::Good,
        action => matches!(action, VolumeAction::Local { .. }),
    })
}

#[test]
fn what_each_array_can_read_makes_up_for_what_the_other_one_cannot() {
    assert!(answered_good(Op::Read) && answered_good(Op::CompareAndWrite));
    for op in [Op::Read, Op::CompareAndWrite] {
        let (_, end, failed) = in_pieces(op, &[8, 200], &[200]);
        let error = |action: &VolumeAction| {
            matches!(action, VolumeAction::Answer { outcome: Outcome::ReadError, .. })
        };
        assert!(end.iter().any(error) && !failed, "a block that neither can read: {end:?}");
    }
}

#[cfg(feature = "testing")]
#[test]
fn a_question_for_everything_or_nothing_is_seen() {
    use crate::mutation::{Mutation, set};
    set(Some(Mutation::MendWholeOrNot));
    let (asked, ..) = in_pieces(Op::Read, &[8], &[16]);
    set(None);
    assert_eq!(asked.len(), 1);
}
