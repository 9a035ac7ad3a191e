//! Verify in the pair: hosts that write all the while give no false alarm, whatever fails; and what was
//! changed silently on one copy is found, and repaired.

use super::super::*;
use super::array::{Io, Purpose, hot};
use super::world::{HOT, Image, World, index};
use crate::arbitration::InSync;
use crate::block::{BLOCKS_PER_PHYSICAL, Extent, Op, StoreResult};

/// Digests that differ whenever a stamp does.
pub fn sums(extent: Extent, blocks: &Image) -> Vec<Sum> {
    let piece = |at: u64| {
        let piece = Extent::new(extent.lba + at * PIECE_BLOCKS, PIECE_BLOCKS);
        let mut sum = [0; 32];
        for (place, (lba, stamp)) in blocks.range(piece.lba..piece.end().min(extent.end())).enumerate() {
            let mixed = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ lba.wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
            let part = place % 4 * 8;
            let word = u64::from_le_bytes(sum[part..part + 8].try_into().unwrap());
            let word = if *stamp == 0 { word } else { word.rotate_left(7) ^ mixed };
            sum[part..part + 8].copy_from_slice(&word.to_le_bytes());
        }
        sum
    };
    (0..pieces(extent)).map(piece).collect()
}

fn reading(purpose: Purpose, op: Op, extent: Extent, data: Image) -> Io {
    Io { purpose, op, extent, data, expected: 0, edges: None, result: None, found: None, slow: false }
}

impl World {
    /// Once in a while the primary begins a verify, or gives one up.
    pub(super) fn verify(&mut self, side: usize) {
        let (repair, gives_up) = (self.random.chance(2), self.random.chance(10));
        let begun = self.call(side, |volume, cx, out| {
            if gives_up {
                volume.cancel_verify(cx, out);
            }
            volume.begin_verify(repair, cx, out).is_ok()
        });
        if begun {
            self.say(|| format!("{side} verifies, repair {repair}"));
        }
        self.no_false_alarm(side);
    }

    /// Nothing but what was changed silently differs.
    pub(super) fn no_false_alarm(&mut self, side: usize) {
        let Some(report) = self.arrays[side].volume.as_ref().and_then(Volume::verified) else { return };
        let differs = |difference: &&Difference| difference.finding == Finding::Differs;
        for Difference { extent, .. } in report.differences.iter().filter(differs) {
            if hot(*extent).any(|lba| !self.corrupted.contains(&lba)) {
                self.violation = Some(format!("a false alarm at {side}: {extent:?}"));
            }
        }
    }

    pub(super) fn weigh(&mut self, side: usize, check: CopyId, extent: Extent, theirs: Image) {
        let purpose = Purpose::Weigh { check, theirs, mended: false };
        self.arrays[side].ios.push(reading(purpose, Op::Read, extent, Image::new()));
    }

    /// The end of a piece of I/O of a weighing: the next one, or the result.
    pub(super) fn weighed(&mut self, side: usize, io: Io, result: StoreResult) {
        let array = &mut self.arrays[side];
        let (check, weighing) = match io.purpose {
            Purpose::Weigh { check, theirs, mended: false } if result != StoreResult::Done => {
                // Only what cannot be read is written.
                let bad = |lba: &u64| array.bad.contains(&(lba / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL));
                let data = theirs.iter().filter(|(lba, _)| bad(lba)).map(|(lba, stamp)| (*lba, *stamp));
                let data = data.collect();
                let purpose = Purpose::WeighMend { check, theirs };
                return array.ios.push(reading(purpose, Op::Write, io.extent, data));
            }
            Purpose::WeighMend { check, theirs } if result == StoreResult::Done => {
                let purpose = Purpose::Weigh { check, theirs, mended: true };
                return array.ios.push(reading(purpose, Op::Read, io.extent, Image::new()));
            }
            Purpose::Weigh { check, theirs, mended } if result == StoreResult::Done => {
                let own = io.found.unwrap_or_default();
                let value = |image: &Image, lba| image.get(&lba).copied().unwrap_or(0);
                let differs = hot(io.extent).filter(|&lba| value(&own, lba) != value(&theirs, lba));
                let differing = differs.map(|lba| Extent::new(lba, 1)).collect();
                (check, Ok(Weighing { differing, mended }))
            }
            Purpose::Weigh { check, .. } | Purpose::WeighMend { check, .. } => (check, Err(result)),
            _ => return,
        };
        self.call(side, |volume, cx, out| volume.weighed(check, weighing, cx, out));
        self.no_false_alarm(side);
    }

