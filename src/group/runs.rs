//! How many runs of dirty regions one answer to a hello carries: a very fragmented map is told more coarsely, so that
//! its parts fit into the queue of the connection and into memory. Copying too much is harmless.

use crate::mirror::{RegionRun, VolumeId};

use super::api::RUNS_MAX;

/// Most runs of one answer, over all volumes, and most that the primary keeps of one volume.
pub(super) const ANSWER_RUNS_MAX: usize = 1 << 20;

/// An answer in parts of at most `RUNS_MAX` runs; `most` runs over all volumes, and one part for each at least.
pub(super) fn parts(answer: Vec<(VolumeId, Vec<RegionRun>)>, most: usize) -> Vec<(VolumeId, Vec<RegionRun>)> {
    let each = most / answer.len().max(1);
    let mut parts = Vec::new();
    for (volume, mut runs) in answer {
        bound(&mut runs, each.max(1));
        parts.extend(runs.chunks(RUNS_MAX).map(|chunk| (volume, chunk.to_vec())));
    }
    parts
}

/// Merges neighbours until the list has at most `most` runs, those closest together first. It may come in any order
/// and with repetitions (an answer that was given twice).
pub(super) fn bound(runs: &mut Vec<RegionRun>, most: usize) {
    if runs.len() <= most {
        return;
    }
    runs.sort_unstable_by_key(|run| run.first);
    join(runs, |gap| gap == 0);
    let excess = runs.len().saturating_sub(most.max(1));
    if excess == 0 {
        return;
    }
    let mut gaps: Vec<u64> = runs.windows(2).map(|pair| pair[1].first.saturating_sub(end(pair[0]))).collect();
    let (narrower, &mut widest, _) = gaps.select_nth_unstable(excess - 1);
    // Of many gaps of one width only as many as need be.
    let mut as_wide = excess - narrower.iter().filter(|gap| **gap < widest).count();
    join(runs, |gap| gap < widest || (gap == widest && take_one(&mut as_wide)));
}

/// One of what is left, if anything is.
const fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}

const fn end(run: RegionRun) -> u64 {
    run.first.saturating_add(run.count)
}

/// Joins neighbours of an ascending list whose gap `joins`.
fn join(runs: &mut Vec<RegionRun>, mut joins: impl FnMut(u64) -> bool) {
    runs.dedup_by(|next, run| {
        let joined = joins(next.first.saturating_sub(end(*run)));
        if joined {
            run.count = end(*run).max(end(*next)) - run.first;
        }
        joined
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(step: u64, count: u64) -> Vec<RegionRun> {
        (0..count).map(|n| RegionRun { first: n * step, count: 1 }).collect()
    }

    fn covers(runs: &[RegionRun], region: u64) -> bool {
        runs.iter().any(|run| run.first <= region && region < end(*run))
    }

    #[test]
    fn nothing_is_lost_of_an_answer_that_came_twice_and_in_disorder() {
        let told = every(3, 100);
        let mut runs = [&told[50..], &told[..], &told[..]].concat();
        bound(&mut runs, 100);
        assert_eq!(runs, told, "repetitions alone need no merging");
        let mut runs = [&told[50..], &told[..], &told[..]].concat();
        bound(&mut runs, 10);
        assert!(runs.len() <= 10, "{runs:?}");
        for run in told {
            assert!(covers(&runs, run.first), "{run:?} of {runs:?}");
        }
    }

    #[test]
    fn a_large_answer_has_parts_for_every_volume_and_no_more_than_the_queue_bears() {
        let volumes = 3..=6_u8;
        let answer: Vec<_> = volumes.clone().map(|n| (VolumeId([n; 16]), every(2, 5000))).collect();
        let parts = parts(answer, 4 * 2 * RUNS_MAX);
        assert_eq!(parts.len(), 8);
        for n in volumes {
            let runs: Vec<_> = parts
                .iter()
                .filter(|(volume, _)| volume.0 == [n; 16])
                .flat_map(|(_, runs)| runs.clone())
                .collect();
            assert!((0..5000).all(|region| covers(&runs, region * 2)), "volume {n}");
        }
    }

    #[test]
    fn what_lies_close_together_is_joined_first() {
        let mut runs: Vec<_> =
            [0, 2, 100, 200, 202].map(|first| RegionRun { first, count: 1 }).into_iter().collect();
        bound(&mut runs, 3);
        let joined = [(0, 3), (100, 1), (200, 3)].map(|(first, count)| RegionRun { first, count });
        assert_eq!(runs, joined);
    }
}
