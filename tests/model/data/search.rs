//! Breadth first, so that the first trace found is a shortest one.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::scenario::Scenario;
use super::world::{Step, World};
use twinlun::mirror::canonical::Canonical;

/// One state in so many is healed, and every one that nothing leads on from.
const HEALED: u128 = 32;

#[derive(Debug, Default)]
pub struct Explored {
    pub states: usize,
    pub transitions: u64,
    pub depth: u32,
    pub healed: usize,
    pub took: Duration,
    /// States left over because of the limit.
    pub unfinished: bool,
    pub violation: Option<(String, Vec<Step>)>,
}

struct Known {
    parent: u32,
    step: Step,
    depth: u32,
}

/// Explores every state, or until `limit` of them are known, or a rule is seen to be broken.
pub fn explore(scenario: &'static Scenario, limit: usize) -> Explored {
    let began = Instant::now();
    let mut canonical = Canonical::default();
    let mut found = Explored::default();
    let root = World::new(scenario);
    let mut seen: HashMap<u128, ()> = HashMap::from([(root.digest(&mut canonical), ())]);
    let mut known = vec![Known { parent: 0, step: Step::Isolate, depth: 0 }];
    let mut open = VecDeque::from([(0_u32, root)]);
    let mut steps = Vec::new();
    while let Some((number, world)) = open.pop_front() {
        steps.clear();
        world.steps(&mut steps);
        let depth = known[number as usize].depth + 1;
        let mut ends = true;
        let own = world.digest(&mut canonical);
        for &step in &steps {
            let mut next = world.clone();
            if !next.take(step) {
                continue;
            }
            found.transitions += 1;
            let digest = next.digest(&mut canonical);
            ends &= digest == own;
            let fresh = next.violation.is_some() || seen.insert(digest, ()).is_none();
            if !fresh {
                continue;
            }
            known.push(Known { parent: number, step, depth });
            found.depth = depth;
            next.check();
            if next.violation.is_none() && next.rests() {
                next.check_rest();
            }
            if next.violation.is_none() && digest % HEALED == 0 {
                next.violation = healed(&next, &mut found);
            }
            let at = u32::try_from(known.len() - 1).unwrap();
            if let Some(what) = next.violation {
                found.violation = Some((what, trace(&known, at)));
                open.clear();
                break;
            }
            open.push_back((at, next));
        }
        if ends && found.violation.is_none() {
            found.violation = healed(&world, &mut found).map(|what| (what, trace(&known, number)));
            if found.violation.is_some() {
                break;
            }
        }
        if known.len() >= limit && !open.is_empty() {
            found.unfinished = true;
            break;
        }
    }
    found.states = known.len();
    found.took = began.elapsed();
    found
}

fn healed(world: &World, found: &mut Explored) -> Option<String> {
    found.healed += 1;
    let mut world = world.clone();
    world.heal();
    world.violation.map(|what| format!("when healed: {what}"))
}

fn trace(known: &[Known], mut at: u32) -> Vec<Step> {
    let mut steps = Vec::new();
    while at != 0 {
        steps.push(known[at as usize].step);
        at = known[at as usize].parent;
    }
    steps.reverse();
    steps
}
