//! The arbiter of the pair, by fiat: keeps ARBITRATION's guards, has none of its messages.

use super::super::*;
use super::world::{LANES, LEASE, MIRROR_TIMEOUT, World};
use crate::arbitration::{Config, Epoch, Gate, InSync, Mode, Side};
use crate::time::Time;

impl World {
    pub(super) fn restart(&mut self, side: usize) {
        self.say(|| format!("restart {side}"));
        let cx = self.cx();
        self.arrays[side].restart(Self::geometry(), Self::limits(), cx);
        self.arrays[side].dispatch(&mut self.random);
        // Connections of the former life are gone on both ends.
        for lane in 0..LANES {
            self.cut_lane(lane);
        }
        self.stale.retain(|(from, _)| *from == side);
    }

    pub(super) fn learn(&mut self, side: usize) {
        let chosen = self.chosen;
        let array = &mut self.arrays[side];
        if array.known == chosen || array.volume.is_none() {
            return;
        }
        if self.trace {
            eprintln!("{:6} {side} learns {chosen:?}", self.now);
        }
        array.known = chosen;
        array.vote = None;
        array.switching = false;
        if chosen.in_sync == InSync::Primary || chosen.primary != array.side {
            array.session = None;
            array.hello = None;
        }
        self.call(side, |volume, cx, out| volume.learned(&chosen, cx, out));
    }

    pub(super) fn choose(&mut self, primary: Side, in_sync: InSync) {
        let epoch = Epoch(self.chosen.epoch.0 + 1);
        let tenure_epoch = if primary == self.chosen.primary { self.chosen.tenure_epoch } else { epoch };
        self.chosen = Config { epoch, tenure_epoch, primary, in_sync, ..self.chosen };
        let chosen = self.chosen;
        self.say(|| format!("chosen {primary} {in_sync:?} epoch {}", chosen.epoch.0));
        if in_sync == InSync::Both {
            self.in_sync_boots = [self.arrays[0].boot, self.arrays[1].boot];
        }
    }

    pub(super) fn control(&mut self, side: usize) {
        if self.arrays[side].volume.is_none() {
            if self.healing || !self.random.chance(3) {
                self.restart(side);
            }
            return;
        }
        if self.arrays[side].isolated {
            if self.random.chance(4) && self.arrays[side].lease_end < Time::from_millis(self.now) {
                let tenure = self.arrays[side].known.tenure();
                self.call(side, |volume, cx, out| volume.set_gate(Gate::closed(tenure), cx, out));
            }
            if self.random.chance(3) {
                self.arrays[side].isolated = false;
            }
            return;
        }
        self.learn(side);
        if self.chosen.primary == self.arrays[side].side {
            self.act_as_primary(side);
        } else {
            self.act_as_secondary(side);
        }
    }

    pub(super) fn status(&self, side: usize) -> Status {
        self.arrays[side].volume.as_ref().map(Volume::status).unwrap_or_default()
    }

    pub(super) fn reachable(&self, side: usize) -> bool {
        self.arrays[side].volume.is_some() && !self.arrays[side].isolated
    }

    pub(super) fn act_as_secondary(&mut self, side: usize) {
        let other = 1 - side;
        let gone = !self.reachable(other);
        let over = self.arrays[other].lease_end < Time::from_millis(self.now);
        if gone && over && self.chosen.in_sync == InSync::Both && self.random.chance(3) {
            self.choose(self.arrays[side].side, InSync::Primary);
            self.learn(side);
            self.act_as_primary(side);
        }
    }

    pub(super) fn open_gate(&mut self, side: usize) {
        let needs = self.chosen.in_sync == InSync::Both || self.arrays[side].vote.is_some();
        let (mode, lease_end) = if needs {
            (Mode::Both, Time::from_millis(self.now) + LEASE)
        } else {
            (Mode::Alone, Time::FOREVER)
        };
        self.arrays[side].lease_end = lease_end;
        let gate = Gate { tenure: self.chosen.tenure(), mode, lease_end, hold_until: Time::ZERO };
        self.call(side, |volume, cx, out| volume.set_gate(gate, cx, out));
    }

