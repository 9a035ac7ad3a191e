//! The end of a session on a group of several volumes, with hosts at work between any two of its steps.

use super::*;
use crate::arbitration::{Config, Connection, GroupId, Side, Timers, VoterRecord};
use crate::block::{Extent, Op, Outcome, Request as BlockRequest, StoreResult};
use crate::mirror::{Context, Geometry, LaneId, Limits, Volume, VolumeAction, VolumeId};
use crate::time::{Now, Time};

const LANE: LaneId = LaneId(0);
const LINK: Connection = Connection(1);

/// The volumes of a group; after each step on any of them a host writes to all.
struct Busy {
    volumes: Vec<(VolumeId, Volume)>,
    now: Now,
    hosts_write: bool,
    lba: u64,
    /// A write was answered that the other array does not have.
    lone: bool,
    /// One that came later was sent there.
    sent_after: bool,
}

impl Members for Busy {
    fn each(&mut self, f: &mut dyn FnMut(VolumeId, &mut Volume, &mut Vec<VolumeAction>)) {
        for at in 0..self.volumes.len() {
            let mut out = Vec::new();
            let (id, volume) = &mut self.volumes[at];
            f(*id, volume, &mut out);
            self.carry_out(at, out);
            if self.hosts_write {
                for at in 0..self.volumes.len() {
                    self.write(at);
                }
            }
        }
    }
}

impl Busy {
    fn new(config: &Config, now: Now) -> Self {
        let mut busy =
            Self { volumes: Vec::new(), now, hosts_write: false, lba: 0, lone: false, sent_after: false };
        for n in 1..=3 {
            let id = VolumeId([n; 16]);
            let mut volume = Volume::new(Geometry { id, blocks: 2048 * 64 }, Limits::default());
            let mut out = Vec::new();
            volume.enrol(Side::A, config, false, busy.cx(), &mut out);
            busy.volumes.push((id, volume));
            busy.carry_out(busy.volumes.len() - 1, out);
        }
        busy
    }

    fn cx(&self) -> Context {
        Context { now: self.now, lane: Some(LANE) }
    }

    fn write(&mut self, at: usize) {
        self.lba += 8;
        let request = BlockRequest { op: Op::Write, extent: Extent::new(self.lba, 8) };
        let (cx, mut out) = (self.cx(), Vec::new());
        if self.volumes[at].1.submit(request, cx, &mut out).is_ok() {
            self.carry_out(at, out);
        }
    }

    /// The disk does all at once; the other array acknowledges nothing.
    fn carry_out(&mut self, at: usize, actions: Vec<VolumeAction>) {
        let cx = self.cx();
        for action in actions {
            let (volume, mut out) = (&mut self.volumes[at].1, Vec::new());
            match action {
                VolumeAction::Local { command, .. } => {
                    volume.local_done(command, StoreResult::Done, cx, &mut out);
                }
                VolumeAction::Free { command } => volume.release(command),
                VolumeAction::PersistMap => {
                    let mut pages = Vec::new();
                    if let Some(generation) = volume.map_pages(&mut pages) {
                        volume.map_durable(generation, cx, &mut out);
                    }
                }
                VolumeAction::Answer { outcome: Outcome::Good, .. } => self.lone = true,
                VolumeAction::Mirror { .. } => self.sent_after |= self.lone,
                _ => {}
            }
            self.carry_out(at, out);
        }
    }
}

/// A primary of {A} whose session is up and then lost. Did a write get over that is later than one that did not?
fn cut_between_volumes() -> bool {
    let chosen = Config::genesis(Side::A, 5, None);
    let now = Now { grantor: Time::from_millis(20_000), holder: Time::from_millis(20_000) };
    let mut control = Control::new(Settings {
        me: Side::A,
        group: GroupId([9; 16]),
        record: VoterRecord::new(chosen),
        life: Life::Created,
        policy: Policy { started: true, auto_failover: true, auto_recover: true, auto_synchronize: true },
        timers: Timers::default(),
        boot: 1,
        nonce: BootNonce([1; 16]),
        memory: crate::arbitration::MemoryId([1; 16]),
        seed: 7,
    });
    let mut busy = Busy::new(&chosen, now);
    let mut out = Vec::new();
    control.begin(now, &mut busy, &mut out);
    let peer = BootNonce([2; 16]);
    for event in [Event::LinkUp { connection: LINK, peer }, Event::LaneUp(LANE)] {
        control.handle(event, now, &mut busy, &mut out);
    }
    for action in core::mem::take(&mut out) {
        match action {
            Action::Persist { sequence, .. } => {
                control.handle(Event::Persisted { sequence }, now, &mut busy, &mut out);
            }
            action => out.push(action),
        }
    }
    let asked = out.iter().find_map(|action| match action {
        Action::SendSession { message: SessionMessage::Hello { session, .. }, .. } => Some(*session),
        _ => None,
    });
    let session = asked.expect("a session is asked for");
    let message = SessionMessage::Answer { session, volume: None, runs: Vec::new(), last: true };
    control.handle(Event::Session { connection: LINK, message }, now, &mut busy, &mut out);
    assert!(control.session_is_up());
    busy.write(0);
    assert!(!busy.lone, "the session lives: the other array is waited for");
    busy.hosts_write = true;
    control.handle(Event::LinkDown, now, &mut busy, &mut out);
    assert!(busy.lone, "alone, the array goes on");
    busy.sent_after
}

#[test]
fn rule_11_nothing_gets_over_after_the_first_write_that_does_not() {
    assert!(!cut_between_volumes());
}

#[cfg(feature = "testing")]
#[test]
fn rule_11_is_broken_when_the_session_ends_volume_by_volume() {
    crate::mutation::set(Some(crate::mutation::Mutation::R11SessionEndsByVolume));
    let broken = cut_between_volumes();
    crate::mutation::set(None);
    assert!(broken);
}
