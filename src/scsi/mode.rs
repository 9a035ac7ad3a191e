//! Mode pages (SPC-5 7.5, SBC-4 6.5), MODE SENSE and MODE SELECT. Nothing can be changed: a MODE
//! SELECT that says what is so already is answered GOOD, any other is refused.

use super::cdb::PageControl;
use super::parameter::Parameter;
use super::sense::Sense;
use super::unit::LogicalUnit;
use crate::block::BLOCK;

const ALL_PAGES: u8 = 0x3f;
const ALL_SUBPAGES: u8 = 0xff;
/// The longest page, header included.
const PAGE_MAX: usize = 32;
/// DPOFUA: DPO and FUA are understood. WP is clear.
const DEVICE_SPECIFIC: u8 = 0x10;

#[derive(Clone, Copy, Debug)]
struct Page {
    code: u8,
    subpage: u8,
    /// Whole length, header included.
    len: u8,
}

/// Ascending, as page 3F returns them.
const PAGES: [Page; 5] = [
    Page { code: 0x01, subpage: 0, len: 12 },
    Page { code: 0x08, subpage: 0, len: 20 },
    Page { code: 0x0a, subpage: 0, len: 12 },
    Page { code: 0x0a, subpage: 1, len: 32 },
    Page { code: 0x1c, subpage: 0, len: 12 },
];

impl Page {
    const fn header_len(self) -> usize {
        if self.subpage == 0 { 2 } else { 4 }
    }

    /// The page as it stands, zeroes after its length.
    fn current(self, unit: &LogicalUnit) -> [u8; PAGE_MAX] {
        let mut bytes = [0; PAGE_MAX];
        if self.subpage == 0 {
            bytes[0] = self.code;
            bytes[1] = self.len - 2;
        } else {
            bytes[0] = 0x40 | self.code;
            bytes[1] = self.subpage;
            bytes[3] = self.len - 4;
        }
        match (self.code, self.subpage) {
            // Caching: WCE as the volume promises.
            (0x08, 0) => bytes[2] = if unit.write_cache { 0x04 } else { 0 },
            // Control: GLTSD; unrestricted reordering (the volume orders what overlaps).
            (0x0a, 0) => (bytes[2], bytes[3]) = (0x02, 0x10),
            // Control extension: IALUAE, access states change by themselves.
            (0x0a, 1) => bytes[4] = 0x01,
            // Informational exceptions: DEXCPT, none is reported.
            (0x1c, 0) => bytes[2] = 0x08,
            // Read-write error recovery: nothing to tune.
            _ => {}
        }
        bytes
    }

    fn write(self, unit: &LogicalUnit, control: PageControl, out: &mut Parameter<'_>) {
        let mut bytes = self.current(unit);
        if control == PageControl::Changeable {
            bytes[self.header_len()..].fill(0);
        }
        out.bytes(bytes.get(..usize::from(self.len)).unwrap_or_default());
    }
}

/// What MODE SENSE asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// MODE SENSE(10).
    pub long: bool,
    pub no_block: bool,
    pub long_lba: bool,
    pub control: PageControl,
    pub page: u8,
    pub subpage: u8,
}

