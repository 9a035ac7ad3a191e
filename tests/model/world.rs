//! Two arrays, up to two witnesses and what connects them, made of the daemon's own cores. A state is
//! a value; an [`Action`] makes the next one of it.
//!
//! The clocks of every process always show [`BASE`]: when time passes, everything a process remembers
//! grows older instead (`arbitration::Rebase`). Parts that an action does not touch are shared.

use std::collections::VecDeque;
use std::rc::Rc;

use twinlun::arbitration::{
    Arbiter, ArbiterAction, Body, Caller, Config, Connection, Environment, GroupId, InSync, Incarnation,
    MemoryId, Message, Rebase, Side, Transition, Voter, VoterRecord, WitnessAction, WitnessCore,
    WitnessImage,
};
use twinlun::group::may_hold_more;
use twinlun::mutation::{self, Mutation};
use twinlun::time::{Now, Time};

use crate::scenario::{Left, Scenario, Start};

/// What every clock shows. A multiple of every renewal period in use.
pub const BASE: Time = Time::from_millis(1_000_500);
const NOW: Now = Now { grantor: BASE, holder: BASE };

pub const WITNESS: usize = 2;
pub const TWIN: usize = 3;

/// The ends of each connection.
pub const PIPES: [[usize; 2]; 5] = [[0, 1], [0, WITNESS], [1, WITNESS], [0, TWIN], [1, TWIN]];

/// The incarnation of the witness at the start.
const FIRST: Incarnation = Incarnation([0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);

/// Configurations that a long walk remembers.
const KNOWN_MAX: usize = 64;

const NAMES: [&str; 4] = ["A", "B", "W", "W'"];

/// What a run did that the rules forbid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Process {
    Runs(Arbiter),
    /// Switched off.
    Off,
    /// Without votes and copy: takes no part until it is enrolled (rule 18).
    Absent,
}

/// One array's part in one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub process: Process,
    pub disk: VoterRecord,
    pub writing: VecDeque<(u64, VoterRecord)>,
    pub env: Environment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Witness {
    pub core: WitnessCore,
    pub disk: WitnessImage,
    pub writing: VecDeque<(u64, WitnessImage)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pipe {
    pub up: bool,
    /// Connections made here so far.
    pub made: u16,
    /// What travels to each end.
    pub to: [VecDeque<Vec<Message>>; 2],
}

/// What nobody in the run need know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    pub left: Left,
    /// Incarnations of witnesses so far.
    pub incarnations: u16,
    /// What was chosen for each epoch of each group.
    pub chosen: Vec<(usize, Config)>,
    /// The group was split by two overrides.
    pub split: bool,
}

#[derive(Clone, Debug)]
pub struct World {
    /// By group, then by side.
    pub members: Vec<[Rc<Member>; 2]>,
    pub witnesses: [Option<Rc<Witness>>; 2],
    /// A backup of the witness's state.
    pub backup: Rc<WitnessImage>,
    pub pipes: [Rc<Pipe>; 5],
    pub facts: Rc<Facts>,
    /// A proposal went beyond the bound on rounds.
    pub beyond: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The next batch of `pipe` to its end arrives.
    Deliver(usize, usize),
    Lose(usize, usize),
    /// The next write of a process is over.
    Written(usize),
    /// An array looks at its timers.
    Tick(usize),
    /// So many steps of time pass.
    Pass(u16),
    /// A step passes; this array's CLOCK_MONOTONIC stands still.
    Pause(usize),
    Connect(usize),
    Cut(usize),
    Crash(usize),
    Off(usize),
    On(usize),
    WitnessContinues,
    WitnessBlank,
    WitnessRestored,
    TwinBlank,
    TwinRestored,
    Backup,
    Wish(usize, usize, Option<Transition>),
    Stall(usize, bool),
    Override(usize, usize, bool),
    EndOverride(usize, usize),
    Forget(usize),
    Enrol(usize, usize),
}

pub const fn group_id(g: usize) -> GroupId {
    GroupId([7 + g as u8; 16])
}

pub const fn side(at: usize) -> Side {
    if at == 0 { Side::A } else { Side::B }
}

const fn voter(at: usize) -> Voter {
    if at < WITNESS { Voter::Array(side(at)) } else { Voter::Witness }
}

fn question(body: &mut Body) -> Option<&mut u64> {
    match body {
        Body::Ask { number, .. } | Body::Read { number } => Some(number),
        _ => None,
    }
}

fn answer(body: &mut Body) -> Option<&mut u64> {
    match body {
        Body::Granted { number, .. } | Body::NotGranted { number, .. } | Body::State { number, .. } => {
            Some(number)
        }
        _ => None,
    }
}

/// Messages that one action makes, before they are put into the pipes.
type Outgoing = Vec<(usize, usize, Message)>;

impl Member {
    pub const fn arbiter(&self) -> Option<&Arbiter> {
        if let Process::Runs(arbiter) = &self.process { Some(arbiter) } else { None }
    }
}

