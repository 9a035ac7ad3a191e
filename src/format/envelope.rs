//! The envelope around every durable record: who wrote it, who may read it, and whether it is whole.
//!
//! ```text
//! 0        8        10            12      16        20
//! | magic  | version | readable from | length | CRC32C | payload ...     (little endian)
//! ```
//! The CRC covers the 16 bytes before it and the payload. `readable from` is the oldest reader's
//! version that understands the record, so that an older program can tell "too new" from "damaged".

use thiserror::Error;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 20;

/// Longest payload in bytes: bounds what a damaged length can make a reader do.
pub const PAYLOAD_MAX: usize = 16 << 20;

/// One kind of record. A program writes `version` and reads every record whose `readable_from` is
/// not above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    pub magic: [u8; 8],
    pub version: u16,
    pub readable_from: u16,
}

/// Why bytes are not a record of the expected kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    #[error("is blank")]
    Blank,
    #[error("is no {expected} record (it begins with {found:?})", expected = show(expected), found = show(found))]
    Foreign { expected: [u8; 8], found: [u8; 8] },
    #[error(
        "was written by a newer twinlun (format {version}, needs a reader of {readable_from} or later; this one has {own}); install the newer version"
    )]
    TooNew { version: u16, readable_from: u16, own: u16 },
    #[error("is cut short")]
    Short,
    #[error("is torn or damaged (its checksum does not match)")]
    Damaged,
}

fn show(magic: &[u8; 8]) -> String {
    magic.escape_ascii().to_string()
}

/// A record as read: the version it was written with, and what is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub version: u16,
    pub payload: &'a [u8],
}

impl Format {
    /// Appends the record around `payload` to `out`.
    ///
    /// # Panics
    /// When `payload` is longer than [`PAYLOAD_MAX`]: records are bounded by their writers.
    pub fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        assert!(payload.len() <= PAYLOAD_MAX, "a record of {} bytes", payload.len());
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX); // bounded by PAYLOAD_MAX
        let start = out.len();
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.readable_from.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        let crc = checksum(&out[start..], payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
    }

    /// The record at the start of `bytes`; what follows it is ignored.
    ///
    /// # Errors
    /// See [`EnvelopeError`]. A record is never guessed at.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Record<'a>, EnvelopeError> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(if bytes.iter().all(|&b| b == 0) {
                EnvelopeError::Blank
            } else {
                EnvelopeError::Short
            });
        };
        let [m0, m1, m2, m3, m4, m5, m6, m7, v0, v1, r0, r1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let found = [m0, m1, m2, m3, m4, m5, m6, m7];
        if found != self.magic {
            let blank = bytes.iter().all(|&b| b == 0);
            return Err(if blank {
                EnvelopeError::Blank
            } else {
                EnvelopeError::Foreign { expected: self.magic, found }
            });
        }
        let version = u16::from_le_bytes([v0, v1]);
        let readable_from = u16::from_le_bytes([r0, r1]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        let payload = usize::try_from(length)
            .ok()
            .filter(|&length| length <= PAYLOAD_MAX)
            .and_then(|length| rest.get(..length))
            .ok_or(EnvelopeError::Short)?;
        if checksum(&header[..HEADER_LEN - 4], payload) != crc {
            return Err(EnvelopeError::Damaged);
        }
        if readable_from > self.version {
            return Err(EnvelopeError::TooNew { version, readable_from, own: self.version });
        }
        Ok(Record { version, payload })
    }
}

/// CRC32C over both.
pub fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(header);
    digest.update(payload);
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX) // a 32-bit CRC in a u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FORMAT: Format = Format { magic: *b"TWLNTEST", version: 3, readable_from: 2 };

    fn encoded(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FORMAT.encode(payload, &mut out);
        out
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(FORMAT.decode(&[0; 64]), Err(EnvelopeError::Blank));
        assert_eq!(FORMAT.decode(&[]), Err(EnvelopeError::Blank));
        assert_eq!(FORMAT.decode(b"TWLN"), Err(EnvelopeError::Short));
        let other = Format { magic: *b"TWLNOTHR", ..FORMAT };
        assert!(matches!(other.decode(&encoded(b"x")), Err(EnvelopeError::Foreign { .. })));
        let old = Format { version: 1, readable_from: 1, ..FORMAT };
        assert_eq!(
            old.decode(&encoded(b"x")),
            Err(EnvelopeError::TooNew { version: 3, readable_from: 2, own: 1 })
        );
        let newer = Format { version: 9, readable_from: 9, ..FORMAT };
        assert_eq!(newer.decode(&encoded(b"x")).map(|r| r.version), Ok(3));
    }

    proptest! {
        #[test]
        fn round_trips(payload in proptest::collection::vec(any::<u8>(), 0..600)) {
            let bytes = encoded(&payload);
            let record = FORMAT.decode(&bytes).unwrap();
            prop_assert_eq!(record.payload, &payload[..]);
            prop_assert_eq!(record.version, 3);
        }

        #[test]
        fn finds_every_flipped_bit(payload in proptest::collection::vec(any::<u8>(), 0..600), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encoded(&payload);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(FORMAT.decode(&bytes).is_err());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), with_magic in any::<bool>()) {
            let mut bytes = bytes;
            if with_magic && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&FORMAT.magic);
            }
            let _ = FORMAT.decode(&bytes);
        }
    }
}
