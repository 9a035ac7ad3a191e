//! Carrying out a core's actions: I/O on this array's copy, frames to the peer, answers.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task;

use crate::arbitration::GroupId;
use crate::block::{BLOCK, Extent, Op, Request, StoreResult};
use crate::mirror::{CopyFailed, FrameHeader, Limits, VolumeId, frame};
use crate::store::Handle;
use crate::sys::buffer::Buffer;

use super::lane::{LaneFrame, LaneOut};
use super::mend;
use super::shell::{Effects, Volume};
use super::thread::{DataThread, Job};
use super::verify;
use super::work::Work;
use super::{Completion, CompletionQueue};

/// Bytes of one frame of a copied region: large enough to stream, small enough to let host
/// writes on the same lane pass between.
const COPY_FRAME_BYTES: u64 = 256 * 1024;
const _: () = assert!(1024 * 1024 / COPY_FRAME_BYTES <= Limits::COPY_FRAMES_MAX as u64);

/// Bytes sent by copies (resync and recovery) since the start; holes cost none.
pub static RESYNC_BYTES: AtomicU64 = AtomicU64::new(0);

/// Something on this array has changed that a backup of before would lack.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// Notes that this array's data, or what it has voted, changes now.
pub fn note_written() {
    // A cache line that every data thread reads is written to once in a while only.
    if !WRITTEN.load(Ordering::Relaxed) {
        WRITTEN.store(true, Ordering::Relaxed);
    }
}

/// Was anything written since this was asked last?
pub fn take_written() -> bool {
    WRITTEN.swap(false, Ordering::Relaxed)
}

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

fn perform(volume: &Volume, thread: &Rc<DataThread>, work: Work, next: &mut Effects) {
    match work {
        Work::Mirror { group, lane, header, data } => {
            // A lane that is gone has ended the session: the frame is sent again in the next.
            if let Some(out) = thread.lane(lane) {
                out.push(LaneFrame::Data { group, volume: volume.id(), header, data });
            }
        }
        Work::Acknowledge { lane, session, sequence, result } => {
            if let Some(out) = thread.lane(lane) {
                out.push(LaneFrame::Acknowledge { volume: volume.id(), session, sequence, result });
            }
        }
        Work::Give { group, lane, header, data, sums } => {
            if let Some(out) = thread.lane(lane) {
                let volume = volume.id();
                out.push(if sums {
                    LaneFrame::Sums { group, volume, header, data }
                } else {
                    LaneFrame::Given { group, volume, header, data }
                });
            }
        }
        Work::LendSums { apply, extent } => {
            let Some(handle) = thread.handle(volume) else {
                volume.lent(apply, Err(StoreResult::Failed), next);
                return;
            };
            run(volume, &handle, false, next, |volume, handle| async move {
                let summed = verify::sum(&handle, extent).await;
                let read = summed.map(|summed| Buffer::copy_of(summed.sums.as_flattened()));
                move |effects: &mut Effects| volume.lent(apply, read, effects)
            });
        }
        Work::Sum { group, check, lane, header } => {
            match thread.lane(lane) {
                Some(out) if out.version() >= frame::KNOWS_SUMS => {
                    out.push(LaneFrame::AskSums { group, volume: volume.id(), header });
                }
                Some(_) => volume.verify_unknown_there(next),
                // The lane's loss ends the session, and the check with it.
                None => {}
            }
            let Some(handle) = thread.handle(volume) else {
                volume.summed(check, Err(StoreResult::Failed), next);
                return;
            };
            run(volume, &handle, false, next, |volume, handle| async move {
                let summed = verify::sum(&handle, header.extent).await;
                move |effects: &mut Effects| volume.summed(check, summed, effects)
            });
        }
        Work::Weigh { check, extent, data, found_by } => {
            let Some(handle) = thread.handle(volume) else {
                volume.weighed(check, Err(StoreResult::Failed), next);
                return;
            };
            run(volume, &handle, false, next, |volume, handle| async move {
                let weighing = verify::weigh(&volume, &handle, extent, &data, found_by).await;
                move |effects: &mut Effects| volume.weighed(check, weighing, effects)
            });
        }
        Work::Lend { apply, extent } => {
            let Some(handle) = thread.handle(volume) else {
                volume.lent(apply, Err(StoreResult::Failed), next);
                return;
            };
            run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                let read = handle.read(extent).await;
                move |effects: &mut Effects| volume.lent(apply, read, effects)
            });
        }
        Work::Sync { sync } => {
            let Some(handle) = thread.handle(volume) else {
                volume.synced(sync, StoreResult::Failed, next);
                return;
            };
            run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                let result = handle.flush().await;
                move |effects: &mut Effects| volume.synced(sync, result, effects)
            });
        }
        Work::Forget { sync } => {
            volume.file().forget_cache();
            volume.forgotten(sync, next);
        }
        Work::Mend { command, extent, data } => {
            let Some(handle) = thread.handle(volume) else {
                volume.mended(command, StoreResult::Failed, next);
                return;
            };
            run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                let result = mend::mend(&volume, &handle, extent, &data, mend::For::Host).await;
                move |effects: &mut Effects| volume.mended(command, result, effects)
            });
        }
        Work::Local { command, request, data, durability } => {
            let Some(handle) = thread.handle(volume) else {
                volume.local_done(command, StoreResult::Failed, None, next);
                return;
            };
            if request.op == Op::Read {
                if let Some(data) = handle.try_read_now(request.extent) {
                    volume.local_done(command, StoreResult::Done, Some(data), next);
                    return;
                }
                run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                    let (result, data) = match handle.read(request.extent).await {
                        Ok(data) => (StoreResult::Done, Some(data)),
                        Err(failed) => (failed, None),
                    };
                    move |effects: &mut Effects| volume.local_done(command, result, data, effects)
                });
                return;
            }
            if request.op.writes() {
                note_written();
            }
            run(volume, &handle, handle.is_inline_for(request), next, |volume, handle| async move {
                let result = handle.execute(request, &data, durability).await;
                move |effects: &mut Effects| volume.local_done(command, result, None, effects)
            });
        }
        Work::Compare { command, request, data } => {
            let Some(handle) = thread.handle(volume) else {
                volume.local_done(command, StoreResult::Failed, None, next);
                return;
            };
            run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                let result = handle.compare(request.extent, &data).await;
                move |effects: &mut Effects| volume.local_done(command, result, None, effects)
            });
        }
        Work::Apply { apply, header, data, keep, durability } => {
            let Some(handle) = thread.handle(volume) else {
                volume.applied(apply, StoreResult::Failed, next);
                return;
            };
            let request = Request { op: header.op, extent: header.extent };
            note_written();
            // Keeping waits for a file, whatever the volume's own lies on.
            let inline = keep.is_none() && handle.is_inline_for(request);
            run(volume, &handle, inline, next, |volume, handle| async move {
                let kept = match keep {
                    Some(life) => volume.keep(&handle, life, request.extent).await,
                    None => Ok(()),
                };
                let mut result = match kept {
                    Ok(()) => handle.execute(request, &data, durability).await,
                    Err(failed) => failed,
                };
                if result == StoreResult::NoSpace && keep.is_some() && volume.give_image_up().await {
                    result = handle.execute(request, &data, durability).await;
                }
                move |effects: &mut Effects| volume.applied(apply, result, effects)
            });
        }
        #[cfg(feature = "testing")]
        Work::Copy { .. } if super::fault::copy_stops() => {}
        Work::Copy { group, copy, lane, header } => {
            let Some(out) = thread.lane(lane) else {
                volume.copy_sent(copy, Err(CopyFailed::Lane), next);
                return;
            };
            let Some(handle) = thread.handle(volume) else {
                volume.copy_sent(copy, Err(CopyFailed::Store), next);
                return;
            };
            run(volume, &handle, handle.is_inline(), next, |volume, handle| async move {
                let frames = send_region(group, volume.id(), &handle, &out, header).await;
                move |effects: &mut Effects| volume.copy_sent(copy, frames, effects)
            });
        }
    }
}