impl World {
    /// The start of a scenario, by the protocol's own steps.
    pub fn start(s: &Scenario) -> Self {
        let first = FIRST;
        let none = std::collections::BTreeMap::new();
        let image =
            WitnessImage { incarnation: first, sequence: 1, groups: none, owners: Default::default() };
        let core = WitnessCore::start(s.timers, Some(image.clone()), true, first, NOW, &mut Vec::new());
        let configs = (0..s.groups).map(|g| Config::genesis(side(g % 2), 99 + g as u64, Some(first)));
        let configs: Vec<Config> = configs.collect();
        let member = |g: usize, at: usize| {
            let disk = VoterRecord::new(configs[g]);
            let arbiter = Arbiter::new(side(at), group_id(g), s.timers, disk, false, s.seed * 2 + at as u64);
            let env = Environment::default();
            Rc::new(Member { process: Process::Runs(arbiter), disk, writing: VecDeque::new(), env })
        };
        let plenty = Left { cuts: 9, wishes: 9, passes: 255, ..Left::default() };
        let mut world = Self {
            members: (0..s.groups).map(|g| [member(g, 0), member(g, 1)]).collect(),
            witnesses: [Some(Rc::new(Witness { core, disk: image.clone(), writing: VecDeque::new() })), None],
            backup: Rc::new(image),
            pipes: std::array::from_fn(|_| Rc::new(Pipe::default())),
            facts: Rc::new(Facts {
                left: plenty,
                incarnations: 1,
                chosen: configs.iter().copied().enumerate().collect(),
                split: false,
            }),
            beyond: false,
        };
        for at in 0..2 {
            let mut out = Vec::new();
            for g in 0..s.groups {
                world
                    .act(s, g, at, &mut out, |arbiter, out| arbiter.begin(MemoryId::default(), NOW, out))
                    .unwrap();
            }
            world.put(s, out);
        }
        for pipe in 0..3 {
            world.must(s, Action::Connect(pipe));
        }
        world.settle_down(s, 4);
        if s.start != Start::Alone {
            for g in 0..s.groups {
                world.must(s, Action::Wish(g, g % 2, Some(Transition::Join)));
            }
            world.settle_down(s, 2);
        }
        if s.start == Start::PreElected {
            world.must(s, Action::Cut(1));
            world.must(s, Action::Cut(2));
            world.settle_down(s, 4);
            for g in 0..s.groups {
                world.must(s, Action::Wish(g, g % 2, Some(Transition::PreElect)));
            }
            world.settle_down(s, 2);
        }
        let facts = Rc::make_mut(&mut world.facts);
        facts.left = s.left;
        facts.chosen = (0..s.groups)
            .map(|g| (g, world.members[g][0].arbiter().expect("nobody is off yet").chosen()))
            .collect();
        world.backup = Rc::new(world.witnesses[0].as_ref().expect("made above").core.image());
        for pipe in &mut world.pipes {
            Rc::make_mut(pipe).made = 0;
        }
        // Numbers of connections begin again with those in use.
        for pipe in 0..3 {
            if world.pipes[pipe].up {
                let made = 1;
                Rc::make_mut(&mut world.pipes[pipe]).made = made;
                let mut out = Vec::new();
                let ends = PIPES[pipe];
                for (me, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
                    if me < WITNESS {
                        for g in 0..s.groups {
                            let connection = world.connection(pipe);
                            world
                                .act(s, g, me, &mut out, |arbiter, out| {
                                    arbiter.connected(voter(other), connection, NOW, out);
                                })
                                .unwrap();
                        }
                    }
                }
                world.put(s, out);
            }
        }
        world.settle_down(s, 1);
        world
    }

    fn must(&mut self, s: &Scenario, action: Action) {
        assert_eq!(self.apply(s, action), Ok(true), "{action:?} at the start of {}", s.name);
    }

    /// Time passes; everything arrives.
    fn settle_down(&mut self, s: &Scenario, steps: usize) {
        self.quiet(s).unwrap();
        let step = (5_000_000_000 / s.quantum.as_nanos().max(1)).max(1);
        for _ in 0..steps {
            for _ in 0..step {
                self.must(s, Action::Pass(1));
                for at in 0..2 {
                    self.must(s, Action::Tick(at));
                }
                self.quiet(s).unwrap();
            }
        }
    }

    /// Everything under way arrives and is written.
    pub fn quiet(&mut self, s: &Scenario) -> Result<(), Violation> {
        for _ in 0..10_000 {
            let pending = (0..5).flat_map(|pipe| [(pipe, 0), (pipe, 1)]);
            let mut pending = pending.filter(|&(pipe, end)| !self.pipes[pipe].to[end].is_empty());
            if let Some((pipe, end)) = pending.next() {
                self.apply(s, Action::Deliver(pipe, end))?;
            } else if let Some(at) = (0..4).find(|&at| self.writes(at)) {
                self.apply(s, Action::Written(at))?;
            } else {
                return Ok(());
            }
        }
        Err(Violation("the talk never ends".into()))
    }

    pub fn writes(&self, at: usize) -> bool {
        if at < WITNESS {
            self.members.iter().any(|group| !group[at].writing.is_empty())
        } else {
            self.witnesses[at - WITNESS].as_ref().is_some_and(|witness| !witness.writing.is_empty())
        }
    }

    pub fn connection(&self, pipe: usize) -> Connection {
        Connection(pipe as u64 * 100_000 + u64::from(self.pipes[pipe].made))
    }

    fn rebase(&self, s: &Scenario, at: usize, now: Now) -> Rebase {
        let left = &self.facts.left;
        let drawn = u64::from(s.left.overrides.saturating_sub(left.overrides));
        let lives = u64::from(s.left.crashes.saturating_sub(left.crashes));
        let offs = u64::from(s.left.offs.saturating_sub(left.offs));
        let random = (!s.keeps_chance()).then_some(at as u64 + drawn * 2 + lives * 64 + offs * 512);
        let grain = if s.keeps_chance() { twinlun::time::Duration::ZERO } else { s.grain() };
        Rebase { now, to: BASE, grain, random, silence: s.full }
    }

