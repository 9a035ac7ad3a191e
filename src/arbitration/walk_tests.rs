//! A random walk over two arbiters and the witness: loss, restarts, frozen processes, clocks that
//! run at different rates, every transition wanted at random. After each step: at most one array
//! may serve, an epoch has one configuration, and only a copy in sync took office.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::mutation::{self, Mutation};
use crate::time::{Now, Time};

const GROUP: GroupId = GroupId([7; 16]);

pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The ends of a connection; queues run both ways.
struct Pipe {
    id: Connection,
    ends: [usize; 2],
    /// What travels to each end.
    to: [VecDeque<Vec<Message>>; 2],
}

struct Node {
    side: Side,
    arbiter: Arbiter,
    disk: VoterRecord,
    writing: VecDeque<(u64, VoterRecord)>,
    rate: u64,
    origin: u64,
}

pub(super) const WITNESS: usize = 2;
/// A second witness machine, alive beside the first (rule 12).
pub(super) const TWIN: usize = 3;

/// What the second witness has of its own.
struct Twin {
    core: WitnessCore,
    disk: WitnessImage,
    writing: VecDeque<(u64, WitnessImage)>,
}

pub(super) struct World {
    rng: Rng,
    /// True time in nanoseconds.
    time: u64,
    nodes: Vec<Node>,
    witness: WitnessCore,
    witness_disk: WitnessImage,
    witness_writing: VecDeque<(u64, WitnessImage)>,
    old_image: WitnessImage,
    twin: Option<Twin>,
    incarnations: u8,
    pipes: Vec<Pipe>,
    connections: u64,
    /// Cut links, by pair of ends.
    cut: [bool; 3],
    /// Does not count the link as alive although it carries messages.
    deaf: [bool; 2],
    /// Operators override, whether or not the other array is off.
    operators: bool,
    /// Nothing is left to chance.
    scripted: bool,
    epochs: BTreeMap<(u32, Epoch), Config>,
    changes: u64,
    served: u64,
    trace: Vec<String>,
}

fn link(a: usize, b: usize) -> usize {
    a + b - 1 // (0,1) -> 0, (0,2) -> 1, (1,2) -> 2
}

