//! After the storm: everything is healed, so the groups must come in sync again within a bound,
//! hosts must finish, and the copies must be equal.

use twinlun::arbitration::{Config, InSync, Quorum, Side};
use twinlun::group::{Command, GroupState, Refused};

use crate::faults::Away;
use crate::host::{Host, MS};
use crate::world::{Event, Phase, World};

/// How long a lone array may take: a new witness's silence (the longest lease), the wait after a
/// start, its own promise, and some.
const SURVIVOR_MAX: u64 = 30_000 * MS;
/// A pause of all hosts, long after the fault, that means that nothing gets through.
const PROGRESS_MAX: u64 = 3_000 * MS;
/// How long a switchover or hand over may take, refusals for the time being included.
const ORDER_MAX: u64 = 25_000 * MS;

/// An operator's order to a healed group.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub group: usize,
    pub command: Command,
    pub array: usize,
    ticket: u64,
    boot: u32,
    pub result: Option<Result<(), Refused>>,
}

impl World {
    pub fn look_at_rest(&mut self) {
        let bound = self.healed_at + self.plan.heal_bound;
        match self.phase {
            Phase::Storm => return,
            // The operator's word holds for one of the arrays.
            Phase::Healed if self.word.off.is_some() => {}
            Phase::Healed if matches!(self.away, Away::Array(_)) => self.wait_for_survivor(),
            Phase::Healed => {
                for group in 0..self.plan.groups {
                    if !self.operator_changes(group) {
                        self.order_start(group);
                    }
                    if self.lossy || self.override_was_kept() {
                        for array in 0..2 {
                            self.order_discard(array, group);
                        }
                    }
                }
                self.help_the_survivor();
                let waits = (0..self.plan.groups).any(|group| self.operator_waits(group));
                if self.in_sync_again() && !waits {
                    self.healed_at = self.now;
                    self.begin_exercise();
                } else if self.now > bound {
                    let why = self.why_not();
                    return self.violate(format!(
                        "not in sync {} ms after healing: {why}",
                        self.plan.heal_bound / MS
                    ));
                }
            }
            Phase::Exercise => {
                if self.orders.iter().all(|o| o.result == Some(Ok(()))) && self.in_sync_again() {
                    self.phase = Phase::Quiet;
                    self.healed_at = self.now;
                } else if self.now > self.healed_at + ORDER_MAX {
                    let why = self.why_not();
                    return self.violate(format!("orders not carried out: {:?} {why}", self.orders));
                } else {
                    self.repeat_orders();
                }
            }
            Phase::Quiet => {
                let idle = self.hosts.iter().all(Host::idle) && self.arrays.iter().all(|a| a.at_rest());
                if idle {
                    if self.in_sync_again() {
                        self.check_rest();
                        self.check_exports();
                        self.finished = true;
                    }
                } else if self.now > bound {
                    let hosts: String = self.hosts.iter().map(Host::pending).collect();
                    return self.violate(format!("hosts do not finish: {hosts} {}", self.why_not()));
                }
            }
        }
        self.queue.push(self.now + 250 * MS, Event::Rest);
    }

    /// One array stays dead: if the other holds every acknowledged write, and may know it, it must
    /// serve in the end; then the dead one comes back.
    fn wait_for_survivor(&mut self) {
        let Away::Array(dead) = self.away else { return };
        if self.now < self.healed_at + SURVIVOR_MAX {
            return;
        }
        for g in 0..self.plan.groups {
            let survivor = if dead == 0 { Side::B } else { Side::A };
            // A witness of a new life counts only once it is enrolled, which may take both arrays.
            let third = self.witness.incarnation();
            if !self.arrays[1 - dead].objects[g].policy.started {
                continue; // stopped: no automatic failover, by right
            }
            let alone = |c: &Config| c.quorum == Quorum::PrimaryAlone && c.primary != survivor;
            // Both arrays must decide what was agreed beforehand, or may have been (F36); and the enrolment of
            // another witness that was begun while both were in sync.
            let vote = self.arrays[1 - dead].group(g).and_then(|group| group.control.arbiter().vote());
            if self.watch.newest[g].as_ref().is_some_and(alone)
                || vote.is_some_and(|vote| vote.quorum == Quorum::PrimaryAlone || vote.witness != Some(third))
            {
                continue;
            }
            let holds = self.watch.newest[g].is_some_and(|c| c.holds(survivor) && c.witness == Some(third))
                && self.arrays[1 - dead].chosen(g) == self.watch.newest[g];
            if holds && !self.serves(1 - dead, g) && !self.waits_for_memory(1 - dead, g) {
                let why = self.why_not();
                return self.violate(format!("array {} alone does not serve group {g}: {why}", 1 - dead));
            }
        }
        self.away = Away::Nobody;
        self.healed_at = self.now;
        self.start_array(dead);
    }