    /// Something happens to an arbiter: what it causes is carried out, and messages are gathered.
    fn act(
        &mut self,
        s: &Scenario,
        g: usize,
        at: usize,
        outgoing: &mut Outgoing,
        event: impl FnOnce(&mut Arbiter, &mut Vec<ArbiterAction>),
    ) -> Result<(), Violation> {
        let rebase = self.rebase(s, at, NOW);
        let mut learned = Vec::new();
        let mut split = false;
        let member = Rc::make_mut(&mut self.members[g][at]);
        let Process::Runs(arbiter) = &mut member.process else { return Ok(()) };
        arbiter.set_environment(member.env);
        let mut out = Vec::new();
        event(arbiter, &mut out);
        loop {
            for action in std::mem::take(&mut out) {
                match action {
                    ArbiterAction::Persist { sequence, record } => {
                        member.writing.push_back((sequence, record))
                    }
                    ArbiterAction::Send { to, message, connection } => {
                        let pipe = match to {
                            Voter::Array(_) => 0,
                            Voter::Witness => (connection.0 / 100_000) as usize,
                        };
                        outgoing.push((pipe, at, message));
                    }
                    ArbiterAction::Learned { old, new } => {
                        learned.push((old, new));
                        // Control looks anew.
                        let stalled = member.env.stalled;
                        member.env = Environment {
                            intent: None,
                            holding: false,
                            drained: false,
                            stalled,
                            ..member.env
                        };
                        arbiter.set_environment(member.env);
                    }
                    ArbiterAction::Proposed { round, .. } => self.beyond |= round > s.rounds_max,
                    ArbiterAction::Split => split = true,
                    ArbiterAction::Refused { .. } | ArbiterAction::Removed => {}
                }
            }
            if s.slow_disks {
                break;
            }
            let Some((sequence, record)) = member.writing.pop_front() else { break };
            member.disk = record;
            arbiter.persisted(sequence, NOW, &mut out);
        }
        let written = arbiter.rebase(&rebase);
        for (sequence, _) in &mut member.writing {
            *sequence -= written;
        }
        for (old, new) in learned {
            self.note_chosen(s, g, &old, new)?;
        }
        if split {
            if s.left.overrides < 2 {
                return Err(Violation("a split without two overrides".into()));
            }
            Rc::make_mut(&mut self.facts).split = true;
        }
        Ok(())
    }

    /// A configuration is known to be committed.
    fn note_chosen(&mut self, s: &Scenario, g: usize, old: &Config, new: Config) -> Result<(), Violation> {
        if new.chain_cmp(old) != Some(std::cmp::Ordering::Greater) {
            return Err(Violation(format!("the chain goes back: {old:?}, then {new:?}")));
        }
        let same_place = |known: &&(usize, Config)| {
            known.0 == g && known.1.lineage.counter == new.lineage.counter && known.1.epoch == new.epoch
        };
        if let Some((_, known)) = self.facts.chosen.iter().find(same_place) {
            if known.lineage.id != new.lineage.id && s.left.overrides > 1 {
                return Ok(());
            }
            if *known != new {
                return Err(Violation(format!("two configurations of one epoch: {known:?} and {new:?}")));
            }
            return Ok(());
        }
        let before = self.facts.chosen.iter().map(|(of, config)| (*of, config)).find(|(of, config)| {
            *of == g && config.lineage == new.lineage && config.epoch.0 + 1 == new.epoch.0
        });
        if let Some((_, before)) = before
            && before.primary != new.primary
            && !before.holds(new.primary)
        {
            return Err(Violation(format!("a stale copy takes office: {before:?}, then {new:?}")));
        }
        Rc::make_mut(&mut self.facts).chosen.push((g, new));
        if self.facts.chosen.len() > KNOWN_MAX {
            Rc::make_mut(&mut self.facts).chosen.remove(0);
        }
        if !s.endless {
            Rc::make_mut(&mut self.facts)
                .chosen
                .sort_by_key(|(g, c)| (*g, c.lineage.counter, c.epoch, c.lineage.id));
        }
        Ok(())
    }

    /// Puts messages on their way: to a witness all of one act in one batch, to arrays one by one.
    fn put(&mut self, s: &Scenario, outgoing: Outgoing) {
        let mut batches: Vec<(usize, Vec<Message>)> = Vec::new();
        for (pipe, from, message) in outgoing {
            let end = usize::from(PIPES[pipe][0] == from);
            let read = matches!(message.body, Body::Read { .. });
            let questions = || self.questions_under_way(pipe, end, message.group);
            let asks = question(&mut message.body.clone()).is_some();
            if !self.pipes[pipe].up || (read && !s.full) || (asks && questions() >= s.questions_max) {
                continue;
            }
            if pipe == 0 {
                Rc::make_mut(&mut self.pipes[0]).to[end].push_back(vec![message]);
            } else if let Some((_, batch)) = batches.iter_mut().find(|(of, _)| *of == pipe) {
                batch.push(message);
            } else {
                batches.push((pipe, vec![message]));
            }
        }
        for (pipe, batch) in batches {
            Rc::make_mut(&mut self.pipes[pipe]).to[1].push_back(batch);
        }
    }

    /// Questions that go to `end` of a connection, and answers to such that come back.
    fn questions_under_way(&self, pipe: usize, end: usize, group: GroupId) -> usize {
        let count = |end: usize, of: fn(&mut Body) -> Option<&mut u64>| {
            let messages = self.pipes[pipe].to[end].iter().flatten().filter(|m| m.group == group);
            messages.filter(|m| of(&mut m.body.clone()).is_some_and(|number| *number != 0)).count()
        };
        count(end, question) + count(1 - end, answer)
    }

