//! The blocks that are looked at. A volume has a few regions of the dirty map; in each, four
//! logical blocks matter: two in one physical block, one in another, and the region's last. All
//! others are never written, so that a copy of a region costs four numbers.

use twinlun::block::{BLOCKS_PER_PHYSICAL, Extent};
use twinlun::mirror::REGION_BLOCKS;

/// Offsets inside a region, ascending.
const OFFSETS: [u64; 4] = [0, 1, 8, REGION_BLOCKS - 1];
pub const PER_REGION: usize = OFFSETS.len();
/// Most blocks of interest in one extent: a whole region, or the crossing of two.
pub const PAYLOAD_MAX: usize = 4;

/// Which write (or unmap) a block holds; zero: never written.
pub type Stamp = u32;

/// The blocks of interest inside an extent: consecutive indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub first: u8,
    pub count: u8,
}

impl Span {
    pub fn range(self) -> core::ops::Range<usize> {
        usize::from(self.first)..usize::from(self.first) + usize::from(self.count)
    }
}

/// Content of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Payload {
    pub span: Span,
    pub stamps: [Stamp; PAYLOAD_MAX],
}

impl Payload {
    pub fn iter(&self) -> impl Iterator<Item = (usize, Stamp)> + '_ {
        self.span.range().zip(self.stamps.iter().copied())
    }

    /// The content of a span inside this one.
    pub fn part(&self, span: Span) -> Self {
        let mut part = Self { span, ..Self::default() };
        for (index, stamp) in self.iter().filter(|(index, _)| span.range().contains(index)) {
            part.stamps[index - usize::from(span.first)] = stamp;
        }
        part
    }

    pub fn uniform(span: Span, stamp: Stamp) -> Self {
        Self { span, stamps: [stamp; PAYLOAD_MAX] }
    }
}

pub fn lba(index: usize) -> u64 {
    (index / PER_REGION) as u64 * REGION_BLOCKS + OFFSETS[index % PER_REGION]
}

/// Index of the first block of interest at or after `lba`.
fn index_at_or_after(lba: u64) -> usize {
    let region = (lba / REGION_BLOCKS) as usize;
    let offset = lba % REGION_BLOCKS;
    let within = OFFSETS.iter().position(|&o| o >= offset).unwrap_or(PER_REGION);
    region * PER_REGION + within
}

pub fn span(extent: Extent) -> Span {
    let first = index_at_or_after(extent.lba);
    let end = index_at_or_after(extent.end());
    Span { first: first as u8, count: (end - first) as u8 }
}

pub fn region(index: usize) -> u64 {
    (index / PER_REGION) as u64
}

/// Blocks of interest in the physical blocks that `extent` touches without covering them: what a
/// read-modify-write of 4 KiB carries along.
pub fn neighbours(extent: Extent) -> (Span, bool) {
    let whole = extent.physical();
    (span(whole), whole != extent)
}

/// Extents that touch what lies beyond `regions` in a volume of `room` regions.
pub fn extents_beyond(regions: u64, room: u64) -> Vec<Extent> {
    let mut all = extents(room);
    all.retain(|extent| extent.end() > regions * REGION_BLOCKS);
    all
}

/// Extents that hosts use in a volume of `regions` regions, weighted towards conflict.
pub fn extents(regions: u64) -> Vec<Extent> {
    let mut all = Vec::new();
    for region in 0..regions {
        let base = region * REGION_BLOCKS;
        all.push(Extent::new(base, 1));
        all.push(Extent::new(base + 1, 1));
        all.push(Extent::new(base, 2));
        all.push(Extent::new(base, 2 * BLOCKS_PER_PHYSICAL));
        all.push(Extent::new(base + 8, 1));
        if region + 1 < regions {
            all.push(Extent::new(base + REGION_BLOCKS - 1, 2));
        }
    }
    all
}
