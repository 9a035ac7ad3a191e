//! Reports: capacity, LBA status, LUNs, target port groups, supported commands and task management.

use super::cdb::Which;
use super::parameter::Parameter;
use super::sense::Sense;
use super::table::{Entry, TABLE, find, has_actions};
use super::unit::{Access, LogicalUnit, PortGroup, View};
use crate::block::{BLOCK, BLOCKS_PER_PHYSICAL};

/// LBA of the last block.
fn last_lba(unit: &LogicalUnit) -> u64 {
    unit.blocks.saturating_sub(1)
}

/// SBC-4 5.20: the greatest 32 bit number says that READ CAPACITY(16) knows.
pub(super) fn capacity_10(unit: &LogicalUnit, out: &mut Parameter<'_>) {
    out.u32(u32::try_from(last_lba(unit)).unwrap_or(u32::MAX));
    out.u32(BLOCK);
}

/// SBC-4 5.21.
pub(super) fn capacity_16(unit: &LogicalUnit, out: &mut Parameter<'_>) {
    out.u64(last_lba(unit));
    out.u32(BLOCK);
    out.u8(0); // no protection
    out.u8(u8::try_from(BLOCKS_PER_PHYSICAL.ilog2()).unwrap_or(0));
    out.u16(if unit.thin { 0xc000 } else { 0 }); // LBPME, LBPRZ; alignment 0
    out.zeroes(16);
}

/// SBC-4 5.9. Which blocks the store holds is not asked: the rest of the volume is reported with
/// provisioning status 0, "mapped or its state is unknown".
pub(super) fn lba_status(unit: &LogicalUnit, lba: u64, out: &mut Parameter<'_>) -> Result<(), Sense> {
    if lba >= unit.blocks {
        return Err(Sense::LBA_OUT_OF_RANGE);
    }
    let start = out.len();
    out.u32(0);
    out.u32(0);
    out.u64(lba);
    out.u32(u32::try_from(unit.blocks - lba).unwrap_or(u32::MAX));
    out.u32(0);
    out.length::<4>(start);
    Ok(())
}

/// SBC-4 5.17 and 5.18: a virtual volume has no defects to list.
pub(super) fn defects(long: bool, lists: u8, format: u8, out: &mut Parameter<'_>) {
    out.u8(0);
    out.u8(lists | format);
    if long {
        out.u16(0); // generation code: not supported
        out.u32(0);
    } else {
        out.u16(0);
    }
}

/// SPC-5 6.37. There are neither well known nor administrative units.
pub(super) fn luns(view: &View<'_>, select: u8, out: &mut Parameter<'_>) {
    let listed = if matches!(select, 0x00 | 0x02 | 0x11) { view.luns } else { &[] };
    // Counts the list alone, not the four reserved bytes before it.
    out.u32(u32::try_from(listed.len() * 8).unwrap_or(u32::MAX));
    out.u32(0);
    for lun in listed {
        out.u64(lun.encode());
    }
}

/// SPC-5 6.39, length only or extended header.
pub(super) fn target_port_groups(access: &Access, extended: bool, out: &mut Parameter<'_>) {
    let start = out.len();
    out.u32(0);
    if extended {
        out.u8(0x10);
        out.u8(access.transition_s);
        out.u16(0);
    }
    port_group(&access.own, out);
    if let Some(other) = &access.other {
        port_group(other, out);
    }
    out.length::<4>(start);
}

fn port_group(group: &PortGroup, out: &mut Parameter<'_>) {
    let ports = group.ports.get(..255).unwrap_or(&group.ports);
    // PREF stays 0: Linux's alua prioritizer ranks a preferred standby group (81) above an active one
    // (50), and would send every host to the array that does not serve.
    out.u8(group.state.code());
    // Transitioning, standby, active/non-optimized and active/optimized occur.
    out.u8(0x87);
    out.u16(group.id);
    out.u8(0);
    out.u8(0x02); // changed by implicit means only
    out.u8(0);
    out.u8(u8::try_from(ports.len()).unwrap_or(u8::MAX));
    for port in ports {
        out.u16(0);
        out.u16(*port);
    }
}

/// Command timeouts descriptor: none is told (SPC-5 6.36.4).
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SPC-5 6.36.
pub(super) fn supported_opcodes(
    unit: &LogicalUnit,
    which: Which,
    timeouts: bool,
    out: &mut Parameter<'_>,
) -> Result<(), Sense> {
    let there = |entry: &&Entry| unit.thin || !entry.thin;
    let (opcode, action) = match which {
        Which::All => {
            let start = out.len();
            out.u32(0);
            for entry in TABLE.iter().filter(there) {
                out.u8(entry.opcode());
                out.u8(0);
                out.u16(u16::from(entry.action.unwrap_or(0)));
                out.u8(0);
                out.u8(u8::from(timeouts) << 1 | u8::from(entry.action.is_some()));
                out.u16(u16::from(entry.len));
                if timeouts {
                    out.bytes(&TIMEOUTS);
                }
            }
            out.length::<4>(start);
            return Ok(());
        }
        // The option has to fit the operation code (SPC-5 6.36.1).
        Which::Opcode(opcode) if has_actions(opcode) => return Err(Sense::invalid_in_cdb(2, Some(2))),
        Which::Action(opcode, _) if !has_actions(opcode) && find(opcode, 0).is_ok() => {
            return Err(Sense::invalid_in_cdb(2, Some(2)));
        }
        Which::Opcode(opcode) => (opcode, 0),
        Which::Action(opcode, action) | Which::Any(opcode, action) => (opcode, action),
    };
    // A service action that says something where there is none, or beyond five bits, is not there.
    let entry = u8::try_from(action)
        .ok()
        .and_then(|action| find(opcode, action).ok())
        .filter(|entry| entry.action.is_some() || action == 0)
        .filter(there);
    out.u8(0);
    match entry {
        None => {
            out.u8(0x01);
            out.u16(0);
        }
        Some(entry) => {
            out.u8(u8::from(timeouts) << 7 | 0x03);
            out.u16(u16::from(entry.len));
            out.bytes(entry.usage.get(..usize::from(entry.len)).unwrap_or_default());
            if timeouts {
                out.bytes(&TIMEOUTS);
            }
        }
    }
    Ok(())
}

/// SPC-5 6.38: abort task, abort task set, clear task set, logical unit reset, target reset.
pub(super) fn task_management(extended: bool, out: &mut Parameter<'_>) {
    out.u8(0x80 | 0x40 | 0x10 | 0x08 | 0x02);
    out.zeroes(2);
    out.u8(if extended { 0x0c } else { 0 });
    if extended {
        out.zeroes(12);
    }
}