    fn witness_acts(
        &mut self,
        s: &Scenario,
        at: usize,
        event: impl FnOnce(&mut WitnessCore, &mut Vec<WitnessAction>),
    ) {
        let rebase = self.rebase(s, at, NOW);
        let Some(witness) = &mut self.witnesses[at - WITNESS] else { return };
        let witness = Rc::make_mut(witness);
        let mut out = Vec::new();
        let mut replies = Vec::new();
        event(&mut witness.core, &mut out);
        loop {
            for action in std::mem::take(&mut out) {
                match action {
                    WitnessAction::Persist { sequence, .. } => {
                        witness.writing.push_back((sequence, witness.core.image()));
                    }
                    WitnessAction::Reply { connection, messages } => replies.push((connection, messages)),
                }
            }
            if s.slow_disks {
                break;
            }
            let Some((sequence, image)) = witness.writing.pop_front() else { break };
            witness.disk = image;
            witness.core.persisted(sequence, &mut out);
        }
        let written = witness.core.rebase(&rebase);
        for (sequence, image) in &mut witness.writing {
            *sequence -= written;
            image.sequence = 0;
        }
        witness.disk.sequence = 0;
        for (connection, messages) in replies {
            let pipe = (connection.0 / 100_000) as usize;
            if self.pipes[pipe].up && self.connection(pipe) == connection {
                Rc::make_mut(&mut self.pipes[pipe]).to[0].push_back(messages);
            }
        }
    }

    fn start_witness(&mut self, s: &Scenario, at: usize, image: Option<WitnessImage>, continued: bool) {
        for pipe in 0..5 {
            if PIPES[pipe].contains(&at) {
                self.disconnect(s, pipe);
            }
        }
        let facts = Rc::make_mut(&mut self.facts);
        facts.incarnations += u16::from(!continued);
        let mut fresh = [facts.incarnations as u8; 16];
        fresh[0] = (facts.incarnations >> 8) as u8;
        let fresh = Incarnation(fresh);
        let mut out = Vec::new();
        let core = WitnessCore::start(s.timers, image, continued, fresh, NOW, &mut out);
        let disk = core.image();
        self.witnesses[at - WITNESS] = Some(Rc::new(Witness { core, disk, writing: VecDeque::new() }));
        self.witness_acts(s, at, |_, actions| actions.extend(out));
    }

    fn disconnect(&mut self, s: &Scenario, pipe: usize) {
        if !self.pipes[pipe].up {
            return;
        }
        let state = Rc::make_mut(&mut self.pipes[pipe]);
        state.up = false;
        state.to = [VecDeque::new(), VecDeque::new()];
        let ends = PIPES[pipe];
        for (me, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            if me < WITNESS {
                for g in 0..s.groups {
                    let mut none = Vec::new();
                    self.act(s, g, me, &mut none, |arbiter, _| arbiter.disconnected(voter(other)))
                        .expect("nothing is learned by this");
                }
            }
        }
    }

    fn connect(&mut self, s: &Scenario, pipe: usize) -> Result<(), Violation> {
        let state = Rc::make_mut(&mut self.pipes[pipe]);
        state.up = true;
        state.made += 1;
        let connection = self.connection(pipe);
        let ends = PIPES[pipe];
        for (me, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            if me < WITNESS {
                let mut out = Vec::new();
                for g in 0..s.groups {
                    self.act(s, g, me, &mut out, |arbiter, out| {
                        arbiter.connected(voter(other), connection, NOW, out);
                    })?;
                }
                self.put(s, out);
            }
        }
        Ok(())
    }

    /// An array's process ends; `then` says with what it is left.
    fn end(&mut self, s: &Scenario, at: usize) {
        for pipe in 0..5 {
            if PIPES[pipe].contains(&at) {
                self.disconnect(s, pipe);
            }
        }
        for g in 0..s.groups {
            let member = Rc::make_mut(&mut self.members[g][at]);
            member.writing.clear();
            member.env =
                Environment { stalled: false, intent: None, holding: false, drained: false, ..member.env };
            if member.process != Process::Absent {
                member.process = Process::Off;
            }
        }
    }

    fn begin(
        &mut self,
        s: &Scenario,
        g: usize,
        at: usize,
        record: VoterRecord,
        restarted: bool,
    ) -> Result<(), Violation> {
        let rebase = self.rebase(s, at, NOW);
        let member = Rc::make_mut(&mut self.members[g][at]);
        member.disk = record;
        let seed = rebase.random.unwrap_or_else(|| {
            s.seed * 2
                + at as u64
                + (u64::from(self.pipes[0].made) << 32)
                + (u64::from(self.pipes[1].made) << 48)
        });
        member.process =
            Process::Runs(Arbiter::new(side(at), group_id(g), s.timers, record, restarted, seed));
        let mut out = Vec::new();
        self.act(s, g, at, &mut out, |arbiter, out| arbiter.begin(MemoryId::default(), NOW, out))?;
        self.put(s, out);
        Ok(())
    }

    /// Switched off: it may be without a past in another group, and is not there for that either.
    fn is_off(&self, at: usize) -> bool {
        self.members.iter().any(|group| group[at].process == Process::Off)
    }

    pub fn runs(&self, at: usize) -> bool {
        at >= WITNESS || self.members.iter().any(|group| group[at].arbiter().is_some())
    }

    /// The next state, in place. `Ok(false)`: this cannot happen here.
    pub fn apply(&mut self, s: &Scenario, action: Action) -> Result<bool, Violation> {
        if !self.may(s, action) {
            return Ok(false);
        }
        self.carry_out(s, action)?;
        self.renumber(s);
        if !s.full {
            self.forget_the_idle(s);
        }
        self.check(s)?;
        Ok(true)
    }

