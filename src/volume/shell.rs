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

impl Inner {
    /// Turns the core's actions into work with payloads, and outcomes into completions.
    fn collect(&mut self, actions: &mut Vec<VolumeAction>, effects: &mut Effects, volume: &Volume) {
        let here = DataThread::current().map(|thread| thread.index);
        for action in actions.drain(..) {
            match action {
                VolumeAction::Local { command } => {
                    if let Some(pending) = self.pending(command) {
                        let work = Work::Local { command, request: pending.request, data: pending.data.clone() };
                        effects.work.push((work, here.unwrap_or(pending.thread)));
                    }
                }
                VolumeAction::Compare { command } => {
                    if let Some(pending) = self.pending(command) {
                        let work =
                            Work::Compare { command, request: pending.request, data: pending.data.clone() };
                        effects.work.push((work, here.unwrap_or(pending.thread)));
                    }
                }
                VolumeAction::Mirror { command, lane, header } => {
                    if let Some(pending) = self.pending(command) {
                        let work = Work::Mirror { lane, header, data: pending.mirrored() };
                        effects.work.push((work, volume.0.mailboxes.thread_of(lane)));
                    }
                }
                VolumeAction::Answer { command, outcome } => self.answer(command, outcome, effects),
                VolumeAction::PersistMap => effects.persist = true,
                VolumeAction::Copy { copy, kind, lane, header } => {
                    let work = Work::Copy { copy, kind, lane, header };
                    effects.work.push((work, volume.0.mailboxes.thread_of(lane)));
                }
                VolumeAction::Apply { apply, lane, header } => {
                    let data = self.applies.get(apply.0 as usize).and_then(Option::as_ref);
                    let data = data.map(|(data, _)| data.clone()).unwrap_or_default();
                    let thread = here.unwrap_or_else(|| volume.0.mailboxes.thread_of(lane));
                    effects.work.push((Work::Apply { apply, lane, header, data }, thread));
                }
                VolumeAction::Acknowledge { lane, session, sequence, result } => {
                    let work = Work::Acknowledge { lane, session, sequence, result };
                    effects.work.push((work, volume.0.mailboxes.thread_of(lane)));
                }
                VolumeAction::Poke => effects.poke = true,
            }
        }
    }

    fn pending(&self, command: CommandId) -> Option<&Pending> {
        self.commands.get(command.0 as usize)?.pending.as_ref()
    }

    /// The command is over: frees its payload and slot, and addresses the completion.
    fn answer(&mut self, command: CommandId, outcome: Outcome, effects: &mut Effects) {
        let Some(slot) = self.commands.get_mut(command.0 as usize) else { return };
        let Some(pending) = slot.pending.take() else { return };
        slot.life = slot.life.wrapping_add(1);
        self.core.release(command);
        let data = match (pending.request.op, outcome) {
            (Op::Read, Outcome::Good) => pending.data,
            _ => Buffer::empty(),
        };
        effects.done.push((pending.reply.clone(), Completion { tag: pending.reply.tag, outcome, data }));
    }

    fn store(&mut self, command: CommandId, pending: Pending) -> Ticket {
        let at = command.0 as usize;
        if self.commands.len() <= at {
            self.commands.resize_with(at + 1, Slot::default);
        }
        self.commands[at].pending = Some(pending);
        Ticket(u64::from(self.commands[at].life) << 32 | u64::from(command.0))
    }
}

impl Pending {
    /// What goes to the peer: a COMPARE AND WRITE is mirrored as the write it became.
    fn mirrored(&self) -> Buffer {
        self.data.clone()
    }
}

/// Time and lane of the calling thread.
fn context() -> Context {
    let lane = DataThread::current().and_then(|thread| thread.own_lane());
    Context { now: clock::now(), lane }
}
