//! Little-endian fields of records and messages: one writer and one reader that never panics.

use crate::time::Duration;

use super::{Ballot, Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, Side, Tenure, Vote};

/// Appends fields to a caller's vector.
#[derive(Debug)]
pub struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// Nanoseconds; saturates at some 584 years.
    pub fn duration(&mut self, value: Duration) {
        self.u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn option<T>(&mut self, value: Option<&T>, write: fn(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub fn side(&mut self, value: Side) {
        self.u8(match value {
            Side::A => 1,
            Side::B => 2,
        });
    }

    pub fn ballot(&mut self, value: Ballot) {
        let (round, proposer) = value.parts();
        self.u64(round);
        self.u8(proposer);
    }

    pub fn lineage(&mut self, value: Lineage) {
        self.u32(value.counter);
        self.u64(value.id);
    }

    pub fn tenure(&mut self, value: &Tenure) {
        self.lineage(value.lineage);
        self.u64(value.epoch.0);
    }

    pub fn group(&mut self, value: GroupId) {
        self.bytes(&value.0);
    }

    pub fn incarnation(&mut self, value: &Incarnation) {
        self.bytes(&value.0);
    }

    pub fn config(&mut self, value: &Config) {
        self.lineage(value.lineage);
        self.u64(value.epoch.0);
        self.u64(value.tenure_epoch.0);
        self.side(value.primary);
        self.u8(match value.in_sync {
            InSync::Primary => 1,
            InSync::Both => 2,
        });
        self.u8(match value.quorum {
            Quorum::Majority => 1,
            Quorum::PrimaryAlone => 2,
        });
        self.option(value.witness.as_ref(), Self::incarnation);
        self.side(value.natural);
    }

    pub fn vote(&mut self, value: &Vote) {
        self.ballot(value.ballot);
        self.config(&value.value);
    }
}

/// Takes fields off a slice; `None` at the first that is missing or has no meaning.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn duration(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    pub fn option<T>(&mut self, read: fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.bool()? { read(self).map(Some) } else { Some(None) }
    }

    pub fn side(&mut self) -> Option<Side> {
        match self.u8()? {
            1 => Some(Side::A),
            2 => Some(Side::B),
            _ => None,
        }
    }

    pub fn ballot(&mut self) -> Option<Ballot> {
        let round = self.u64()?;
        Ballot::from_parts(round, self.u8()?)
    }

    pub fn lineage(&mut self) -> Option<Lineage> {
        Some(Lineage { counter: self.u32()?, id: self.u64()? })
    }

    pub fn tenure(&mut self) -> Option<Tenure> {
        Some(Tenure { lineage: self.lineage()?, epoch: Epoch(self.u64()?) })
    }

    pub fn group(&mut self) -> Option<GroupId> {
        self.array().map(GroupId)
    }

    pub fn incarnation(&mut self) -> Option<Incarnation> {
        self.array().map(Incarnation)
    }

    pub fn config(&mut self) -> Option<Config> {
        Some(Config {
            lineage: self.lineage()?,
            epoch: Epoch(self.u64()?),
            tenure_epoch: Epoch(self.u64()?),
            primary: self.side()?,
            in_sync: match self.u8()? {
                1 => InSync::Primary,
                2 => InSync::Both,
                _ => return None,
            },
            quorum: match self.u8()? {
                1 => Quorum::Majority,
                2 => Quorum::PrimaryAlone,
                _ => return None,
            },
            witness: self.option(Self::incarnation)?,
            natural: self.side()?,
        })
    }

    pub fn vote(&mut self) -> Option<Vote> {
        Some(Vote { ballot: self.ballot()?, value: self.config()? })
    }
}