    /// The action can happen here.
    pub fn may(&self, s: &Scenario, action: Action) -> bool {
        let left = &self.facts.left;
        match action {
            Action::Deliver(pipe, end) => !self.pipes[pipe].to[end].is_empty(),
            Action::Lose(pipe, end) => left.losses > 0 && !self.pipes[pipe].to[end].is_empty(),
            Action::Written(at) => self.writes(at),
            Action::Tick(at) => self.runs(at),
            Action::Pass(_) => left.passes > 0,
            Action::Pause(at) => left.pauses > 0 && left.passes > 0 && self.runs(at),
            Action::Connect(pipe) => {
                let [a, b] = PIPES[pipe];
                let exists = b < WITNESS || self.witnesses[b - WITNESS].is_some();
                // An array talks to one witness.
                let busy = b >= WITNESS && self.pipes[if b == WITNESS { pipe + 2 } else { pipe - 2 }].up;
                let alive = |at: usize| at >= WITNESS || !self.is_off(at);
                !self.pipes[pipe].up && exists && !busy && alive(a) && alive(b)
            }
            Action::Cut(pipe) => left.cuts > 0 && self.pipes[pipe].up,
            Action::Crash(at) => left.crashes > 0 && self.runs(at),
            Action::Off(at) => left.offs > 0 && self.runs(at) && self.runs(1 - at),
            Action::On(at) => self.is_off(at) && self.runs(1 - at),
            Action::WitnessContinues => left.witness_restarts > 0,
            Action::WitnessBlank | Action::WitnessRestored => left.witness_losses > 0,
            Action::TwinBlank | Action::TwinRestored => left.twins > 0,
            Action::Backup => true,
            Action::Wish(g, at, wish) => {
                left.wishes > 0
                    && self.members[g][at].env.intent != wish
                    && self.members[g][at].arbiter().is_some_and(|arbiter| {
                        wish.is_none_or(|wish| (wish == Transition::Promote) != arbiter.is_primary())
                    })
            }
            Action::Stall(at, on) => self.runs(at) && self.members.iter().any(|m| m[at].env.stalled != on),
            Action::Override(g, at, _) => {
                left.overrides > 0
                    && self.members[g][at].arbiter().is_some_and(|arbiter| !arbiter.is_overriding())
                    && (!s.true_word || self.members[g][1 - at].process == Process::Off)
            }
            Action::EndOverride(g, at) => {
                self.members[g][at].arbiter().is_some_and(|arbiter| arbiter.is_overriding())
            }
            Action::Forget(at) => left.forgotten > 0 && self.runs(at),
            Action::Enrol(g, at) => self.offer(s, g, at).is_some(),
        }
    }

    /// The configuration that the primary may offer to an array without a past (`Control::offer`, but for
    /// what of it concerns sessions: an array that is absent answers none).
    fn offer(&self, _s: &Scenario, g: usize, at: usize) -> Option<Config> {
        if self.members[g][at].process != Process::Absent || !self.pipes[0].up {
            return None;
        }
        let primary = &self.members[g][1 - at];
        let arbiter = primary.arbiter()?;
        let serves = arbiter.serves_until().is_some_and(|end| BASE < end);
        let offered = arbiter.may_enrol_peer()?;
        (serves && arbiter.is_durable() && primary.writing.is_empty()).then_some(offered)
    }

