//! Media commands: which block requests they consist of, and how outcomes become their answer.

use std::ops::Range as Bytes;

use super::execute::{DataIn, Reply, Status};
use super::sense::Sense;
use crate::block::{BLOCK, Extent, Op, Outcome, Request};

/// Requests of one UNMAP that run at a time: enough to fill the pipe, without taking the volume's
/// ledger from others.
const UNMAP_IN_FLIGHT: u16 = 32;
/// Blocks that VERIFY reads at a time, 64 KiB. What it reads is nobody's charge, so it is little: one piece for
/// each of a session's commands.
const VERIFY_PIECE: u64 = 128;
/// Bytes before the first UNMAP block descriptor, and of each (SBC-4 5.35.2).
pub(super) const UNMAP_HEADER: usize = 8;
pub(super) const UNMAP_DESCRIPTOR: usize = 16;

/// A request to submit to the volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Submission {
    pub request: Request,
    /// The part of the command's data-out that goes with it; empty where the request has no data.
    pub data: Bytes<usize>,
}

/// How a media command ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Reply(Reply),
    /// Aborted before it took effect: no status is sent.
    Aborted,
}

/// What the outcome of a request led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// The command goes on: submit what [`Medium::next`] gives, if anything, and wait.
    Pending,
    Finished(End),
}

/// One request of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Step {
    pub request: Request,
    /// Bytes of the data-out that go with it, from the first on.
    pub data: usize,
    /// The data that is read is not for the initiator: it is read piece by piece.
    verify: bool,
    /// What was read is to be equal to the data-out.
    compare: bool,
}

impl Step {
    pub const fn new(op: Op, extent: Extent) -> Self {
        Self { request: Request { op, extent }, data: 0, verify: false, compare: false }
    }

    #[must_use]
    pub const fn with_data(self, data: usize) -> Self {
        Self { data, ..self }
    }

    /// Reads the blocks, and compares them with the data-out.
    pub const fn verify(extent: Extent, compare: bool) -> Self {
        Self { verify: true, compare, ..Self::new(Op::Read, extent) }
    }

