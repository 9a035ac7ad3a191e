//! What `group::Control` and three voters would decide, at any instant at which they may: ARBITRATION's
//! guards are kept, its messages are not (the other half of the model check has those).

use std::rc::Rc;

use super::world::{LANES, Step, Sweep, World, breaks, gate, index, map_geometry};
use twinlun::arbitration::{Config, Epoch, Gate, InSync, Mode, Side};
use twinlun::mirror::*;
use twinlun::mutation::Mutation;
use twinlun::time::{Duration, Time};

impl World {
    /// It believes itself primary.
    fn in_office(&self, side: usize) -> bool {
        self.is_up(side) && index(self.arrays[side].known.primary) == side
    }

    /// It is the chosen primary, knows it, and reaches the other voters.
    fn decides(&self, side: usize) -> bool {
        let array = &self.arrays[side];
        self.in_office(side)
            && array.known == self.chosen
            && array.vote.is_none()
            && array.sweep.is_none()
            && !array.voted_away
            && !self.cut_off(side)
    }

    /// A is the one that is cut off.
    fn cut_off(&self, side: usize) -> bool {
        self.isolated && side == 0
    }

    fn linked(&self) -> bool {
        self.is_up(0) && self.is_up(1) && !self.isolated
    }

    fn any(&self, side: usize, what: impl Fn(&Status) -> bool) -> bool {
        self.status(side).iter().any(what)
    }

    pub fn control_steps(&self, out: &mut Vec<Step>) {
        for side in [0, 1] {
            self.side_steps(side, out);
        }
        for lane in 0..LANES {
            if !self.lanes_up[lane] && self.linked() {
                out.push(Step::LaneUp { lane: lane as u8 });
            }
        }
        if self.isolated {
            let needs_lease = self.arrays[0].known.in_sync == InSync::Both || self.arrays[0].vote.is_some();
            if self.is_up(0) && !self.arrays[0].lapsed && self.in_office(0) && needs_lease {
                out.push(Step::Lapse);
            }
            if self.arrays[0].lapsed
                && self.arrays[0].volumes.iter().any(|core| core.gate().mode != Mode::Closed)
            {
                out.push(Step::Shut);
            }
            out.push(Step::Return);
        }
        let voted = self.arrays.iter().any(|array| array.vote.is_some_and(|vote| self.follows(&vote)));
        if voted {
            out.push(Step::JoinChosen);
        }
    }

    fn follows(&self, vote: &Config) -> bool {
        vote.epoch.0 == self.chosen.epoch.0 + 1
    }

    fn side_steps(&self, at: usize, out: &mut Vec<Step>) {
        let side = at as u8;
        let other = 1 - at;
        let array = &self.arrays[at];
        if !self.is_up(at) {
            return out.push(Step::Restart { side });
        }
        if array.sweep.is_some() {
            return out.push(Step::Sweep { side });
        }
        if array.known != self.chosen && !self.cut_off(at) {
            out.push(Step::Learn { side });
        }
        if array.gate_waits {
            out.push(Step::OpenGate { side });
        }
        let refused = self.any(at, |status| status.peer_refused);
        let failed = self.any(at, |status| status.peer_failed);
        let both = self.chosen.in_sync == InSync::Both;
        if array.session.is_some() && (refused || (failed && !both)) {
            out.push(Step::StopMirror { side });
        }
        if self.chosen.primary != array.side {
            let gone = !self.is_up(other) || (self.isolated && self.arrays[other].lapsed);
            if gone && both && array.known == self.chosen && !self.cut_off(at) {
                out.push(Step::Promote { side });
            }
            return;
        }
        if !self.decides(at) {
            return;
        }
        if array.switching {
            let quiet = !self.any(at, |status| status.in_flight != 0 || status.recovering_regions != 0);
            if array.session.is_some() && self.linked() && self.same_lives(other) && quiet {
                out.push(Step::SwitchGo { side });
            }
            return out.push(Step::SwitchEnd { side });
        }
        if both {
            let wanted = self.left.drops > 0 || array.session.is_none() || failed || !self.is_up(other);
            if array.dropping {
                out.push(Step::Drop { side });
            } else if wanted {
                out.push(Step::StopMirror { side });
            }
            let clear = !self.any(at, |status| status.recovering_regions != status.failed_regions);
            let store_failed = self.any(at, |status| status.store_failed);
            if (self.left.hand_overs > 0 || store_failed) && self.linked() && clear && !array.dropping {
                out.push(Step::HandOver { side });
            }
            if self.left.switches > 0 && !array.dropping {
                out.push(Step::Switch { side });
            }
        }
        let lanes = self.lanes_up.contains(&true);
        if array.session.is_none() && !array.dropping && self.linked() && lanes {
            let knows = self.arrays[other].known == self.chosen && self.arrays[other].sweep.is_none();
            if array.hello.is_some() {
                out.push(Step::Answer { side });
            } else if knows && (!both || self.same_lives(other)) {
                out.push(Step::Hello { side });
            }
        }
        let equal = !self.any(at, |status| status.dirty_regions != 0 || status.recovering_regions != 0)
            || breaks(Mutation::JoinWhileDirty);
        if !both && array.session.is_some() && equal && !failed {
            out.push(Step::JoinVote { side });
        }
    }

