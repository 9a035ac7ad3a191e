//! Unit tests by rule, of the primary's host commands here; the two-array property test is in `pair`.

mod before;
mod failing;
pub(super) mod invariants;
mod memory;
mod mending;
mod recovering;
mod speed;
mod sync;
mod verify;

use super::*;
use crate::arbitration::{Config, Epoch, Gate, InSync, Lineage, Mode, Quorum, Side, Tenure};
use crate::block::{Extent, Op, Outcome, Refusal, Request, StoreResult};
use crate::time::{Now, Time};

pub(super) const LANE: LaneId = LaneId(0);

pub(super) fn config(epoch: u64, tenure: u64, primary: Side, in_sync: InSync) -> Config {
    Config {
        lineage: Lineage { counter: 1, id: 7 },
        epoch: Epoch(epoch),
        tenure_epoch: Epoch(tenure),
        primary,
        in_sync,
        quorum: Quorum::Majority,
        witness: None,
        natural: Side::A,
    }
}

pub(super) fn at(ms: u64) -> Context {
    let time = Time::from_millis(ms);
    Context { now: Now { grantor: time, holder: time }, lane: Some(LANE) }
}

pub(super) fn geometry() -> Geometry {
    Geometry { id: VolumeId([1; 16]), blocks: 64 * REGION_BLOCKS }
}

pub(super) fn gate(tenure: Tenure, mode: Mode) -> Gate {
    Gate { tenure, mode, lease_end: Time::FOREVER, hold_until: Time::FOREVER }
}

fn request(op: Op, lba: u64, blocks: u64) -> Request {
    Request { op, extent: Extent::new(lba, blocks) }
}

/// One volume as primary A, its map written as soon as it asks, and what it asked for.
struct Rig {
    volume: Volume,
    out: Vec<VolumeAction>,
    now: u64,
    /// Map writes wait until `write_map`.
    slow_map: bool,
    map_writes: u32,
}

const SESSION: SessionId = SessionId { boot: 1, counter: 1 };

impl Rig {
    fn primary(in_sync: InSync) -> Self {
        let config = config(1, 1, Side::A, in_sync);
        let mut rig = Self::bare();
        rig.volume.enrol(Side::A, &config, false, at(0), &mut rig.out);
        let mode = if in_sync == InSync::Both { Mode::Both } else { Mode::Alone };
        rig.gate(mode);
        rig.run();
        rig
    }

    /// Primary of {A,B} with a session over one lane.
    fn mirrored() -> Self {
        let mut rig = Self::primary(InSync::Both);
        rig.open(SESSION);
        rig
    }

    fn bare() -> Self {
        let volume = Volume::new(geometry(), Limits::default());
        Self { volume, out: Vec::new(), now: 0, slow_map: false, map_writes: 0 }
    }

    fn cx(&self) -> Context {
        at(self.now)
    }

    fn open(&mut self, session: SessionId) {
        let cx = self.cx();
        self.volume.open_session(session, &[LANE], &[], cx, &mut self.out);
    }

    fn gate(&mut self, mode: Mode) {
        let (cx, tenure) = (self.cx(), self.volume.tenure().unwrap_or_default());
        self.volume.set_gate(gate(tenure, mode), cx, &mut self.out);
    }

    fn learn(&mut self, config: Config) {
        let cx = self.cx();
        self.volume.learned(&config, cx, &mut self.out);
    }

    fn submit(&mut self, op: Op, lba: u64, blocks: u64) -> CommandId {
        let cx = self.cx();
        self.volume.submit(request(op, lba, blocks), cx, &mut self.out).unwrap()
    }

    /// What was asked since the last call, the map's wishes carried out, slots released.
    fn run(&mut self) -> Vec<VolumeAction> {
        let mut all = Vec::new();
        while !self.out.is_empty() {
            for action in core::mem::take(&mut self.out) {
                match action {
                    VolumeAction::PersistMap if !self.slow_map => self.write_map(),
                    VolumeAction::Free { command } => self.volume.release(command),
                    _ => all.push(action),
                }
            }
        }
        all
    }