    /// The part to submit when `done` blocks are behind.
    fn part(&self, done: u64) -> Request {
        let Request { op, extent } = self.request;
        if !self.verify {
            return self.request;
        }
        let blocks = extent.blocks.saturating_sub(done).min(VERIFY_PIECE);
        Request { op, extent: Extent::new(extent.lba + done, blocks) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Plan {
    /// One after the other; `done` blocks of the step at `at` are behind.
    Steps { steps: [Option<Step>; 3], at: u8, done: u64 },
    /// UNMAP block descriptors of the data-out, from `next` (never an empty one) to `count`.
    Unmap { next: u16, count: u16 },
}

/// A media command that is being carried out. It holds no data: the caller keeps the data-out and
/// hands it in again.
///
/// ```text
/// execute -> Medium: next* submit -> completed -> Pending: next* ... -> Finished
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Medium {
    plan: Plan,
    outstanding: u16,
    failed: Option<Failure>,
    /// Not zero: the data of the first (and only) read is the answer, and the CDB asks for this many bytes.
    gives: u64,
    wanted: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Failure {
    Aborted,
    Full,
    Again,
    Sense(Sense),
}

impl Medium {
    pub(super) const fn steps(steps: [Option<Step>; 3], wanted: u64) -> Self {
        Self { plan: Plan::Steps { steps, at: 0, done: 0 }, outstanding: 0, failed: None, gives: 0, wanted }
    }

    pub(super) const fn read(extent: Extent, gives: u64) -> Self {
        let steps = [Some(Step::new(Op::Read, extent)), None, None];
        Self { gives, ..Self::steps(steps, 0) }
    }

    /// `None`: no descriptor has any block. The descriptors were checked.
    pub(super) fn unmap(data: &[u8], count: u16, wanted: u64) -> Option<Self> {
        let next = filled(data, 0, count)?;
        let plan = Plan::Unmap { next, count };
        Some(Self { plan, outstanding: 0, failed: None, gives: 0, wanted })
    }

    /// The next request that may be submitted now; call until `None`. `data`: the data-out.
    pub fn next(&mut self, data: &[u8]) -> Option<Submission> {
        if self.failed.is_some() {
            return None;
        }
        let submission = match &mut self.plan {
            Plan::Steps { steps, at, done } => {
                if self.outstanding > 0 {
                    return None;
                }
                let step = (*steps.get(usize::from(*at))?)?;
                Submission { request: step.part(*done), data: 0..step.data }
            }
            Plan::Unmap { next, count } => {
                if *next >= *count || self.outstanding >= UNMAP_IN_FLIGHT {
                    return None;
                }
                let extent = unmap_extent(data, *next)?;
                *next = filled(data, *next + 1, *count).unwrap_or(*count);
                Submission { request: Request { op: Op::Unmap, extent }, data: 0..0 }
            }
        };
        self.outstanding += 1;
        Some(submission)
    }

    /// A request is over. `read`: the data of a read that went well. `data`: the data-out.
    pub fn completed(&mut self, outcome: Outcome, read: &[u8], data: &[u8]) -> Progress {
        self.outstanding = self.outstanding.saturating_sub(1);
        let failure = match &mut self.plan {
            Plan::Steps { steps, at, done } => {
                let step = steps.get(usize::from(*at)).copied().flatten();
                step.and_then(|step| {
                    let part = step.part(*done).extent;
                    let failed = failure(outcome, part).or_else(|| step.differs(*done, part, read, data));
                    *done += part.blocks;
                    if !step.verify || *done >= step.request.extent.blocks {
                        *at = at.saturating_add(1);
                        *done = 0;
                    }
                    failed
                })
            }
            Plan::Unmap { .. } => failure(outcome, Extent::new(0, 0)),
        };
        // An abort is confirmed by the whole command being over, whatever else went wrong.
        if self.failed.is_none() || failure == Some(Failure::Aborted) {
            self.failed = failure;
        }
        let more = match &self.plan {
            Plan::Steps { steps, at, .. } => steps.get(usize::from(*at)).is_some_and(Option::is_some),
            Plan::Unmap { next, count } => next < count,
        };
        if self.outstanding > 0 || more && self.failed.is_none() {
            return Progress::Pending;
        }
        let wanted = self.wanted;
        Progress::Finished(match self.failed {
            Some(Failure::Aborted) => End::Aborted,
            Some(Failure::Full) => End::Reply(Reply { wanted, ..Reply::status(Status::TaskSetFull) }),
            Some(Failure::Again) => End::Reply(Reply { wanted, ..Reply::status(Status::Busy) }),
            Some(Failure::Sense(sense)) => End::Reply(Reply { wanted, ..Reply::check(sense) }),
            None => {
                let gives = self.gives;
                let data_in = if gives > 0 { DataIn::Medium } else { DataIn::None };
                End::Reply(Reply { wanted, gives, data_in, ..Reply::GOOD })
            }
        })
    }
}

impl Step {
    /// Of VERIFY and WRITE AND VERIFY with BYTCHK.
    fn differs(&self, done: u64, part: Extent, read: &[u8], data: &[u8]) -> Option<Failure> {
        let place = bytes_of(done)..bytes_of(done + part.blocks);
        let same = !self.compare || data.get(place) == Some(read);
        (!same).then_some(Failure::Sense(Sense::MISCOMPARE))
    }
}

fn failure(outcome: Outcome, extent: Extent) -> Option<Failure> {
    let sense = match outcome {
        Outcome::Good => return None,
        Outcome::Aborted => return Some(Failure::Aborted),
        Outcome::Refused(crate::block::Refusal::Busy) => return Some(Failure::Full),
        Outcome::Refused(crate::block::Refusal::Again) => return Some(Failure::Again),
        // A path failed by 04/0A comes back late: media commands get 04/0B in a transition too.
        Outcome::Refused(_) => Sense::STANDBY,
        Outcome::Miscompare { offset } => Sense::MISCOMPARE.with_information(u64::from(offset)),
        Outcome::NoSpace => Sense::NO_SPACE,
        // Which block it was is not known: from the first on, none is claimed to be good.
        Outcome::ReadError => Sense::READ_ERROR.with_information(extent.lba),
        Outcome::WriteError => Sense::WRITE_ERROR.with_information(extent.lba),
    };
    Some(Failure::Sense(sense))
}

/// The blocks of UNMAP block descriptor `index`; `None` past the data.
pub(super) fn unmap_extent(data: &[u8], index: u16) -> Option<Extent> {
    let start = UNMAP_HEADER + usize::from(index) * UNMAP_DESCRIPTOR;
    let descriptor = data.get(start..start + UNMAP_DESCRIPTOR)?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, _, _, _, _] = *descriptor else { return None };
    let blocks = u32::from_be_bytes([i, j, k, l]);
    Some(Extent::new(u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from(blocks)))
}

/// The first descriptor from `from` on, below `count`, that has any block.
fn filled(data: &[u8], from: u16, count: u16) -> Option<u16> {
    (from..count).find(|index| unmap_extent(data, *index).is_some_and(|extent| extent.blocks > 0))
}

/// Bytes of `blocks` logical blocks.
pub(super) fn bytes_of(blocks: u64) -> usize {
    usize::try_from(blocks.saturating_mul(u64::from(BLOCK))).unwrap_or(usize::MAX)
}
