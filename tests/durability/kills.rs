//! Kills of A, B and the witness under I/O, on volatile disks: a daemon that is killed loses what
//! it did not flush, whole or in part, because it is held in its memory until the flush
//! (`sys::volatile`). After each kill every acknowledged write must be there, on both copies.

use std::time::{Duration, Instant};

use crate::judge::Judge;
use crate::rig::{ALL, Member, Rig};

/// Kills of the default run; `DURABILITY_KILLS` gives another number.
const KILLS: u64 = 20;
/// Acknowledgements between two kills, at least.
const WRITES: u64 = 200;
/// How long hosts may wait for an array that serves, with one dead or all just started.
const SERVED: Duration = Duration::from_secs(60);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// A small generator; the seed is printed, so that a failure can be tried again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Everything is started, in sync, and as the hosts were told.
pub fn verify(rig: &mut Rig, judge: &Judge) -> Result<(), String> {
    judge.pause();
    let primary = rig.settle()?;
    judge.verify(rig, primary)
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let kills = number("DURABILITY_KILLS", KILLS);
    let seed = number("DURABILITY_SEED", u64::from(std::process::id()) + 1);
    println!("DURABILITY_SEED={seed} DURABILITY_KILLS={kills}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let began = Instant::now();
    let mut rig = Rig::volatile();
    rig.make().unwrap();
    let judge = Judge::new(&rig, seed);
    let mut done = 0;
    while done < kills {
        judge.run();
        assert!(judge.write_on(WRITES, SERVED), "nobody serves");
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let victims: &[Member] = match random.below(8) {
            0 | 1 => &[Member::A],
            2 | 3 => &[Member::B],
            4 => &[Member::Witness],
            5 => &[Member::A, Member::B],
            6 => &ALL,
            _ => &[Member::B, Member::Witness],
        };
        rig.kill(victims);
        done += victims.len() as u64;
        // Whoever is left serves on, takes over, or waits; sometimes it is killed as well.
        std::thread::sleep(Duration::from_millis(random.below(3) * 1500));
        if random.below(3) == 0 {
            let left: Vec<_> = ALL.into_iter().filter(|member| rig.is_up(*member)).collect();
            if !left.is_empty() {
                let next = left[usize::try_from(random.below(left.len() as u64)).unwrap()];
                rig.kill(&[next]);
                done += 1;
            }
        }
        println!("{:6.1} s, {done} kills, latest {victims:?}", began.elapsed().as_secs_f64());
        verify(&mut rig, &judge).unwrap_or_else(|why| panic!("after {done} kills: {why}"));
    }
    println!(
        "{done} kills in {:.0} s, {} writes and {} unmaps acknowledged, none lost",
        began.elapsed().as_secs_f64(),
        judge.acknowledged(),
        judge.unmaps(),
    );
}
