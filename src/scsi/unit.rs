//! What the command set is told of a logical unit, its paths and the port a command came by.

use super::Lun;

/// Names of a logical unit; equal on both arrays of a pair (DESIGN 5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// NAA IEEE Registered Extended designator: the first half byte is 6.
    pub naa: [u8; 16],
    /// Unit serial number, printable ASCII, cut at [`Identity::SERIAL_MAX`].
    pub serial: String,
    /// Left aligned, filled with spaces (SPC-5 4.3.1), as the next two.
    pub vendor: [u8; 8],
    pub product: [u8; 16],
    pub revision: [u8; 4],
}

impl Identity {
    /// What fits a designator together with vendor and product, with room to spare.
    pub const SERIAL_MAX: usize = 64;

    /// `text` in a field of printable ASCII; anything else becomes a space, what is too long is cut.
    pub fn field<const N: usize>(text: &str) -> [u8; N] {
        let mut field = [b' '; N];
        for (place, byte) in field.iter_mut().zip(text.bytes()) {
            if (0x20..0x7f).contains(&byte) {
                *place = byte;
            }
        }
        field
    }
}

/// Limits of single commands, told in VPD page B0 and enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most blocks one command transfers. Not above what the transport takes for one command.
    pub transfer_blocks: u32,
    /// Transfer the host should prefer, in blocks.
    pub optimal_transfer_blocks: u32,
    pub write_same_blocks: u32,
    /// Most blocks of one UNMAP command, all its descriptors together.
    pub unmap_blocks: u32,
    pub unmap_descriptors: u16,
    /// Of one half. At most 255, the CDB has one byte for it.
    pub compare_and_write_blocks: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transfer_blocks: 16 * 1024,
            optimal_transfer_blocks: 2 * 1024,
            // Written out when the block is not zero, so no more than any other write.
            write_same_blocks: 16 * 1024,
            // 512 MiB and no more: conformance tests call more insane.
            unmap_blocks: 1024 * 1024,
            unmap_descriptors: 256,
            compare_and_write_blocks: 255,
        }
    }
}

/// One virtual volume as hosts see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogicalUnit {
    pub identity: Identity,
    /// Capacity in logical blocks of 512 bytes; not zero.
    pub blocks: u64,
    /// Thin provisioned: UNMAP is there, unmapped blocks read as zeroes.
    pub thin: bool,
    /// Write promise `memory`: WCE = 1, FUA and SYNCHRONIZE CACHE reach the disks.
    pub write_cache: bool,
    pub limits: Limits,
}

/// Space behind a thin volume, in logical blocks (LOG SENSE page 0C).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    pub available_blocks: u64,
    pub used_blocks: u64,
}

/// Asymmetric access state of a target port group (SPC-5 5.17.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessState {
    ActiveOptimized,
    ActiveNonOptimized,
    Standby,
    Unavailable,
    Transitioning,
}

impl AccessState {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::ActiveOptimized => 0x0,
            Self::ActiveNonOptimized => 0x1,
            Self::Standby => 0x2,
            Self::Unavailable => 0x3,
            Self::Transitioning => 0xf,
        }
    }

    /// The port carries out every command.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::ActiveOptimized | Self::ActiveNonOptimized)
    }
}

/// A target port group: the ports of one array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortGroup {
    pub id: u16,
    pub state: AccessState,
    /// Relative target port identifiers, at most 255 of them (the count has one byte).
    pub ports: Vec<u16>,
}

/// The paths to a unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// The group of the port the command came by.
    pub own: PortGroup,
    /// The other array's group, only while its state is known for certain (DESIGN 5).
    pub other: Option<PortGroup>,
    /// Longest time a transition may take, in seconds; small, not zero (HOSTS, Linux).
    pub transition_s: u8,
    /// Hosts are told of these states (SPC-5 6.7.2, TPGS); else they find out which path serves by trying.
    pub told: bool,
}

/// Counters that grow when something happened that every nexus must be told of once. A nexus
/// compares them with what it saw at its last command, so nothing has to be sent to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// The access state of some port group changed: 06/2A/06.
    pub access: u64,
    /// The unit was reset, by whichever nexus: 06/29/03.
    pub resets: u64,
}

/// The port a command came by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Relative target port identifier, unique over both arrays.
    pub relative: u16,
    /// SCSI port name: target name, `,t,0x` and the portal group tag (RFC 7143 4.2.7).
    pub name: String,
    /// SCSI device name: the iSCSI target name.
    pub device: String,
}

/// The unit that a command's LUN names.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    pub lun: Lun,
    pub unit: &'a LogicalUnit,
    pub access: &'a Access,
    pub changes: Changes,
    /// `None`: not known; the log page is not offered then.
    pub space: Option<Space>,
}

/// All that a command is carried out against.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub port: &'a Port,
    /// Every LUN this nexus sees, ascending.
    pub luns: &'a [Lun],
    /// Grows whenever `luns` changes: 06/3F/0E.
    pub inventory: u64,
    /// `None`: no unit there.
    pub unit: Option<Addressed<'a>>,
}