    pub(super) fn act_as_primary(&mut self, side: usize) {
        let me = self.arrays[side].side;
        let other = 1 - side;
        let both = self.chosen.in_sync == InSync::Both;
        let status = self.status(side);
        if self.arrays[side].switching {
            return self.drive_switch(side);
        }
        // Rule 5 is the core's: whatever the gate says, nothing starts before older I/O has ended.
        if self.random.chance(2) {
            self.open_gate(side);
        }
        if let Some(vote) = self.arrays[side].vote {
            if self.random.chance(3) {
                self.choose(vote.primary, vote.in_sync);
                self.learn(side);
                self.open_gate(side);
            }
            return;
        }
        if status.peer_refused || (status.peer_failed && !both) {
            return self.close_session(side);
        }
        if both && status.store_failed && self.reachable(other) {
            let tenure = self.chosen.tenure();
            let hold_until = Time::from_millis(self.now + 100);
            let gate = Gate { tenure, mode: Mode::Held, lease_end: Time::ZERO, hold_until };
            self.call(side, |volume, cx, out| volume.set_gate(gate, cx, out));
            self.learn(other);
            self.choose(me.other(), InSync::Primary);
            self.learn(side);
            return;
        }
        let late = status.oldest_unacked.is_some_and(|at| at + MIRROR_TIMEOUT < Time::from_millis(self.now));
        if late {
            self.close_session(side);
        }
        let broken = self.arrays[side].session.is_none() && !self.reachable(other);
        if both && (status.peer_failed || status.store_failed || (broken && self.random.chance(4))) {
            return self.drop_peer(side);
        }
        if self.arrays[side].session.is_none() {
            return self.greet(side);
        }
        if !both && status.dirty_regions == 0 && self.call(side, |volume, _, _| volume.try_join()) {
            if self.random.chance(4) {
                return self.call(side, |volume, cx, out| volume.cancel_join(cx, out));
            }
            let epoch = Epoch(self.chosen.epoch.0 + 1);
            let vote = Config { epoch, in_sync: InSync::Both, ..self.chosen };
            self.arrays[side].vote = Some(vote);
            self.say(|| format!("{side} votes to join"));
            self.open_gate(side);
            if self.random.chance(2) {
                // The witness accepted: chosen, though the primary does not know it yet.
                self.choose(vote.primary, vote.in_sync);
            }
        }
    }

    pub(super) fn drop_peer(&mut self, side: usize) {
        self.close_session(side);
        self.choose(self.arrays[side].side, InSync::Primary);
        self.learn(side);
        self.open_gate(side);
    }

    /// The hello: taken by the secondary at once, answered when it has drained.
    pub(super) fn greet(&mut self, side: usize) {
        let other = 1 - side;
        if !self.reachable(other) {
            return;
        }
        self.learn(other);
        let boot = self.arrays[other].boot;
        if self.chosen.in_sync == InSync::Both && self.in_sync_boots[other] != boot {
            return self.drop_peer(side);
        }
        let array = &mut self.arrays[side];
        let id = *array.hello.get_or_insert_with(|| {
            array.counter += 1;
            SessionId { boot: array.boot, counter: array.counter }
        });
        let tenure = self.chosen.tenure();
        if !self.call(other, |volume, cx, out| volume.accept_session(tenure, id, cx, out)) {
            return;
        }
        let mut dirty = Vec::new();
        self.call(other, |volume, _, _| volume.dirty_runs(&mut dirty));
        self.arrays[side].hello = None;
        self.arrays[side].session = Some(id);
        self.say(|| format!("{side} opens {id:?}, peer dirty {dirty:?}"));
        let lanes = [LaneId(0), LaneId(1)];
        self.call(side, |volume, cx, out| volume.open_session(id, &lanes, &dirty, cx, out));
    }

    pub(super) fn drive_switch(&mut self, side: usize) {
        let other = 1 - side;
        let ready = self.arrays[side].session.is_some()
            && self.reachable(other)
            && self.status(side).in_flight == 0
            && self.in_sync_boots[other] == self.arrays[other].boot;
        if ready && self.call(side, |volume, cx, out| volume.clear_activity(cx, out)) {
            self.learn(other);
            self.choose(self.arrays[side].side.other(), InSync::Both);
            self.learn(side);
        } else if self.random.chance(10) {
            self.arrays[side].switching = false;
            self.open_gate(side);
        }
    }
}