/// A witness is lost soon.
fn timers() -> Timers {
    Timers { witness_lost_after: crate::time::Duration::from_secs(2), ..Timers::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let timers = timers();
        let first = Incarnation([1; 16]);
        let config = Config::genesis(Side::A, 99, Some(first));
        let record = VoterRecord::new(config);
        let nodes = [Side::A, Side::B]
            .into_iter()
            .map(|side| Node {
                side,
                arbiter: Arbiter::new(side, GROUP, timers, record, false, rng.next()),
                disk: record,
                writing: VecDeque::new(),
                rate: 992 + rng.below(17),
                origin: rng.below(1 << 40),
            })
            .collect();
        let image = WitnessImage {
            incarnation: first,
            sequence: 1,
            groups: BTreeMap::new(),
            owners: OwnerMap::new(),
        };
        let mut none = Vec::new();
        let now = Now { grantor: Time(1 << 41), holder: Time(1 << 41) };
        let witness = WitnessCore::start(timers, Some(image.clone()), true, first, now, &mut none);
        let mut world = Self {
            rng,
            time: 0,
            nodes,
            witness,
            witness_disk: image.clone(),
            witness_writing: VecDeque::new(),
            old_image: image,
            twin: None,
            incarnations: 1,
            pipes: Vec::new(),
            connections: 0,
            cut: [false; 3],
            deaf: [false; 2],
            operators: false,
            scripted: false,
            epochs: BTreeMap::from([((1, Epoch(1)), config)]),
            changes: 0,
            served: 0,
            trace: Vec::new(),
        };
        for at in 0..2 {
            let now = world.now(at);
            let mut out = Vec::new();
            world.nodes[at].arbiter.begin(MemoryId::default(), now, &mut out);
            world.carry_out(at, out);
        }
        world
    }

    fn now(&self, at: usize) -> Now {
        let (rate, origin) =
            if at >= WITNESS { (1000, 1 << 41) } else { (self.nodes[at].rate, self.nodes[at].origin) };
        let time = Time(origin + self.time / 1000 * rate);
        Now { grantor: time, holder: time }
    }

    fn note(&mut self, what: String) {
        if self.trace.len() >= 120 {
            self.trace.remove(0);
        }
        self.trace.push(format!("{:>9} us  {what}", self.time / 1000));
    }

    fn carry_out(&mut self, at: usize, out: Vec<ArbiterAction>) {
        for action in out {
            match action {
                ArbiterAction::Persist { sequence, record } => {
                    self.nodes[at].writing.push_back((sequence, record));
                }
                ArbiterAction::Send { connection, message, .. } => self.send(at, connection, vec![message]),
                ArbiterAction::Learned { new, .. } => {
                    self.note(format!("{} learns {new:?}", self.nodes[at].side));
                    self.note_chosen(new);
                }
                ArbiterAction::Proposed { transition, round } => {
                    self.note(format!("{} proposes {transition:?} round {round}", self.nodes[at].side));
                }
                ArbiterAction::Split => {
                    assert!(
                        self.scripted || self.operators,
                        "split brain without overrides\n{}",
                        self.trace.join("\n")
                    );
                }
                ArbiterAction::Refused { .. } | ArbiterAction::Removed => {}
            }
        }
    }

    fn note_chosen(&mut self, new: Config) {
        let lineage = new.lineage.counter;
        if self.epochs.get(&(lineage, new.epoch)).is_some_and(|known| known.lineage.id != new.lineage.id) {
            assert!(self.scripted || self.operators, "two overrides of nobody\n{}", self.trace.join("\n"));
            return;
        }
        let known = *self.epochs.entry((lineage, new.epoch)).or_insert(new);
        assert_eq!(known, new, "two configurations of one epoch\n{}", self.trace.join("\n"));
        self.changes += 1;
        if let Some(before) = self.epochs.get(&(lineage, Epoch(new.epoch.0 - 1)))
            && before.primary != new.primary
        {
            assert!(before.holds(new.primary), "rule 4: a stale copy took office\n{}", self.trace.join("\n"));
        }
    }

    fn send(&mut self, from: usize, connection: Connection, batch: Vec<Message>) {
        if let Some(pipe) = self.pipes.iter_mut().find(|pipe| pipe.id == connection) {
            let other = usize::from(pipe.ends[0] == from);
            pipe.to[other].push_back(batch);
        }
    }

    /// A second witness begins beside the first, with its state of some time ago or with none.
    fn start_twin(&mut self, image: Option<WitnessImage>) {
        self.incarnations += 1;
        let fresh = Incarnation([self.incarnations; 16]);
        let (now, mut out) = (self.now(TWIN), Vec::new());
        let core = WitnessCore::start(timers(), image, false, fresh, now, &mut out);
        self.twin = Some(Twin { disk: core.image(), core, writing: VecDeque::new() });
        self.as_twin(|world| world.carry_out_witness(out));
    }

    /// What is done to the first witness is done to the second.
    fn as_twin(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(mut twin) = self.twin.take() else { return };
        let swap = |world: &mut Self, twin: &mut Twin| {
            core::mem::swap(&mut world.witness, &mut twin.core);
            core::mem::swap(&mut world.witness_disk, &mut twin.disk);
            core::mem::swap(&mut world.witness_writing, &mut twin.writing);
        };
        swap(self, &mut twin);
        act(self);
        swap(self, &mut twin);
        self.twin = Some(twin);
    }

    fn voter(&self, of: usize) -> Voter {
        if of >= WITNESS { Voter::Witness } else { Voter::Array(self.nodes[of].side) }
    }

    fn connect(&mut self, a: usize, b: usize) {
        if self.cut[link(a, b.min(WITNESS))] || self.pipes.iter().any(|pipe| pipe.ends == [a, b]) {
            return;
        }
        // An array talks to one witness.
        let other = if b == WITNESS { TWIN } else { WITNESS };
        if b >= WITNESS
            && let Some(old) = self.pipes.iter().position(|pipe| pipe.ends == [a, other])
        {
            self.disconnect(old);
        }
        self.connections += 1;
        let id = Connection(self.connections);
        self.pipes.push(Pipe { id, ends: [a, b], to: [VecDeque::new(), VecDeque::new()] });
        for (me, other) in [(a, b), (b, a)] {
            if me < WITNESS {
                let (voter, now) = (self.voter(other), self.now(me));
                let mut out = Vec::new();
                self.nodes[me].arbiter.connected(voter, id, now, &mut out);
                self.carry_out(me, out);
            }
        }
    }

    fn disconnect(&mut self, at: usize) {
        let pipe = self.pipes.swap_remove(at);
        for (me, other) in [(pipe.ends[0], pipe.ends[1]), (pipe.ends[1], pipe.ends[0])] {
            if me < WITNESS {
                let voter = self.voter(other);
                self.nodes[me].arbiter.disconnected(voter);
            }
        }
    }

    fn deliver(&mut self, pipe: usize, end: usize) {
        let Some(batch) = self.pipes[pipe].to[end].pop_front() else { return };
        let connection = self.pipes[pipe].id;
        let [a, b] = self.pipes[pipe].ends;
        let (to, from) = if end == 0 { (a, b) } else { (b, a) };
        let now = self.now(to);
        self.note(format!("{} -> {}: {:?}", self.name(from), self.name(to), batch[0].body));
        if to >= WITNESS {
            let side = self.nodes[from].side;
            let receive = |world: &mut Self| {
                let mut out = Vec::new();
                world.witness.receive(&Caller::of(side), connection, &batch, now, &mut out);
                world.carry_out_witness(out);
            };
            if to == TWIN { self.as_twin(receive) } else { receive(self) }
        } else {
            let from = self.voter(from);
            for message in batch {
                let mut out = Vec::new();
                self.refresh(to);
                self.nodes[to].arbiter.receive(from, connection, &message, now, &mut out);
                self.carry_out(to, out);
            }
        }
    }

    fn name(&self, at: usize) -> &'static str {
        ["A", "B", "W", "W'"][at]
    }

    fn carry_out_witness(&mut self, out: Vec<WitnessAction>) {
        for action in out {
            match action {
                WitnessAction::Persist { sequence, .. } => {
                    self.witness_writing.push_back((sequence, self.witness.image()));
                }
                WitnessAction::Reply { connection, messages } => self.send(WITNESS, connection, messages),
            }
        }
    }

    /// What `group::Control` would say: wishes change at random, the rest follows.
    fn refresh(&mut self, at: usize) {
        let connected = self.pipes.iter().any(|pipe| pipe.ends == [0, 1]);
        let scripted = self.scripted;
        let node = &mut self.nodes[at];
        let mut env = Environment {
            primary_lost: !connected || self.deaf[at],
            session_closed: true,
            join_ready: true,
            may_hand_over: connected,
            peer_lost_witness: connected,
            ..node.arbiter.env
        };
        if !scripted && self.rng.one_in(20) {
            // Liveness may be wrong: one direction lost, a slow peer.
            self.deaf[at] = self.rng.one_in(3);
            use Transition::{Drop, HandOver, Join, PreElect, Promote, ReEnrol, SwitchOver};
            let primary = node.arbiter.is_primary();
            let both = node.arbiter.chosen().in_sync == InSync::Both;
            let wishes: &[Option<Transition>] = match (primary, both) {
                (true, true) => {
                    &[None, Some(Drop), Some(SwitchOver), Some(HandOver), Some(ReEnrol), Some(PreElect)]
                }
                (true, false) => &[Some(Join), Some(Join), Some(ReEnrol)],
                (false, _) => &[Some(Promote)],
            };
            let count = u64::try_from(wishes.len()).unwrap();
            env.intent = wishes[usize::try_from(self.rng.below(count)).unwrap()];
            env.holding = matches!(env.intent, Some(SwitchOver | HandOver));
            env.drained = env.holding;
        }
        node.arbiter.set_environment(env);
    }

    fn tick(&mut self, at: usize) {
        let now = self.now(at);
        let mut out = Vec::new();
        self.refresh(at);
        self.nodes[at].arbiter.tick(now, &mut out);
        self.carry_out(at, out);
    }

    fn write_over(&mut self, at: usize) {
        if at == TWIN {
            self.as_twin(|world| world.write_over(WITNESS));
        } else if at == WITNESS {
            if let Some((sequence, image)) = self.witness_writing.pop_front() {
                self.witness_disk = image;
                let mut out = Vec::new();
                self.witness.persisted(sequence, &mut out);
                self.carry_out_witness(out);
            }
        } else if let Some((sequence, record)) = self.nodes[at].writing.pop_front() {
            self.nodes[at].disk = record;
            let now = self.now(at);
            let mut out = Vec::new();
            self.refresh(at);
            self.nodes[at].arbiter.persisted(sequence, now, &mut out);
            self.carry_out(at, out);
        }
    }

    fn restart(&mut self, at: usize) {
        while let Some(pipe) = self.pipes.iter().position(|pipe| pipe.ends.contains(&at)) {
            self.disconnect(pipe);
        }
        let timers = timers();
        if at != WITNESS {
            self.note(format!("{} restarts with {:?}", self.name(at), self.nodes[at].disk));
            let seed = self.rng.next();
            let node = &mut self.nodes[at];
            node.writing.clear();
            node.origin += 1 << 50;
            node.arbiter = Arbiter::new(node.side, GROUP, timers, node.disk, true, seed);
            let now = self.now(at);
            let mut out = Vec::new();
            self.nodes[at].arbiter.begin(MemoryId::default(), now, &mut out);
            return self.carry_out(at, out);
        }
        self.incarnations += 1;
        let fresh = Incarnation([self.incarnations; 16]);
        let (image, continued) = match self.rng.below(4) {
            0 => (None, false),
            1 => (Some(self.old_image.clone()), false),
            _ => (Some(self.witness_disk.clone()), true),
        };
        self.note(format!("W restarts, continued: {continued}"));
        self.witness_writing.clear();
        let now = self.now(WITNESS);
        let mut out = Vec::new();
        self.witness = WitnessCore::start(timers, image, continued, fresh, now, &mut out);
        self.carry_out_witness(out);
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..40 => {
                let count = u64::try_from(self.pipes.len()).unwrap();
                if count != 0 {
                    let pipe = usize::try_from(self.rng.below(count)).unwrap();
                    let end = usize::try_from(self.rng.below(2)).unwrap();
                    self.deliver(pipe, end);
                }
            }
            40..60 => {
                let at = usize::try_from(self.rng.below(4)).unwrap();
                self.write_over(at);
            }
            60..75 => {
                let at = usize::try_from(self.rng.below(2)).unwrap();
                self.tick(at);
            }
            75..92 => {
                let longest = if self.rng.one_in(40) { 4_000_000_000 } else { 60_000_000 };
                self.time += self.rng.below(longest);
            }
            92..97 => {
                let ends = [(0, 1), (0, WITNESS), (1, WITNESS), (0, TWIN), (1, TWIN)];
                let choices = if self.twin.is_some() { 5 } else { 3 };
                let (a, b) = ends[usize::try_from(self.rng.below(choices)).unwrap()];
                self.connect(a, b);
            }
            97 => {
                if self.rng.one_in(3) {
                    let count = u64::try_from(self.pipes.len()).unwrap();
                    if count != 0 {
                        let pipe = usize::try_from(self.rng.below(count)).unwrap();
                        self.note("a connection breaks".into());
                        self.disconnect(pipe);
                    }
                }
            }
            98 => {
                let at = usize::try_from(self.rng.below(3)).unwrap();
                self.cut[at] = self.rng.one_in(2);
                let broken =
                    self.pipes.iter().position(|pipe| link(pipe.ends[0], pipe.ends[1].min(WITNESS)) == at);
                if let Some(pipe) = broken.filter(|_| self.cut[at]) {
                    self.note(format!("link {at} is cut"));
                    self.disconnect(pipe);
                }
            }
            _ => {
                if self.operators && self.rng.one_in(3) {
                    let at = usize::try_from(self.rng.below(2)).unwrap();
                    let (now, stale) = (self.now(at), self.rng.one_in(2));
                    self.note(format!("override on {}, stale {stale}", self.name(at)));
                    let arbiter = &mut self.nodes[at].arbiter;
                    if arbiter.is_overriding() {
                        arbiter.end_override()
                    } else {
                        arbiter.begin_override(stale, now)
                    }
                } else if self.rng.one_in(5) {
                    let at = usize::try_from(self.rng.below(4).min(2)).unwrap();
                    self.restart(at);
                } else if self.twin.is_none() && self.rng.one_in(30) {
                    let image = self.rng.one_in(2).then(|| self.old_image.clone());
                    self.start_twin(image);
                } else if self.rng.one_in(8) {
                    self.old_image = self.witness_disk.clone();
                }
            }
        }
        self.check();
    }

    fn serving(&self) -> Vec<Side> {
        (0..2)
            .filter(|&at| {
                let node = &self.nodes[at];
                let end = node.arbiter.serves_until();
                end.is_some_and(|end| self.now(at).holder < end)
            })
            .map(|at| self.nodes[at].side)
            .collect()
    }

    fn check(&mut self) {
        let serving = self.serving();
        self.served += u64::try_from(serving.len()).unwrap();
        // Where no promise protects, an override rests on the operator's word alone (T15): against an
        // array that needs no lease, and where the enrolled witness was not asked.
        let [a, b] = [0, 1].map(|at| &self.nodes[at].arbiter);
        let lineage = |arbiter: &Arbiter| arbiter.chosen().lineage.counter;
        let (older, newer) = if lineage(a) < lineage(b) { (a, b) } else { (b, a) };
        let word = self.operators && a.chosen().lineage != b.chosen().lineage && {
            let begun = |config: &&Config| config.lineage == newer.chosen().lineage;
            let first = self.epochs.values().find(begun);
            older.needs_no_lease() || first.is_none_or(|first| first.witness != older.chosen().witness)
        };
        assert!(word || serving.len() < 2, "two arrays serve\n{}", self.trace.join("\n"));
    }
}

