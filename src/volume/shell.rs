//! One volume on this array: the mirror's core behind its lock, with the payloads of what is in it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arbitration::GroupId;
use crate::block::{Op, Outcome, Request, StoreResult};
use crate::mirror::{self, ApplyId, CommandId, Context, CopyId, FrameHeader, LaneId, VolumeAction};
use crate::store::DataFile;
use crate::sys::buffer::Buffer;
use crate::sys::clock;

use super::thread::{DataThread, Job, Mailboxes};
use super::work::Work;
use super::{BlockVolume, Completion, ReplyTo, Submitted, Ticket};

/// Names a volume on both arrays of a pair: the UUID it was created with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey(pub [u8; 16]);

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", uuid::Uuid::from_bytes(self.0))
    }
}

/// Where a volume tells the rest of the array that something is up. Called without the lock.
pub trait Listener: Send + Sync + fmt::Debug {
    /// The group's control should look at its volumes.
    fn poke(&self, volume: VolumeKey);
    /// Pages of the dirty map wait to be written.
    fn persist_map(&self, volume: VolumeKey);
}

/// A volume; clones name the same one.
#[derive(Clone)]
pub struct Volume(Arc<Shared>);

struct Shared {
    key: VolumeKey,
    file: Arc<DataFile>,
    mailboxes: Mailboxes,
    listener: Arc<dyn Listener>,
    /// A poke is on its way already.
    poked: AtomicBool,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("key", &self.0.key).finish_non_exhaustive()
    }
}

/// What the lock covers.
#[derive(Debug)]
pub struct Inner {
    pub core: mirror::Volume,
    group: Option<GroupId>,
    commands: Vec<Slot>,
    applies: Vec<Option<(Buffer, LaneId)>>,
    actions: Vec<VolumeAction>,
}

/// A host command's payload and return address, under its number in the core.
#[derive(Debug, Default)]
struct Slot {
    /// Raised when the slot is reused, so that an old ticket cannot abort a new command.
    life: u32,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    request: Request,
    data: Buffer,
    reply: ReplyTo,
    /// The data thread that submitted it; its local I/O runs there.
    thread: usize,
}

/// What a call into the core brought about, to be done without the lock.
#[derive(Debug, Default)]
struct Effects {
    work: Vec<(Work, usize)>,
    done: Vec<(ReplyTo, Completion)>,
    poke: bool,
    persist: bool,
}

impl Volume {
    pub fn new(
        key: VolumeKey,
        core: mirror::Volume,
        group: Option<GroupId>,
        file: Arc<DataFile>,
        mailboxes: Mailboxes,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let inner = Inner {
            core,
            group,
            commands: Vec::new(),
            applies: Vec::new(),
            actions: Vec::new(),
        };
        Self(Arc::new(Shared {
            key,
            file,
            mailboxes,
            listener,
            poked: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }))
    }

    pub fn key(&self) -> VolumeKey {
        self.0.key
    }

    pub fn file(&self) -> &Arc<DataFile> {
        &self.0.file
    }

    pub fn group(&self) -> Option<GroupId> {
        self.lock().group
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock ends the process (panic hook of the daemon); never reached.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the core under the lock and carries out what comes of it. For the control thread and
    /// for anything rare; the data path goes through [`BlockVolume`].
    pub fn with<R>(&self, call: impl FnOnce(&mut mirror::Volume, &mut Vec<VolumeAction>) -> R) -> R {
        let mut effects = Effects::default();
        let result = {
            let mut inner = self.lock();
            let mut actions = std::mem::take(&mut inner.actions);
            let result = call(&mut inner.core, &mut actions);
            inner.collect(&mut actions, &mut effects, self);
            inner.actions = actions;
            result
        };
        self.carry_out(effects);
        result
    }

    /// The group this volume belongs to from now on.
    pub fn set_group(&self, group: Option<GroupId>) {
        self.lock().group = group;
    }

    /// Clears the mark of a poke under way; the control calls it before it looks.
    pub fn poke_taken(&self) {
        self.0.poked.store(false, Ordering::Release);
    }

    /// A frame of the peer came in on a lane of this thread.
    pub fn receive(&self, lane: LaneId, header: FrameHeader, data: Buffer) {
        let context = context();
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            let mut actions = std::mem::take(&mut inner.actions);
            if let Some(apply) = inner.core.receive(lane, header, context, &mut actions) {
                let at = apply.0 as usize;
                if inner.applies.len() <= at {
                    inner.applies.resize_with(at + 1, || None);
                }
                inner.applies[at] = Some((data, lane));
            }
            inner.collect(&mut actions, &mut effects, self);
            inner.actions = actions;
        }
        self.carry_out(effects);
    }

    fn finish(&self, call: impl FnOnce(&mut mirror::Volume, Context, &mut Vec<VolumeAction>)) -> Effects {
        let context = context();
        let mut effects = Effects::default();
        let mut inner = self.lock();
        let mut actions = std::mem::take(&mut inner.actions);
        call(&mut inner.core, context, &mut actions);
        inner.collect(&mut actions, &mut effects, self);
        inner.actions = actions;
        effects
    }
}
