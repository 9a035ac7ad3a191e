//! The pages of a dirty map's file: magic, version range, checksum, bits. Pure.

use crc_fast::CrcAlgorithm;

use super::api::{REGION_BLOCKS, VolumeId};
use super::regions::{PAGE_WORDS, PageBits};

/// Bytes of a page of the map, and of its file's header.
pub(super) const PAGE: usize = 4096;
const HEADER_MAGIC: [u8; 8] = *b"twlnDMF\n";
const PAGE_MAGIC: [u8; 8] = *b"twlnDMP\n";
/// Format written here, and the oldest reader that understands it.
const VERSION: u16 = 1;
const READABLE_FROM: u16 = 1;
/// Page header: magic 8, version 2, readable from 2, page number 4, volume 16, generation 8,
/// CRC32C of the page with this field zero 4, zeroes to 64; then activity, then out-of-sync bits.
/// The file's header page has the region size in blocks where a page has its generation.
const CRC_AT: usize = 40;
const ACTIVITY_AT: usize = 64;
const OOS_AT: usize = ACTIVITY_AT + PAGE_WORDS * 8;
/// Number that the header page carries in place of a page number.
const HEADER_NUMBER: u32 = u32::MAX;

/// Why a map file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error(
        "the dirty map has no valid header: it is not a dirty map, or was torn at creation; restore it, or replace the volume's copy and let it be synchronised in full"
    )]
    NotAMap,
    #[error(
        "the dirty map has format version {version}; this program reads up to {VERSION}: use a newer one"
    )]
    Version { version: u16 },
    #[error("the dirty map belongs to another volume ({})", uuid::Uuid::from_bytes(.found.0))]
    Foreign { found: VolumeId },
    #[error("the dirty map counts regions of {blocks} blocks, not {REGION_BLOCKS}")]
    RegionSize { blocks: u64 },
    #[error("page {page} of the dirty map is torn or damaged in both of its slots")]
    Torn { page: u32 },
    #[error(
        "page {page} of the dirty map holds page {found}, or one of another volume: the file was mixed up"
    )]
    Misplaced { page: u32, found: u32 },
}

/// What lies in one slot of a page.
pub(super) enum Slot<'a> {
    Blank,
    Torn,
    Valid(Page<'a>),
}

/// A page that was found whole and in its place.
#[derive(Clone, Copy)]
pub(super) struct Page<'a>(&'a [u8; PAGE]);

impl Page<'_> {
    pub fn generation(self) -> u64 {
        generation(self.0)
    }

    /// Generation, activity, out of sync.
    pub fn read(self) -> (u64, PageBits, PageBits) {
        (generation(self.0), bits(self.0, ACTIVITY_AT), bits(self.0, OOS_AT))
    }
}

/// The header page of a map file.
pub(super) fn encode_header(id: VolumeId) -> Box<[u8; PAGE]> {
    let mut page = Box::new([0; PAGE]);
    put_header(&mut page, HEADER_MAGIC, HEADER_NUMBER, id, REGION_BLOCKS);
    seal(&mut page);
    page
}

/// Reads one slot. A valid page in the wrong place is an error, never a torn one.
pub(super) fn slot(id: VolumeId, number: u32, bytes: &[u8]) -> Result<Slot<'_>, MapError> {
    let Some(page) = bytes.first_chunk::<PAGE>() else {
        let blank = bytes.iter().all(|&byte| byte == 0);
        return Ok(if blank { Slot::Blank } else { Slot::Torn });
    };
    if page.iter().all(|&byte| byte == 0) {
        return Ok(Slot::Blank);
    }
    if page[..8] != PAGE_MAGIC || !sealed(page) {
        return Ok(Slot::Torn);
    }
    check_version(page)?;
    let found = u32::from_le_bytes(array(page, 12));
    if found != number || array::<16>(page, 16) != id.0 {
        return Err(MapError::Misplaced { page: number, found });
    }
    Ok(Slot::Valid(Page(page)))
}

pub(super) fn check_header(page: &[u8; PAGE], id: VolumeId) -> Result<(), MapError> {
    if page[..8] != HEADER_MAGIC || !sealed(page) {
        return Err(MapError::NotAMap);
    }
    check_version(page)?;
    let found = VolumeId(array(page, 16));
    if found != id {
        return Err(MapError::Foreign { found });
    }
    let blocks = generation(page);
    if blocks != REGION_BLOCKS {
        return Err(MapError::RegionSize { blocks });
    }
    Ok(())
}

fn check_version(page: &[u8; PAGE]) -> Result<(), MapError> {
    let readable_from = u16::from_le_bytes(array(page, 10));
    if readable_from > VERSION {
        return Err(MapError::Version { version: u16::from_le_bytes(array(page, 8)) });
    }
    Ok(())
}

pub(super) fn encode(
    id: VolumeId,
    number: u32,
    generation: u64,
    activity: &PageBits,
    oos: &PageBits,
) -> Box<[u8; PAGE]> {
    let mut page = Box::new([0; PAGE]);
    put_header(&mut page, PAGE_MAGIC, number, id, generation);
    for (at, bits) in [(ACTIVITY_AT, activity), (OOS_AT, oos)] {
        for (bytes, word) in page[at..].chunks_exact_mut(8).zip(bits) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    seal(&mut page);
    page
}

fn put_header(page: &mut [u8; PAGE], magic: [u8; 8], number: u32, id: VolumeId, generation: u64) {
    page[..8].copy_from_slice(&magic);
    page[8..10].copy_from_slice(&VERSION.to_le_bytes());
    page[10..12].copy_from_slice(&READABLE_FROM.to_le_bytes());
    page[12..16].copy_from_slice(&number.to_le_bytes());
    page[16..32].copy_from_slice(&id.0);
    page[32..40].copy_from_slice(&generation.to_le_bytes());
}

fn crc(page: &[u8; PAGE]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&page[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&page[CRC_AT + 4..]);
    u32::try_from(digest.finalize()).unwrap_or(0).to_le_bytes()
}

pub(super) fn seal(page: &mut [u8; PAGE]) {
    let crc = crc(page);
    page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
}

fn sealed(page: &[u8; PAGE]) -> bool {
    crc(page) == array::<4>(page, CRC_AT)
}

fn generation(page: &[u8; PAGE]) -> u64 {
    u64::from_le_bytes(array(page, 32))
}

fn bits(page: &[u8; PAGE], at: usize) -> PageBits {
    let mut bits = [0; PAGE_WORDS];
    for (word, bytes) in bits.iter_mut().zip(page[at..].chunks_exact(8)) {
        // Chunks of eight bytes by construction; `fold` needs no fallible conversion.
        *word = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    bits
}

/// `N` bytes of a page; every caller's `at` is a constant inside it.
fn array<const N: usize>(page: &[u8; PAGE], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&page[at..at + N]);
    bytes
}