/// What a walk has seen, so that it is known to have gone somewhere.
#[derive(Debug, Default)]
struct Walked {
    changes: u64,
    served: u64,
    pre_elected: usize,
    overridden: usize,
}

/// Walks `walks` times `steps`; panics at the first violation.
fn walk(first_seed: u64, walks: u64, steps: u64) -> Walked {
    walk_with(first_seed, walks, steps, false)
}

fn walk_with(first_seed: u64, walks: u64, steps: u64, operators: bool) -> Walked {
    let mut walked = Walked::default();
    for seed in first_seed..first_seed + walks {
        let mut world = World::new(seed);
        world.operators = operators;
        for _ in 0..steps {
            world.step();
        }
        walked.changes += world.changes;
        walked.served += world.served;
        let lineages = world.epochs.keys().map(|(lineage, _)| *lineage).collect::<BTreeSet<_>>();
        walked.overridden += lineages.len() - 1;
        walked.pre_elected += world.epochs.values().filter(|c| c.quorum == Quorum::PrimaryAlone).count();
    }
    walked
}

#[test]
fn at_most_one_array_serves_whatever_happens() {
    let walked = walk(1, 120, 4000);
    assert!(walked.changes > 500, "the walk stands still: {walked:?}");
    assert!(walked.served > 100_000, "hardly ever does anybody serve, in 480000 steps: {walked:?}");
    assert!(walked.pre_elected > 20, "hardly ever is anything agreed beforehand: {walked:?}");
}

