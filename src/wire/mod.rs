//! Codec of the control connection between two arrays and of the witness protocol. Pure.
//!
//! ```text
//!   0 magic "tCtl"   4 version 1   5 readable from 1   6 kind 1   7 zero 1
//!   8 payload length 4            12 CRC32C of bytes 0..12 and the payload 4     16 payload
//! ```
//! The first frame from either end is a [`Hello`]; nothing else is believed before it.

mod session;

use crate::arbitration::GroupId;
use crate::arbitration::{Incarnation, Message, Reader, Side, Writer};
use crate::group::{BootNonce, SessionMessage};

/// Bytes before the payload.
pub const HEADER_LEN: usize = 16;
/// Longest payload: the objects of one group, whole, as the largest thing that is sent.
pub const PAYLOAD_MAX: usize = 8 << 20;
/// Longest payload of a first frame: a hello, or a refusal. What it says is not believed yet, and takes
/// no memory.
pub const FIRST_PAYLOAD_MAX: usize = 1024;
/// Longest name in a hello.
pub const NAME_MAX: usize = 24;
/// Longest reason of a refusal in bytes; the rest is cut off.
pub const WHY_MAX: usize = 512;
/// Most messages in one batch; a sender with more sends several.
pub const BATCH_MAX: usize = 4096;
/// Version written here, and the oldest reader that understands it.
pub const VERSION: u8 = 1;
const READABLE_FROM: u8 = 1;
const MAGIC: [u8; 4] = *b"tCtl";

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Array(Side),
    Witness(Incarnation),
}

/// First frame of both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub role: Role,
    /// UUID of the sender's `data_dir`.
    pub identity: [u8; 16],
    /// Random at each start of the sender (rule 16).
    pub nonce: BootNonce,
    /// Age of the sender's `data_dir`: higher with each start, and within one ([`Frame::Age`]).
    pub life: u64,
    /// The sender's name, for operators.
    pub name: String,
    /// The sender's system number (WSAPI), zero for a witness.
    pub system: u32,
    /// Data lanes the sender wants; the smaller number counts.
    pub lanes: u16,
    /// To the witness: the name of the sender's other array. Empty: it does not say; not on the wire then,
    /// as in hellos of before.
    pub peer: String,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Ping(u64),
    Pong(u64),
    /// Arbitration messages of any number of groups.
    Batch(Vec<Message>),
    /// Between the controls of one group.
    Session {
        group: GroupId,
        message: SessionMessage,
    },
    /// A request of the management side (objects); the answer carries its number.
    Request {
        number: u64,
        body: Vec<u8>,
    },
    Reply {
        number: u64,
        body: Vec<u8>,
    },
    /// The sender does not speak to the receiver, and why; it closes the connection.
    Refused(String),
    /// The sender's `data_dir` is so old now, durably; the receiver notes it down as that of a hello.
    Age(u64),
    /// As `Refused`: the receiver's `data_dir` is older than one that was heard before. It can only go on as a
    /// new array (rule 18).
    Restored(String),
}

/// Why bytes are not taken; the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("not twinlun's control protocol")]
    Magic,
    #[error("protocol version {version} is newer than {VERSION}: upgrade this side")]
    Version { version: u8 },
    #[error("a frame of {0} bytes is longer than any may be")]
    TooLong(u32),
    #[error("checksum of a frame is wrong")]
    Checksum,
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    #[error("frame of kind {0} has a content of no known shape")]
    Shape(u8),
}

const HELLO: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const BATCH: u8 = 4;
const SESSION: u8 = 5;
const REQUEST: u8 = 6;
const REPLY: u8 = 7;
const REFUSED: u8 = 8;
const RESTORED: u8 = 9;
const AGE: u8 = 10;

