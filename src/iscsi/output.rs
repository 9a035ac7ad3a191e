//! Bytes to send: headers and small data in one run of memory, large payloads where they lie.

use std::collections::VecDeque;

use super::digest::Digests;
use super::frame;
use super::header::Header;
use crate::sys::buffer::Buffer;

/// Data up to this length is copied behind its header: cheaper than one more piece of a writev.
const COPY_MAX: usize = 512;
/// Sent bytes at the front of the run are given up when there are this many, and more than are
/// left: so no byte is moved more than once on average.
const COMPACT_AT: usize = 64 * 1024;
/// A run that has grown beyond this is given back once it is empty.
const KEEP_MAX: usize = 256 * 1024;

#[derive(Clone, Debug)]
enum Piece {
    /// Bytes of the run.
    Run { len: usize },
    /// A part of a payload.
    Payload { payload: Buffer, start: usize, end: usize },
}

/// What waits to be sent, in order.
#[derive(Clone, Debug, Default)]
pub struct Output {
    run: Vec<u8>,
    /// Bytes of `run` before this are sent.
    run_sent: usize,
    pieces: VecDeque<Piece>,
    len: usize,
}

impl Output {
    /// Bytes not yet sent.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues a PDU with a short data segment.
    pub fn push(&mut self, header: Header, data: &[u8], digests: Digests) {
        let before = self.run.len();
        frame::append(&mut self.run, header, data, digests);
        self.grew(self.run.len() - before);
    }

    /// Queues a PDU whose data segment is `payload[start..end]`, without copying where that pays.
    /// The range lies inside the payload, and is not longer than a data segment may be.
    pub fn push_payload(
        &mut self,
        mut header: Header,
        payload: &Buffer,
        start: usize,
        end: usize,
        digests: Digests,
    ) {
        let data = payload.as_slice().get(start..end).unwrap_or_default();
        debug_assert_eq!(data.len(), end - start);
        if data.len() <= COPY_MAX {
            return self.push(header, data, digests);
        }
        header.set_data_len(data.len());
        let before = self.run.len();
        frame::append_header(&mut self.run, &header, digests);
        self.grew(self.run.len() - before);
        self.len += data.len();
        self.pieces.push_back(Piece::Payload { payload: payload.clone(), start, end });
        let (trailer, len) = frame::trailer(data, digests);
        self.run.extend_from_slice(trailer.get(..len).unwrap_or_default());
        self.grew(len);
    }

    fn grew(&mut self, bytes: usize) {
        self.len += bytes;
        match self.pieces.back_mut() {
            Some(Piece::Run { len }) => *len += bytes,
            _ if bytes > 0 => self.pieces.push_back(Piece::Run { len: bytes }),
            _ => {}
        }
    }

    /// The pieces in order, for a writev.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = self.run_sent;
        self.pieces.iter().map(move |piece| match piece {
            Piece::Run { len } => {
                let slice = self.run.get(at..at + len).unwrap_or_default();
                at += len;
                slice
            }
            Piece::Payload { payload, start, end } => {
                payload.as_slice().get(*start..*end).unwrap_or_default()
            }
        })
    }

    /// The first `bytes` of [`slices`](Self::slices) have been sent.
    pub fn sent(&mut self, mut bytes: usize) {
        self.len = self.len.saturating_sub(bytes);
        while bytes > 0 {
            let whole = match self.pieces.front_mut() {
                None => break,
                Some(Piece::Run { len }) => {
                    let part = bytes.min(*len);
                    *len -= part;
                    bytes -= part;
                    self.run_sent += part;
                    *len == 0
                }
                Some(Piece::Payload { start, end, .. }) => {
                    let part = bytes.min(*end - *start);
                    *start += part;
                    bytes -= part;
                    start == end
                }
            };
            if whole {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            self.run.clear();
            self.run.shrink_to(KEEP_MAX);
            self.run_sent = 0;
        } else if self.run_sent >= COMPACT_AT && self.run_sent >= self.run.len() / 2 {
            self.run.drain(..self.run_sent);
            self.run_sent = 0;
        }
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::header::Opcode;
    use proptest::prelude::*;

    proptest! {
        /// However the writes are cut, the stream is that of `frame::append`.
        #[test]
        fn the_stream_is_the_same_however_it_is_cut(
            sizes in proptest::collection::vec(0..3000_usize, 1..12),
            cuts in proptest::collection::vec(1..4000_usize, 1..40),
            header in any::<bool>(),
            data in any::<bool>(),
        ) {
            let digests = Digests { header, data };
            let mut expected = Vec::new();
            let mut output = Output::default();
            let mut sent = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            for (at, size) in sizes.into_iter().enumerate() {
                let mut payload = Buffer::with_len(size + 8);
                payload.as_mut_slice().unwrap().iter_mut().enumerate().for_each(|(n, byte)| *byte = u8::try_from((n + at) % 251).unwrap());
                frame::append(&mut expected, Header::new(Opcode::DataIn), &payload.as_slice()[4..size + 4], digests);
                output.push_payload(Header::new(Opcode::DataIn), &payload, 4, size + 4, digests);
                take(&mut output, cuts.next().unwrap(), &mut sent);
            }
            while !output.is_empty() {
                take(&mut output, cuts.next().unwrap(), &mut sent);
            }
            prop_assert_eq!(sent, expected);
            prop_assert!(output.pieces.is_empty() && output.run.is_empty());
        }
    }

    fn take(output: &mut Output, cut: usize, into: &mut Vec<u8>) {
        let all: Vec<u8> = output.slices().flatten().copied().collect();
        assert_eq!(all.len(), output.len());
        let cut = cut.min(all.len());
        into.extend_from_slice(&all[..cut]);
        output.sent(cut);
    }
}