    fn write_map(&mut self) {
        let mut pages = Vec::new();
        if let Some(generation) = self.volume.map_pages(&mut pages) {
            self.map_writes += 1;
            let cx = self.cx();
            self.volume.map_durable(generation, cx, &mut self.out);
        }
    }

    fn local(&mut self, command: CommandId, result: StoreResult) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.local_done(command, result, cx, &mut self.out);
        self.run()
    }

    fn ack(&mut self, header: FrameHeader, result: StoreResult) -> Vec<VolumeAction> {
        let cx = self.cx();
        self.volume.mirror_acked(header.session, header.sequence, Some(result), cx, &mut self.out);
        self.run()
    }
}

fn local(command: CommandId) -> VolumeAction {
    VolumeAction::Local { command, stable: true }
}

fn answer(command: CommandId, outcome: Outcome) -> VolumeAction {
    VolumeAction::Answer { command, outcome }
}

fn mirrored(actions: &[VolumeAction]) -> Vec<FrameHeader> {
    let header = |action: &VolumeAction| match action {
        VolumeAction::Mirror { header, .. } => Some(*header),
        _ => None,
    };
    actions.iter().filter_map(header).collect()
}

fn copies(actions: &[VolumeAction]) -> Vec<(CopyId, CopyKind, FrameHeader)> {
    let copy = |action: &VolumeAction| match action {
        VolumeAction::Copy { copy, kind, header, .. } => Some((*copy, *kind, *header)),
        _ => None,
    };
    actions.iter().filter_map(copy).collect()
}

#[test]
fn a_solitary_volume_has_no_map_and_no_mirror() {
    let mut rig = Rig::bare();
    let command = rig.submit(Op::Write, 0, 8);
    assert_eq!(rig.run(), [local(command)]);
    assert_eq!(rig.local(command, StoreResult::Done), [answer(command, Outcome::Good)]);
    assert_eq!(rig.map_writes, 0);
    assert_eq!(rig.volume.status(), Status::default());
}

#[test]
fn rule_2_a_write_is_answered_when_both_copies_hold_it() {
    for local_first in [true, false] {
        let mut rig = Rig::mirrored();
        let command = rig.submit(Op::Write, 8, 8);
        let actions = rig.run();
        assert_eq!(actions[0], local(command));
        let header = mirrored(&actions)[0];
        let (first, second) = if local_first {
            (rig.local(command, StoreResult::Done), rig.ack(header, StoreResult::Done))
        } else {
            (rig.ack(header, StoreResult::Done), rig.local(command, StoreResult::Done))
        };
        assert_eq!(first, []);
        assert_eq!(second, [answer(command, Outcome::Good)]);
    }
}

#[test]
fn rule_3_a_broken_session_answers_nothing_before_the_drop() {
    let mut rig = Rig::mirrored();
    let command = rig.submit(Op::Write, 8, 8);
    rig.run();
    rig.local(command, StoreResult::Done);
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    assert_eq!(rig.run(), []);
    rig.slow_map = true;
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    assert_eq!(rig.run(), [VolumeAction::PersistMap], "out of sync is durable before the answer");
    rig.write_map();
    assert_eq!(rig.run(), [answer(command, Outcome::Good)]);
    assert_eq!(rig.volume.status().dirty_regions, 1);
}

#[test]
fn rule_6_a_late_answer_is_a_refusal() {
    let mut rig = Rig::mirrored();
    let (read, write) = (rig.submit(Op::Read, 0, 8), rig.submit(Op::Write, 8, 8));
    let header = mirrored(&rig.run())[0];
    rig.gate(Mode::Closed);
    let refused = Outcome::Refused(Refusal::Standby);
    assert_eq!(rig.run(), [answer(read, refused), answer(write, refused)]);
    assert_eq!(rig.local(read, StoreResult::Done), []);
    // The refused write stays in flight until both copies hold it: readers wait for it.
    rig.local(write, StoreResult::Done);
    rig.gate(Mode::Both);
    let again = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), []);
    assert_eq!(rig.ack(header, StoreResult::Done), [local(again)]);
}

