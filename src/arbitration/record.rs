//! What a voter keeps durably of one group, and its record on disk.

use crate::format::{EnvelopeError, Format};
use crate::time::Duration;

use super::fields::{Reader, Writer};
use super::{Config, Side};

/// A ballot of one instance: unique to its proposer, ordered by round first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    pub round: u64,
    /// Zero: no ballot yet; 1 for A, 2 for B.
    proposer: u8,
}

impl Ballot {
    /// Below every ballot that anybody proposes.
    pub const NONE: Self = Self { round: 0, proposer: 0 };

    /// The lowest ballot of `proposer` above `self`.
    #[must_use]
    pub const fn next(self, proposer: Side) -> Self {
        let proposer = match proposer {
            Side::A => 1,
            Side::B => 2,
        };
        Self { round: self.round.saturating_add(1), proposer }
    }

    pub(super) const fn parts(self) -> (u64, u8) {
        (self.round, self.proposer)
    }

    pub(super) const fn from_parts(round: u64, proposer: u8) -> Option<Self> {
        if proposer > 2 { None } else { Some(Self { round, proposer }) }
    }
}

/// An accepted, not necessarily chosen, configuration for the epoch after the chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    pub ballot: Ballot,
    pub value: Config,
}

/// The durable register of one voter for one group (ARBITRATION `Voter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VoterRecord {
    /// Newest configuration known to be committed. `None`: a witness that was only told to forget
    /// the group.
    pub chosen: Option<Config>,
    /// Both of the instance of epoch `chosen.epoch + 1`.
    pub promised: Ballot,
    pub vote: Option<Vote>,
    /// Longest lease ever granted; zero: none on record. Durable before the first such grant.
    pub longest_lease: Duration,
    /// Tombstone: the group was removed, and nothing may bring it back.
    pub removed: bool,
    /// This array was primary, alone in sync, when it learned that an override had put the other one in
    /// office: what it wrote alone is in no other copy, and is overwritten only when the operator has
    /// said so (rule 10, DESIGN §3.2).
    pub overridden: bool,
    /// Counts the contents from which this array's copy was, or will be, brought up to date: grows when the
    /// copy is known to hold all that the primary holds, and with the configuration in which it is not behind
    /// any more. What was kept of a content counts while its number stands here (FAILURES F14).
    pub cut: u64,
    /// Not all of content `cut` is kept: while it is behind, the copy is a mixture of old and new.
    pub mixture: bool,
    /// The mark of an unclean stop (T13): this array, in {A,B}, may hold acknowledged writes in the memory
    /// of this identity and nowhere else. Durable before it can; taken away by a stop in order.
    pub unflushed: Option<MemoryId>,
}

/// Identity of what holds unflushed writes: a kernel's boot, as long as its page cache outlives the
/// process. A process that finds another one in its record than its own has lost what was in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemoryId(pub [u8; 16]);

impl MemoryId {
    /// No memory is called so: what was in it is lost (a flush failed, and a kernel forgets what it could not
    /// write).
    pub const LOST: Self = Self([0xff; 16]);
}

/// Where and how a register stands on disk.
pub const RECORD_FORMAT: Format = Format { magic: *b"TWLNVOTE", version: 1, readable_from: 1 };

impl VoterRecord {
    pub const fn new(chosen: Config) -> Self {
        Self {
            chosen: Some(chosen),
            promised: Ballot::NONE,
            vote: None,
            longest_lease: Duration::ZERO,
            removed: false,
            overridden: false,
            cut: 0,
            mixture: false,
            unflushed: None,
        }
    }

    pub const fn blank() -> Self {
        Self {
            chosen: None,
            promised: Ballot::NONE,
            vote: None,
            longest_lease: Duration::ZERO,
            removed: false,
            overridden: false,
            cut: 0,
            mixture: false,
            unflushed: None,
        }
    }

    pub const fn tombstone() -> Self {
        Self { removed: true, ..Self::blank() }
    }

    /// The content known until now counts no more.
    pub(super) const fn end_cut(&mut self) {
        self.cut = self.cut.saturating_add(1);
        self.mixture = false;
    }

    /// The body of the record, without an envelope (for two-slot files, which bring their own).
    pub fn encode_body(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.option(self.chosen.as_ref(), Writer::config);
        w.ballot(self.promised);
        w.option(self.vote.as_ref(), Writer::vote);
        w.duration(self.longest_lease);
        let flags = u8::from(self.removed) | u8::from(self.overridden) << 1 | u8::from(self.mixture) << 2;
        w.u8(flags | u8::from(self.unflushed.is_some()) << 3);
        if let Some(MemoryId(id)) = &self.unflushed {
            w.bytes(id);
        }
        // A witness has none; and so a register without one reads as it always did.
        if self.cut != 0 {
            w.u64(self.cut);
        }
    }

    /// # Errors
    /// `Damaged` when the bytes are no such body.
    pub fn decode_body(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let mut r = Reader::new(bytes);
        let record = Self::read(&mut r).ok_or(EnvelopeError::Damaged)?;
        if r.is_empty() { Ok(record) } else { Err(EnvelopeError::Damaged) }
    }

    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (chosen, promised) = (r.option(Reader::config)?, r.ballot()?);
        let (vote, longest_lease) = (r.option(Reader::vote)?, r.duration()?);
        let flags = r.u8().filter(|flags| flags & !15 == 0)?;
        let (removed, overridden, mixture) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        let unflushed = if flags & 8 == 0 { None } else { Some(MemoryId(r.array()?)) };
        let cut = if r.is_empty() { 0 } else { r.u64().filter(|cut| *cut != 0)? };
        Some(Self { chosen, promised, vote, longest_lease, removed, overridden, cut, mixture, unflushed })
    }

    /// Appends the record in its envelope.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(256);
        self.encode_body(&mut body);
        RECORD_FORMAT.encode(&body, out);
    }

    /// # Errors
    /// See [`EnvelopeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Self::decode_body(RECORD_FORMAT.decode(bytes)?.payload)
    }
}