/// Runs a piece of I/O: `inline` when it is done at once (files in memory), else as a task of this
/// thread. `io` ends in the call that tells the core.
fn run<F, D>(
    volume: &Volume,
    handle: &Handle,
    inline: bool,
    next: &mut Effects,
    io: impl FnOnce(Volume, Handle) -> F,
) where
    F: Future<Output = D> + 'static,
    D: FnOnce(&mut Effects) + 'static,
{
    let future = io(volume.clone(), handle.clone());
    if inline {
        let mut future = pin!(future);
        let mut context = task::Context::from_waker(task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            task::Poll::Ready(done) => return done(next),
            // An in-line engine never waits (`sys::engine`); a piece lost here would hang its
            // command for ever, so say so loudly in tests.
            task::Poll::Pending => unreachable!("an in-line engine waited"),
        }
    }
    let volume = volume.clone();
    tokio::task::spawn_local(async move {
        let done = future.await;
        let mut effects = Effects::default();
        done(&mut effects);
        carry_out(&volume, effects);
    });
}

/// Sends a region as frames on the lane: holes as `Unmap`, data in pieces. Returns their number.
async fn send_region(
    group: GroupId,
    volume: VolumeId,
    handle: &Handle,
    out: &Rc<LaneOut>,
    header: FrameHeader,
) -> Result<u32, CopyFailed> {
    let region = header.extent;
    let step = COPY_FRAME_BYTES / u64::from(BLOCK);
    let (mut at, mut frames) = (region.lba, 0);
    while at < region.end() {
        let rest = Extent::new(at, region.end() - at);
        let data = handle.next_data(rest).await.map_err(|_| CopyFailed::Store)?;
        let first = data.map_or(region.end(), |data| data.lba);
        if first > at {
            let header = header.copy_frame(frames, Op::Unmap, Extent::new(at, first - at));
            out.push(LaneFrame::Data { group, volume, header, data: Buffer::empty() });
            frames += 1;
            at = first;
        }
        let Some(data) = data else { break };
        // Many small pieces of data would make more frames than a copy may have: once half of them
        // are used up, holes go over as the zeroes they read as.
        let end = if frames < Limits::COPY_FRAMES_MAX / 2 { data.end() } else { region.end() };
        while at < end {
            let extent = Extent::new(at, step.min(end - at));
            let data = handle.read(extent).await.map_err(|_| CopyFailed::Store)?;
            let header = header.copy_frame(frames, Op::Write, extent);
            RESYNC_BYTES.fetch_add(extent.bytes(), Ordering::Relaxed);
            out.push(LaneFrame::Data { group, volume, header, data });
            frames += 1;
            at = extent.end();
        }
    }
    Ok(frames)
}
