//! One volume on this array: the mirror's core behind its lock, with the payloads of what is in it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arbitration::GroupId;
use crate::block::{BLOCK, Extent, Op, Outcome, Request, StoreResult};
use crate::mirror::{
    self, ApplyId, CommandId, Context, CopyFailed, CopyId, FrameHeader, LaneId, SessionId, Sum, SyncId,
    VolumeAction, VolumeId, Weighing,
};
use crate::store::{DataFile, Durability};
use crate::sys::buffer::Buffer;
use crate::sys::clock;
use crate::time::Time;

use super::keeping::Keeping;
use super::latency;
use super::mend::{For, Mending};
use super::perform;
use super::thread::{DataThread, Mailboxes};
use super::verify::{Summed, Verifying};
use super::work::Work;
use super::{BlockVolume, Completion, ReplyTo, Submitted, Ticket};

/// Where a volume tells the rest of the array that something is up. Called without the lock.
pub trait Listener: Send + Sync + fmt::Debug {
    /// The group's control should look at its volumes.
    fn poke(&self, volume: VolumeId);
    /// Pages of the dirty map wait to be written.
    fn persist_map(&self, volume: &Volume);
    /// The image of the copy as it was may count no more ([`Volume::release_image`]).
    fn release_image(&self, volume: &Volume);
    /// Something could not be read here, and was answered with the peer's data.
    fn read_failed(&self, volume: &Volume, mending: Mending);
}

/// A volume; clones name the same one.
#[derive(Clone)]
pub struct Volume(Arc<Shared>);

struct Shared {
    id: VolumeId,
    file: DataFile,
    mailboxes: Mailboxes,
    listener: Arc<dyn Listener>,
    /// A poke is on its way already.
    poked: AtomicBool,
    keeping: Keeping,
    verifying: Verifying,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Volume({})", uuid::Uuid::from_bytes(self.0.id.0))
    }
}

/// What the lock covers.
#[derive(Debug)]
struct Inner {
    core: mirror::Volume,
    /// The group it is mirrored in; frames name it.
    group: Option<GroupId>,
    commands: Vec<Option<Pending>>,
    applies: Vec<Option<Held>>,
    /// The core's outputs; empty between calls.
    actions: Vec<VolumeAction>,
}

/// A host command's payload and return address, under its slot in the core.
#[derive(Debug)]
struct Pending {
    command: CommandId,
    request: Request,
    data: Buffer,
    reply: ReplyTo,
    /// The data thread that submitted it; its local I/O runs there.
    thread: usize,
    submitted: Time,
    /// What the peer gave for what could not be read here, and which blocks they are.
    fetched: Option<(Extent, Buffer)>,
}

/// What came with a frame of the peer, or was read for it, under its slot in the core.
#[derive(Debug)]
struct Held {
    apply: ApplyId,
    data: Buffer,
    /// It asks for digests.
    sums: bool,
}

/// What a call into the core brought about, to be done without the lock.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Work and the thread it belongs to.
    pub work: Vec<(Work, usize)>,
    pub done: Vec<(ReplyTo, Completion)>,
    pub poke: bool,
    pub persist: bool,
    /// The image of the copy as it was may count no more.
    pub release_image: bool,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.work.is_empty() && self.done.is_empty() && !self.poke && !self.persist && !self.release_image
    }
}

impl Volume {
    pub fn new(
        id: VolumeId,
        core: mirror::Volume,
        file: DataFile,
        mailboxes: Mailboxes,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let inner =
            Inner { core, group: None, commands: Vec::new(), applies: Vec::new(), actions: Vec::new() };
        let poked = AtomicBool::new(false);
        Self(Arc::new(Shared {
            id,
            file,
            mailboxes,
            listener,
            poked,
            keeping: Keeping::default(),
            verifying: Verifying::default(),
            inner: Mutex::new(inner),
        }))
    }

    pub fn id(&self) -> VolumeId {
        self.0.id
    }

    pub fn file(&self) -> &DataFile {
        &self.0.file
    }

    pub(super) fn keeping(&self) -> &Keeping {
        &self.0.keeping
    }

