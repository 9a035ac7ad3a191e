//! What a portal asks of the array, and of the command set behind one session.

use std::sync::Arc;

use crate::iscsi::pdu::{LoginStatus, TaskFunction};
use crate::iscsi::{Candidate, Command, TargetRecord, TaskId};
use crate::sys::buffer::Buffer;
use crate::volume::{Completion, CompletionQueue};

/// The array as a portal's connections see it, on one data thread.
pub trait Service: Clone + 'static {
    type Nexus: Nexus;

    /// Admits an initiator to the target, before its session is made. Unknown hosts are admitted
    /// too, and see no logical unit, so that an operator can see them waiting.
    ///
    /// # Errors
    /// The status the login is refused with.
    fn admit(&self, candidate: &Candidate) -> Result<(), LoginStatus>;

    /// The nexus of a session that was just made. `reinstated`: another session of the same nexus
    /// was ended for it, and is over.
    fn nexus(&self, candidate: &Candidate, portal_group_tag: u16, reinstated: bool) -> Self::Nexus;

    /// What SendTargets tells this initiator: the own target, and the peer's.
    fn targets(&self, candidate: &Candidate) -> Vec<TargetRecord>;
}

/// Sense data of one answer, without allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SenseData {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl SenseData {
    /// Fixed-format sense with a little room; descriptors are not used.
    pub const MAX: usize = 32;
    pub const EMPTY: Self = Self { bytes: [0; Self::MAX], len: 0 };

    /// The first [`Self::MAX`] bytes.
    pub fn new(sense: &[u8]) -> Self {
        let mut this = Self::EMPTY;
        for (place, byte) in this.bytes.iter_mut().zip(sense) {
            *place = *byte;
            this.len += 1;
        }
        this
    }

    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl std::fmt::Debug for SenseData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SenseData").field(&self.as_slice()).finish()
    }
}

/// How a command ended, as it is answered.
#[derive(Clone, Debug)]
pub struct OwnedReply {
    /// SCSI status byte.
    pub status: u8,
    pub sense: SenseData,
    /// Data-in, all that the command gives.
    pub data: Buffer,
    /// Data-out that the CDB asks for, in bytes.
    pub wanted: u64,
    /// Data-in that the CDB asks for, in bytes, where `data` is less of it.
    pub gives: u64,
}

#[derive(Clone, Debug)]
pub enum End {
    Reply(OwnedReply),
    /// Aborted before it took effect.
    Aborted,
}

/// A command that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    pub task: TaskId,
    pub end: End,
}

/// The command set and the logical units behind one session (one I_T nexus).
pub trait Nexus: 'static {
    /// Starts a command. Whatever it causes ends in exactly one [`Finished`] for its task: at once,
    /// or after completions that come through `queue` were handed to
    /// [`completed`](Self::completed).
    fn start(&mut self, command: Command, queue: &Arc<CompletionQueue>, finished: &mut Vec<Finished>);

    /// A request that the nexus submitted is over.
    fn completed(
        &mut self,
        completion: Completion,
        queue: &Arc<CompletionQueue>,
        finished: &mut Vec<Finished>,
    );

    /// Rule 9: the command should not take effect any more. Its [`Finished`] still comes once.
    fn abort(&mut self, task: TaskId);

    /// A number of the logical unit that is the same for every session and front end of the array;
    /// `None`: no such LUN here.
    fn unit(&self, lun: u64) -> Option<u64>;

    /// The LUN under which this nexus sees a unit.
    fn lun_of(&self, unit: u64) -> Option<u64>;

    /// The unit that a started command runs on, which its LUN may have ceased to name.
    fn unit_of(&self, task: TaskId) -> Option<u64>;

    /// Every command of other sessions that the function concerns is over: establishes its unit
    /// attentions on every nexus that must learn of it (SAM-5 7). `lun` means nothing for a target
    /// reset.
    fn managed(&mut self, function: TaskFunction, lun: u64);

    /// Another nexus cleared the task set of the unit, with commands of this one in it.
    fn commands_cleared(&mut self, lun: u64);
}
