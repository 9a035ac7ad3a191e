//! INQUIRY data and vital product data (SPC-5 6.7, 7.7; SBC-4 6.6).

use super::parameter::Parameter;
use super::sense::Sense;
use super::unit::{Addressed, Identity, View};
use crate::block::{BLOCKS_PER_PHYSICAL, PHYSICAL_BLOCK};

/// Peripheral qualifier and device type: a disk that is there, and nothing at this LUN.
const DISK: u8 = 0x00;
const NOTHING: u8 = 0x7f;

/// VPD pages, ascending as page 00 lists them.
const PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// SPC-4, which conformance suites and all hosts know; nothing of SPC-5 is claimed by number.
const VERSION: u8 = 0x06;
/// SAM-5, iSCSI, SPC-4, SBC-3 (SPC-5 6.7.2, version descriptors without a revision).
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

/// Blocks of one threshold set as a power of two: 1 MiB (SBC-4 6.6.7, log page 0C).
pub(super) const THRESHOLD_EXPONENT: u8 = 11;

/// Designators of VPD page 83 (SPC-5 7.7.6).
const CODE_BINARY: u8 = 1;
const CODE_ASCII: u8 = 2;
const CODE_UTF8: u8 = 3;
const TYPE_T10: u8 = 1;
const TYPE_NAA: u8 = 3;
const TYPE_RELATIVE_PORT: u8 = 4;
const TYPE_PORT_GROUP: u8 = 5;
const TYPE_NAME: u8 = 8;
const OF_PORT: u8 = 0x10;
const OF_DEVICE: u8 = 0x20;
/// PIV, with protocol identifier 5 (iSCSI) in byte 0.
const OF_ISCSI: u8 = 0x80;
const ISCSI: u8 = 0x50;

/// Standard INQUIRY data; without a unit it says that none is there.
pub(super) fn standard(view: &View<'_>, out: &mut Parameter<'_>) {
    let start = out.len();
    out.u8(if view.unit.is_some() { DISK } else { NOTHING });
    out.u8(0); // not removable
    out.u8(VERSION);
    out.u8(0x12); // HISUP, response data format 2
    out.u8(0);
    let Some(Addressed { unit, access, .. }) = &view.unit else {
        // Names of a unit that is not there are blanks.
        out.zeroes(3);
        out.bytes(&[b' '; 28]);
        return out.length::<1>(start + 4);
    };
    out.u8(if access.told { 0x10 } else { 0 }); // TPGS implicit; no third-party copy, no protection
    out.u8(0x10); // MULTIP: more than one port
    out.u8(0x02); // CMDQUE
    out.bytes(&unit.identity.vendor);
    out.bytes(&unit.identity.product);
    out.bytes(&unit.identity.revision);
    out.zeroes(22);
    for version in VERSIONS {
        out.u16(version);
    }
    out.zeroes(96 - 66);
    out.length::<1>(start + 4);
}

/// A page of vital product data.
pub(super) fn page(view: &View<'_>, page: u8, out: &mut Parameter<'_>) -> Result<(), Sense> {
    let start = out.len();
    out.u8(if view.unit.is_some() { DISK } else { NOTHING });
    out.u8(page);
    out.u16(0);
    match (page, &view.unit) {
        (0x00, Some(_)) => out.bytes(&PAGES),
        (0x00, None) => out.u8(0x00),
        (0x80, Some(addressed)) => out.bytes(serial(&addressed.unit.identity)),
        (0x83, Some(addressed)) => designators(view, addressed, out),
        (0x86, Some(addressed)) => extended(addressed, out),
        (0xb0, Some(addressed)) => block_limits(addressed, out),
        (0xb1, Some(_)) => {
            out.u16(1); // not a rotating medium
            out.zeroes(58);
        }
        (0xb2, Some(addressed)) => provisioning(addressed, out),
        _ => return Err(Sense::invalid_in_cdb(2, None)),
    }
    out.length::<2>(start + 2);
    Ok(())
}