    pub fn must_serve(&mut self, g: usize) {
        if !self.serves(0, g) && !self.serves(1, g) {
            let why = self.why_not();
            self.violate(format!("nobody serves group {g} although one array must: {why}"));
        }
    }

    pub fn must_lead(&mut self, g: usize, a: usize) {
        if self.watch.newest[g].is_none_or(|newest| newest.primary as usize != a) {
            let why = self.why_not();
            self.violate(format!("array {a} is not the primary of group {g} although it must be: {why}"));
        }
    }

    pub fn must_be_diverged(&mut self, a: usize, g: usize) {
        let view = self.arrays[a].group(g).and_then(|group| group.control.view());
        if view.is_none_or(|view| view.state != GroupState::Diverged) {
            let why = self.why_not();
            self.violate(format!("array {a} does not keep what it wrote alone in group {g}: {why}"));
        }
    }

    pub fn must_progress(&mut self, g: usize) {
        let last = self.hosts.iter().map(|h| h.last_completed[g]).max().unwrap_or(0);
        if last + PROGRESS_MAX < self.now {
            let why = self.why_not();
            self.violate(format!("no host got anything done for group {g} since {} ms: {why}", last / MS));
        }
    }

    pub fn serves(&self, a: usize, g: usize) -> bool {
        let gate = &self.watch.gates[a][g];
        self.arrays[a].alive && gate.may_start(self.arrays[a].clocks.now(self.now))
    }

    /// With nothing wrong, a switchover or a hand over must succeed (T14, T18).
    fn begin_exercise(&mut self) {
        self.phase = Phase::Exercise;
        let command = match self.rng.below(4) {
            0 => Command::SwitchOver,
            1 => Command::HandOver,
            _ => return,
        };
        for group in 0..self.plan.groups {
            let order = Order { group, command, array: 0, ticket: 0, boot: 0, result: None };
            self.orders.push(order);
        }
        self.repeat_orders();
    }

    fn repeat_orders(&mut self) {
        for i in 0..self.orders.len() {
            let Order { group, command, result, ticket, array, boot } = self.orders[i];
            let lost = self.arrays[array].boot != boot && result.is_none();
            if ticket != 0 && !matches!(result, Some(Err(_))) && !lost {
                continue;
            }
            let Some(primary) = self.watch.newest[group].map(|c| c.primary as usize) else { continue };
            if !self.arrays[primary].alive {
                continue;
            }
            self.orders[i].array = primary;
            self.orders[i].result = None;
            self.orders[i].boot = self.arrays[primary].boot;
            let ticket = u64::from(self.new_token());
            self.orders[i].ticket = ticket;
            self.tell(primary, group, twinlun::group::Event::Command { ticket, command });
        }
    }

    pub fn command_ended(&mut self, a: usize, ticket: u64, result: Result<(), Refused>) {
        self.override_ended(a, ticket, result.is_ok());
        self.members_held(a, ticket, result);
        for order in &mut self.orders {
            if order.array == a && order.ticket == ticket {
                order.result = Some(result);
            }
        }
    }

    /// Both arrays hold the same configuration, in sync, and one serves.
    fn in_sync_again(&self) -> bool {
        (0..self.plan.groups).all(|g| {
            let chosen = [0, 1].map(|a| self.arrays[a].chosen(g));
            self.arrays.iter().all(|a| a.alive)
                && chosen[0] == chosen[1]
                && chosen[0].is_some_and(|c| c.in_sync == InSync::Both)
                && (self.serves(0, g) || self.serves(1, g))
                // An array that came back without its memory is about to be dropped.
                && (0..2).all(|a| !self.proposes(a, g))
        })
    }

    fn proposes(&self, a: usize, g: usize) -> bool {
        self.arrays[a].group(g).is_some_and(|group| group.control.arbiter().proposing())
    }

    fn why_not(&self) -> String {
        let mut text = String::new();
        for g in 0..self.plan.groups {
            for a in 0..2 {
                text.push_str(&format!(
                    "\n   [array {a} group {g} alive {} chosen {:?} gate {:?} {}] ",
                    self.arrays[a].alive,
                    self.arrays[a].chosen(g).map(|c| crate::invariants::brief(&c)),
                    self.watch.gates[a][g],
                    self.arrays[a].explain(g)
                ));
            }
        }
        text
    }
}
