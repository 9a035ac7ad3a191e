//! Every command there is, once: which bits of its CDB mean something, and where it is allowed.

/// What a CDB asks for; the parser turns it into a [`Command`](super::cdb::Command).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    StartStopUnit,
    PreventAllow,
    ReadCapacity10,
    ReadCapacity16,
    GetLbaStatus,
    Read,
    Write,
    WriteAndVerify,
    Verify,
    PreFetch,
    SynchronizeCache,
    WriteSame,
    Unmap,
    CompareAndWrite,
    ReadDefectData10,
    ReadDefectData12,
    LogSense,
    ReportLuns,
    ReportTargetPortGroups,
    ReportSupportedOpcodes,
    ReportSupportedTaskManagement,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Bytes of the CDB.
    pub len: u8,
    /// Told in the CDB where the operation code is shared.
    pub action: Option<u8>,
    /// CDB usage data (SPC-5 6.36.3): the operation code and service action, then a one for each
    /// bit that is evaluated. Any other bit must be zero unless it is ignored.
    pub usage: [u8; 16],
    /// Bits that may be set and mean nothing here: GROUP NUMBER, obsolete ones.
    ignored: [u8; 16],
    /// Byte 1 starts with RDPROTECT, WRPROTECT or VRPROTECT, three bits that must be zero: there is
    /// no protection information.
    protect: bool,
    /// A standby port answers it (DESIGN 5).
    pub standby: bool,
    /// It is there for thin volumes only.
    pub thin: bool,
}

/// CONTROL byte: vendor specific and obsolete bits. NACA must be zero, there is no ACA.
const CONTROL_IGNORED: u8 = 0xc3;
/// GROUP NUMBER and what stands before it in the sixteen-byte CDBs (duration limits).
const GROUP: u8 = 0x3f;
/// Service action, in byte 1.
const SERVICE_ACTION: u8 = 0x1f;

const fn entry(kind: Kind, usage: &[u8]) -> Entry {
    let mut whole = [0; 16];
    let mut at = 0;
    while at < usage.len() && at < 16 {
        whole[at] = usage[at];
        at += 1;
    }
    let mut ignored = [0; 16];
    // A CDB of this table has 6, 10, 12 or 16 bytes.
    #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
    let len = at as u8;
    ignored[at - 1] = CONTROL_IGNORED;
    if len == 6 && usage[1] & 0xe0 == 0 {
        // Where SCSI-2 had the LUN.
        ignored[1] = 0xe0;
    }
    Entry { kind, len, action: None, usage: whole, ignored, protect: false, standby: false, thin: false }
}

impl Entry {
    const fn action(mut self) -> Self {
        self.action = Some(self.usage[1] & SERVICE_ACTION);
        self
    }

    const fn standby(mut self) -> Self {
        self.standby = true;
        self
    }

    const fn thin(mut self) -> Self {
        self.thin = true;
        self
    }

    const fn protect(mut self) -> Self {
        self.protect = true;
        self
    }

    const fn ignoring(mut self, byte: usize, bits: u8) -> Self {
        self.ignored[byte] |= bits;
        self
    }

    pub const fn opcode(&self) -> u8 {
        self.usage[0]
    }

    /// The leftmost bit that is set and must not be: byte and bit.
    pub fn reserved_bit(&self, cdb: &[u8; 16]) -> Option<(u16, u8)> {
        let allowed = self.usage.iter().zip(&self.ignored);
        for (byte, (given, (usage, ignored))) in
            (0u16..).zip(cdb.iter().zip(allowed)).skip(1).take(usize::from(self.len) - 1)
        {
            let mut wrong = given & !(usage | ignored);
            if byte == 1 && self.action.is_some() {
                wrong &= !SERVICE_ACTION;
            }
            if wrong != 0 {
                let field = byte == 1 && self.protect && wrong & 0xe0 != 0;
                let bit = if field { 7 } else { wrong.ilog2() };
                return Some((byte, u8::try_from(bit).unwrap_or(0)));
            }
        }
        None
    }
}

/// Service actions under one operation code.
pub const fn has_actions(opcode: u8) -> bool {
    matches!(opcode, 0x9e | 0xa3)
}

