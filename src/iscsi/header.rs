//! The basic header segment (RFC 7143 11.2.1) and the fields every PDU has.

use core::fmt;

/// Length of the basic header segment in bytes.
pub const HEADER_LEN: usize = 48;
/// Data segments and AHS are padded to this many bytes (RFC 7143 11.1).
pub const PAD: usize = 4;
/// Largest value of DataSegmentLength, a 24-bit field.
pub const DATA_SEGMENT_MAX: usize = (1 << 24) - 1;
/// "No task": reserved value of the initiator and target task tags.
pub const NO_TAG: u32 = 0xffff_ffff;

/// Bytes of padding after `len` bytes.
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() % PAD
}

/// What a PDU is (RFC 7143 11.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    Snack = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    R2t = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::DataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::Snack,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::DataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::R2t,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            _ => return None,
        })
    }
}

/// Byte 0: immediate delivery.
const IMMEDIATE: u8 = 0x40;
const OPCODE: u8 = 0x3f;

/// The 48 bytes themselves. Accessors take the offset as a constant and are checked when they are
/// compiled, so no header can make them fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header(pub [u8; HEADER_LEN]);

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

impl Header {
    pub const fn new(opcode: Opcode) -> Self {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = opcode as u8;
        Self(bytes)
    }

    /// The first 48 bytes of `bytes`, if there are as many.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|head| Self(*head))
    }

    /// `None`: no PDU of this protocol.
    pub const fn opcode(&self) -> Option<Opcode> {
        Opcode::from_bits(self.0[0] & OPCODE)
    }

    pub const fn immediate(&self) -> bool {
        self.0[0] & IMMEDIATE != 0
    }

    pub(super) fn set_immediate(&mut self, immediate: bool) {
        if immediate {
            self.0[0] |= IMMEDIATE;
        }
    }

    /// TotalAHSLength in bytes.
    pub const fn ahs_len(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// DataSegmentLength in bytes, without padding.
    pub const fn data_len(&self) -> usize {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]]) as usize
    }

    /// `len` is at most [`DATA_SEGMENT_MAX`]; the rest is cut off.
    pub fn set_data_len(&mut self, len: usize) {
        debug_assert!(len <= DATA_SEGMENT_MAX);
        let len = u32::try_from(len).unwrap_or(0).to_be_bytes();
        self.0[5..8].copy_from_slice(&len[1..]);
    }

    /// Initiator task tag.
    pub fn itt(&self) -> u32 {
        self.u32::<16>()
    }

    pub(super) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(super) fn bytes<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= HEADER_LEN) };
        let mut field = [0; N];
        field.copy_from_slice(&self.0[AT..AT + N]);
        field
    }

    pub(super) fn put<const AT: usize, const N: usize>(&mut self, field: [u8; N]) {
        const { assert!(AT + N <= HEADER_LEN) };
        self.0[AT..AT + N].copy_from_slice(&field);
    }

    pub(super) fn u8<const AT: usize>(&self) -> u8 {
        u8::from_be_bytes(self.bytes::<AT, 1>())
    }

    pub(super) fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.bytes::<AT, 2>())
    }

    pub(super) fn u32<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.bytes::<AT, 4>())
    }

    pub(super) fn u64<const AT: usize>(&self) -> u64 {
        u64::from_be_bytes(self.bytes::<AT, 8>())
    }

    pub(super) fn put_u8<const AT: usize>(&mut self, value: u8) {
        self.put::<AT, 1>([value]);
    }

    pub(super) fn put_u16<const AT: usize>(&mut self, value: u16) {
        self.put::<AT, 2>(value.to_be_bytes());
    }

    pub(super) fn put_u32<const AT: usize>(&mut self, value: u32) {
        self.put::<AT, 4>(value.to_be_bytes());
    }

    pub(super) fn put_u64<const AT: usize>(&mut self, value: u64) {
        self.put::<AT, 8>(value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Opcode, padding};

    #[test]
    fn padding_fills_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn every_opcode_reads_back() {
        for bits in 0..=u8::MAX {
            if let Some(opcode) = Opcode::from_bits(bits) {
                assert_eq!(opcode as u8, bits);
                assert_eq!(Header::new(opcode).opcode(), Some(opcode));
            }
        }
    }

    #[test]
    fn lengths_read_back() {
        let mut header = Header::new(Opcode::DataIn);
        header.set_data_len(0x01_02_03);
        assert_eq!(header.data_len(), 0x01_02_03);
        assert_eq!(header.ahs_len(), 0);
        assert!(Header::from_slice(&[0; 47]).is_none());
    }
}
