//! What must hold in every state, and at rest.

use std::collections::VecDeque;

use super::scenario::HOT;
use super::world::{Array, World, hot};
use twinlun::arbitration::InSync;
use twinlun::mirror::REGION_BLOCKS;
use twinlun::time::{Now, Time};

impl World {
    pub fn check(&mut self) {
        self.check_marks();
        self.check_cut();
        let serves = |array: &Array| {
            let now = Time(array.clock);
            let now = Now { grantor: now, holder: now };
            array.volumes.iter().any(|volume| volume.gate().may_answer(now))
        };
        if serves(&self.arrays[0]) && serves(&self.arrays[1]) {
            self.fail(|| "two arrays serve".into());
        }
    }

    /// Rule 10: where the copies differ, a map on a disk says so.
    fn check_marks(&mut self) {
        for volume in 0..self.scenario.volumes {
            let [a, b] = &self.arrays;
            for (at, lba) in HOT.iter().enumerate() {
                let marked = |array: &Array| {
                    let (activity, out_of_sync) = array.durable[volume];
                    (activity | out_of_sync) >> (lba / REGION_BLOCKS) & 1 == 1
                };
                if a.disks[volume][at] != b.disks[volume][at] && !marked(a) && !marked(b) {
                    let (a, b) = (a.disks[volume][at], b.disks[volume][at]);
                    return self
                        .fail(|| format!("volume {volume} block {lba}: {a} at A, {b} at B, unmarked"));
                }
            }
        }
    }

    /// Rule 11: a copy that is not being brought up to date holds no later write without the earlier.
    fn check_cut(&mut self) {
        for (op, deed) in self.scenario.script.iter().enumerate() {
            let Some(before) = deed.after.filter(|_| deed.op.writes()) else { continue };
            let first = &self.scenario.script[before];
            if first.volume == deed.volume || !first.op.writes() {
                continue;
            }
            for array in &self.arrays {
                let holds =
                    |volume: usize, extent, value| hot(extent).any(|at| array.disks[volume][at] == value);
                let later = holds(deed.volume, deed.extent, op as u8 + 1);
                if later && holds(first.volume, first.extent, 0) && !array.mixed {
                    let side = array.side;
                    return self.fail(|| format!("{side} holds write {op}, and not {before} before it"));
                }
            }
        }
    }

    /// At rest: everything answered, in sync, nothing on its way.
    pub fn rests(&self) -> bool {
        self.chosen.in_sync == InSync::Both
            && self.lanes.iter().flatten().all(VecDeque::is_empty)
            && self.arrays.iter().all(|array| {
                !array.volumes.is_empty()
                    && array.known == self.chosen
                    && array.vote.is_none()
                    && array.sweep.is_none()
                    && !array.gate_waits
                    && !array.voted_away
                    && array.ios.is_empty()
                    && array.payloads.is_empty()
                    && array.map_writes.iter().all(Option::is_none)
                    && (array.side != self.chosen.primary || array.session.is_some())
            })
            && self.status(0).iter().chain(&self.status(1)).all(|status| status.recovering_regions == 0)
    }

    /// What holds at rest: equal, and what hosts were told.
    pub fn check_rest(&mut self) {
        for volume in 0..self.scenario.volumes {
            let [a, b] = [self.arrays[0].disks[volume], self.arrays[1].disks[volume]];
            if a != b {
                return self.fail(|| format!("at rest volume {volume} is {a:?} at A, {b:?} at B"));
            }
            for (at, value) in a.iter().enumerate() {
                if !self.judges[volume][at].may_hold(*value) {
                    let lba = HOT[at];
                    return self.fail(|| format!("volume {volume} block {lba} holds {value} in the end"));
                }
            }
        }
    }
}
