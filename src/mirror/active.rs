//! Which regions are marked active, and why: a write in flight, or recent use. A region stays
//! marked for a while after its last write, so that a hot region costs no map write; the number
//! of idle ones is bounded, because a crash copies them in vain.

use crate::time::{Duration, Time};

const NONE: u32 = u32::MAX;
const BUCKETS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Entry {
    region: u64,
    in_flight: u32,
    idle_since: Time,
    /// Chain of the bucket; of the free entries when it is free.
    next: u32,
    /// Neighbours among the idle, the longest idle first.
    older: u32,
    newer: u32,
}

/// Regions with the activity bit set by this primary.
#[derive(Clone, Debug)]
pub(super) struct ActiveSet {
    entries: Vec<Entry>,
    buckets: Vec<u32>,
    free: u32,
    oldest: u32,
    newest: u32,
    idle: u32,
    idle_max: u32,
}

impl ActiveSet {
    pub fn new(idle_max: u32) -> Self {
        Self {
            entries: Vec::new(),
            buckets: vec![NONE; BUCKETS],
            free: NONE,
            oldest: NONE,
            newest: NONE,
            idle: 0,
            idle_max,
        }
    }

    /// A write of the region starts.
    pub fn begin(&mut self, region: u64) {
        if let Some(at) = self.find(region) {
            let entry = &mut self.entries[at as usize];
            entry.in_flight += 1;
            if entry.in_flight == 1 {
                self.unlink(at);
            }
            return;
        }
        let bucket = bucket(region);
        let entry = Entry {
            region,
            in_flight: 1,
            idle_since: Time::ZERO,
            next: self.buckets[bucket],
            older: NONE,
            newer: NONE,
        };
        let at = self.free;
        if at == NONE {
            self.buckets[bucket] = u32::try_from(self.entries.len()).unwrap_or(NONE);
            self.entries.push(entry);
        } else {
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
            self.buckets[bucket] = at;
        }
    }

    /// A write of the region is over.
    pub fn end(&mut self, region: u64, now: Time) {
        let Some(at) = self.find(region) else { return };
        let newest = self.newest;
        let entry = &mut self.entries[at as usize];
        debug_assert!(entry.in_flight > 0, "a write ended twice");
        entry.in_flight = entry.in_flight.saturating_sub(1);
        if entry.in_flight != 0 {
            return;
        }
        entry.idle_since = now;
        entry.older = newest;
        entry.newer = NONE;
        self.newest = at;
        if newest == NONE {
            self.oldest = at;
        } else {
            self.entries[newest as usize].newer = at;
        }
        self.idle += 1;
    }

    /// A region that need not stay marked: idle for `linger`, or one too many. Call until `None`.
    pub fn expire(&mut self, now: Time, linger: Duration) -> Option<u64> {
        let at = self.oldest;
        if at == NONE {
            return None;
        }
        let entry = self.entries[at as usize];
        if self.idle <= self.idle_max && now < entry.idle_since + linger {
            return None;
        }
        self.unlink(at);
        self.forget(at);
        Some(entry.region)
    }

    /// When `expire` has something to say next, by age.
    pub fn next_expiry(&self, linger: Duration) -> Option<Time> {
        let entry = self.entries.get(self.oldest as usize)?;
        Some(entry.idle_since + linger)
    }

    pub fn contains(&self, region: u64) -> bool {
        self.find(region).is_some()
    }

    /// Writes of the region in flight.
    #[cfg(test)]
    pub fn in_flight(&self, region: u64) -> u32 {
        self.find(region).map_or(0, |at| self.entries[at as usize].in_flight)
    }

