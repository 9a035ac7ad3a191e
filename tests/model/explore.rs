//! Every state that can be reached, breadth first: the first way found to a violation is a shortest one.
//!
//! A state is kept as the numbers of its parts. Each part (an array's core, a connection with what it
//! carries) is kept once, however many states have it, and compared as a whole: no state is taken for
//! another by a hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use crate::heal;
use crate::scenario::Scenario;
use crate::world::{Action, Violation, World};

/// A fast hash for values of many small fields (FxHash's step). It finds buckets; equality decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(5) ^ n).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

/// Each different value once, under a number.
#[derive(Debug)]
struct Parts<T> {
    numbers: HashMap<Rc<T>, u32, BuildHasherDefault<Mix>>,
    values: Vec<Rc<T>>,
}

impl<T: Eq + Hash> Parts<T> {
    fn new() -> Self {
        Self { numbers: HashMap::default(), values: Vec::new() }
    }

    /// `value` becomes the one that is shared.
    fn number(&mut self, value: &Rc<T>) -> u32 {
        if let Some(&number) = self.numbers.get(value) {
            return number;
        }
        let number = u32::try_from(self.values.len()).expect("fewer parts than states");
        self.values.push(Rc::clone(value));
        self.numbers.insert(Rc::clone(value), number);
        number
    }
}

/// Members of at most two groups, two witnesses, five connections, the facts.
const WORDS: usize = 12;
type Key = [u32; WORDS];
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
struct Store {
    members: Parts<crate::world::Member>,
    witnesses: Parts<crate::world::Witness>,
    pipes: Parts<crate::world::Pipe>,
    facts: Parts<crate::world::Facts>,
    states: Vec<Key>,
    /// By state: the one it was first reached from, and the place of the action there.
    reached: Vec<(u32, u16)>,
    /// Open addressing into `states`.
    table: Vec<u32>,
}

impl Store {
    fn new() -> Self {
        Self {
            members: Parts::new(),
            witnesses: Parts::new(),
            pipes: Parts::new(),
            facts: Parts::new(),
            states: Vec::new(),
            reached: Vec::new(),
            table: vec![NOBODY; 1 << 16],
        }
    }

    /// `before`: the state this one was made of, and its key; parts still shared need no look.
    fn key(&mut self, world: &World, before: Option<(&World, &Key)>) -> Key {
        let mut key = [NOBODY; WORDS];
        let members = world.members.iter().flatten();
        let old_members = before.map(|(w, _)| w.members.iter().flatten().collect::<Vec<_>>());
        for (at, member) in members.enumerate() {
            key[at] = match (&old_members, before) {
                (Some(old), Some((_, key))) if Rc::ptr_eq(old[at], member) => key[at],
                _ => self.members.number(member),
            };
        }
        for (at, witness) in world.witnesses.iter().enumerate() {
            let Some(witness) = witness else { continue };
            key[4 + at] = match before {
                Some((w, key)) if w.witnesses[at].as_ref().is_some_and(|old| Rc::ptr_eq(old, witness)) => {
                    key[4 + at]
                }
                _ => self.witnesses.number(witness),
            };
        }
        for (at, pipe) in world.pipes.iter().enumerate() {
            key[6 + at] = match before {
                Some((w, key)) if Rc::ptr_eq(&w.pipes[at], pipe) => key[6 + at],
                _ => self.pipes.number(pipe),
            };
        }
        key[11] = match before {
            Some((w, key)) if Rc::ptr_eq(&w.facts, &world.facts) => key[11],
            _ => self.facts.number(&world.facts),
        };
        key
    }

    fn world(&self, key: &Key, like: &World) -> World {
        let mut at = 0;
        let mut member = || {
            at += 1;
            Rc::clone(&self.members.values[key[at - 1] as usize])
        };
        World {
            members: like.members.iter().map(|_| [member(), member()]).collect(),
            witnesses: std::array::from_fn(|at| {
                let number = key[4 + at];
                (number != NOBODY).then(|| Rc::clone(&self.witnesses.values[number as usize]))
            }),
            backup: Rc::clone(&like.backup),
            pipes: std::array::from_fn(|at| Rc::clone(&self.pipes.values[key[6 + at] as usize])),
            facts: Rc::clone(&self.facts.values[key[11] as usize]),
            beyond: false,
        }
    }

    fn bucket(&self, key: &Key) -> usize {
        let mut hasher = Mix::default();
        for &word in key {
            hasher.write_u32(word);
        }
        // The multiplication leaves the best bits on top.
        (hasher.finish() >> 16) as usize & (self.table.len() - 1)
    }