fn serial(identity: &Identity) -> &[u8] {
    let bytes = identity.serial.as_bytes();
    bytes.get(..Identity::SERIAL_MAX).unwrap_or(bytes)
}

/// Device identification: the unit's own names first, as ESXi takes the first NAA it finds.
fn designators(view: &View<'_>, addressed: &Addressed<'_>, out: &mut Parameter<'_>) {
    let identity = &addressed.unit.identity;
    designator(out, CODE_BINARY, TYPE_NAA, |out| out.bytes(&identity.naa));
    designator(out, CODE_ASCII, TYPE_T10, |out| {
        out.bytes(&identity.vendor);
        out.bytes(&identity.product);
        out.bytes(serial(identity));
    });
    designator(out, ISCSI | CODE_BINARY, OF_ISCSI | OF_PORT | TYPE_RELATIVE_PORT, |out| {
        out.u16(0);
        out.u16(view.port.relative);
    });
    designator(out, ISCSI | CODE_BINARY, OF_ISCSI | OF_PORT | TYPE_PORT_GROUP, |out| {
        out.u16(0);
        out.u16(addressed.access.own.id);
    });
    for (whose, name) in [(OF_PORT, &view.port.name), (OF_DEVICE, &view.port.device)] {
        designator(out, ISCSI | CODE_UTF8, OF_ISCSI | whose | TYPE_NAME, |out| {
            let bytes = name.as_bytes();
            // Terminated by a zero and filled up to four bytes (SPC-5 7.7.6.11).
            let bytes = bytes.get(..NAME_MAX).unwrap_or(bytes);
            out.bytes(bytes);
            out.zeroes(4 - bytes.len() % 4);
        });
    }
}

/// An iSCSI name has at most 223 bytes (RFC 7143 4.2.7.1), the portal group tag ten more.
const NAME_MAX: usize = 236;

fn designator(out: &mut Parameter<'_>, code: u8, kind: u8, body: impl FnOnce(&mut Parameter<'_>)) {
    out.u8(code);
    out.u8(kind);
    out.u8(0);
    let at = out.len();
    out.u8(0);
    body(out);
    out.length::<1>(at);
}

/// Extended INQUIRY data: simple tasks only, and whether there is a volatile cache.
fn extended(addressed: &Addressed<'_>, out: &mut Parameter<'_>) {
    out.u8(0);
    out.u8(0x01); // SIMPSUP
    out.u8(if addressed.unit.write_cache { 0x01 } else { 0x00 }); // V_SUP
    out.zeroes(57);
}

fn block_limits(addressed: &Addressed<'_>, out: &mut Parameter<'_>) {
    let unit = addressed.unit;
    let limits = &unit.limits;
    out.u8(0x01); // WSNZ: WRITE SAME of zero blocks is refused
    out.u8(limits.compare_and_write_blocks);
    out.u16(u16::try_from(BLOCKS_PER_PHYSICAL).unwrap_or(1)); // optimal transfer granularity
    out.u32(limits.transfer_blocks);
    out.u32(limits.optimal_transfer_blocks);
    out.u32(0); // maximum prefetch length
    if unit.thin {
        out.u32(limits.unmap_blocks);
        out.u32(u32::from(limits.unmap_descriptors));
        out.u32(PHYSICAL_BLOCK / crate::block::BLOCK); // optimal unmap granularity
        out.u32(0x8000_0000); // UGAVALID, alignment 0
    } else {
        out.zeroes(16);
    }
    out.u64(u64::from(limits.write_same_blocks));
    out.zeroes(20);
}

fn provisioning(addressed: &Addressed<'_>, out: &mut Parameter<'_>) {
    if addressed.unit.thin {
        out.u8(THRESHOLD_EXPONENT);
        out.u8(0xe4); // LBPU, LBPWS, LBPWS10, LBPRZ
        out.u8(0x02); // thin provisioned
    } else {
        out.zeroes(3);
    }
    out.u8(0);
}
