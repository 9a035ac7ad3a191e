//! Where one PDU ends and the next begins: headers, AHS, digests, data segment and padding in a
//! stream of bytes (RFC 7143 11.1). For both ends.

use super::digest::{self, Digests};
use super::header::{DATA_SEGMENT_MAX, HEADER_LEN, Header, padding};

/// Why a stream cannot be followed any further, or one PDU not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FrameError {
    /// Nothing in the header can be trusted, not even its lengths (RFC 7143 7.7).
    #[error("header digest does not match")]
    HeaderDigest,
    /// The PDU is whole, its data are not (RFC 7143 7.8).
    #[error("data digest does not match")]
    DataDigest,
    #[error("data segment of {len} bytes, at most {max} are accepted here")]
    TooLong { len: usize, max: usize },
    #[error("additional header segment of {len} bytes, at most {max} are accepted")]
    AhsTooLong { len: usize, max: usize },
}

/// Longest additional header segment accepted: an extended CDB of 260 bytes would need 248, the
/// bidirectional length 8. The field itself reaches 1,020.
pub const AHS_MAX: usize = 256;

/// The checked front part of a PDU: header, AHS and header digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub header: Header,
    /// Bytes before the data segment.
    pub len: usize,
    /// Bytes of data, padding and data digest after it.
    pub tail: usize,
}

impl Head {
    /// Reads the front of a PDU at the start of `bytes`; `None` until it is there completely.
    pub fn parse(bytes: &[u8], digests: Digests) -> Result<Option<Self>, FrameError> {
        let Some(header) = Header::from_slice(bytes) else { return Ok(None) };
        let covered = HEADER_LEN + header.ahs_len();
        let len = covered + digests.header_len();
        if header.ahs_len() > AHS_MAX {
            return Err(FrameError::AhsTooLong { len: header.ahs_len(), max: AHS_MAX });
        }
        let Some(front) = bytes.get(..len) else { return Ok(None) };
        if digests.header {
            let (covered, found) = front.split_at(covered);
            if digest::of(covered) != found {
                return Err(FrameError::HeaderDigest);
            }
        }
        let data = header.data_len();
        let tail = if data == 0 { 0 } else { data + padding(data) + digests.data_len() };
        Ok(Some(Self { header, len, tail }))
    }

    /// Length of the whole PDU on the wire.
    pub const fn total(&self) -> usize {
        self.len + self.tail
    }
}

/// A whole PDU, its parts borrowed from the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub header: Header,
    pub ahs: &'a [u8],
    /// Without padding.
    pub data: &'a [u8],
    /// Bytes the PDU took on the wire.
    pub len: usize,
}

impl<'a> Frame<'a> {
    /// Reads the PDU at the start of `bytes`; `None` until it is there completely. A data segment
    /// longer than `data_max` is refused as soon as the header is read.
    pub fn parse(bytes: &'a [u8], digests: Digests, data_max: usize) -> Result<Option<Self>, FrameError> {
        let Some(head) = Head::parse(bytes, digests)? else { return Ok(None) };
        let len = head.header.data_len();
        if len > data_max {
            return Err(FrameError::TooLong { len, max: data_max });
        }
        Self::after(head, bytes, digests)
    }

    /// The rest of `Frame::parse`, with the front already read.
    pub fn after(head: Head, bytes: &'a [u8], digests: Digests) -> Result<Option<Self>, FrameError> {
        let Some(whole) = bytes.get(..head.total()) else { return Ok(None) };
        let (front, tail) = whole.split_at(head.len);
        let data_len = head.header.data_len();
        let padded = data_len + padding(data_len);
        if digests.data && data_len > 0 {
            let (covered, found) = tail.split_at(padded);
            if digest::of(covered) != found {
                return Err(FrameError::DataDigest);
            }
        }
        Ok(Some(Self {
            header: head.header,
            ahs: front.get(HEADER_LEN..HEADER_LEN + head.header.ahs_len()).unwrap_or_default(),
            data: tail.get(..data_len).unwrap_or_default(),
            len: head.total(),
        }))
    }
}

