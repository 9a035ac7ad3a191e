//! Unit tests by rule; the two-array property test is in `pair_tests`.

use super::*;
use crate::arbitration::{Config, Epoch, Gate, InSync, Lineage, Mode, Quorum, Side, Tenure};
use crate::block::{Extent, Op, Outcome, Request, StoreResult};
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
    VolumeAction::Local { command }
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
