//! The commands of one connection in progress: a bounded table of slots, found by task tag.

use super::TaskId;
use crate::iscsi::header::NO_TAG;
use crate::iscsi::negotiation::OUTSTANDING_R2T;
use crate::iscsi::pdu::Attribute;
use crate::iscsi::serial::Serial;
use crate::iscsi::window::WINDOW;
use crate::sys::buffer::Buffer;

/// Most commands for immediate delivery in progress: they are outside the command window.
pub const IMMEDIATE_MAX: u32 = 16;
/// Slots: what the window lets in, and the immediate ones.
pub const SLOTS: usize = WINDOW as usize + IMMEDIATE_MAX as usize;

/// An R2T on its way, or partly answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub ttt: u32,
    /// Bytes still to come.
    pub left: u32,
}

/// Data of a write command coming in. All offsets are in order (DataPDUInOrder and
/// DataSequenceInOrder are Yes), so one number says what has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collect {
    /// Bytes arrived.
    pub received: u32,
    /// Bytes that will have arrived once everything asked for is answered.
    pub asked: u32,
    /// Unsolicited Data-Out may follow, up to this offset.
    pub unsolicited: Option<u32>,
    /// DataSN of the next PDU in the sequence.
    pub data_sn: u32,
    /// Something of the data is missing or damaged: the rest is skipped, the command will fail.
    pub spoiled: bool,
    asked_for: [Asked; OUTSTANDING_R2T],
    outstanding: usize,
}

impl Collect {
    /// Nothing arrived yet; unsolicited Data-Out may come up to `unsolicited`.
    pub fn new(unsolicited: Option<u32>) -> Self {
        Self { unsolicited, ..Self::default() }
    }

    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The oldest unanswered R2T.
    pub fn front(&mut self) -> Option<&mut Asked> {
        if self.outstanding == 0 { None } else { self.asked_for.first_mut() }
    }

    pub fn pop(&mut self) {
        self.asked_for.rotate_left(1);
        self.outstanding = self.outstanding.saturating_sub(1);
        self.data_sn = 0;
    }

    /// False when no more may be outstanding.
    pub fn push(&mut self, asked: Asked) -> bool {
        match self.asked_for.get_mut(self.outstanding) {
            Some(place) => {
                *place = asked;
                self.outstanding += 1;
                true
            }
            None => false,
        }
    }
}

/// ```text
///            data complete         in order
/// Collecting -------------> Ready ----------> Executing --> (answered)
///      \______________________\___ abort: gone at once        | abort: gone when the shell says so
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Write data is still coming.
    Collecting(Collect),
    /// Complete, but a command before it has not arrived.
    Ready,
    /// With the shell, which says once how it ended.
    Executing,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub itt: u32,
    pub lun: u64,
    pub cmd_sn: Serial,
    pub immediate: bool,
    pub read: bool,
    pub write: bool,
    /// ExpectedDataTransferLength.
    pub expected: u32,
    /// Bytes of data-out taken: `expected`, or the limit of one command.
    pub transfer: u32,
    pub attribute: Attribute,
    pub cdb: [u8; 16],
    pub state: State,
    pub payload: Buffer,
    /// R2Ts sent.
    pub r2t_sn: u32,
    /// Nothing is answered for it any more.
    pub aborted: bool,
    /// Payload memory it stands for.
    pub charge: usize,
}

/// A set of slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskSet([u64; SLOTS.div_ceil(64)]);

impl TaskSet {
    pub fn insert(&mut self, task: TaskId) {
        if let Some(word) = self.0.get_mut(usize::from(task.0) / 64) {
            *word |= 1 << (task.0 % 64);
        }
    }

    pub fn remove(&mut self, task: TaskId) {
        if let Some(word) = self.0.get_mut(usize::from(task.0) / 64) {
            *word &= !(1 << (task.0 % 64));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

#[derive(Clone, Debug)]
pub struct Tasks {
    slots: Vec<Option<Task>>,
    /// Tag of each slot, [`NO_TAG`] where it is free: searched at every command and Data-Out.
    tags: Vec<u32>,
    free: Vec<u16>,
    immediate: u32,
    queued: u32,
    /// Tasks in state `Ready`.
    ready: u32,
    charged: usize,
}

impl Tasks {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            tags: Vec::new(),
            free: Vec::new(),
            immediate: 0,
            queued: 0,
            ready: 0,
            charged: 0,
        }
    }

    /// Tasks that came by the command window.
    pub const fn queued(&self) -> u32 {
        self.queued
    }

    pub const fn immediate(&self) -> u32 {
        self.immediate
    }

    pub const fn is_empty(&self) -> bool {
        self.queued == 0 && self.immediate == 0
    }

    /// Payload bytes all tasks stand for.
    pub const fn charged(&self) -> usize {
        self.charged
    }

    pub fn find(&self, itt: u32) -> Option<TaskId> {
        if itt == NO_TAG {
            return None;
        }
        let slot = self.tags.iter().position(|tag| *tag == itt)?;
        u16::try_from(slot).ok().map(TaskId)
    }

    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.slots.get(usize::from(id.0))?.as_ref()
    }

    pub fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }

    /// `None`: every slot is taken.
    pub fn insert(&mut self, task: Task) -> Option<TaskId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < SLOTS => {
                self.slots.push(None);
                self.tags.push(NO_TAG);
                u16::try_from(self.slots.len() - 1).ok()?
            }
            None => return None,
        };
        *(if task.immediate { &mut self.immediate } else { &mut self.queued }) += 1;
        self.charged += task.charge;
        let at = usize::from(slot);
        // Both vectors have this slot: it came from `free`, or was just pushed.
        *self.tags.get_mut(at)? = task.itt;
        *self.slots.get_mut(at)? = Some(task);
        Some(TaskId(slot))
    }

    pub fn remove(&mut self, id: TaskId) -> Option<Task> {
        let at = usize::from(id.0);
        let task = self.slots.get_mut(at)?.take()?;
        if let Some(tag) = self.tags.get_mut(at) {
            *tag = NO_TAG;
        }
        self.free.push(id.0);
        *(if task.immediate { &mut self.immediate } else { &mut self.queued }) -= 1;
        self.charged -= task.charge;
        if task.state == State::Ready {
            self.ready -= 1;
        }
        Some(task)
    }

    /// Takes the task's payload and marks it executing.
    pub fn execute(&mut self, id: TaskId) -> Option<&mut Task> {
        let task = self.slots.get_mut(usize::from(id.0))?.as_mut()?;
        if task.state == State::Ready {
            self.ready -= 1;
        }
        task.state = State::Executing;
        Some(task)
    }

    pub fn make_ready(&mut self, id: TaskId) {
        if let Some(task) = self.get_mut(id)
            && task.state != State::Ready
        {
            task.state = State::Ready;
            self.ready += 1;
        }
    }

    /// The ready task with the lowest number before `expected`, if any.
    pub fn next_ready(&self, expected: Serial) -> Option<TaskId> {
        if self.ready == 0 {
            return None;
        }
        let mut first: Option<(TaskId, Serial)> = None;
        for (id, task) in self.iter() {
            let earlier = first.is_none_or(|(_, number)| task.cmd_sn.before(number));
            if task.state == State::Ready && task.cmd_sn.before(expected) && earlier {
                first = Some((id, task.cmd_sn));
            }
        }
        first.map(|(id, _)| id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (TaskId, &Task)> {
        (0..).zip(&self.slots).filter_map(|(slot, task)| Some((TaskId(slot), task.as_ref()?)))
    }
}