    pub(super) fn verifying(&self) -> &Verifying {
        &self.0.verifying
    }

    pub fn mailboxes(&self) -> &Mailboxes {
        &self.0.mailboxes
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock ends the process (the daemon aborts on panic); never poisoned.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the core under the lock and gathers what comes of it.
    fn call<R>(
        &self,
        effects: &mut Effects,
        call: impl FnOnce(&mut Inner, Context, &mut Vec<VolumeAction>) -> R,
    ) -> R {
        let thread = DataThread::current_index();
        let context = Context { now: clock::now(), lane: DataThread::current_lane() };
        let mut inner = self.lock();
        let mut actions = std::mem::take(&mut inner.actions);
        let result = call(&mut inner, context, &mut actions);
        inner.collect(&mut actions, effects, &self.0.mailboxes, thread, context.now.grantor);
        effects.release_image |= inner.core.take_image_spent();
        inner.actions = actions;
        result
    }

    /// Calls the core and carries out its actions. For the control and metadata threads and for
    /// anything rare; host commands go through [`BlockVolume`].
    pub fn with<R>(&self, call: impl FnOnce(&mut mirror::Volume, Context, &mut Vec<VolumeAction>) -> R) -> R {
        let mut effects = Effects::default();
        let result = self.call(&mut effects, |inner, context, out| call(&mut inner.core, context, out));
        perform::carry_out(self, effects);
        result
    }

    /// The group whose frames this volume sends and takes from now on.
    pub fn set_group(&self, group: Option<GroupId>) {
        self.lock().group = group;
    }

    pub fn group(&self) -> Option<GroupId> {
        self.lock().group
    }

    /// Clears the mark of a poke under way; the control calls it before it looks.
    pub fn poke_taken(&self) {
        self.0.poked.store(false, Ordering::Release);
    }

    /// A frame of the peer came in on a lane of this thread.
    pub fn receive(&self, lane: LaneId, header: FrameHeader, data: Buffer) {
        self.take(lane, header, data, false);
    }

    /// A question of the peer for the digests of an extent came in on a lane of this thread.
    pub fn receive_question(&self, lane: LaneId, header: FrameHeader) {
        self.take(lane, header, Buffer::empty(), true);
    }

    fn take(&self, lane: LaneId, header: FrameHeader, data: Buffer, sums: bool) {
        let mut effects = Effects::default();
        self.call(&mut effects, |inner, context, out| {
            if let Some(apply) = inner.core.receive(lane, header, context, out) {
                let at = apply.slot() as usize;
                if inner.applies.len() <= at {
                    inner.applies.resize_with(at + 1, || None);
                }
                inner.applies[at] = Some(Held { apply, data, sums });
            }
        });
        perform::carry_out(self, effects);
    }

    /// The peer's answer to a frame of this volume.
    pub fn acknowledged(&self, session: SessionId, sequence: u64, result: Option<StoreResult>) {
        self.with(|core, context, out| core.mirror_acked(session, sequence, result, context, out));
    }

    /// Blocks that this volume asked the peer for.
    pub fn given(&self, header: FrameHeader, data: Buffer) {
        let mut effects = Effects::default();
        let mut weigh = None;
        self.call(&mut effects, |inner, context, out| {
            if let Some(command) = inner.core.fetched(header, context, out)
                && let Some(pending) = inner.pending_mut(command)
            {
                pending.fetched = Some((header.extent, data));
                return;
            }
            if let Some(check) = inner.core.blocks_given(header, context) {
                let thread = DataThread::current_index().unwrap_or(0);
                let found_by = if inner.core.recovers(check) { For::Recovery } else { For::Verify };
                weigh = Some((Work::Weigh { check, extent: header.extent, data, found_by }, thread));
            }
        });
        effects.work.extend(weigh);
        perform::carry_out(self, effects);
    }

    /// Digests that this volume asked the peer for.
    pub fn sums_given(&self, header: FrameHeader, sums: Vec<Sum>) {
        self.with(|core, context, out| core.sums_given(header, sums, context, out));
    }

    pub(super) fn verify_unknown_there(&self, effects: &mut Effects) {
        self.call(effects, |inner, context, out| inner.core.verify_unknown_there(context, out));
    }

    pub(super) fn summed(&self, check: CopyId, summed: Result<Summed, StoreResult>, effects: &mut Effects) {
        self.call(effects, |inner, context, out| {
            let hole = summed.as_ref().is_ok_and(|summed| summed.hole);
            let sums = summed.ok().map(|summed| summed.sums);
            inner.core.summed(check, sums, hole, context, out);
        });
    }

    pub(super) fn weighed(
        &self,
        check: CopyId,
        weighing: Result<Weighing, StoreResult>,
        effects: &mut Effects,
    ) {
        self.call(effects, |inner, context, out| inner.core.weighed(check, weighing, context, out));
    }

    /// What the peer asked for was read.
    pub(super) fn lent(&self, apply: ApplyId, read: Result<Buffer, StoreResult>, effects: &mut Effects) {
        self.call(effects, |inner, context, out| {
            let mut result = StoreResult::Done;
            match read {
                // Taken from there by the core's `Give`, if one comes of this.
                Ok(data) => {
                    if let Some(Some(held)) = inner.applies.get_mut(apply.slot() as usize) {
                        held.data = data;
                    }
                }
                Err(failed) => result = failed,
            }
            inner.core.applied(apply, result, context, out);
            if !out
                .iter()
                .any(|action| matches!(action, VolumeAction::Give { apply: of, .. } if *of == apply))
            {
                inner.free_apply(apply);
            }
        });
    }

    /// The peer's blocks were written over what could not be read, or could not be.
    pub(super) fn mended(&self, command: CommandId, result: StoreResult, effects: &mut Effects) {
        self.call(effects, |inner, context, out| {
            if let Some(pending) = inner.pending_mut(command)
                && let Some((from, blocks)) = pending.fetched.take()
                && pending.request.op == Op::Read
            {
                pending.data = part(&blocks, from, pending.request.extent);
            }
            inner.core.local_done(command, result, context, out);
        });
    }

    pub(super) fn local_done(
        &self,
        command: CommandId,
        result: StoreResult,
        data: Option<Buffer>,
        effects: &mut Effects,
    ) {
        self.call(effects, |inner, context, out| {
            if let Some(data) = data
                && let Some(pending) = inner.pending_mut(command)
            {
                pending.data = data;
            }
            inner.core.local_done(command, result, context, out);
        });
    }

    pub(super) fn applied(&self, apply: ApplyId, result: StoreResult, effects: &mut Effects) {
        self.call(effects, |inner, context, out| {
            inner.free_apply(apply);
            inner.core.applied(apply, result, context, out);
        });
    }

    pub(super) fn forgotten(&self, sync: SyncId, effects: &mut Effects) {
        self.call(effects, |inner, context, out| inner.core.forgotten(sync, context, out));
    }

    pub(super) fn synced(&self, sync: SyncId, result: StoreResult, effects: &mut Effects) {
        self.call(effects, |inner, context, out| inner.core.synced(sync, result, context, out));
    }

    pub(super) fn copy_sent(&self, copy: CopyId, frames: Result<u32, CopyFailed>, effects: &mut Effects) {
        self.call(effects, |inner, context, out| inner.core.copy_sent(copy, frames, context, out));
    }

    pub(super) fn tell_of_mending(&self, mending: Mending) {
        self.0.listener.read_failed(self, mending);
    }

    /// Tells the listener what the effects ask for.
    pub(super) fn notify(&self, effects: &Effects) {
        if effects.persist {
            self.0.listener.persist_map(self);
        }
        // One that is being made is looked at by whoever makes it.
        if effects.release_image && self.0.keeping.has_image() {
            self.0.listener.release_image(self);
        }
        if effects.poke && !self.0.poked.swap(true, Ordering::AcqRel) {
            self.0.listener.poke(self.0.id);
        }
    }
}

impl BlockVolume for Volume {
    fn submit(&self, request: Request, data: Buffer, reply: ReplyTo) -> Submitted {
        let tag = reply.tag;
        #[cfg(feature = "testing")]
        if let Some((outcome, data)) = super::fault::strike(self.0.id, request, &data) {
            return Submitted::Done(Completion { tag, outcome, data });
        }
        let queue = Arc::clone(&reply.queue);
        let mut effects = Effects::default();
        let taken = self.call(&mut effects, |inner, context, out| {
            let command = inner.core.submit(request, context, out)?;
            let thread = DataThread::current_index().unwrap_or(0);
            let submitted = context.now.grantor;
            inner.keep(Pending { command, request, data, reply, thread, submitted, fetched: None });
            Ok(command)
        });
        match taken {
            Ok(command) => {
                let mut direct = None;
                perform::carry_out_for(self, effects, &queue, tag, &mut direct);
                match direct {
                    Some(completion) => Submitted::Done(completion),
                    None => Submitted::Pending(Ticket(command.to_bits())),
                }
            }
            Err(refusal) => {
                perform::carry_out(self, effects);
                let outcome = Outcome::Refused(refusal);
                Submitted::Done(Completion { tag, outcome, data: Buffer::empty() })
            }
        }
    }