/// Appends a PDU without AHS: sets the header's data length, adds digests and padding. `data` is at
/// most [`DATA_SEGMENT_MAX`] bytes; what is over is cut off.
pub fn append(out: &mut Vec<u8>, mut header: Header, data: &[u8], digests: Digests) {
    let data = data.get(..data.len().min(DATA_SEGMENT_MAX)).unwrap_or_default();
    header.set_data_len(data.len());
    append_header(out, &header, digests);
    if !data.is_empty() {
        let start = out.len();
        out.extend_from_slice(data);
        out.resize(out.len() + padding(data.len()), 0);
        if digests.data {
            let sum = digest::of(out.get(start..).unwrap_or_default());
            out.extend_from_slice(&sum);
        }
    }
}

/// Appends a header and its digest; the data segment follows from elsewhere.
pub fn append_header(out: &mut Vec<u8>, header: &Header, digests: Digests) {
    out.extend_from_slice(&header.0);
    if digests.header {
        out.extend_from_slice(&digest::of(&header.0));
    }
}

/// Padding and digest that follow a data segment sent from elsewhere; how many of the eight bytes
/// are meant is the second value.
pub fn trailer(data: &[u8], digests: Digests) -> ([u8; 8], usize) {
    const ZEROES: [u8; 3] = [0; 3];
    let pad = padding(data.len());
    let mut bytes = [0; 8];
    if !digests.data || data.is_empty() {
        return (bytes, if data.is_empty() { 0 } else { pad });
    }
    let mut running = digest::Running::new();
    running.update(data);
    running.update(ZEROES.get(..pad).unwrap_or_default());
    let sum = running.finish();
    if let Some(place) = bytes.get_mut(pad..pad + digest::LEN) {
        place.copy_from_slice(&sum);
    }
    (bytes, pad + digest::LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::header::Opcode;
    use proptest::prelude::*;

    fn digests() -> impl Strategy<Value = Digests> {
        (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
    }

    proptest! {
        #[test]
        fn what_was_appended_reads_back(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            digests in digests(),
        ) {
            let mut wire = Vec::new();
            append(&mut wire, Header::new(Opcode::NopOut), &data, digests);
            let frame = Frame::parse(&wire, digests, 600).unwrap().unwrap();
            prop_assert_eq!(frame.data, &data[..]);
            prop_assert_eq!(frame.len, wire.len());
            for cut in [0, 1, 47, 48, wire.len() - 1] {
                if cut < wire.len() {
                    prop_assert_eq!(Frame::parse(&wire[..cut], digests, 600), Ok(None));
                }
            }
        }

        #[test]
        fn a_trailer_is_what_append_writes(
            data in proptest::collection::vec(any::<u8>(), 0..600),
            digests in digests(),
        ) {
            let mut whole = Vec::new();
            append(&mut whole, Header::new(Opcode::DataIn), &data, digests);
            let mut header = Header::new(Opcode::DataIn);
            header.set_data_len(data.len());
            let mut pieces = Vec::new();
            append_header(&mut pieces, &header, digests);
            pieces.extend_from_slice(&data);
            let (bytes, len) = trailer(&data, digests);
            pieces.extend_from_slice(&bytes[..len]);
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn one_flipped_bit_is_seen_by_the_digests(
            data in proptest::collection::vec(any::<u8>(), 1..200),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let digests = Digests { header: true, data: true };
            let mut wire = Vec::new();
            append(&mut wire, Header::new(Opcode::NopOut), &data, digests);
            let at = at.index(wire.len());
            wire[at] ^= 1 << bit;
            // A longer length makes it wait for more, any other change is an error.
            prop_assert!(!matches!(Frame::parse(&wire, digests, 600), Ok(Some(_))));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), digests in digests()) {
            if let Ok(Some(frame)) = Frame::parse(&bytes, digests, 300) {
                prop_assert!(frame.len <= bytes.len() && frame.data.len() <= 300);
            }
        }
    }

    #[test]
    fn too_long_is_refused_before_it_has_arrived() {
        let mut header = Header::new(Opcode::NopOut);
        header.set_data_len(8193);
        assert_eq!(
            Frame::parse(&header.0, Digests::NONE, 8192),
            Err(FrameError::TooLong { len: 8193, max: 8192 })
        );
    }
}
