//! Two-slot records: each write goes to the slot that does not hold the newest record, so that a
//! torn write leaves the record before it. The newest whole record wins.
//!
//! A slot is an envelope whose payload is a sequence number (u64, little endian) and the body,
//! padded with zeroes to the slot's length. Slots lie one after the other and are multiples of
//! 4 KiB, so that one write never touches the other slot's physical blocks.

use thiserror::Error;

use super::envelope::{EnvelopeError, Format, HEADER_LEN};

/// A slot's length is a multiple of this.
pub const SLOT_UNIT: usize = 4096;

/// A kind of two-slot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    pub format: Format,
    /// Length of one slot in bytes; a multiple of [`SLOT_UNIT`].
    pub slot_len: usize,
}

/// Why neither slot gives a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SlotError {
    /// Nothing was ever written here.
    #[error("is blank")]
    Blank,
    #[error("slot 0 {first}; slot 1 {second}")]
    Neither { first: EnvelopeError, second: EnvelopeError },
    /// One slot holds a record this program must not overlook.
    #[error("slot {slot} {error}")]
    Unreadable { slot: usize, error: EnvelopeError },
    #[error("both slots carry number {0} with different contents")]
    Twins(u64),
}

/// The newest record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    pub sequence: u64,
    pub version: u16,
    pub body: Vec<u8>,
    /// The slot it stands in; the next write goes to the other.
    pub slot: usize,
    /// The other slot held a write that was cut off (or has rotted): worth a word in the log.
    pub torn: Option<EnvelopeError>,
}

impl Slots {
    /// Longest body in bytes.
    pub const fn body_max(&self) -> usize {
        self.slot_len.saturating_sub(HEADER_LEN + 8)
    }

    /// Length of both slots.
    pub const fn file_len(&self) -> usize {
        self.slot_len * 2
    }

    /// One slot's bytes, as short as whole [`SLOT_UNIT`]s allow. `None`: the body is too long.
    pub fn encode(&self, sequence: u64, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() > self.body_max() {
            return None;
        }
        let mut payload = Vec::with_capacity(8 + body.len());
        payload.extend_from_slice(&sequence.to_le_bytes());
        payload.extend_from_slice(body);
        let mut out = Vec::with_capacity((HEADER_LEN + payload.len()).next_multiple_of(SLOT_UNIT));
        self.format.encode(&payload, &mut out);
        out.resize(out.len().next_multiple_of(SLOT_UNIT), 0);
        Some(out)
    }

    /// Where the record after `newest` goes: its sequence number and slot.
    pub fn next(newest: Option<&Newest>) -> (u64, usize) {
        newest.map_or((1, 0), |newest| (newest.sequence.saturating_add(1), 1 - newest.slot))
    }

    /// The newest record of a file's content (short is as if followed by zeroes).
    ///
    /// # Errors
    /// No slot whole; or a slot of a newer or a foreign format, which is never passed over in
    /// favour of its neighbour.
    pub fn decode(&self, file: &[u8]) -> Result<Newest, SlotError> {
        let (first, rest) = file.split_at(self.slot_len.min(file.len()));
        let second = &rest[..self.slot_len.min(rest.len())];
        match (self.slot(first, 0), self.slot(second, 1)) {
            (Err(EnvelopeError::Blank), Err(EnvelopeError::Blank)) => Err(SlotError::Blank),
            (Err(error @ EnvelopeError::TooNew { .. }), _) => Err(SlotError::Unreadable { slot: 0, error }),
            (_, Err(error @ EnvelopeError::TooNew { .. })) => Err(SlotError::Unreadable { slot: 1, error }),
            (Err(first), Err(second)) => Err(SlotError::Neither { first, second }),
            (Ok(first), Ok(second)) if first.sequence == second.sequence => {
                if first.body == second.body {
                    Ok(first)
                } else {
                    Err(SlotError::Twins(first.sequence))
                }
            }
            (Ok(first), Ok(second)) => Ok(if first.sequence > second.sequence { first } else { second }),
            (Ok(whole), Err(error)) | (Err(error), Ok(whole)) => {
                let torn = (error != EnvelopeError::Blank).then_some(error);
                Ok(Newest { torn, ..whole })
            }
        }
    }