    fn carry_out(&mut self, s: &Scenario, action: Action) -> Result<(), Violation> {
        match action {
            Action::Deliver(pipe, end) => {
                let batch = Rc::make_mut(&mut self.pipes[pipe]).to[end].pop_front().unwrap_or_default();
                let connection = self.connection(pipe);
                let (to, from) = (PIPES[pipe][end], PIPES[pipe][1 - end]);
                if to >= WITNESS {
                    self.witness_acts(s, to, |core, out| {
                        core.receive(&Caller::of(side(from)), connection, &batch, NOW, out)
                    });
                    return Ok(());
                }
                let mut out = Vec::new();
                for message in batch {
                    for g in (0..s.groups).filter(|&g| group_id(g) == message.group) {
                        self.act(s, g, to, &mut out, |arbiter, out| {
                            arbiter.receive(voter(from), connection, &message, NOW, out);
                        })?;
                    }
                }
                self.put(s, out);
            }
            Action::Lose(pipe, end) => {
                self.spend(s, |left| &mut left.losses);
                Rc::make_mut(&mut self.pipes[pipe]).to[end].pop_front();
            }
            Action::Written(at) if at < WITNESS => {
                let mut out = Vec::new();
                for g in 0..s.groups {
                    let member = Rc::make_mut(&mut self.members[g][at]);
                    if let Some((sequence, record)) = member.writing.pop_front() {
                        member.disk = record;
                        self.act(s, g, at, &mut out, |arbiter, out| arbiter.persisted(sequence, NOW, out))?;
                        break;
                    }
                }
                self.put(s, out);
            }
            Action::Written(at) => {
                let Some(witness) = &mut self.witnesses[at - WITNESS] else { return Ok(()) };
                let witness = Rc::make_mut(witness);
                let Some((sequence, image)) = witness.writing.pop_front() else { return Ok(()) };
                witness.disk = image;
                self.witness_acts(s, at, |core, out| core.persisted(sequence, out));
            }
            Action::Tick(at) => {
                let mut out = Vec::new();
                for g in 0..s.groups {
                    self.act(s, g, at, &mut out, |arbiter, out| arbiter.tick(NOW, out))?;
                }
                self.put(s, out);
            }
            Action::Pass(steps) => self.pass(s, u64::from(steps), None),
            Action::Pause(at) => {
                self.spend(s, |left| &mut left.pauses);
                self.pass(s, 1, Some(at));
            }
            Action::Connect(pipe) => self.connect(s, pipe)?,
            Action::Cut(pipe) => {
                self.spend(s, |left| &mut left.cuts);
                self.disconnect(s, pipe);
            }
            Action::Crash(at) => {
                self.spend(s, |left| &mut left.crashes);
                self.end(s, at);
                for g in 0..s.groups {
                    if self.members[g][at].process == Process::Off {
                        self.begin(s, g, at, self.members[g][at].disk, true)?;
                    }
                }
            }
            Action::Off(at) => {
                self.spend(s, |left| &mut left.offs);
                self.end(s, at);
            }
            Action::On(at) => {
                for g in 0..s.groups {
                    if self.members[g][at].process == Process::Off {
                        self.begin(s, g, at, self.members[g][at].disk, true)?;
                    }
                }
                self.connect(s, 0)?;
            }
            Action::WitnessContinues => {
                self.spend(s, |left| &mut left.witness_restarts);
                let disk = self.witnesses[0].as_ref().map(|witness| witness.disk.clone());
                self.start_witness(s, WITNESS, disk, true);
            }
            Action::WitnessBlank | Action::WitnessRestored => {
                self.spend(s, |left| &mut left.witness_losses);
                let image = (action == Action::WitnessRestored).then(|| (*self.backup).clone());
                self.start_witness(s, WITNESS, image, false);
            }
            Action::TwinBlank | Action::TwinRestored => {
                self.spend(s, |left| &mut left.twins);
                let image = (action == Action::TwinRestored).then(|| (*self.backup).clone());
                self.start_witness(s, TWIN, image, false);
            }
            Action::Backup => {
                if let Some(witness) = &self.witnesses[0] {
                    self.backup = Rc::new(witness.disk.clone());
                }
            }
            Action::Wish(g, at, wish) => {
                self.spend(s, |left| &mut left.wishes);
                let member = Rc::make_mut(&mut self.members[g][at]);
                let holding = matches!(wish, Some(Transition::SwitchOver | Transition::HandOver));
                member.env = Environment {
                    intent: wish,
                    holding,
                    drained: holding,
                    // Control may be wrong about all of these at any time.
                    primary_lost: true,
                    may_hand_over: true,
                    join_ready: true,
                    session_closed: true,
                    peer_lost_witness: true,
                    stalled: member.env.stalled,
                    ..Environment::default()
                };
                let mut out = Vec::new();
                self.act(s, g, at, &mut out, |arbiter, out| arbiter.tick(NOW, out))?;
                self.put(s, out);
            }
            Action::Stall(at, on) => {
                for g in 0..s.groups {
                    Rc::make_mut(&mut self.members[g][at]).env.stalled = on;
                    self.act(s, g, at, &mut Vec::new(), |_, _| {})?;
                }
            }
            Action::Override(g, at, stale) => {
                self.spend(s, |left| &mut left.overrides);
                let mut out = Vec::new();
                self.act(s, g, at, &mut out, |arbiter, out| {
                    arbiter.begin_override(stale, NOW);
                    arbiter.tick(NOW, out);
                })?;
                self.put(s, out);
            }
            Action::EndOverride(g, at) => {
                self.act(s, g, at, &mut Vec::new(), |arbiter, _| arbiter.end_override())?;
            }
            Action::Forget(at) => {
                self.spend(s, |left| &mut left.forgotten);
                self.end(s, at);
                for g in 0..s.groups {
                    Rc::make_mut(&mut self.members[g][at]).process = Process::Absent;
                    Rc::make_mut(&mut self.members[g][at]).disk = VoterRecord::blank();
                    if mutation::on(Mutation::R18LostVotesCount) {
                        let first = Config::genesis(side(g % 2), 99 + g as u64, Some(FIRST));
                        self.begin(s, g, at, VoterRecord::new(first), true)?;
                    }
                }
            }
            Action::Enrol(g, at) => {
                let Some(offered) = self.offer(s, g, at) else { return Ok(()) };
                if may_hold_more(self.members[g][at].disk.chosen, &offered) {
                    return Ok(());
                }
                self.begin(s, g, at, VoterRecord::new(offered), true)?;
                let connection = self.connection(0);
                let mut out = Vec::new();
                self.act(s, g, at, &mut out, |arbiter, out| {
                    arbiter.connected(voter(1 - at), connection, NOW, out)
                })?;
                for pipe in 1..5 {
                    if self.pipes[pipe].up && PIPES[pipe][0] == at {
                        let connection = self.connection(pipe);
                        self.act(s, g, at, &mut out, |arbiter, out| {
                            arbiter.connected(Voter::Witness, connection, NOW, out);
                        })?;
                    }
                }
                self.put(s, out);
            }
        }
        Ok(())
    }

    fn spend(&mut self, s: &Scenario, what: impl Fn(&mut Left) -> &mut u8) {
        if !s.endless {
            *what(&mut Rc::make_mut(&mut self.facts).left) -= 1;
        }
    }

    fn pass(&mut self, s: &Scenario, steps: u64, paused: Option<usize>) {
        if self.facts.left.passes != 255 {
            self.spend(s, |left| &mut left.passes);
        }
        let true_time = u64::try_from(s.quantum.as_nanos()).unwrap_or(u64::MAX) * steps;
        for at in 0..4 {
            let span = twinlun::time::Duration::from_nanos(true_time / 1000 * s.rates[at]);
            let grantor = if paused == Some(at) { BASE } else { BASE + span };
            let rebase = self.rebase(s, at, Now { grantor, holder: BASE + span });
            if at >= WITNESS {
                if let Some(witness) = &mut self.witnesses[at - WITNESS] {
                    Rc::make_mut(witness).core.rebase(&rebase);
                }
                continue;
            }
            for group in &mut self.members {
                if group[at].arbiter().is_some()
                    && let Process::Runs(arbiter) = &mut Rc::make_mut(&mut group[at]).process
                {
                    arbiter.rebase(&rebase);
                }
            }
        }
    }