#[test]
fn an_override_breaks_no_promise_whoever_orders_it() {
    let walked = walk_with(1, 120, 4000, true);
    assert!(walked.changes > 500, "the walk stands still: {walked:?}");
    assert!(walked.overridden > 50, "hardly any override comes about: {walked:?}");
}

#[cfg(feature = "testing")]
mod broken {
    use super::*;

    /// Some 20 s each at the worst.
    const SEEDS_MAX: u64 = 3000;

    /// With the rule broken the walk finds two arrays that serve, or two configurations.
    fn is_found(broken: Mutation) {
        is_found_by(broken, false);
    }

    fn is_found_by(broken: Mutation, operators: bool) {
        let hook = std::panic::take_hook();
        let found = std::thread::spawn(move || {
            mutation::set(Some(broken));
            for seed in 0..SEEDS_MAX {
                let one = std::panic::catch_unwind(|| walk_with(seed, 1, 4000, operators));
                if one.is_err() {
                    return Some(seed);
                }
            }
            None
        });
        let found = found.join().unwrap();
        std::panic::set_hook(hook);
        assert!(found.is_some(), "{broken:?} changes nothing that the walk sees");
        println!("{broken:?} found at seed {found:?}");
    }

    #[test]
    fn grant_after_vote() {
        is_found(Mutation::T2GrantAfterVote);
    }
    #[test]
    fn own_vote_ignores_promise() {
        is_found(Mutation::T2OwnVoteIgnoresPromise);
    }
    #[test]
    fn restored_keeps_incarnation() {
        is_found(Mutation::T6RestoredKeepsIncarnation);
    }
    #[test]
    fn promise_forgotten() {
        is_found(Mutation::T19PromiseForgotten);
    }
    #[test]
    fn lease_from_receipt() {
        is_found(Mutation::R1LeaseFromReceipt);
    }
    #[test]
    fn pre_elect_decides_itself() {
        is_found(Mutation::T1PreElectDecidesItself);
    }
    #[test]
    fn override_ignores_promises() {
        is_found_by(Mutation::T15OverrideIgnoresPromises, true);
    }
    #[test]
    fn stale_copy_promoted() {
        is_found(Mutation::R4StaleCopyPromoted);
    }
}

#[path = "trace_tests.rs"]
mod traces;
