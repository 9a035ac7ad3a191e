//! Carrying out a core's actions: I/O on this array's copy, frames to the peer, answers.

use std::rc::Rc;
use std::sync::Arc;

use crate::block::{BLOCK, Extent, Op, Request, StoreResult};
use crate::mirror::{CopyFailed, FrameHeader, Limits};
use crate::store::Handle;
use crate::sys::buffer::Buffer;

use super::lane::{LaneFrame, LaneOut};
use super::shell::{Effects, Volume};
use super::thread::{DataThread, Job};
use super::work::Work;
use super::{Completion, CompletionQueue};

/// Bytes of one frame of a copied region: large enough to stream, small enough to let host
/// writes on the same lane pass between.
const COPY_FRAME_BYTES: u64 = 256 * 1024;
const _: () = assert!(1024 * 1024 / COPY_FRAME_BYTES <= Limits::COPY_FRAMES_MAX as u64);

/// Carries out everything; outcomes go to their queues.
pub(super) fn carry_out(volume: &Volume, effects: Effects) {
    carry(volume, effects, None, &mut None);
}

/// As [`carry_out`], but the outcome of the request with `tag` of `queue`, if it comes at once,
/// is returned in `direct` and not pushed.
pub(super) fn carry_out_for(
    volume: &Volume,
    effects: Effects,
    queue: &Arc<CompletionQueue>,
    tag: u64,
    direct: &mut Option<Completion>,
) {
    carry(volume, effects, Some((queue, tag)), direct);
}

fn carry(
    volume: &Volume,
    mut effects: Effects,
    wanted: Option<(&Arc<CompletionQueue>, u64)>,
    direct: &mut Option<Completion>,
) {
    let thread = DataThread::current();
    // Each round does what the one before brought about; it ends because every round finishes at
    // least one piece of I/O in line or hands it off.
    loop {
        volume.notify(&effects);
        for (reply, completion) in effects.done.drain(..) {
            let asked =
                wanted.is_some_and(|(queue, tag)| tag == reply.tag && Arc::ptr_eq(queue, &reply.queue));
            if asked && direct.is_none() {
                *direct = Some(completion);
            } else {
                reply.queue.push(completion);
            }
        }
        let mut next = Effects::default();
        for (work, owner) in effects.work.drain(..) {
            match &thread {
                Some(here) if here.index == owner => perform(volume, here, work, &mut next),
                _ => volume.mailboxes().send(owner, Job::Work(volume.clone(), work)),
            }
        }
        if next.is_empty() {
            return;
        }
        effects = next;
    }
}

/// A piece of work that came through this thread's mailbox.
pub fn run_job(volume: &Volume, thread: &Rc<DataThread>, work: Work) {
    let mut effects = Effects::default();
    perform(volume, thread, work, &mut effects);
    carry_out(volume, effects);
}

/// The second half of COMPARE AND WRITE's data: what is written, and what the peer gets.
pub(super) fn write_half(data: &Buffer) -> Buffer {
    let half = data.len() / 2;
    let mut write = Buffer::with_len(half);
    if let (Some(to), Some(from)) = (write.as_mut_slice(), data.as_slice().get(half..half * 2)) {
        to.copy_from_slice(from);
    }
    write
}

