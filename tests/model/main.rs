//! The model check: the daemon's own arbitration cores, explored state by state within bounds.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a model's numbers are small")]

mod explore;
mod heal;
mod scenario;
mod walk;
mod world;

use twinlun::arbitration::Side;
use twinlun::arbitration::Transition::*;

use crate::scenario::{Left, Scenario};

fn main() {
    twinlun::mutation::set_from_environment().unwrap();
    if std::env::var("WALK").is_ok() {
        for kind in walk::Kind::ALL {
            let t = std::time::Instant::now();
            let (walked, found) = walk::walk(kind, 1..40, 4000);
            println!("{kind:?} {walked:?} {:?}", t.elapsed());
            if let Some(f) = found {
                println!("seed {} steps {} -> {}\n{:?}\n{}", f.seed, f.steps, f.short.len(), f.violation, explore::tell(&f.scenario, &f.short));
            }
        }
        return;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let n: Vec<u8> = args.iter().map(|a| a.parse().unwrap_or(0)).collect();
    let get = |i: usize| n.get(i).copied().unwrap_or(0);
    let wishes = &[(Side::A, Some(Drop)), (Side::B, Some(Promote)), (Side::A, Some(SwitchOver)), (Side::A, None)];
    let mut s = Scenario::coarse(
        "probe",
        Left { cuts: get(0), crashes: get(1), wishes: get(2), losses: get(3), passes: get(7), ..Left::default() },
        wishes,
    );
    s.rounds_max = u64::from(get(4)).max(1);
    s.changes_max = u64::from(get(5)).max(1);
    s.heal_one_in = u64::from(get(6));
    s.states_max = 3_000_000;
    let e = explore::explore(&s);
    println!("{:?}", explore::Explored { violation: None, ..e.clone() });
    if let Some((v, path)) = e.violation {
        println!("{v:?}\n{}", explore::tell(&s, &path));
    }
}