    /// True: it is new.
    fn add(&mut self, key: Key, reached: (u32, u16)) -> bool {
        let mut at = self.bucket(&key);
        while self.table[at] != NOBODY {
            if self.states[self.table[at] as usize] == key {
                return false;
            }
            at = (at + 1) & (self.table.len() - 1);
        }
        self.table[at] = u32::try_from(self.states.len()).expect("states_max fits");
        self.states.push(key);
        self.reached.push(reached);
        if self.states.len() * 3 > self.table.len() * 2 {
            self.grow();
        }
        true
    }

    fn grow(&mut self) {
        self.table = vec![NOBODY; self.table.len() * 2];
        for (number, key) in self.states.iter().enumerate() {
            let mut at = self.bucket(key);
            while self.table[at] != NOBODY {
                at = (at + 1) & (self.table.len() - 1);
            }
            self.table[at] = number as u32;
        }
    }

    /// The actions that lead to a state.
    fn path(&self, s: &Scenario, start: &World, mut state: u32) -> Vec<Action> {
        let mut places = Vec::new();
        while state != 0 {
            let (from, place) = self.reached[state as usize];
            places.push(place);
            state = from;
        }
        let mut world = start.clone();
        let mut actions = Vec::new();
        let mut path = Vec::new();
        for place in places.into_iter().rev() {
            world.actions(s, &mut actions);
            let action = actions[place as usize];
            path.push(action);
            world.apply(s, action).expect("it went well before");
        }
        path
    }
}

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Explored {
    pub states: usize,
    pub transitions: u64,
    /// Longest of the shortest ways to a state.
    pub depth: u32,
    /// States whose successors are not followed, for they are beyond the bounds on rounds and changes.
    pub at_bounds: u64,
    pub healed: u64,
    pub seconds: f64,
    /// All states within the bounds were seen.
    pub complete: bool,
    pub violation: Option<(Violation, Vec<Action>)>,
}

/// Looks at every state of the scenario until a violation is found.
pub fn explore(s: &Scenario) -> Explored {
    let began = Instant::now();
    let start = World::start(s);
    let mut store = Store::new();
    let key = store.key(&start, None);
    store.add(key, (0, 0));
    let mut report = Explored {
        states: 0,
        transitions: 0,
        depth: 0,
        at_bounds: 0,
        healed: 0,
        seconds: 0.0,
        complete: true,
        violation: None,
    };
    let mut actions = Vec::new();
    let mut number = 0;
    let mut layer_end = 1;
    'all: while number < store.states.len() {
        if number == layer_end {
            report.depth += 1;
            layer_end = store.states.len();
        }
        let key = store.states[number];
        let world = store.world(&key, &start);
        if s.heal_one_in != 0 && (number as u64).is_multiple_of(s.heal_one_in) {
            report.healed += 1;
            if let Err(violation) = heal::heal(s, &world) {
                report.violation = Some((violation, store.path(s, &start, number as u32)));
                break;
            }
        }
        world.actions(s, &mut actions);
        for (place, &action) in actions.iter().enumerate() {
            let mut next = world.clone();
            report.transitions += 1;
            match next.apply(s, action) {
                Ok(_) => {}
                Err(violation) => {
                    let mut path = store.path(s, &start, number as u32);
                    path.push(action);
                    report.violation = Some((violation, path));
                    break 'all;
                }
            }
            if next.out_of_bounds(s) {
                report.at_bounds += 1;
                continue;
            }
            let key = store.key(&next, Some((&world, &key)));
            let place = u16::try_from(place).expect("a handful of actions");
            store.add(key, (number as u32, place));
        }
        number += 1;
        if store.states.len() > s.states_max {
            report.complete = false;
            break;
        }
    }
    report.states = store.states.len();
    report.seconds = began.elapsed().as_secs_f64();
    report
}

/// The run in words, one line for each step.
pub fn tell(s: &Scenario, path: &[Action]) -> String {
    let mut world = World::start(s);
    let mut text = format!("{:>4} {}\n", "", world.summary());
    for (step, &action) in path.iter().enumerate() {
        text += &format!("{:>4}  {}\n", step + 1, world.describe(action));
        let before = world.summary();
        let result = world.apply(s, action);
        if world.summary() != before {
            text += &format!("      {}\n", world.summary());
        }
        if let Err(Violation(what)) = result {
            text += &format!("      {what}\n");
        }
    }
    text
}
