//! When nothing fails any more the group must be served again, and mirrored.

use std::rc::Rc;

use twinlun::arbitration::{Environment, InSync, Quorum, Transition};

use crate::scenario::{Left, Scenario};
use crate::world::{Action, Process, Violation, World};

/// Steps of half a lease; the longest wait is for two promises, one after the other, and what follows.
const STEPS: u64 = 24;

/// From here on everything works. A violation if that does not lead to a group in order.
pub fn heal(s: &Scenario, from: &World) -> Result<(), Violation> {
    if from.facts.split {
        return Ok(()); // the operator has to end it
    }
    let mut world = from.clone();
    let s = &Scenario { full: true, late: true, questions_max: 8, ..s.clone() };
    Rc::make_mut(&mut world.facts).left = Left { cuts: 200, wishes: 200, passes: 255, ..Left::default() };
    let half_lease = s.timers.lease.as_nanos() / 2;
    let per_step = u64::try_from(half_lease / s.quantum.as_nanos().max(1)).unwrap_or(1).max(1);
    // The second witness machine is switched off.
    for pipe in [3, 4] {
        world.apply(s, Action::Cut(pipe))?;
    }
    for _ in 0..STEPS * per_step {
        for at in 0..2 {
            world.apply(s, Action::Stall(at, false))?;
            world.apply(s, Action::On(at))?;
            for g in 0..s.groups {
                world.apply(s, Action::EndOverride(g, at))?;
                world.apply(s, Action::Enrol(g, at))?;
            }
        }
        for pipe in 0..3 {
            world.apply(s, Action::Connect(pipe))?;
        }
        world.quiet(s)?;
        for g in 0..s.groups {
            for at in 0..2 {
                want(&mut world, g, at);
            }
        }
        world.quiet(s)?;
        for at in 0..2 {
            world.apply(s, Action::Tick(at))?;
        }
        world.quiet(s)?;
        if (0..s.groups).all(|g| in_order(&world, g)) {
            return Ok(());
        }
        world.apply(s, Action::Pass(1))?;
    }
    Err(Violation(format!("healed, and not in order:{}", world.summary())))
}

/// What control would want, now that liveness is known for certain.
fn want(world: &mut World, g: usize, at: usize) {
    let Some(arbiter) = world.members[g][at].arbiter() else { return };
    let chosen = arbiter.chosen();
    let silent = arbiter
        .primary_is_silent(twinlun::time::Now { grantor: crate::world::BASE, holder: crate::world::BASE });
    let wish = if arbiter.is_primary() {
        if arbiter.witness_to_enrol().is_some() {
            Some(Transition::ReEnrol)
        } else if arbiter.vote_in_the_way().is_some() {
            Some(Transition::Drop)
        } else if chosen.in_sync == InSync::Primary {
            Some(Transition::Join)
        } else {
            None
        }
    } else {
        silent.then_some(Transition::Promote)
    };
    let member = Rc::make_mut(&mut world.members[g][at]);
    member.env = Environment {
        intent: wish,
        primary_lost: silent || !world.pipes[0].up,
        join_ready: true,
        session_closed: true,
        ..Environment::default()
    };
}

fn in_order(world: &World, g: usize) -> bool {
    let arbiters = [0, 1].map(|at| world.members[g][at].arbiter());
    let [Some(a), Some(b)] = arbiters else {
        // Lost for good while the other one knows too little: an operator has to decide.
        return world.members[g].iter().any(|member| member.process == Process::Absent)
            && !may_be_enrolled(world, g);
    };
    let chosen = a.chosen();
    let serves = [0, 1].iter().filter(|&&at| world.serves(g, at)).count() == 1;
    serves
        && b.chosen() == chosen
        && chosen.in_sync == InSync::Both
        && chosen.quorum == Quorum::Majority
        && a.vote().is_none()
        && b.vote().is_none()
}

/// One of the two still is alone with the group, or can come to be so.
fn may_be_enrolled(world: &World, g: usize) -> bool {
    let left = world.members[g].iter().filter_map(|member| member.arbiter());
    left.into_iter().any(|arbiter| {
        arbiter.is_primary() && (arbiter.chosen().in_sync == InSync::Primary) && arbiter.vote().is_none()
    })
}