#[test]
fn rule_6_what_finishes_after_the_lease_waits_for_its_renewal_or_is_refused() {
    for renewed in [true, false] {
        let mut rig = Rig::mirrored();
        let tenure = rig.volume.tenure().unwrap();
        let lease = |ms| Gate { lease_end: Time::from_millis(ms), ..gate(tenure, Mode::Both) };
        rig.volume.set_gate(lease(100), at(0), &mut rig.out);
        let read = rig.submit(Op::Read, 0, 8);
        rig.run();
        rig.now = 100;
        assert_eq!(rig.local(read, StoreResult::Done), [], "late");
        let parked = rig.submit(Op::Read, 0, 8);
        assert_eq!(rig.run(), []);
        assert_eq!(rig.volume.next_timeout(), Some(Time::from_millis(2100)));
        let cx = at(if renewed { 2000 } else { 2100 });
        if renewed {
            rig.volume.set_gate(lease(5000), cx, &mut rig.out);
            assert_eq!(rig.run(), [answer(read, Outcome::Good), local(parked)]);
        } else {
            rig.volume.tick(cx, &mut rig.out);
            let refused = Outcome::Refused(Refusal::Transition);
            assert_eq!(rig.run(), [answer(read, refused), answer(parked, refused)]);
            assert_eq!(rig.volume.next_timeout(), None);
        }
    }
}

#[test]
fn rule_6_a_command_belongs_to_the_tenure_in_which_it_arrived() {
    let mut rig = Rig::mirrored();
    let first = rig.submit(Op::Write, 0, 8);
    let queued = rig.submit(Op::Write, 0, 8);
    rig.run();
    rig.learn(config(2, 2, Side::B, InSync::Primary));
    let refused = Outcome::Refused(Refusal::Standby);
    assert_eq!(rig.run(), [answer(first, refused), answer(queued, refused)]);
    rig.learn(config(3, 2, Side::B, InSync::Both));
    rig.learn(config(4, 4, Side::A, InSync::Both));
    rig.gate(Mode::Both);
    assert_eq!(rig.run(), [], "nothing of the first tenure starts in the third");
    assert_eq!(rig.volume.status().store_io_old, 1, "the write that hangs is named");
    rig.local(first, StoreResult::Done);
    assert_eq!(rig.volume.status().store_io_old, 0);
}

#[test]
fn parked_commands_arrive_when_the_gate_opens_and_are_refused_when_it_closes() {
    for opens in [true, false] {
        let mut rig = Rig::primary(InSync::Both);
        rig.gate(Mode::Held);
        let (killed, kept) = (rig.submit(Op::Write, 0, 8), rig.submit(Op::Read, 0, 8));
        assert_eq!(rig.volume.status().waiting, 2);
        let cx = rig.cx();
        rig.volume.abort(killed, cx, &mut rig.out);
        assert_eq!(rig.run(), [answer(killed, Outcome::Aborted)]);
        if opens {
            rig.learn(config(2, 2, Side::A, InSync::Primary));
            rig.gate(Mode::Alone);
            assert_eq!(rig.run(), [local(kept)]);
        } else {
            rig.gate(Mode::Closed);
            assert_eq!(rig.run(), [answer(kept, Outcome::Refused(Refusal::Standby))]);
            let cx = rig.cx();
            assert_eq!(rig.volume.submit(request(Op::Read, 0, 8), cx, &mut rig.out), Err(Refusal::Standby));
        }
    }
}

#[test]
fn a_write_held_while_the_array_took_office_is_sent_back() {
    let mut rig = Rig::primary(InSync::Both);
    rig.gate(Mode::Held);
    let (write, read) = (rig.submit(Op::Write, 0, 8), rig.submit(Op::Read, 8, 8));
    rig.learn(config(2, 2, Side::A, InSync::Primary));
    let late = rig.submit(Op::Write, 16, 8);
    rig.gate(Mode::Alone);
    assert_eq!(rig.run(), [answer(write, Outcome::Refused(Refusal::Again)), local(read), local(late)]);
    let mut rig = Rig::primary(InSync::Both);
    rig.gate(Mode::Held);
    let write = rig.submit(Op::Write, 0, 8);
    rig.gate(Mode::Both);
    assert_eq!(rig.run(), [local(write)], "the same tenure: nobody else served");
}

