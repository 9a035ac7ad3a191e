//! A set of regions of one volume: a bitmap whose pages exist only where a bit was ever set, so
//! that a huge volume costs nothing until it is written to.

use super::api::{REGION_BLOCKS, RegionRun};
use crate::block::Extent;

/// 64-bit words of one kind of bit in one page of the dirty map.
pub(super) const PAGE_WORDS: usize = 252;
/// Regions covered by one page of the dirty map.
pub(super) const PAGE_REGIONS: u64 = PAGE_WORDS as u64 * 64;

pub(super) type PageBits = [u64; PAGE_WORDS];

/// Regions that `extent` touches, as first and one past last.
pub(super) const fn regions_of(extent: Extent) -> (u64, u64) {
    if extent.blocks == 0 {
        return (0, 0);
    }
    (extent.lba / REGION_BLOCKS, extent.end().div_ceil(REGION_BLOCKS))
}

#[derive(Clone, Debug)]
pub(super) struct RegionSet {
    pages: Vec<Option<Box<PageBits>>>,
    regions: u64,
    count: u64,
}

impl RegionSet {
    /// An empty set over `regions` regions.
    pub fn new(regions: u64) -> Self {
        let pages = usize::try_from(regions.div_ceil(PAGE_REGIONS)).unwrap_or(usize::MAX);
        Self { pages: vec![None; pages], regions, count: 0 }
    }

    /// The volume has grown to so many regions; those that are new are not in the set.
    pub fn grow(&mut self, regions: u64) {
        self.regions = self.regions.max(regions);
        let pages = usize::try_from(self.regions.div_ceil(PAGE_REGIONS)).unwrap_or(usize::MAX);
        self.pages.resize(pages, None);
    }

    pub const fn regions(&self) -> u64 {
        self.regions
    }