impl Frame {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Ping(_) => PING,
            Self::Pong(_) => PONG,
            Self::Batch(_) => BATCH,
            Self::Session { .. } => SESSION,
            Self::Request { .. } => REQUEST,
            Self::Reply { .. } => REPLY,
            Self::Refused(_) => REFUSED,
            Self::Restored(_) => RESTORED,
            Self::Age(_) => AGE,
        }
    }

    /// Appends the frame. What would exceed [`PAYLOAD_MAX`], [`BATCH_MAX`] or [`NAME_MAX`] is cut
    /// by its maker, not here.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, READABLE_FROM, self.kind(), 0]);
        out.extend_from_slice(&[0; 8]);
        self.encode_payload(out);
        let length = u32::try_from(out.len() - at - HEADER_LEN).unwrap_or(u32::MAX);
        out[at + 8..at + 12].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&out[at..at + 12], &out[at + HEADER_LEN..]);
        out[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        match self {
            Self::Hello(hello) => {
                match hello.role {
                    Role::Array(side) => {
                        w.u8(1);
                        w.side(side);
                    }
                    Role::Witness(incarnation) => {
                        w.u8(2);
                        w.incarnation(&incarnation);
                    }
                }
                w.bytes(&hello.identity);
                w.bytes(&hello.nonce.0);
                w.u64(hello.life);
                w.u32(hello.system);
                w.u16(hello.lanes);
                text(&mut w, &hello.name);
                if !hello.peer.is_empty() {
                    text(&mut w, &hello.peer);
                }
            }
            Self::Ping(number) | Self::Pong(number) | Self::Age(number) => w.u64(*number),
            Self::Batch(messages) => {
                w.u16(u16::try_from(messages.len()).unwrap_or(u16::MAX));
                for message in messages.iter().take(BATCH_MAX) {
                    message.encode(out);
                }
            }
            Self::Session { group, message } => {
                w.group(*group);
                session::encode(message, &mut w);
            }
            Self::Request { number, body } | Self::Reply { number, body } => {
                w.u64(*number);
                w.bytes(body);
            }
            Self::Refused(why) | Self::Restored(why) => w.bytes(why.as_bytes()),
        }
    }

    fn decode_payload(kind: u8, payload: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let frame = match kind {
            HELLO => read_hello(&mut r).map(Self::Hello),
            PING => r.u64().map(Self::Ping),
            PONG => r.u64().map(Self::Pong),
            AGE => r.u64().map(Self::Age),
            BATCH => read_batch(&mut r).map(Self::Batch),
            SESSION => read_session(&mut r),
            REQUEST | REPLY => {
                let (Some(number), Some(body)) = (r.u64(), payload.get(8..)) else {
                    return Err(WireError::Shape(kind));
                };
                let body = body.to_vec();
                return Ok(if kind == REQUEST {
                    Self::Request { number, body }
                } else {
                    Self::Reply { number, body }
                });
            }
            REFUSED => return Ok(Self::Refused(why(payload))),
            RESTORED => return Ok(Self::Restored(why(payload))),
            other => return Err(WireError::Kind(other)),
        };
        frame.filter(|_| r.is_empty()).ok_or(WireError::Shape(kind))
    }
}

fn text(w: &mut Writer<'_>, value: &str) {
    let end = value.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= NAME_MAX).last();
    let bytes = value.as_bytes().get(..end.unwrap_or(0)).unwrap_or_default();
    w.u8(u8::try_from(bytes.len()).unwrap_or(0)); // at most NAME_MAX
    w.bytes(bytes);
}

fn read_hello(r: &mut Reader<'_>) -> Option<Hello> {
    let role = match r.u8()? {
        1 => Role::Array(r.side()?),
        2 => Role::Witness(r.incarnation()?),
        _ => return None,
    };
    let (identity, nonce) = (r.array()?, BootNonce(r.array()?));
    let (life, system, lanes) = (r.u64()?, r.u32()?, r.u16()?);
    let name = read_name(r)?;
    let peer = if r.is_empty() { String::new() } else { read_name(r)? };
    Some(Hello { role, identity, nonce, life, name, system, lanes, peer })
}

/// A site's name: nothing that could look like something else in a log.
fn read_name(r: &mut Reader<'_>) -> Option<String> {
    let length = usize::from(r.u8()?);
    let name = r.slice(length).filter(|_| (1..=NAME_MAX).contains(&length))?;
    let fits = name.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    String::from_utf8(name.to_vec()).ok().filter(|_| fits)
}

/// The reason of a refusal, of bounded length and without control characters.
fn why(payload: &[u8]) -> String {
    let payload = payload.get(..WHY_MAX).unwrap_or(payload);
    String::from_utf8_lossy(payload).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn read_batch(r: &mut Reader<'_>) -> Option<Vec<Message>> {
    let count = usize::from(r.u16()?);
    if count > BATCH_MAX {
        return None;
    }
    (0..count).map(|_| Message::decode(r)).collect()
}

fn read_session(r: &mut Reader<'_>) -> Option<Frame> {
    let group = r.group()?;
    Some(Frame::Session { group, message: session::decode(r)? })
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(header);
    digest.update(payload);
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX) // a 32-bit CRC in a u64
}

/// As [`decode`], of an end that is not believed yet: a hello or a refusal, and nothing long.
///
/// # Errors
/// As [`decode`]; any other frame, known by its header.
pub fn decode_first(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    if let Some(&[m0, m1, m2, m3, _, _, kind, _, l0, l1, l2, l3, ..]) = bytes.first_chunk::<HEADER_LEN>()
        && [m0, m1, m2, m3] == MAGIC
    {
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if !matches!(kind, HELLO | REFUSED | RESTORED) {
            return Err(WireError::Kind(kind));
        }
        if !usize::try_from(length).is_ok_and(|length| length <= FIRST_PAYLOAD_MAX) {
            return Err(WireError::TooLong(length));
        }
    }
    decode(bytes)
}

/// Takes the next frame off the front of `bytes`: the frame and its length in bytes. `None`: more
/// bytes are needed.
///
/// # Errors
/// Bytes that no twinlun of a readable version sent whole.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(WireError::Magic);
    }
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let [_, _, _, _, version, readable_from, kind, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if readable_from > VERSION {
        return Err(WireError::Version { version });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let size = usize::try_from(length).ok().filter(|size| *size <= PAYLOAD_MAX);
    let size = size.ok_or(WireError::TooLong(length))?;
    let Some(payload) = rest.get(..size) else { return Ok(None) };
    if checksum(&header[..12], payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(WireError::Checksum);
    }
    Ok(Some((Frame::decode_payload(kind, payload)?, HEADER_LEN + size)))
}

#[cfg(test)]
mod tests;