#[test]
fn draining_ends_what_runs_and_keeps_what_has_not_started() {
    let mut rig = Rig::mirrored();
    let (write, queued) = (rig.submit(Op::Write, 0, 8), rig.submit(Op::Read, 0, 8));
    let header = mirrored(&rig.run())[0];
    let hold =
        Gate { hold_until: Time::from_millis(50), ..gate(rig.volume.tenure().unwrap(), Mode::Draining) };
    rig.volume.set_gate(hold, at(0), &mut rig.out);
    let cx = rig.cx();
    assert!(!rig.volume.clear_activity(cx, &mut rig.out), "a write is in flight");
    rig.local(write, StoreResult::Done);
    assert_eq!(rig.ack(header, StoreResult::Done), [answer(write, Outcome::Good), VolumeAction::Poke]);
    assert_eq!(rig.volume.status().in_flight, 0);
    rig.slow_map = true;
    assert!(!rig.volume.clear_activity(cx, &mut rig.out), "not durable yet");
    assert_eq!(rig.run(), [VolumeAction::PersistMap]);
    rig.write_map();
    assert_eq!(rig.run(), [VolumeAction::Poke]);
    assert!(rig.volume.clear_activity(cx, &mut rig.out));
    assert_eq!(rig.volume.status().active_regions, 0);
    rig.volume.tick(at(50), &mut rig.out);
    assert_eq!(rig.run(), [answer(queued, Outcome::Refused(Refusal::Transition))]);
}

#[test]
fn rules_7_and_8_readers_share_and_writers_exclude_in_order() {
    let mut rig = Rig::bare();
    let one = rig.submit(Op::Read, 0, 4);
    let two = rig.submit(Op::Read, 4, 4);
    let write = rig.submit(Op::Write, 6, 1);
    let three = rig.submit(Op::Read, 0, 1); // behind the writer, though it could share
    let far = rig.submit(Op::Write, 8, 8);
    assert_eq!(rig.run(), [local(one), local(two), local(far)]);
    assert_eq!(rig.local(one, StoreResult::Done), [answer(one, Outcome::Good)]);
    assert_eq!(rig.local(two, StoreResult::Done), [answer(two, Outcome::Good), local(write)]);
    assert_eq!(rig.local(write, StoreResult::Done), [answer(write, Outcome::Good), local(three)]);
}

#[test]
fn rule_9_only_what_has_done_nothing_is_aborted() {
    let mut rig = Rig::mirrored();
    let (running, queued) = (rig.submit(Op::Write, 0, 8), rig.submit(Op::Write, 0, 8));
    let header = mirrored(&rig.run())[0];
    let cx = rig.cx();
    rig.volume.abort(running, cx, &mut rig.out);
    rig.volume.abort(queued, cx, &mut rig.out);
    assert_eq!(rig.run(), [answer(queued, Outcome::Aborted)]);
    rig.local(running, StoreResult::Done);
    assert_eq!(rig.ack(header, StoreResult::Done), [answer(running, Outcome::Good)]);
    // A comparison may end, its write does not begin.
    let compare = rig.submit(Op::CompareAndWrite, 0, 8);
    assert_eq!(rig.run(), [VolumeAction::Compare { command: compare }]);
    rig.volume.abort(compare, cx, &mut rig.out);
    assert_eq!(rig.local(compare, StoreResult::Done), [answer(compare, Outcome::Aborted)]);
}