    fn abort(&self, ticket: Ticket) {
        let command = CommandId::from_bits(ticket.0);
        self.with(|core, context, out| core.abort(command, context, out));
    }
}

impl Inner {
    fn keep(&mut self, pending: Pending) {
        let at = pending.command.slot() as usize;
        if self.commands.len() <= at {
            self.commands.resize_with(at + 1, || None);
        }
        self.commands[at] = Some(pending);
    }

    fn pending_mut(&mut self, command: CommandId) -> Option<&mut Pending> {
        self.commands.get_mut(command.slot() as usize)?.as_mut().filter(|p| p.command == command)
    }

    fn free_apply(&mut self, apply: ApplyId) -> Option<Held> {
        self.applies.get_mut(apply.slot() as usize)?.take_if(|held| held.apply == apply)
    }

    fn held(&self, apply: ApplyId) -> Option<&Held> {
        self.applies.get(apply.slot() as usize)?.as_ref().filter(|held| held.apply == apply)
    }

    /// Turns the core's actions into work with payloads, and outcomes into completions.
    fn collect(
        &mut self,
        actions: &mut Vec<VolumeAction>,
        effects: &mut Effects,
        mailboxes: &Mailboxes,
        here: Option<usize>,
        now: Time,
    ) {
        for action in actions.drain(..) {
            match action {
                VolumeAction::Local { command, .. } | VolumeAction::Compare { command } => {
                    let durability = durability(!matches!(action, VolumeAction::Local { stable: false, .. }));
                    let compare = matches!(action, VolumeAction::Compare { .. });
                    if let Some(pending) = self.pending_mut(command) {
                        let (request, data) = (pending.request, pending.data.clone());
                        let thread = here.unwrap_or(pending.thread);
                        let work = if compare {
                            Work::Compare { command, request, data }
                        } else {
                            Work::Local { command, request, data, durability }
                        };
                        effects.work.push((work, thread));
                    }
                }
                VolumeAction::Mirror { command, lane, header } => {
                    let Some(group) = self.group else { continue };
                    if let Some(pending) = self.pending_mut(command) {
                        let data = match pending.request.op {
                            // Mirrored as the write that it became.
                            Op::CompareAndWrite => {
                                pending.data.slice(pending.data.len() / 2..pending.data.len())
                            }
                            _ => pending.data.clone(),
                        };
                        let work = Work::Mirror { group, lane, header, data };
                        effects.work.push((work, mailboxes.thread_of(lane)));
                    }
                }
                VolumeAction::Sync { sync } => {
                    let thread = here.unwrap_or(0);
                    effects.work.push((Work::Sync { sync }, thread));
                }
                VolumeAction::Forget { sync } => {
                    let thread = here.unwrap_or(0);
                    effects.work.push((Work::Forget { sync }, thread));
                }
                VolumeAction::Fetch { lane, header, .. } | VolumeAction::MirrorSync { lane, header } => {
                    let Some(group) = self.group else { continue };
                    let work = Work::Mirror { group, lane, header, data: Buffer::empty() };
                    effects.work.push((work, mailboxes.thread_of(lane)));
                }
                VolumeAction::Mend { command } => {
                    if let Some(pending) = self.pending_mut(command)
                        && let Some((extent, data)) = pending.fetched.clone()
                    {
                        let work = Work::Mend { command, extent, data };
                        effects.work.push((work, here.unwrap_or(pending.thread)));
                    }
                }
                VolumeAction::Answer { command, outcome } => {
                    if let Some(pending) = self.pending_mut(command) {
                        latency::answered(pending.submitted, now);
                        let data = match (pending.request.op, outcome) {
                            (Op::Read, Outcome::Good) => std::mem::take(&mut pending.data),
                            _ => Buffer::empty(),
                        };
                        let completion = Completion { tag: pending.reply.tag, outcome, data };
                        effects.done.push((pending.reply.clone(), completion));
                    }
                }
                VolumeAction::Free { command } => {
                    if let Some(slot) = self.commands.get_mut(command.slot() as usize) {
                        slot.take_if(|pending| pending.command == command);
                    }
                    self.core.release(command);
                }
                VolumeAction::PersistMap => effects.persist = true,
                VolumeAction::Copy { copy, kind: _, lane, header } => {
                    let Some(group) = self.group else { continue };
                    effects.work.push((Work::Copy { group, copy, lane, header }, mailboxes.thread_of(lane)));
                }
                VolumeAction::Sum { check, lane, header } => {
                    let Some(group) = self.group else { continue };
                    effects.work.push((Work::Sum { group, check, lane, header }, mailboxes.thread_of(lane)));
                }
                VolumeAction::AskBlocks { lane, header } => {
                    let Some(group) = self.group else { continue };
                    let work = Work::Mirror { group, lane, header, data: Buffer::empty() };
                    effects.work.push((work, mailboxes.thread_of(lane)));
                }
                VolumeAction::Apply { apply, lane, header, .. } if header.op == Op::Read => {
                    let sums = self.held(apply).is_some_and(|held| held.sums);
                    let extent = header.extent;
                    let work =
                        if sums { Work::LendSums { apply, extent } } else { Work::Lend { apply, extent } };
                    effects.work.push((work, here.unwrap_or_else(|| mailboxes.thread_of(lane))));
                }
                VolumeAction::Give { apply, lane, header } => {
                    let Some(Held { data, sums, .. }) = self.free_apply(apply) else { continue };
                    let Some(group) = self.group else { continue };
                    let work = Work::Give { group, lane, header, data, sums };
                    effects.work.push((work, mailboxes.thread_of(lane)));
                }
                VolumeAction::Apply { apply, lane, header, stable } => {
                    if let Some(data) = self.held(apply).map(|held| held.data.clone()) {
                        let keep = self.core.image_to_keep();
                        let durability = durability(stable);
                        let work = Work::Apply { apply, header, data, keep, durability };
                        effects.work.push((work, here.unwrap_or_else(|| mailboxes.thread_of(lane))));
                    }
                }
                VolumeAction::Discard { apply } => {
                    self.free_apply(apply);
                }
                VolumeAction::Acknowledge { lane, session, sequence, result } => {
                    let work = Work::Acknowledge { lane, session, sequence, result };
                    effects.work.push((work, mailboxes.thread_of(lane)));
                }
                VolumeAction::Poke => effects.poke = true,
            }
        }
    }
}

const fn durability(stable: bool) -> Durability {
    if stable { Durability::Stable } else { Durability::AtFlush }
}

/// The bytes of `extent` out of the blocks of `from`, where that covers it.
fn part(blocks: &Buffer, from: Extent, extent: Extent) -> Buffer {
    let first = extent.lba.saturating_sub(from.lba).saturating_mul(u64::from(BLOCK));
    if extent.lba < from.lba || from.end() < extent.end() {
        return Buffer::empty(); // a piece: everything is read once more
    }
    let range = usize::try_from(first).ok().zip(usize::try_from(extent.bytes()).ok());
    match range.and_then(|(first, len)| Some(first..first.checked_add(len)?)) {
        Some(range) if range.end <= blocks.len() => blocks.slice(range),
        _ => Buffer::empty(),
    }
}
