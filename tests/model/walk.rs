//! Long random walks: further than any exploration, finer in time, two groups at once. A walk that ends in
//! a violation is made short: what is not needed for it is left out of its list of actions.

use twinlun::arbitration::{Timers, Transition};
use twinlun::time::Duration;

use crate::heal;
use crate::scenario::{Left, Scenario, Start};
use crate::world::{Action, Violation, World};

/// What walks are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Everything but overrides.
    Plain,
    /// Operators override, whether or not the other array is off.
    Erring,
    /// Arrays lose their past and are enrolled.
    Forgetting,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Erring, Self::Forgetting];
}

/// What a number of walks have seen, so that it is known that they went somewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Walked {
    pub walks: u64,
    pub steps: u64,
    pub changes: u64,
    pub served: u64,
    pub healed: u64,
}

/// A violation, the walk that led to it and what is left of that.
#[derive(Clone, Debug)]
pub struct Found {
    pub seed: u64,
    pub violation: Violation,
    pub steps: usize,
    pub short: Vec<Action>,
    pub scenario: Scenario,
}

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

fn scenario(kind: Kind, seed: u64, chance: &mut Chance) -> Scenario {
    let few = Left {
        passes: 255,
        wishes: 1,
        cuts: 1,
        losses: 1,
        crashes: 1,
        offs: 1,
        pauses: 1,
        ..Left::default()
    };
    let left = Left { witness_restarts: 1, witness_losses: 1, twins: 1, ..few };
    let left = match kind {
        Kind::Plain => left,
        Kind::Erring => Left { overrides: 2, ..left },
        Kind::Forgetting => Left { forgotten: 1, ..left },
    };
    let mut rate = || 992 + chance.below(17) as u64;
    Scenario {
        name: "walk",
        groups: 2,
        timers: Timers {
            witness_lost_after: Duration::from_secs(2),
            start_wait: Duration::from_secs(6),
            ..Timers::default()
        },
        quantum: Duration::from_millis(10),
        rates: [rate(), rate(), rate(), rate()],
        slow_disks: true,
        questions_max: 8,
        rounds_max: u64::MAX,
        changes_max: u64::MAX >> 8,
        start: Start::InSync,
        left,
        wishes: &[],
        true_word: kind != Kind::Erring,
        heal_one_in: 0,
        states_max: 0,
        endless: true,
        full: true,
        late: true,
        seed,
    }
}

fn draw(world: &World, s: &Scenario, chance: &mut Chance) -> Action {
    let at = chance.below(2);
    let g = chance.below(s.groups as u64);
    match chance.below(1000) {
        0..450 => {
            let (pipe, end) = (chance.below(5), chance.below(2));
            if chance.one_in(200) { Action::Lose(pipe, end) } else { Action::Deliver(pipe, end) }
        }
        450..620 => Action::Written(chance.below(4)),
        620..760 => Action::Tick(at),
        760..900 => {
            Action::Pass(if chance.one_in(40) { 400 } else { 6 } * (1 + chance.below(100) as u16) / 100 + 1)
        }
        900..940 => Action::Connect(if chance.one_in(6) { 3 + at } else { chance.below(3) }),
        940..948 => Action::Cut(chance.below(5)),
        948..982 => {
            use Transition::{Drop, HandOver, Join, PreElect, Promote, ReEnrol, SwitchOver};
            let Some(arbiter) = world.members[g][at].arbiter() else { return Action::Tick(at) };
            let both = arbiter.chosen().in_sync == twinlun::arbitration::InSync::Both;
            let wishes: &[Option<Transition>] = match (arbiter.is_primary(), both) {
                (true, true) => {
                    &[None, Some(Drop), Some(SwitchOver), Some(HandOver), Some(ReEnrol), Some(PreElect)]
                }
                (true, false) => &[Some(Join), Some(Join), Some(ReEnrol)],
                (false, _) => &[Some(Promote), Some(Promote), None],
            };
            Action::Wish(g, at, wishes[chance.below(wishes.len() as u64)])
        }
        982..987 => Action::Crash(at),
        987..989 => {
            if chance.one_in(2) {
                Action::Off(at)
            } else {
                Action::Pause(at)
            }
        }
        989..993 => Action::On(at),
        993 => Action::Stall(at, chance.one_in(2)),
        994 | 995 => match chance.below(12) {
            0 => Action::WitnessBlank,
            1 => Action::WitnessRestored,
            2 => Action::TwinBlank,
            3 => Action::TwinRestored,
            4 => Action::Backup,
            _ => Action::WitnessContinues,
        },
        996 => Action::Override(g, at, chance.one_in(2)),
        997 => {
            if chance.one_in(3) {
                Action::EndOverride(g, at)
            } else {
                Action::Enrol(g, at)
            }
        }
        998 => {
            if chance.one_in(4) {
                Action::Forget(at)
            } else {
                Action::Enrol(g, at)
            }
        }
        _ => Action::Enrol(g, at),
    }
}

