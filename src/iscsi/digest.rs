//! CRC32C digests (RFC 7143 13.1). The four bytes go out least significant byte first, which is
//! the reflected polynomial's natural order (RFC 7143 appendix A's examples).

/// Length of a digest on the wire.
pub const LEN: usize = 4;

/// Which digests a connection carries, each way the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digests {
    pub header: bool,
    pub data: bool,
}

impl Digests {
    pub const NONE: Self = Self { header: false, data: false };

    pub const fn header_len(self) -> usize {
        if self.header { LEN } else { 0 }
    }

    pub const fn data_len(self) -> usize {
        if self.data { LEN } else { 0 }
    }
}

/// The digest of one contiguous run of bytes, as it stands on the wire.
pub fn of(bytes: &[u8]) -> [u8; LEN] {
    crc_fast::crc32_iscsi(bytes).to_le_bytes()
}

/// A digest over bytes that come in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Running(crc_fast::Digest);

impl Default for Running {
    fn default() -> Self {
        Self::new()
    }
}

impl Running {
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> [u8; LEN] {
        // A 32-bit CRC comes in the low half.
        let [a, b, c, d, ..] = self.0.finalize().to_le_bytes();
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::{Running, of};

    #[test]
    fn the_examples_of_appendix_a() {
        assert_eq!(of(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(of(&rising), [0x4e, 0x79, 0xdd, 0x46]);
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(5000).collect();
        for cut in [0, 1, 3, 512, 4999, 5000] {
            let mut running = Running::new();
            running.update(&bytes[..cut]);
            running.update(&bytes[cut..]);
            assert_eq!(running.finish(), of(&bytes));
        }
    }
}