    /// Every region with its writes in flight, then the idle ones, the longest idle first.
    #[cfg(feature = "testing")]
    pub fn canonical(&self, into: &mut super::canonical::Canonical) {
        let mut busy: Vec<(u64, u32)> = Vec::new();
        for bucket in &self.buckets {
            let mut at = *bucket;
            while at != NONE {
                let Entry { region, in_flight, next, .. } = self.entries[at as usize];
                busy.push((region, in_flight));
                at = next;
            }
        }
        busy.sort_unstable();
        for (region, in_flight) in busy {
            into.put(region << 32 | u64::from(in_flight));
        }
        into.put(u64::MAX);
        let mut at = self.oldest;
        while at != NONE {
            into.put(self.entries[at as usize].region);
            at = self.entries[at as usize].newer;
        }
        into.put(u64::MAX);
    }

    pub fn clear(&mut self) {
        *self = Self {
            entries: core::mem::take(&mut self.entries),
            buckets: core::mem::take(&mut self.buckets),
            ..Self {
                free: NONE,
                oldest: NONE,
                newest: NONE,
                idle: 0,
                idle_max: self.idle_max,
                entries: Vec::new(),
                buckets: Vec::new(),
            }
        };
        self.entries.clear();
        self.buckets.fill(NONE);
    }

    fn find(&self, region: u64) -> Option<u32> {
        let mut at = self.buckets[bucket(region)];
        while at != NONE {
            let entry = &self.entries[at as usize];
            if entry.region == region {
                return Some(at);
            }
            at = entry.next;
        }
        None
    }

    /// Takes an idle entry out of the idle list.
    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        if older == NONE {
            self.oldest = newer;
        } else {
            self.entries[older as usize].newer = newer;
        }
        if newer == NONE {
            self.newest = older;
        } else {
            self.entries[newer as usize].older = older;
        }
        self.idle -= 1;
    }

    /// Takes an entry out of its bucket; its place is free.
    fn forget(&mut self, at: u32) {
        let Entry { region, next, .. } = self.entries[at as usize];
        let bucket = bucket(region);
        if self.buckets[bucket] == at {
            self.buckets[bucket] = next;
        } else {
            let mut before = self.buckets[bucket];
            while before != NONE {
                let following = self.entries[before as usize].next;
                if following == at {
                    self.entries[before as usize].next = next;
                    break;
                }
                before = following;
            }
        }
        self.entries[at as usize].next = self.free;
        self.free = at;
    }
}

fn bucket(region: u64) -> usize {
    usize::try_from(region % BUCKETS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_longest_idle_goes_first_and_never_a_busy_one() {
        let mut set = ActiveSet::new(2);
        for region in 0..4 {
            set.begin(region);
        }
        for region in [2, 0, 3] {
            set.end(region, Time(region + 10));
        }
        assert_eq!(set.expire(Time(13), Duration::from_nanos(100)), Some(2));
        assert_eq!(set.expire(Time(13), Duration::from_nanos(100)), None);
        assert_eq!(set.expire(Time(110), Duration::from_nanos(100)), Some(0));
        assert_eq!(set.next_expiry(Duration::from_nanos(100)), Some(Time(113)));
        assert!(set.in_flight(1) == 1 && set.contains(3) && !set.contains(0));
    }

    proptest! {
        #[test]
        fn counts_like_a_model(steps in prop::collection::vec((0_u8..3, 0_u64..3000), 0..300)) {
            let mut set = ActiveSet::new(5);
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for (now, (step, region)) in steps.into_iter().enumerate() {
                let region = region % 7 * BUCKETS as u64 + region % 3;
                let now = Time(now as u64);
                match step {
                    0 => { set.begin(region); *model.entry(region).or_default() += 1; }
                    1 => if let Some(count) = model.get_mut(&region).filter(|count| **count > 0) {
                        *count -= 1;
                        set.end(region, now);
                    },
                    _ => while let Some(gone) = set.expire(now, Duration::from_nanos(20)) {
                        prop_assert_eq!(model.remove(&gone), Some(0));
                    },
                }
                for (region, count) in &model {
                    prop_assert_eq!(set.in_flight(*region), *count);
                    prop_assert!(set.contains(*region));
                }
            }
        }
    }
}