    /// Changes blocks of the secondary's copy, in sync, without anybody's knowledge.
    fn corrupt(&mut self, count: usize) {
        let secondary = 1 - index(self.chosen.primary);
        for _ in 0..count {
            let lba = HOT[self.random.below(HOT.len())];
            *self.arrays[secondary].disk.entry(lba).or_insert(0) ^= 1 << 40;
            self.corrupted.insert(lba);
            self.say(|| format!("block {lba} is damaged"));
        }
    }

    fn differing(&self) -> Vec<u64> {
        let [a, b] = &self.arrays;
        HOT.into_iter().filter(|lba| a.disk.get(lba).unwrap_or(&0) != b.disk.get(lba).unwrap_or(&0)).collect()
    }

    /// A pair without other faults, in sync, damaged under hosts' writes, and verified.
    fn damaged_and_verified(mut self, repair: bool) -> Result<(), String> {
        self.calm = true;
        let settled = |world: &Self| {
            let primary = index(world.chosen.primary);
            world.chosen.in_sync == InSync::Both
                && world.arrays[primary].session.is_some()
                && world.arrays.iter().all(|array| array.known == world.chosen && array.vote.is_none())
                && !world.arrays[primary].volume.as_ref().is_some_and(Volume::verifies)
        };
        for _ in 0..100_000 {
            self.step()?;
            if settled(&self) {
                break;
            }
        }
        let primary = index(self.chosen.primary);
        let damages = 1 + self.random.below(3);
        self.corrupt(damages);
        self.call(primary, |volume, cx, out| volume.begin_verify(repair, cx, out).is_ok().then_some(()))
            .ok_or("no verify is begun")?;
        let mut found = None;
        for _ in 0..100_000 {
            self.step()?;
            let report = self.arrays[primary].volume.as_ref().and_then(Volume::verified);
            if let Some(report) = report.filter(|report| report.end.is_some()) {
                found = Some(report);
                break;
            }
        }
        let report = found.ok_or("the verify does not end")?;
        if report.end != Some(VerifyEnd::Complete) {
            return Err(format!("{report:?}"));
        }
        if report.compared != report.regions || (repair && report.repaired != report.differing) {
            return Err(format!("{report:?}"));
        }
        let told = |lba: &u64| report.differences.iter().any(|one| hot(one.extent).any(|of| of == *lba));
        // No host writes any more; what is under way ends.
        self.healing = true;
        for _ in 0..40_000 {
            self.step()?;
            if self.quiet() {
                break;
            }
        }
        let untold: Vec<u64> = self.differing().into_iter().filter(|lba| repair || !told(lba)).collect();
        if !untold.is_empty() {
            return Err(format!("{untold:?} differ: {report:?}"));
        }
        Ok(())
    }
}

#[test]
fn what_was_damaged_silently_is_found_and_repaired() {
    let seeds = std::env::var("PAIR_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300);
    let mut found = 0;
    for seed in 1..=seeds {
        for repair in [false, true] {
            if let Err(what) = World::new(seed).damaged_and_verified(repair) {
                panic!("seed {seed}, repair {repair}: {what}");
            }
            found += 1;
        }
    }
    assert_eq!(found, seeds * 2);
}