    pub const fn len(&self) -> u64 {
        self.count
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn contains(&self, region: u64) -> bool {
        let (page, word, bit) = split(region);
        matches!(self.pages.get(page), Some(Some(bits)) if bits[word] & bit != 0)
    }

    /// Does the set hold every region that `extent` touches?
    pub fn covers(&self, extent: Extent) -> bool {
        let (first, end) = regions_of(extent);
        (first..end).all(|region| self.contains(region))
    }

    /// Does the set hold any region that `extent` touches?
    pub fn touches(&self, extent: Extent) -> bool {
        let (first, end) = regions_of(extent);
        self.count != 0 && self.next_from(first).is_some_and(|region| region < end)
    }

    /// Adds a region (beyond the volume: ignored); true when it was not in the set.
    pub fn insert(&mut self, region: u64) -> bool {
        if region >= self.regions {
            return false;
        }
        let (page, word, bit) = split(region);
        let bits = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let new = bits[word] & bit == 0;
        bits[word] |= bit;
        self.count += u64::from(new);
        new
    }

    /// Takes a region out; true when it was in the set.
    pub fn remove(&mut self, region: u64) -> bool {
        let (page, word, bit) = split(region);
        let Some(Some(bits)) = self.pages.get_mut(page) else { return false };
        let had = bits[word] & bit != 0;
        bits[word] &= !bit;
        self.count -= u64::from(had);
        had
    }

    pub fn clear(&mut self) {
        self.pages.fill(None);
        self.count = 0;
    }

    /// Adds all regions of a run, clipped to the volume.
    pub fn insert_run(&mut self, run: RegionRun) {
        let end = run.first.saturating_add(run.count).min(self.regions);
        let mut region = run.first;
        while region < end {
            let (page, word, _) = split(region);
            let from = region % 64;
            let upto = (region - from + 64).min(end);
            let mask = mask(from, upto - (region - from));
            let bits = self.pages[page].get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
            self.count += u64::from((mask & !bits[word]).count_ones());
            bits[word] |= mask;
            region = upto;
        }
    }

    /// Adds every region of `other` (of the same volume).
    pub fn union(&mut self, other: &Self) {
        for (page, theirs) in other.pages.iter().enumerate() {
            let (Some(theirs), Some(slot)) = (theirs, self.pages.get_mut(page)) else { continue };
            let bits = slot.get_or_insert_with(|| Box::new([0; PAGE_WORDS]));
            for (mine, theirs) in bits.iter_mut().zip(theirs.iter()) {
                self.count += u64::from((theirs & !*mine).count_ones());
                *mine |= theirs;
            }
        }
    }

    /// First region of the set at or after `region`.
    pub fn next_from(&self, region: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let (first_page, first_word, _) = split(region);
        for page in first_page..self.pages.len() {
            let Some(bits) = &self.pages[page] else { continue };
            let start = if page == first_page { first_word } else { 0 };
            for (word, &value) in bits.iter().enumerate().skip(start) {
                let skipped = if page == first_page && word == first_word { region % 64 } else { 0 };
                let value = value & (u64::MAX << skipped);
                if value != 0 {
                    return Some(
                        page as u64 * PAGE_REGIONS + word as u64 * 64 + u64::from(value.trailing_zeros()),
                    );
                }
            }
        }
        None
    }

    pub const fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// The bits of one page; zeroes where none was ever set.
    pub fn page(&self, page: usize) -> PageBits {
        match self.pages.get(page) {
            Some(Some(bits)) => **bits,
            _ => [0; PAGE_WORDS],
        }
    }

    /// Replaces the bits of one page. Bits beyond the volume are dropped.
    pub fn set_page(&mut self, page: usize, bits: &PageBits) {
        let Some(slot) = self.pages.get_mut(page) else { return };
        if let Some(old) = slot {
            self.count -= old.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        }
        let mut bits = Box::new(*bits);
        for (word, value) in bits.iter_mut().enumerate() {
            let first = page as u64 * PAGE_REGIONS + word as u64 * 64;
            *value &= mask(0, self.regions.saturating_sub(first).min(64));
        }
        self.count += bits.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        *slot = Some(bits);
    }
}

/// Bits `from..upto` of a word.
const fn mask(from: u64, upto: u64) -> u64 {
    let below = if upto >= 64 { u64::MAX } else { (1 << upto) - 1 };
    if from >= 64 { 0 } else { below & (u64::MAX << from) }
}

fn split(region: u64) -> (usize, usize, u64) {
    let page = usize::try_from(region / PAGE_REGIONS).unwrap_or(usize::MAX);
    let word = usize::try_from(region % PAGE_REGIONS / 64).unwrap_or(0);
    (page, word, 1 << (region % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(
            regions in 1_u64..40_000,
            steps in prop::collection::vec((0_u8..4, 0_u64..41_000, 0_u64..300), 0..60),
        ) {
            let mut set = RegionSet::new(regions);
            let mut model = BTreeSet::new();
            for (step, region, count) in steps {
                match step {
                    0 => prop_assert_eq!(set.insert(region), region < regions && model.insert(region)),
                    1 => prop_assert_eq!(set.remove(region), model.remove(&region)),
                    2 => {
                        set.insert_run(RegionRun { first: region, count });
                        model.extend(region..(region + count).min(regions).max(region));
                    }
                    _ => {
                        prop_assert_eq!(set.next_from(region), model.range(region..).next().copied());
                        let mut other = RegionSet::new(regions);
                        other.insert(count);
                        set.union(&other);
                        if count < regions { model.insert(count); }
                    }
                }
                prop_assert_eq!(set.len(), model.len() as u64);
            }
            for region in &model {
                prop_assert!(set.contains(*region));
            }
        }
    }

    #[test]
    fn a_page_keeps_no_bit_beyond_the_volume() {
        let mut set = RegionSet::new(PAGE_REGIONS + 3);
        set.set_page(1, &[u64::MAX; PAGE_WORDS]);
        assert_eq!(set.len(), 3);
        assert_eq!(set.next_from(0), Some(PAGE_REGIONS));
    }
}