    /// The peer is the process that was in sync (rule 16).
    fn same_lives(&self, other: usize) -> bool {
        self.in_sync_boots[other] == self.arrays[other].boot
    }

    /// Steps of control and voters; false: it comes to nothing.
    pub fn decide(&mut self, step: Step) -> bool {
        match step {
            Step::LaneUp { lane } => {
                let lane = LaneId(u16::from(lane));
                self.lanes_up[usize::from(lane.0)] = true;
                for side in [0, 1] {
                    for volume in 0..self.scenario.volumes {
                        self.call(side, volume, None, |core, cx, out| core.lane_up(lane, cx, out));
                    }
                }
            }
            Step::Isolate => {
                self.left.isolations -= 1;
                self.isolated = true;
                for lane in 0..LANES {
                    self.cut_lane(lane);
                }
            }
            Step::Lapse => {
                self.arrays[0].lapsed = true;
                self.set_gates(0, |gate| Gate { lease_end: Time::ZERO, ..gate });
            }
            Step::Shut => self.set_gates(0, |gate| Gate::closed(gate.tenure)),
            Step::Return => {
                self.isolated = false;
                self.arrays[0].lapsed = false;
                if self.chosen.primary == Side::A && self.is_up(0) && self.arrays[0].sweep.is_none() {
                    self.sweep_with(0, Sweep::Gate);
                }
            }
            Step::Restart { side } => self.restart(usize::from(side)),
            Step::Learn { side } => self.learn(usize::from(side)),
            Step::Sweep { side } => self.sweep(usize::from(side)),
            Step::OpenGate { side } => {
                self.arrays[usize::from(side)].gate_waits = false;
                self.open_gates(usize::from(side));
            }
            Step::StopMirror { side } => {
                let at = usize::from(side);
                if self.chosen.in_sync == InSync::Both && self.decides(at) {
                    let array = &self.arrays[at];
                    let free = array.session.is_none()
                        || self.any(at, |status| status.peer_failed)
                        || !self.is_up(1 - at);
                    self.left.drops -= u8::from(!free);
                    self.arrays[at].dropping = !self.any(at, |status| status.peer_refused);
                }
                self.begin_close(at);
            }
            Step::Drop { side } => {
                self.choose(self.arrays[usize::from(side)].side, InSync::Primary);
                self.learn(usize::from(side));
            }
            Step::Hello { side } => self.hello(usize::from(side)),
            Step::Answer { side } => return self.answer(usize::from(side)),
            Step::JoinVote { side } => return self.join(usize::from(side)),
            Step::JoinChosen => {
                let vote = self.arrays.iter().find_map(|array| array.vote.filter(|vote| self.follows(vote)));
                if let Some(vote) = vote {
                    self.choose(vote.primary, vote.in_sync);
                }
            }
            Step::Switch { side } => {
                self.left.switches -= 1;
                let side = usize::from(side);
                self.arrays[side].switching = true;
                let until = self.hold_end(side);
                self.set_gates(side, |gate| Gate { mode: Mode::Draining, hold_until: until, ..gate });
            }
            Step::SwitchGo { side } => {
                let side = usize::from(side);
                let mut cleared = true;
                for volume in 0..self.scenario.volumes {
                    let clear = |core: &mut Volume, cx, out: &mut _| core.clear_activity(cx, out);
                    cleared &= self.call(side, volume, None, clear).unwrap_or(false);
                }
                if cleared {
                    self.vote_away(side);
                    self.choose(self.arrays[side].side.other(), InSync::Both);
                }
            }
            Step::SwitchEnd { side } => {
                let side = usize::from(side);
                self.arrays[side].switching = false;
                self.open_gates(side);
            }
            Step::HandOver { side } => {
                let side = usize::from(side);
                self.left.hand_overs = self.left.hand_overs.saturating_sub(1);
                self.vote_away(side);
                self.choose(self.arrays[side].side.other(), InSync::Primary);
            }
            Step::Promote { side } => {
                self.choose(self.arrays[usize::from(side)].side, InSync::Primary);
                self.learn(usize::from(side));
            }
            _ => unreachable!("a step of hosts, shells or faults"),
        }
        true
    }