    /// Gives the questions under way the lowest numbers there are, and forgets those that nobody can
    /// answer any more.
    fn renumber(&mut self, s: &Scenario) {
        for at in 0..2 {
            for g in 0..s.groups {
                let Some(arbiter) = self.members[g][at].arbiter() else { continue };
                let questions = arbiter.questions(NOW).filter(|&(.., late)| s.late || !late);
                let questions: Vec<(Voter, u64)> = questions.map(|(of, number, _)| (of, number)).collect();
                let mut pending = Vec::new();
                self.with_numbers(g, at, |of, number| pending.push((of, *number)));
                let kept = |question: &&(Voter, u64)| pending.contains(question);
                let kept: Vec<(Voter, u64)> = questions.iter().filter(kept).copied().collect();
                let in_order = kept.iter().enumerate().all(|(at, (_, number))| at as u64 + 1 == *number);
                let known = pending.iter().all(|one| one.1 == 0 || kept.contains(one));
                if kept.len() == arbiter.questions(NOW).count()
                    && in_order
                    && known
                    && arbiter.numbers_used() == kept.len() as u64
                {
                    continue;
                }
                if let Process::Runs(arbiter) = &mut Rc::make_mut(&mut self.members[g][at]).process {
                    arbiter.renumber(|of, number| kept.contains(&(of, number)));
                }
                self.change_numbers(g, at, |of, number| {
                    let place = kept.iter().position(|one| *one == (of, *number));
                    *number = place.map_or(0, |place| place as u64 + 1);
                });
            }
        }
    }

    /// Messages that change nothing where they arrive: they tell what is known there, and answer nothing.
    fn forget_the_idle(&mut self, s: &Scenario) {
        for (pipe, ends) in PIPES.iter().enumerate() {
            for end in 0..2 {
                if self.pipes[pipe].to[end].is_empty() {
                    continue;
                }
                let to = ends[end];
                let idle = |message: &Message| {
                    let Some(g) = (0..s.groups).find(|&g| group_id(g) == message.group) else { return false };
                    let (known, told) = if to < WITNESS {
                        let Some(arbiter) = self.members[g][to].arbiter() else { return true };
                        let told = ends[1 - end] < WITNESS || arbiter.witness_told() == message.incarnation;
                        (Some(arbiter.chosen()), told && !arbiter.is_split())
                    } else {
                        let witness = self.witnesses[to - WITNESS].as_ref();
                        (witness.and_then(|witness| witness.core.record(message.group)?.chosen), true)
                    };
                    let mut body = message.body;
                    let empty = body == Body::Learn || answer(&mut body).is_some_and(|number| *number == 0);
                    told && empty && known == message.chosen
                };
                if !self.pipes[pipe].to[end].iter().flatten().any(idle) {
                    continue;
                }
                let mut queue = self.pipes[pipe].to[end].clone();
                for batch in &mut queue {
                    batch.retain(|message| !idle(message));
                }
                queue.retain(|batch| !batch.is_empty());
                Rc::make_mut(&mut self.pipes[pipe]).to[end] = queue;
            }
        }
    }

    /// The number of each question of this array and group, and of each answer to one, under way.
    fn with_numbers(&self, g: usize, at: usize, mut look: impl FnMut(Voter, &u64)) {
        for (pipe, ends) in PIPES.iter().enumerate().filter(|(_, ends)| ends.contains(&at)) {
            let mine = usize::from(ends[1] == at);
            let other = voter(ends[1 - mine]);
            for (end, of) in [(mine, true), (1 - mine, false)] {
                for message in self.pipes[pipe].to[end].iter().flatten().filter(|m| m.group == group_id(g)) {
                    let mut body = message.body;
                    let number = if of { answer(&mut body) } else { question(&mut body) };
                    if let Some(number) = number {
                        look(other, number);
                    }
                }
            }
        }
        if let Some(peer) = self.members[g][1 - at].arbiter() {
            for (to, message) in peer.waiting() {
                let mut body = message.body;
                if let Some(number) = answer(&mut body).filter(|_| to == voter(at)) {
                    look(voter(1 - at), number);
                }
            }
        }
        for witness in self.witnesses.iter().flatten() {
            for (connection, message) in witness.core.waiting() {
                let pipe = (connection.0 / 100_000) as usize;
                let mut body = message.body;
                if PIPES[pipe][0] == at
                    && message.group == group_id(g)
                    && let Some(number) = answer(&mut body)
                {
                    look(Voter::Witness, number);
                }
            }
        }
    }

    fn change_numbers(&mut self, g: usize, at: usize, mut change: impl FnMut(Voter, &mut u64)) {
        for (pipe, ends) in PIPES.iter().enumerate().filter(|(_, ends)| ends.contains(&at)) {
            let mine = usize::from(ends[1] == at);
            let other = voter(ends[1 - mine]);
            if self.pipes[pipe].to.iter().all(VecDeque::is_empty) {
                continue;
            }
            let state = Rc::make_mut(&mut self.pipes[pipe]);
            for (end, of) in [(mine, true), (1 - mine, false)] {
                for message in state.to[end].iter_mut().flatten().filter(|m| m.group == group_id(g)) {
                    let number = if of { answer(&mut message.body) } else { question(&mut message.body) };
                    if let Some(number) = number {
                        change(other, number);
                    }
                }
            }
        }
        if self.members[g][1 - at].arbiter().is_some_and(|peer| peer.waiting().next().is_some())
            && let Process::Runs(peer) = &mut Rc::make_mut(&mut self.members[g][1 - at]).process
        {
            for (to, message) in peer.waiting_mut() {
                if to == voter(at)
                    && let Some(number) = answer(&mut message.body)
                {
                    change(voter(1 - at), number);
                }
            }
        }
        for witness in self.witnesses.iter_mut().flatten() {
            if witness.core.waiting().next().is_none() {
                continue;
            }
            for (connection, message) in Rc::make_mut(witness).core.waiting_mut() {
                let pipe = (connection.0 / 100_000) as usize;
                if PIPES[pipe][0] == at
                    && message.group == group_id(g)
                    && let Some(number) = answer(&mut message.body)
                {
                    change(Voter::Witness, number);
                }
            }
        }
    }