#[test]
fn compare_and_write_holds_its_range_and_mirrors_its_write() {
    let mut rig = Rig::mirrored();
    let compare = rig.submit(Op::CompareAndWrite, 0, 1);
    let behind = rig.submit(Op::Read, 0, 1);
    assert_eq!(rig.run(), [VolumeAction::Compare { command: compare }]);
    let actions = rig.local(compare, StoreResult::Done);
    let header = mirrored(&actions)[0];
    assert_eq!((actions[0], header.op), (local(compare), Op::Write));
    rig.ack(header, StoreResult::Done);
    let actions = rig.local(compare, StoreResult::Done);
    assert_eq!(actions, [answer(compare, Outcome::Good), local(behind)]);
    let differs = rig.submit(Op::CompareAndWrite, 8, 1);
    rig.run();
    let writes = rig.map_writes;
    let actions = rig.local(differs, StoreResult::Differs { offset: 7 });
    assert_eq!(actions, [answer(differs, Outcome::Miscompare { offset: 7 })]);
    assert_eq!(rig.map_writes, writes, "nothing was written, nothing is marked");
}

#[test]
fn a_compare_that_ends_behind_a_closed_gate_writes_nothing() {
    let mut rig = Rig::mirrored();
    let compare = rig.submit(Op::CompareAndWrite, 0, 1);
    rig.run();
    rig.gate(Mode::Closed);
    assert_eq!(rig.run(), [answer(compare, Outcome::Refused(Refusal::Standby))]);
    assert_eq!(rig.local(compare, StoreResult::Done), []);
    rig.gate(Mode::Both);
    let held = rig.submit(Op::CompareAndWrite, 0, 1);
    rig.run();
    rig.gate(Mode::Held);
    assert_eq!(rig.local(held, StoreResult::Done), [], "held: not refused, not written");
    rig.gate(Mode::Both);
    assert_eq!(rig.run()[0], local(held));
}

#[test]
fn rule_10_the_activity_bit_is_durable_before_the_write_and_its_frame() {
    let mut rig = Rig::mirrored();
    rig.slow_map = true;
    let (one, two) = (rig.submit(Op::Write, 0, 8), rig.submit(Op::Write, REGION_BLOCKS, 8));
    assert_eq!(rig.run(), [VolumeAction::PersistMap]);
    let mut pages = Vec::new();
    let generation = rig.volume.map_pages(&mut pages).unwrap();
    let late = rig.submit(Op::Write, 2 * REGION_BLOCKS, 8); // not in that snapshot
    assert_eq!(rig.run(), []);
    let cx = rig.cx();
    rig.volume.map_durable(generation, cx, &mut rig.out);
    let actions = rig.run();
    assert!(actions.contains(&local(one)) && actions.contains(&local(two)));
    assert!(!actions.contains(&local(late)) && actions.contains(&VolumeAction::PersistMap));
    rig.write_map();
    assert!(rig.run().contains(&local(late)));
    let again = rig.submit(Op::Write, 16, 8);
    assert_eq!(rig.run()[0], local(again), "a hot region costs no map write");
}

#[test]
fn activity_goes_when_a_region_is_idle_for_long_or_one_too_many() {
    let limits = Limits { active_regions: 3, ..Limits::default() };
    let mut rig = Rig::mirrored();
    rig.volume = Volume::new(geometry(), limits);
    rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Both), false, at(0), &mut rig.out);
    rig.gate(Mode::Both);
    rig.open(SESSION);
    for region in 0..20 {
        let write = rig.submit(Op::Write, region * REGION_BLOCKS, 8);
        let header = mirrored(&rig.run())[0];
        rig.local(write, StoreResult::Done);
        rig.ack(header, StoreResult::Done);
        assert!(rig.volume.status().active_regions <= 3);
    }
    rig.now = 5000;
    let cx = rig.cx();
    assert!(rig.volume.next_timeout().is_some_and(|due| due <= cx.now.grantor));
    rig.volume.tick(cx, &mut rig.out);
    rig.now = 7000;
    let cx = rig.cx();
    rig.volume.tick(cx, &mut rig.out);
    rig.run();
    assert_eq!(rig.volume.status().active_regions, 0);
    assert!(!rig.volume.status().map_pending);
    assert_eq!(rig.volume.next_timeout(), None, "an idle volume needs no timer");
}