    fn choose(&mut self, primary: Side, in_sync: InSync) {
        let epoch = Epoch(self.chosen.epoch.0 + 1);
        let tenure_epoch = if primary == self.chosen.primary { self.chosen.tenure_epoch } else { epoch };
        self.chosen = Config { epoch, tenure_epoch, primary, in_sync, ..self.chosen };
        if tenure_epoch == epoch {
            self.in_sync_boots = [self.arrays[0].boot, self.arrays[1].boot];
        }
    }

    fn hold_end(&self, side: usize) -> Time {
        Time(self.arrays[side].clock) + Duration::from_secs(2)
    }

    fn set_gates(&mut self, side: usize, new: impl Fn(Gate) -> Gate) {
        for volume in 0..self.scenario.volumes {
            let set = |core: &mut Volume, cx, out: &mut _| core.set_gate(new(core.gate()), cx, out);
            self.call(side, volume, None, set);
        }
    }

    /// The gate that this array's configuration, lease and vote allow.
    fn right_gate(&self, side: usize) -> Gate {
        let array = &self.arrays[side];
        let tenure = array.known.tenure();
        // Others grant to the chosen primary alone; one that restarted needs fresh contact.
        let granted = tenure == self.chosen.tenure() && !self.cut_off(side) && !array.lapsed;
        if index(array.known.primary) != side || !granted || array.voted_away {
            return Gate::closed(tenure);
        }
        let both = array.known.in_sync == InSync::Both || array.vote.is_some();
        gate(tenure, if both { Mode::Both } else { Mode::Alone }, Time::ZERO)
    }

    fn open_gates(&mut self, side: usize) {
        let new = self.right_gate(side);
        self.set_gates(side, |_| new);
    }

    /// An own vote for the other array: nothing is served before the next epoch.
    fn vote_away(&mut self, side: usize) {
        let hold_until = self.hold_end(side);
        self.arrays[side].voted_away = true;
        self.set_gates(side, |gate| Gate { mode: Mode::Held, lease_end: Time::ZERO, hold_until, ..gate });
    }

    pub fn restart(&mut self, side: usize) {
        let limits = self.limits();
        let cx = self.cx(side, None);
        let array = &mut self.arrays[side];
        array.boot += 1;
        let primary = array.known.primary == array.side;
        let both = array.known.in_sync == InSync::Both || array.vote.is_some();
        let mut outs = Vec::new();
        for (volume, file) in array.map_files.iter().enumerate() {
            let geometry = map_geometry(volume);
            let map = DirtyMap::decode(geometry, file).expect("an own map is readable after any crash");
            let mut core = Volume::restore(geometry, limits, map);
            let mut out = Vec::new();
            let full = self.scenario.begins == InSync::Primary && array.boot == 1;
            core.enrol(array.side, &array.known, full && primary, cx, &mut out);
            if primary {
                core.restart_recovery(both && array.boot > 1, cx, &mut out);
            }
            array.volumes.push(Rc::new(core));
            outs.push(out);
        }
        for (volume, out) in outs.into_iter().enumerate() {
            self.carry_out(side, volume, cx, out);
        }
        self.sweep_with(side, Sweep::Gate);
    }

    // Changes on one volume after the other.

    pub fn learn(&mut self, side: usize) {
        let chosen = self.chosen;
        let array = &mut self.arrays[side];
        array.known = chosen;
        array.vote = None;
        array.switching = false;
        array.voted_away = false;
        array.dropping = false;
        array.lapsed = false;
        array.gate_waits = false;
        if chosen.in_sync == InSync::Primary || chosen.primary != array.side {
            array.session = None;
            array.hello = None;
        }
        if chosen.holds(array.side) {
            array.mixed = false;
        }
        self.sweep_with(side, Sweep::Learn(chosen));
    }

    pub fn begin_close(&mut self, side: usize) {
        let array = &mut self.arrays[side];
        array.session = None;
        array.hello = None;
        let begins = if breaks(Mutation::R11SessionEndsByVolume) { Sweep::Close } else { Sweep::Mute };
        self.sweep_with(side, begins);
    }

    /// Begins a change; it is over at once where there is one volume.
    fn sweep_with(&mut self, side: usize, sweep: Sweep) {
        self.arrays[side].sweep = Some((sweep, 0));
        if self.scenario.volumes == 1 {
            while self.arrays[side].sweep.is_some() {
                self.sweep(side);
            }
        }
    }