    pub fn serves(&self, g: usize, at: usize) -> bool {
        let arbiter = self.members[g][at].arbiter();
        arbiter.and_then(Arbiter::serves_until).is_some_and(|end| BASE < end)
    }

    /// Rule 1, at this instant.
    fn check(&self, s: &Scenario) -> Result<(), Violation> {
        for g in 0..s.groups {
            if !(self.serves(g, 0) && self.serves(g, 1)) || self.rests_on_the_word(s, g) {
                continue;
            }
            return Err(Violation(format!("two arrays serve group {g}")));
        }
        Ok(())
    }

    /// An operator who errs: against an array that needs no lease, and where the enrolled witness was not
    /// asked, an override rests on his word alone (T15).
    fn rests_on_the_word(&self, s: &Scenario, g: usize) -> bool {
        let [Some(a), Some(b)] = [0, 1].map(|at| self.members[g][at].arbiter()) else { return false };
        if s.true_word || a.chosen().lineage == b.chosen().lineage {
            return false;
        }
        let (older, newer) =
            if a.chosen().lineage.counter < b.chosen().lineage.counter { (a, b) } else { (b, a) };
        let first = self.facts.chosen.iter().find(|(of, c)| *of == g && c.lineage == newer.chosen().lineage);
        older.needs_no_lease() || first.is_none_or(|(_, first)| first.witness != older.chosen().witness)
    }

    /// Further than the scenario looks.
    pub fn out_of_bounds(&self, s: &Scenario) -> bool {
        self.beyond || self.facts.chosen.len() > s.groups * (1 + s.changes_max as usize)
    }

    /// Everything that may happen next, in a fixed order.
    pub fn actions(&self, s: &Scenario, into: &mut Vec<Action>) {
        into.clear();
        let both = [0, 1];
        for pipe in 0..5 {
            for end in both {
                into.extend([Action::Deliver(pipe, end), Action::Lose(pipe, end)]);
            }
            into.extend([Action::Connect(pipe), Action::Cut(pipe)]);
        }
        into.extend((0..4).map(Action::Written));
        for at in both {
            into.extend([
                Action::Tick(at),
                Action::Pause(at),
                Action::Crash(at),
                Action::Off(at),
                Action::On(at),
                Action::Forget(at),
            ]);
        }
        into.push(Action::Pass(1));
        into.extend([Action::WitnessContinues, Action::WitnessBlank, Action::WitnessRestored]);
        into.extend([Action::TwinBlank, Action::TwinRestored]);
        for g in 0..s.groups {
            for &(side, wish) in s.wishes {
                into.push(Action::Wish(g, usize::from(side == Side::B), wish));
            }
            for at in both {
                into.extend([Action::Override(g, at, true), Action::Enrol(g, at)]);
                if !s.true_word {
                    into.push(Action::EndOverride(g, at));
                }
            }
        }
        into.retain(|&action| self.may(s, action));
    }

    /// The action in words, as of before it happens.
    pub fn describe(&self, action: Action) -> String {
        match action {
            Action::Deliver(pipe, end) | Action::Lose(pipe, end) => {
                let (to, from) = (PIPES[pipe][end], PIPES[pipe][1 - end]);
                let bodies: Vec<String> = self.pipes[pipe].to[end]
                    .front()
                    .into_iter()
                    .flatten()
                    .map(|message| format!("{:?}", message.body))
                    .collect();
                let lost = if matches!(action, Action::Lose(..)) { "lost: " } else { "" };
                format!("{lost}{} -> {}: {}", NAMES[from], NAMES[to], bodies.join(", "))
            }
            Action::Written(at) => format!("{} has written", NAMES[at]),
            Action::Tick(at) => format!("{} looks at its timers", NAMES[at]),
            Action::Pass(steps) => format!("{steps} step(s) of time pass"),
            Action::Connect(pipe) | Action::Cut(pipe) => {
                let [a, b] = PIPES[pipe].map(|at| NAMES[at]);
                let what = if matches!(action, Action::Cut(_)) { "is cut" } else { "is up" };
                format!("{a}-{b} {what}")
            }
            Action::Wish(g, at, wish) => format!("{} wants {wish:?} of group {g}", NAMES[at]),
            Action::Pause(at) => format!("time passes, {} is paused", NAMES[at]),
            Action::Crash(at) => format!("{} begins again from its disk", NAMES[at]),
            Action::Off(at) => format!("{} is switched off", NAMES[at]),
            Action::On(at) => format!("{} is switched on, linked", NAMES[at]),
            Action::Forget(at) => format!("{} loses its data_dir and its copy", NAMES[at]),
            Action::Enrol(g, at) => format!("{} is enrolled in group {g}", NAMES[at]),
            Action::Override(g, at, stale) => {
                format!("override of group {g} on {}, stale {stale}", NAMES[at])
            }
            other => format!("{other:?}"),
        }
    }

    /// In one line: who is what.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for (g, group) in self.members.iter().enumerate() {
            for (at, member) in group.iter().enumerate() {
                let Some(arbiter) = member.arbiter() else { continue };
                let c = arbiter.chosen();
                let both = if c.in_sync == InSync::Both { "{A,B}" } else { "alone" };
                let vote = arbiter.vote().map_or(String::new(), |v| {
                    format!(" votes {} {:?} {:?}", v.primary, v.in_sync, v.quorum)
                });
                let serves = if self.serves(g, at) { " serves" } else { "" };
                text += &format!(
                    " {}: {}.{} {} {both} {:?}{vote}{serves};",
                    NAMES[at], c.lineage.counter, c.epoch.0, c.primary, c.quorum
                );
            }
        }
        text
    }
}