/// SPC-5 6.14 and 6.15.
pub(super) fn sense(unit: &LogicalUnit, question: Question, out: &mut Parameter<'_>) -> Result<(), Sense> {
    let Question { long, no_block, long_lba, control, page, subpage } = question;
    let of_code = |candidate: &&Page| page == ALL_PAGES || candidate.code == page;
    let of_subpage = |candidate: &&Page| subpage == ALL_SUBPAGES || candidate.subpage == subpage;
    if page == ALL_PAGES && !matches!(subpage, 0 | ALL_SUBPAGES) {
        return Err(Sense::invalid_in_cdb(3, None));
    }
    if !PAGES.iter().any(|candidate| of_code(&candidate)) {
        return Err(Sense::invalid_in_cdb(2, Some(5)));
    }
    if !PAGES.iter().filter(of_code).any(|candidate| of_subpage(&candidate)) {
        return Err(Sense::invalid_in_cdb(3, None));
    }
    if control == PageControl::Saved {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    let start = out.len();
    let long_lba = long && long_lba;
    let block_len = match (no_block, long_lba) {
        (true, _) => 0,
        (false, false) => 8,
        (false, true) => 16,
    };
    if long {
        out.bytes(&[0, 0, 0, DEVICE_SPECIFIC, u8::from(long_lba && !no_block), 0, 0, block_len]);
    } else {
        out.bytes(&[0, 0, DEVICE_SPECIFIC, block_len]);
    }
    match block_len {
        8 => {
            out.u32(u32::try_from(unit.blocks).unwrap_or(u32::MAX));
            out.u32(BLOCK);
        }
        16 => {
            out.u64(unit.blocks);
            out.u32(0);
            out.u32(BLOCK);
        }
        _ => {}
    }
    for page in PAGES.iter().filter(of_code).filter(of_subpage) {
        page.write(unit, control, out);
    }
    if long {
        out.length::<2>(start);
    } else {
        out.length::<1>(start);
    }
    Ok(())
}

/// Checks a parameter list (SPC-5 6.11, 6.12) against what stands.
pub(super) fn select(unit: &LogicalUnit, long: bool, list: &[u8]) -> Result<(), Sense> {
    if list.is_empty() {
        return Ok(());
    }
    let header_len = if long { 8 } else { 4 };
    let header = list.get(..header_len).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    // MODE DATA LENGTH and the device specific parameter are reserved here.
    let (medium_type, long_lba, block_len, block_len_at) = match *header {
        [_, medium_type, _, block_len] => (medium_type, false, u16::from(block_len), 3),
        [_, _, medium_type, _, flags, _, high, low] => {
            (medium_type, flags & 1 != 0, u16::from_be_bytes([high, low]), 6)
        }
        _ => return Err(Sense::PARAMETER_LIST_LENGTH),
    };
    if medium_type != 0 {
        return Err(Sense::invalid_in_list(if long { 2 } else { 1 }, None));
    }
    let body = list.get(header_len..).unwrap_or_default();
    let block = body.get(..usize::from(block_len)).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let (blocks, block_bytes) = match (long_lba, block) {
        (_, []) => (0, BLOCK),
        (false, &[a, b, c, d, _, e, f, g]) => {
            (u64::from(u32::from_be_bytes([a, b, c, d])), u32::from_be_bytes([0, e, f, g]))
        }
        (true, &[a, b, c, d, e, f, g, h, _, _, _, _, i, j, k, l]) => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u32::from_be_bytes([i, j, k, l]))
        }
        _ => return Err(Sense::invalid_in_list(block_len_at, None)),
    };
    let at = |offset: usize| u16::try_from(header_len + offset).unwrap_or(u16::MAX);
    // Zero keeps the capacity; so do the number that stands and "all there is" (SBC-4 6.5.2).
    let all = if long_lba { u64::MAX } else { u64::from(u32::MAX) };
    if blocks != 0 && blocks != unit.blocks && blocks != all {
        return Err(Sense::invalid_in_list(at(0), None));
    }
    if block_bytes != BLOCK {
        return Err(Sense::invalid_in_list(at(if long_lba { 12 } else { 5 }), None));
    }
    let mut offset = usize::from(block_len);
    while offset < body.len() {
        let rest = body.get(offset..).unwrap_or_default();
        offset += same(unit, rest).map_err(|wrong| match wrong {
            Wrong::Truncated => Sense::PARAMETER_LIST_LENGTH,
            Wrong::Byte(byte) => Sense::invalid_in_list(at(offset + byte), None),
        })?;
    }
    Ok(())
}

enum Wrong {
    Truncated,
    Byte(usize),
}

/// Compares one page at the start of `list` with what stands; returns its length.
fn same(unit: &LogicalUnit, list: &[u8]) -> Result<usize, Wrong> {
    let [first, second, ..] = *list else { return Err(Wrong::Truncated) };
    let subpage = if first & 0x40 != 0 { second } else { 0 };
    let known = PAGES.iter().find(|page| page.code == first & 0x3f && page.subpage == subpage);
    let page = known.ok_or(Wrong::Byte(0))?;
    let len = usize::from(page.len);
    let current = page.current(unit);
    let wanted = current.get(..len).unwrap_or_default();
    // PS is reserved here. A length that differs is wrong whether or not all of it is there.
    let differs = |(at, (given, stands)): (usize, (&u8, &u8))| {
        let given = if at == 0 { given & 0x7f } else { *given };
        (given != *stands).then_some(at)
    };
    let wrong = list.iter().zip(wanted).enumerate().find_map(differs);
    match wrong {
        Some(byte) => Err(Wrong::Byte(byte)),
        None if list.len() < len => Err(Wrong::Truncated),
        None => Ok(len),
    }
}
