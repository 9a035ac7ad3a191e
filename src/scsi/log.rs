//! LOG SENSE (SPC-5 6.9) and its pages.

use super::inquiry::THRESHOLD_EXPONENT;
use super::parameter::Parameter;
use super::sense::Sense;
use super::unit::Space;

const SUPPORTED: u8 = 0x00;
const PROVISIONING: u8 = 0x0c;
/// Subpage that asks for the list of pages with subpages.
const ALL_SUBPAGES: u8 = 0xff;

/// Writes a page from the parameter `pointer` on.
pub(super) fn sense(
    space: Option<Space>,
    page: u8,
    subpage: u8,
    pointer: u16,
    out: &mut Parameter<'_>,
) -> Result<(), Sense> {
    let start = out.len();
    match (page, subpage, space) {
        (SUPPORTED, 0, _) => {
            no_parameters(pointer)?;
            out.bytes(&[SUPPORTED, 0, 0, 0, SUPPORTED]);
            if space.is_some() {
                out.u8(PROVISIONING);
            }
        }
        (SUPPORTED, ALL_SUBPAGES, _) => {
            no_parameters(pointer)?;
            out.bytes(&[0x40 | SUPPORTED, ALL_SUBPAGES, 0, 0, SUPPORTED, 0, SUPPORTED, ALL_SUBPAGES]);
            if space.is_some() {
                out.bytes(&[PROVISIONING, 0]);
            }
        }
        (PROVISIONING, 0, Some(space)) => {
            out.bytes(&[PROVISIONING, 0, 0, 0]);
            // SBC-4 6.4.5: available and used LBA mapping resources, in threshold sets.
            let parameters = [(1, space.available_blocks), (2, space.used_blocks)];
            if parameters.iter().all(|(code, _)| *code < pointer) {
                return Err(Sense::invalid_in_cdb(5, None));
            }
            for (code, blocks) in parameters.into_iter().filter(|(code, _)| *code >= pointer) {
                out.u16(code);
                out.u8(0x03); // binary list
                out.u8(8);
                out.u32(u32::try_from(blocks >> THRESHOLD_EXPONENT).unwrap_or(u32::MAX));
                // The store's space is shared by all its volumes, what is used is the unit's own.
                out.u8(if code == 1 { 0x02 } else { 0x01 });
                out.zeroes(3);
            }
        }
        (SUPPORTED, _, _) | (PROVISIONING, _, Some(_)) => return Err(Sense::invalid_in_cdb(3, None)),
        _ => return Err(Sense::invalid_in_cdb(2, Some(5))),
    }
    out.length::<2>(start + 2);
    Ok(())
}

/// Lists of pages have no parameters to start from.
const fn no_parameters(pointer: u16) -> Result<(), Sense> {
    if pointer == 0 { Ok(()) } else { Err(Sense::invalid_in_cdb(5, None)) }
}