    /// The next volume of a change.
    pub fn sweep(&mut self, side: usize) {
        let Some((sweep, at)) = self.arrays[side].sweep else { return };
        let volume = usize::from(at);
        match sweep {
            Sweep::Mute => _ = self.call(side, volume, None, |core, _, _| core.mute_session()),
            Sweep::Close if volume == 0 || !breaks(Mutation::R11VolumesStopApart) => {
                self.call(side, volume, None, |core, cx, out| core.close_session(cx, out));
            }
            Sweep::Close => {}
            Sweep::Learn(config) => {
                self.call(side, volume, None, |core, cx, out| core.learned(&config, cx, out));
            }
            Sweep::Gate
                if self.scenario.holds && self.arrays[side].known.primary == self.arrays[side].side =>
            {
                self.arrays[side].gate_waits = true;
            }
            Sweep::Gate => {
                let mut new = self.right_gate(side);
                if self.scenario.holds && new.mode == Mode::Closed && self.chosen.in_sync == InSync::Both {
                    // A promotion may be near: hosts that come are kept waiting.
                    let hold_until = self.hold_end(side);
                    new = Gate { mode: Mode::Held, hold_until, ..new };
                }
                self.call(side, volume, None, |core, cx, out| core.set_gate(new, cx, out));
            }
        }
        let next = at + 1;
        self.arrays[side].sweep = if usize::from(next) < self.scenario.volumes {
            Some((sweep, next))
        } else {
            match sweep {
                Sweep::Mute => Some((Sweep::Close, 0)),
                Sweep::Learn(_) => Some((Sweep::Gate, 0)),
                Sweep::Close | Sweep::Gate => None,
            }
        };
    }

    // Lanes and sessions.

    pub fn cut_lane(&mut self, lane: usize) {
        if !self.lanes_up[lane] {
            return;
        }
        self.break_connection(lane);
        let lost = LaneId(lane as u16);
        for side in [0, 1] {
            if !self.is_up(side) {
                continue;
            }
            let mut ends = !self.lanes_up.contains(&true);
            for volume in 0..self.scenario.volumes {
                let loses = |core: &mut Volume, _, _: &mut _| core.lane_lost(lost);
                ends |= self.call(side, volume, None, loses).unwrap_or(false);
            }
            if ends && self.arrays[side].session.is_some() {
                self.close_at_once(side);
            }
            if !self.lanes_up.contains(&true) {
                self.arrays[side].hello = None;
            }
        }
    }

    /// As [`Self::begin_close`], unless another change is under way: that one goes on after it.
    fn close_at_once(&mut self, side: usize) {
        let after = self.arrays[side].sweep.take();
        self.begin_close(side);
        if after.is_some() {
            while self.arrays[side].sweep.is_some() {
                self.sweep(side);
            }
            self.arrays[side].sweep = after;
        }
    }

    /// The primary asks for a session; the secondary takes its frames from now on.
    pub fn hello(&mut self, side: usize) {
        let array = &mut self.arrays[side];
        array.counter += 1;
        let boot = if breaks(Mutation::R14BootCounterStays) { 1 } else { array.boot };
        array.hello = Some(SessionId { boot, counter: array.counter });
        self.answer(side);
    }

    /// The secondary answers once its own older I/O is over.
    fn answer(&mut self, side: usize) -> bool {
        let other = 1 - side;
        let Some(id) = self.arrays[side].hello else { return false };
        let tenure = self.arrays[side].known.tenure();
        let mut drained = true;
        for volume in 0..self.scenario.volumes {
            let accept = |core: &mut Volume, cx, out: &mut _| core.accept_session(tenure, id, cx, out);
            drained &= self.call(other, volume, None, accept).unwrap_or(false);
        }
        self.arrays[other].mixed |= !self.arrays[side].known.holds(self.arrays[other].side);
        if !drained {
            return true;
        }
        self.arrays[side].hello = None;
        self.arrays[side].session = Some(id);
        let up = (0..LANES).filter(|lane| self.lanes_up[*lane]);
        let lanes: Vec<LaneId> = up.map(|lane| LaneId(lane as u16)).collect();
        for volume in 0..self.scenario.volumes {
            let mut dirty = Vec::new();
            if let Some(core) = self.arrays[other].volumes.get(volume) {
                core.dirty_runs(&mut dirty);
            }
            self.call(side, volume, None, |core, cx, out| core.open_session(id, &lanes, &dirty, cx, out));
        }
        true
    }

    fn join(&mut self, side: usize) -> bool {
        let mut agreed = true;
        for volume in 0..self.scenario.volumes {
            agreed &= self.call(side, volume, None, |core, _, _| core.try_join()).unwrap_or(false);
        }
        if !agreed {
            for volume in 0..self.scenario.volumes {
                self.call(side, volume, None, |core, cx, out| core.cancel_join(cx, out));
            }
            return true;
        }
        self.in_sync_boots = [self.arrays[0].boot, self.arrays[1].boot];
        let epoch = Epoch(self.chosen.epoch.0 + 1);
        self.arrays[side].vote = Some(Config { epoch, in_sync: InSync::Both, ..self.chosen });
        self.sweep_with(side, Sweep::Gate);
        true
    }
}