fn perform(volume: &Volume, thread: &Rc<DataThread>, work: Work, next: &mut Effects) {
    match work {
        Work::Mirror { lane, header, data } => {
            // A lane that is gone has ended the session: the frame is sent again in the next.
            if let Some(out) = thread.lane(lane) {
                out.push(LaneFrame::Data { volume: volume.id(), header, data });
            }
        }
        Work::Acknowledge { lane, session, sequence, result } => {
            if let Some(out) = thread.lane(lane) {
                out.push(LaneFrame::Acknowledge { volume: volume.id(), session, sequence, result });
            }
        }
        Work::Local { command, request, data } => {
            let Some(handle) = thread.handle(volume) else {
                volume.local_done(command, StoreResult::Failed, None, next);
                return;
            };
            if request.op == Op::Read {
                if let Some((result, data)) = handle.read_now(request.extent) {
                    volume.local_done(command, result, Some(data), next);
                    return;
                }
                let volume = volume.clone();
                tokio_uring::spawn(async move {
                    let (result, data) = handle.read(request.extent).await;
                    let mut effects = Effects::default();
                    volume.local_done(command, result, Some(data), &mut effects);
                    carry_out(&volume, effects);
                });
                return;
            }
            let op = match request.op {
                Op::CompareAndWrite => Op::Write,
                op => op,
            };
            let data = if request.op == Op::CompareAndWrite { write_half(&data) } else { data };
            if let Some(result) = change_now(&handle, op, request.extent, &data) {
                volume.local_done(command, result, None, next);
                return;
            }
            let volume = volume.clone();
            tokio_uring::spawn(async move {
                let result = change(&handle, op, request.extent, data).await;
                let mut effects = Effects::default();
                volume.local_done(command, result, None, &mut effects);
                carry_out(&volume, effects);
            });
        }
        Work::Compare { command, request, data } => {
            let Some(handle) = thread.handle(volume) else {
                volume.local_done(command, StoreResult::Failed, None, next);
                return;
            };
            let volume = volume.clone();
            tokio_uring::spawn(async move {
                let result = compare(&handle, request, &data).await;
                let mut effects = Effects::default();
                volume.local_done(command, result, None, &mut effects);
                carry_out(&volume, effects);
            });
        }
        Work::Apply { apply, header, data } => {
            let Some(handle) = thread.handle(volume) else {
                volume.applied(apply, StoreResult::Failed, next);
                return;
            };
            if let Some(result) = change_now(&handle, header.op, header.extent, &data) {
                volume.applied(apply, result, next);
                return;
            }
            let volume = volume.clone();
            tokio_uring::spawn(async move {
                let result = change(&handle, header.op, header.extent, data).await;
                let mut effects = Effects::default();
                volume.applied(apply, result, &mut effects);
                carry_out(&volume, effects);
            });
        }
        Work::Copy { copy, lane, header } => {
            let (handle, out) = (thread.handle(volume), thread.lane(lane));
            let (Some(handle), Some(out)) = (handle, out) else {
                volume.copy_sent(copy, Err(CopyFailed), next);
                return;
            };
            let volume = volume.clone();
            tokio_uring::spawn(async move {
                let frames = send_region(&volume, &handle, &out, header).await;
                let mut effects = Effects::default();
                volume.copy_sent(copy, frames, &mut effects);
                carry_out(&volume, effects);
            });
        }
    }
}

/// A change that may be done in line because it does not wait for a device (files in memory).
fn change_now(handle: &Handle, op: Op, extent: Extent, data: &Buffer) -> Option<StoreResult> {
    match op {
        Op::Write => handle.write_now(extent, data),
        _ => None,
    }
}

/// Changes this copy; the change is on stable storage when this returns `Done`.
async fn change(handle: &Handle, op: Op, extent: Extent, data: Buffer) -> StoreResult {
    match op {
        Op::Write => handle.write(extent, data).await,
        Op::WriteSame => handle.write_same(extent, data).await,
        Op::WriteZeroes | Op::Unmap => handle.unmap(extent).await,
        Op::Flush => handle.flush().await,
        // Neither comes here: reads do not change, and the compare half is done by then.
        Op::Read | Op::CompareAndWrite => StoreResult::Failed,
    }
}

/// Compares the first half of `data` with what the extent holds.
async fn compare(handle: &Handle, request: Request, data: &Buffer) -> StoreResult {
    let (result, held) = handle.read(request.extent).await;
    if result != StoreResult::Done {
        return result;
    }
    let expected = data.as_slice().get(..held.len()).unwrap_or_default();
    match held.as_slice().iter().zip(expected).position(|(a, b)| a != b) {
        Some(offset) => StoreResult::Differs { offset: u32::try_from(offset).unwrap_or(u32::MAX) },
        None => StoreResult::Done,
    }
}

/// Sends a region as frames on the lane: holes as `Unmap`, data in pieces. Returns their number.
async fn send_region(
    volume: &Volume,
    handle: &Handle,
    out: &Rc<LaneOut>,
    header: FrameHeader,
) -> Result<u32, CopyFailed> {
    if handle.is_hole(header.extent) {
        let header = header.copy_frame(0, Op::Unmap, header.extent);
        out.push(LaneFrame::Data { volume: volume.id(), header, data: Buffer::empty() });
        return Ok(1);
    }
    let step = COPY_FRAME_BYTES / u64::from(BLOCK);
    let (mut at, mut frames) = (header.extent.lba, 0);
    while at < header.extent.end() {
        let extent = Extent::new(at, step.min(header.extent.end() - at));
        let (result, data) = handle.read(extent).await;
        if result != StoreResult::Done {
            return Err(CopyFailed);
        }
        let header = header.copy_frame(frames, Op::Write, extent);
        out.push(LaneFrame::Data { volume: volume.id(), header, data });
        frames += 1;
        at = extent.end();
    }
    Ok(frames)
}
