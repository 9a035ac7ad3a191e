//! Which entries of a ledger overlap an extent: chains hashed by 1 MiB region, and one list for
//! entries that span more than two regions. Finding is linear in the entries of the extent's own
//! regions; entering and leaving are constant. Nothing is allocated once the ledger has been full.

use super::api::REGION_BLOCKS;
use crate::block::Extent;

const NONE: u32 = u32::MAX;
/// Chains; more than a ledger's usual fill, so that chains of different regions seldom share one.
const BUCKETS: usize = 1024;
/// An entry that spans at most this many regions hangs in one chain for each; a wider one, or a
/// wider question, looks at everything.
const NARROW: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Link {
    region: u64,
    next: u32,
    previous: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    extent: Extent,
    links: [Link; NARROW],
    /// Place in `members`, and in `wide` where it is wide.
    member: u32,
    wide: u32,
}

const UNLINKED: Link = Link { region: 0, next: NONE, previous: NONE };
const ABSENT: Entry =
    Entry { extent: Extent::new(0, 0), links: [UNLINKED; NARROW], member: NONE, wide: NONE };

/// Extents by entry number.
#[derive(Clone, Debug)]
pub(super) struct OverlapIndex {
    entries: Vec<Entry>,
    heads: Vec<u32>,
    tails: Vec<u32>,
    members: Vec<u32>,
    wide: Vec<u32>,
}

impl OverlapIndex {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            heads: vec![NONE; BUCKETS],
            tails: vec![NONE; BUCKETS],
            members: Vec::new(),
            wide: Vec::new(),
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Enters `number` (absent until now) with a non-empty extent.
    pub fn insert(&mut self, number: u32, extent: Extent) {
        let at = index(number);
        if at >= self.entries.len() {
            self.entries.resize(at + 1, ABSENT);
        }
        debug_assert_eq!(self.entries[at].member, NONE, "entered twice");
        self.entries[at] = Entry { extent, member: place(self.members.len()), ..ABSENT };
        self.members.push(number);
        let (first, last) = span(extent);
        if last - first >= NARROW as u64 {
            self.entries[at].wide = place(self.wide.len());
            self.wide.push(number);
            return;
        }
        for (link, region) in (first..=last).enumerate() {
            let bucket = bucket(region);
            let tail = self.tails[bucket];
            let node = number * 2 + u32::from(link != 0);
            self.entries[at].links[link] = Link { region, next: NONE, previous: tail };
            if tail == NONE {
                self.heads[bucket] = node;
            } else {
                self.link(tail).next = node;
            }
            self.tails[bucket] = node;
        }
    }

    /// Takes `number` out; nothing happens when it is not in.
    pub fn remove(&mut self, number: u32) {
        let at = index(number);
        let Some(&entry) = self.entries.get(at).filter(|entry| entry.member != NONE) else { return };
        self.entries[at].member = NONE;
        let place = index(entry.member);
        self.members.swap_remove(place);
        if let Some(&moved) = self.members.get(place) {
            self.entries[index(moved)].member = entry.member;
        }
        if entry.wide != NONE {
            let place = index(entry.wide);
            self.wide.swap_remove(place);
            if let Some(&moved) = self.wide.get(place) {
                self.entries[index(moved)].wide = entry.wide;
            }
            return;
        }
        let (first, last) = span(entry.extent);
        for (link, region) in (first..=last).enumerate() {
            // Read anew each time: an entry of two regions of one chain may be its own neighbour.
            let Link { next, previous, .. } = self.entries[at].links[link];
            let bucket = bucket(region);
            if previous == NONE {
                self.heads[bucket] = next;
            } else {
                self.link(previous).next = next;
            }
            if next == NONE {
                self.tails[bucket] = previous;
            } else {
                self.link(next).previous = previous;
            }
        }
    }

    /// Appends the number of every entry that overlaps `extent`, each once.
    pub fn overlapping(&self, extent: Extent, out: &mut Vec<u32>) {
        if extent.blocks == 0 || self.members.is_empty() {
            return;
        }
        let (first, last) = span(extent);
        if last - first >= NARROW as u64 {
            out.extend(
                self.members.iter().filter(|&&number| self.entries[index(number)].extent.overlaps(extent)),
            );
            return;
        }
        for region in first..=last {
            let mut node = self.heads[bucket(region)];
            while node != NONE {
                let number = node / 2;
                let entry = &self.entries[index(number)];
                let link = entry.links[index(node % 2)];
                // One that shares two regions with the question is counted in the first of them.
                let counted = link.region == region && region == first.max(entry.extent.lba / REGION_BLOCKS);
                if counted && entry.extent.overlaps(extent) {
                    out.push(number);
                }
                node = link.next;
            }
        }
        out.extend(self.wide.iter().filter(|&&number| self.entries[index(number)].extent.overlaps(extent)));
    }

    fn link(&mut self, node: u32) -> &mut Link {
        &mut self.entries[index(node / 2)].links[index(node % 2)]
    }
}

/// First and last region of a non-empty extent.
const fn span(extent: Extent) -> (u64, u64) {
    (extent.lba / REGION_BLOCKS, (extent.end() - 1) / REGION_BLOCKS)
}

fn bucket(region: u64) -> usize {
    usize::try_from(region % BUCKETS as u64).unwrap_or(0)
}

const fn index(number: u32) -> usize {
    number as usize
}

fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn finds_exactly_what_overlaps(
            steps in prop::collection::vec((0_u32..24, 0_u64..12_000, 1_u64..9000, any::<bool>(), 0_u64..4), 1..200),
        ) {
            let mut ledger = OverlapIndex::new();
            let mut model: BTreeMap<u32, Extent> = BTreeMap::new();
            for (number, lba, blocks, small, far) in steps {
                // Regions one bucket count apart share a chain.
                let lba = lba + far * BUCKETS as u64 * REGION_BLOCKS;
                let extent = Extent::new(lba, if small { blocks % 4000 + 1 } else { blocks });
                let mut found = Vec::new();
                ledger.overlapping(extent, &mut found);
                found.sort_unstable();
                let expected: Vec<u32> =
                    model.iter().filter(|(_, e)| e.overlaps(extent)).map(|(n, _)| *n).collect();
                prop_assert_eq!(found, expected);
                if model.remove(&number).is_some() {
                    ledger.remove(number);
                } else {
                    model.insert(number, extent);
                    ledger.insert(number, extent);
                }
                prop_assert_eq!(ledger.len(), model.len());
            }
        }
    }
}