    fn slot(&self, bytes: &[u8], slot: usize) -> Result<Newest, EnvelopeError> {
        let record = self.format.decode(bytes)?;
        let (sequence, body) = record.payload.split_first_chunk::<8>().ok_or(EnvelopeError::Damaged)?;
        Ok(Newest {
            sequence: u64::from_le_bytes(*sequence),
            version: record.version,
            body: body.to_vec(),
            slot,
            torn: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLOTS: Slots = Slots {
        format: Format { magic: *b"TWLNTEST", version: 1, readable_from: 1 },
        slot_len: 2 * SLOT_UNIT,
    };
    const SECTOR: usize = 512;

    /// Writes `body` after `newest`; of the write's sectors only those in `landed` reach the file.
    fn write(file: &mut [u8], newest: Option<&Newest>, body: &[u8], landed: impl Fn(usize) -> bool) {
        let (sequence, slot) = Slots::next(newest);
        let bytes = SLOTS.encode(sequence, body).unwrap();
        let start = slot * SLOTS.slot_len;
        for (n, sector) in bytes.chunks(SECTOR).enumerate() {
            if landed(n) {
                file[start + n * SECTOR..][..sector.len()].copy_from_slice(sector);
            }
        }
    }

    #[test]
    fn blank_and_foreign_are_told_apart() {
        assert_eq!(SLOTS.decode(&[]), Err(SlotError::Blank));
        assert_eq!(SLOTS.decode(&vec![0; SLOTS.file_len()]), Err(SlotError::Blank));
        assert!(matches!(SLOTS.decode(&vec![0x55; SLOTS.file_len()]), Err(SlotError::Neither { .. })));
        assert!(SLOTS.encode(1, &vec![0; SLOTS.body_max() + 1]).is_none());
    }

    #[test]
    fn a_newer_format_in_one_slot_is_not_passed_over() {
        let mut file = vec![0; SLOTS.file_len()];
        write(&mut file, None, b"old", |_| true);
        let newest = SLOTS.decode(&file).unwrap();
        let newer = Slots { format: Format { version: 2, readable_from: 2, ..SLOTS.format }, ..SLOTS };
        let (sequence, slot) = Slots::next(Some(&newest));
        let bytes = newer.encode(sequence, b"new").unwrap();
        file[slot * SLOTS.slot_len..][..bytes.len()].copy_from_slice(&bytes);
        assert!(matches!(SLOTS.decode(&file), Err(SlotError::Unreadable { slot: 1, .. })));
    }

    #[test]
    fn equal_numbers_with_other_contents_are_refused() {
        let mut file = vec![0; SLOTS.file_len()];
        for (slot, body) in [b"one", b"two"].iter().enumerate() {
            let bytes = SLOTS.encode(7, &body[..]).unwrap();
            file[slot * SLOTS.slot_len..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(SLOTS.decode(&file), Err(SlotError::Twins(7)));
    }

    proptest! {
        /// Whatever part of each cut-off write lands, the last whole record, or the one being
        /// written, is read; never an older one, never nothing.
        #[test]
        fn random_tears_never_lose_both(
            writes in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..6000), any::<u16>(), any::<bool>()), 1..12),
        ) {
            let mut file = vec![0; SLOTS.file_len()];
            write(&mut file, None, b"first", |_| true);
            let mut last = b"first".to_vec();
            for (body, mask, torn) in writes {
                let newest = SLOTS.decode(&file).unwrap();
                write(&mut file, Some(&newest), &body, |n| !torn || mask >> (n % 16) & 1 == 1);
                let read = SLOTS.decode(&file).unwrap().body;
                if torn {
                    prop_assert!(read == last || read == body);
                } else {
                    prop_assert_eq!(&read, &body);
                }
                last = read;
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
            let _ = SLOTS.decode(&bytes);
        }
    }
}