/// Ascending by operation code, then by service action.
#[rustfmt::skip]
pub const TABLE: &[Entry] = &[
    entry(Kind::TestUnitReady, &[0x00, 0, 0, 0, 0, 0]),
    entry(Kind::RequestSense, &[0x03, 0x01, 0, 0, 0xff, 0]).standby(),
    entry(Kind::Read, &[0x08, 0x1f, 0xff, 0xff, 0xff, 0]),
    entry(Kind::Write, &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0]),
    entry(Kind::Inquiry, &[0x12, 0x01, 0xff, 0xff, 0xff, 0]).standby(),
    entry(Kind::ModeSelect, &[0x15, 0x11, 0, 0, 0xff, 0]),
    entry(Kind::ModeSense, &[0x1a, 0x08, 0xff, 0xff, 0xff, 0]).standby(),
    entry(Kind::StartStopUnit, &[0x1b, 0x01, 0, 0x0f, 0xf7, 0]),
    entry(Kind::PreventAllow, &[0x1e, 0, 0, 0, 0x03, 0]),
    // LOGICAL BLOCK ADDRESS and PMI are obsolete.
    entry(Kind::ReadCapacity10, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]).standby()
        .ignoring(1, 0x01).ignoring(2, 0xff).ignoring(3, 0xff).ignoring(4, 0xff).ignoring(5, 0xff)
        .ignoring(8, 0x01),
    // RARC without rebuild assist, obsolete FUA_NV and RELADR.
    entry(Kind::Read, &[0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]).protect()
        .ignoring(1, 0x07).ignoring(6, GROUP),
    entry(Kind::Write, &[0x2a, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]).protect()
        .ignoring(1, 0x03).ignoring(6, GROUP),
    entry(Kind::WriteAndVerify, &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]).protect()
        .ignoring(1, 0x01).ignoring(6, GROUP),
    entry(Kind::Verify, &[0x2f, 0x12, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]).protect()
        .ignoring(1, 0x01).ignoring(6, GROUP),
    entry(Kind::PreFetch, &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0])
        .ignoring(1, 0x01).ignoring(6, GROUP),
    entry(Kind::SynchronizeCache, &[0x35, 0x02, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0])
        .ignoring(1, 0x05).ignoring(6, GROUP),
    entry(Kind::ReadDefectData10, &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0]),
    entry(Kind::WriteSame, &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]).protect()
        .ignoring(1, 0x01).ignoring(6, GROUP),
    entry(Kind::Unmap, &[0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0]).thin()
        .ignoring(6, GROUP),
    entry(Kind::LogSense, &[0x4d, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0]).standby(),
    entry(Kind::ModeSelect, &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0]),
    entry(Kind::ModeSense, &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0]).standby(),
    entry(Kind::Read, &[0x88, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .protect().ignoring(1, 0x07).ignoring(14, 0xc0 | GROUP),
    entry(Kind::CompareAndWrite, &[0x89, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0, 0])
        .protect().ignoring(1, 0x02).ignoring(14, GROUP),
    entry(Kind::Write, &[0x8a, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .protect().ignoring(1, 0x03).ignoring(14, 0xc0 | GROUP),
    entry(Kind::WriteAndVerify, &[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .protect().ignoring(1, 0x01).ignoring(14, GROUP),
    entry(Kind::Verify, &[0x8f, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .protect().ignoring(1, 0x01).ignoring(14, GROUP),
    entry(Kind::PreFetch, &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .ignoring(1, 0x01).ignoring(14, GROUP),
    entry(Kind::SynchronizeCache, &[0x91, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .ignoring(1, 0x05).ignoring(14, GROUP),
    entry(Kind::WriteSame, &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .protect().ignoring(14, GROUP),
    entry(Kind::ReadCapacity16, &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .action().standby()
        .ignoring(2, 0xff).ignoring(3, 0xff).ignoring(4, 0xff).ignoring(5, 0xff).ignoring(6, 0xff)
        .ignoring(7, 0xff).ignoring(8, 0xff).ignoring(9, 0xff).ignoring(14, 0x01),
    entry(Kind::GetLbaStatus, &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .action(),
    entry(Kind::ReportLuns, &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]).standby(),
    entry(Kind::ReportTargetPortGroups, &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .action().standby(),
    entry(Kind::ReportSupportedOpcodes, &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .action().standby(),
    entry(Kind::ReportSupportedTaskManagement, &[0xa3, 0x0d, 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0])
        .action(),
    entry(Kind::Read, &[0xa8, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]).protect()
        .ignoring(1, 0x07).ignoring(10, GROUP),
    entry(Kind::Write, &[0xaa, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]).protect()
        .ignoring(1, 0x03).ignoring(10, GROUP),
    entry(Kind::WriteAndVerify, &[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]).protect()
        .ignoring(1, 0x01).ignoring(10, GROUP),
    entry(Kind::Verify, &[0xaf, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]).protect()
        .ignoring(1, 0x01).ignoring(10, GROUP),
    // ADDRESS DESCRIPTOR INDEX: any is past the end of an empty list.
    entry(Kind::ReadDefectData12, &[0xb7, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]),
];

/// No entry with this operation code.
const NONE: u8 = 0xff;

/// First entry of each operation code.
const FIRST: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut at = TABLE.len();
    while at > 0 {
        at -= 1;
        #[expect(clippy::cast_possible_truncation, reason = "the table has far fewer than 255 entries")]
        let place = at as u8;
        first[TABLE[at].opcode() as usize] = place;
    }
    first
};

/// Why there is no such command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unknown {
    Opcode,
    ServiceAction,
}

/// The entry of an operation code and, where it has some, of its service action.
///
/// # Errors
/// There is no such command.
pub fn find(opcode: u8, action: u8) -> Result<&'static Entry, Unknown> {
    let first = usize::from(FIRST[usize::from(opcode)]);
    let entries = TABLE.get(first..).unwrap_or_default();
    let mut same = entries.iter().take_while(|entry| entry.opcode() == opcode).peekable();
    if same.peek().is_none() {
        return Err(Unknown::Opcode);
    }
    same.find(|entry| entry.action.is_none_or(|of_entry| of_entry == action)).ok_or(Unknown::ServiceAction)
}

#[cfg(test)]
mod tests {
    use super::{TABLE, Unknown, find, has_actions};

    #[test]
    fn the_table_is_in_order_and_found() {
        for pair in TABLE.windows(2) {
            let key = |at: usize| (pair[at].opcode(), pair[at].action);
            assert!(key(0) < key(1), "{:02x?}", key(1));
        }
        for entry in TABLE {
            assert_eq!(find(entry.opcode(), entry.action.unwrap_or(0)), Ok(entry));
            assert_eq!(entry.action.is_some(), has_actions(entry.opcode()));
            let len = match entry.opcode() >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("group {group}"),
            };
            assert_eq!(entry.len, len, "{:02x}", entry.opcode());
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        // RESERVE, RELEASE, SANITIZE, PERSISTENT RESERVE, EXTENDED COPY and its results.
        for opcode in [0x16, 0x17, 0x48, 0x56, 0x57, 0x5e, 0x5f, 0x7f, 0x83, 0x84, 0xa4, 0xff] {
            assert_eq!(find(opcode, 0), Err(Unknown::Opcode), "{opcode:02x}");
        }
        assert_eq!(find(0x9e, 0x11), Err(Unknown::ServiceAction));
    }

    #[test]
    fn a_reserved_bit_is_pointed_at() {
        let read = find(0x28, 0).unwrap();
        let mut cdb = [0; 16];
        cdb[0] = 0x28;
        cdb[6] = 0x1f;
        assert_eq!(read.reserved_bit(&cdb), None);
        cdb[9] = 0x04;
        assert_eq!(read.reserved_bit(&cdb), Some((9, 2)));
        cdb[1] = 0x20;
        assert_eq!(read.reserved_bit(&cdb), Some((1, 7)), "RDPROTECT starts at bit 7");
        // What stands behind the CDB in its sixteen bytes means nothing.
        cdb = [0xff; 16];
        cdb[..10].copy_from_slice(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(read.reserved_bit(&cdb), None);
    }
}