/// One walk of so many steps, healed at its end.
fn one(kind: Kind, seed: u64, steps: u64, walked: &mut Walked) -> Result<(), Found> {
    let mut chance = Chance(seed ^ ((kind as u64) << 56));
    let s = scenario(kind, seed, &mut chance);
    let mut world = World::start(&s);
    let mut done = Vec::new();
    let mut end = Ok(());
    for _ in 0..steps {
        let action = draw(&world, &s, &mut chance);
        let before = world.facts.chosen.last().copied();
        match world.apply(&s, action) {
            Ok(false) => continue,
            Ok(true) => done.push(action),
            Err(violation) => {
                done.push(action);
                end = Err(violation);
                break;
            }
        }
        walked.steps += 1;
        walked.changes += u64::from(world.facts.chosen.last().copied() != before);
        walked.served += (0..s.groups).filter(|&g| world.serves(g, 0) || world.serves(g, 1)).count() as u64;
    }
    if end.is_ok() && kind != Kind::Erring {
        walked.healed += 1;
        end = heal::heal(&s, &world);
    }
    walked.walks += 1;
    end.map_err(|violation| {
        let short = shorten(&s, &done, &violation);
        Found { seed, violation, steps: done.len(), short, scenario: s }
    })
}

/// Walks until something is found.
pub fn walk(kind: Kind, seeds: std::ops::Range<u64>, steps: u64) -> (Walked, Option<Found>) {
    let mut walked = Walked::default();
    for seed in seeds {
        if let Err(found) = one(kind, seed, steps, &mut walked) {
            return (walked, Some(found));
        }
    }
    (walked, None)
}

/// What of a violation stays the same however it comes about.
fn kind_of(violation: &Violation) -> &str {
    let end = violation.0.find([':', '0', '1', '2']).unwrap_or(violation.0.len());
    &violation.0[..end]
}

/// Does this list lead to a violation of that kind? Actions that cannot happen are passed over. Gives the
/// length up to it.
fn leads_to(s: &Scenario, actions: &[Action], kind: &str) -> Option<usize> {
    let mut world = World::start(s);
    for (at, &action) in actions.iter().enumerate() {
        if let Err(violation) = world.apply(s, action) {
            return (kind_of(&violation) == kind).then_some(at + 1);
        }
    }
    let unhealed = heal::heal(s, &world).err().filter(|_| s.true_word);
    unhealed.filter(|violation| kind_of(violation) == kind).map(|_| actions.len())
}

/// A list from which nothing can be left out (delta debugging, Zeller 1999).
pub fn shorten(s: &Scenario, actions: &[Action], violation: &Violation) -> Vec<Action> {
    let kind = kind_of(violation);
    let mut kept = actions.to_vec();
    if leads_to(s, &kept, kind).is_none() {
        return kept;
    }
    let mut size = kept.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut smaller = false;
        while at < kept.len() {
            let mut without = kept.clone();
            without.drain(at..(at + size).min(kept.len()));
            if let Some(length) = leads_to(s, &without, kind) {
                without.truncate(length);
                kept = without;
                smaller = true;
            } else {
                at += size;
            }
        }
        if size == 1 && !smaller {
            break;
        }
        if size > 1 {
            size = size.div_ceil(2);
        }
    }
    // What is left and did not happen either.
    let mut world = World::start(s);
    kept.retain(|&action| !matches!(world.apply(s, action), Ok(false)));
    kept
}
