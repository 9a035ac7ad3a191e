//! The shell of the pair's arrays: actions, I/O, messages and map writes, one step at a time.

use super::super::*;
use super::array::{Io, Purpose, hot};
use super::history::Effect;
use super::world::{Frame, Image, LANES, Message, World};
use crate::block::{Extent, Op, Outcome, StoreResult};

impl World {
    /// A thread carries out its next action.
    pub(super) fn run_thread(&mut self, side: usize) -> Result<(), String> {
        let thread = self.random.below(2);
        let slow = self.random.chance(12);
        let array = &mut self.arrays[side];
        let Some(action) = array.threads[thread].pop_front() else { return Ok(()) };
        if self.trace {
            eprintln!("{:6} {side} {action:?}", self.now);
        }
        match action {
            VolumeAction::Local { command, .. } | VolumeAction::Compare { command } => {
                let compare = matches!(action, VolumeAction::Compare { .. });
                let payload = array.payloads.get(&command).ok_or("I/O of a command without payload")?;
                let purpose = if compare { Purpose::Compare(command) } else { Purpose::Command(command) };
                let data = hot(payload.extent).map(|lba| (lba, payload.stamp)).collect();
                let (op, extent, expected) = (payload.op, payload.extent, payload.expected);
                array.ios.push(Io {
                    purpose,
                    op,
                    extent,
                    data,
                    expected,
                    edges: None,
                    result: None,
                    found: None,
                    slow,
                });
            }
            VolumeAction::Mirror { command, lane, header } => {
                // Late, the use of the slot may be over: its session is, too.
                if let Some(payload) = array.payloads.get(&command) {
                    let data = hot(header.extent).map(|lba| (lba, payload.stamp)).collect();
                    self.send(side, lane, Message::Data(lane, Frame { header, data }));
                } else if array.session == Some(header.session) {
                    return Err("a frame of the present session without payload".into());
                }
            }
            VolumeAction::Sync { .. } | VolumeAction::Forget { .. } => {
                return Err("a flush of a stable volume".into());
            }
            VolumeAction::Fetch { lane, header, .. } | VolumeAction::MirrorSync { lane, header } => {
                self.send(side, lane, Message::Data(lane, Frame { header, data: Image::new() }));
            }
            VolumeAction::Mend { command } => {
                let payload = array.payloads.get(&command).ok_or("mending of a command without payload")?;
                let (extent, data) = payload.fetched.clone().ok_or("mending without the peer's blocks")?;
                let (op, expected) = (Op::Write, 0);
                array.ios.push(Io {
                    purpose: Purpose::Mend(command),
                    op,
                    extent,
                    data,
                    expected,
                    edges: None,
                    result: None,
                    found: None,
                    slow,
                });
            }
            VolumeAction::Give { apply, lane, header } => {
                let blocks = array.lent.remove(&apply).ok_or("given twice, or not read")?;
                let given = if array.summing.remove(&apply) {
                    Message::Sums(header, super::verify::sums(header.extent, &blocks))
                } else {
                    Message::Given(header, blocks)
                };
                self.send(side, lane, given);
            }
            VolumeAction::Answer { command, outcome } => self.answered(side, command, outcome)?,
            VolumeAction::Free { command } => {
                let payload = array.payloads.get_mut(&command).filter(|payload| !payload.freed);
                payload.ok_or("freed twice")?.freed = true;
                self.release(side, command);
            }
            VolumeAction::PersistMap => {
                if array.map_write.is_some() {
                    return Err("map asked for while it is being written".into());
                }
                let mut pages = Vec::new();
                let generation = array.volume.as_mut().and_then(|volume| volume.map_pages(&mut pages));
                array.map_write = generation.map(|generation| (generation, pages));
            }
            VolumeAction::Copy { copy, lane, header, .. } => {
                let purpose = Purpose::Copy { copy, lane, header };
                let (op, extent) = (Op::Read, header.extent);
                let data = Image::new();
                array.ios.push(Io {
                    purpose,
                    op,
                    extent,
                    data,
                    expected: 0,
                    edges: None,
                    result: None,
                    found: None,
                    slow,
                });
            }
            VolumeAction::Sum { check, lane, header } => {
                array.ios.push(Io {
                    purpose: Purpose::Sum(check),
                    op: Op::Read,
                    extent: header.extent,
                    data: Image::new(),
                    expected: 0,
                    edges: None,
                    result: None,
                    found: None,
                    slow,
                });
                self.send(side, lane, Message::AskSums(lane, header));
            }
            VolumeAction::AskBlocks { lane, header } => {
                self.send(side, lane, Message::Data(lane, Frame { header, data: Image::new() }));
            }
            VolumeAction::Apply { apply, header, .. } => {
                let frame = array.applies.remove(&apply).ok_or("applied twice, or without payload")?;
                assert_eq!(frame.header, header);
                let purpose = Purpose::Apply(apply);
                let (op, extent, data) = (header.op, header.extent, frame.data);
                array.ios.push(Io {
                    purpose,
                    op,
                    extent,
                    data,
                    expected: 0,
                    edges: None,
                    result: None,
                    found: None,
                    slow,
                });
            }
            VolumeAction::Discard { apply } => {
                array.summing.remove(&apply);
                array.applies.remove(&apply).ok_or("discarded without payload")?;
            }
            VolumeAction::Acknowledge { lane, session, sequence, result } => {
                self.send(side, lane, Message::Ack(session, sequence, result));
            }
            VolumeAction::Poke => self.control(side),
        }
        Ok(())
    }

    pub(super) fn send(&mut self, side: usize, lane: LaneId, message: Message) {
        if !self.arrays[side].isolated && !self.arrays[1 - side].isolated {
            self.lanes[usize::from(lane.0)][side].push_back(message);
        }
    }

    pub(super) fn answered(
        &mut self,
        side: usize,
        command: CommandId,
        outcome: Outcome,
    ) -> Result<(), String> {
        let payload = self.arrays[side].payloads.get_mut(&command).filter(|payload| !payload.answered);
        let payload = payload.ok_or("answered twice")?;
        payload.answered = true;
        let record = &mut self.history.records[payload.record];
        match outcome {
            Outcome::Good | Outcome::Miscompare { .. } => {
                record.done = Some(self.now);
                record.found.clone_from(&payload.read);
                if matches!(outcome, Outcome::Miscompare { .. }) {
                    record.effect = Effect::Read;
                    if record
                        .blocks
                        .iter()
                        .all(|lba| payload.read.as_ref().is_some_and(|read| read[lba] == payload.expected))
                    {
                        return Err("equal, and called different".into());
                    }
                }
            }
            Outcome::Aborted => record.killed = true,
            // A refused or failed write may have taken effect, and nobody knows when.
            Outcome::Refused(_) | Outcome::NoSpace | Outcome::ReadError | Outcome::WriteError => {}
        }
        self.release(side, command);
        Ok(())
    }

    /// Answer and end may be carried out by different threads, in either order.
    pub(super) fn release(&mut self, side: usize, command: CommandId) {
        let payloads = &mut self.arrays[side].payloads;
        if payloads.get(&command).is_some_and(|payload| payload.answered && payload.freed) {
            payloads.remove(&command);
            self.call(side, |volume, _, _| volume.release(command));
        }
    }

    pub(super) fn run_io(&mut self, side: usize) {
        let array = &mut self.arrays[side];
        if array.ios.is_empty() {
            return;
        }
        let at = self.random.below(array.ios.len());
        if array.ios[at].slow && !self.healing && !self.random.chance(30) {
            return;
        }
        let fault = if self.healing || self.calm || !self.random.chance(100) {
            None
        } else if self.random.chance(2) {
            Some(StoreResult::NoSpace)
        } else {
            Some(StoreResult::Failed)
        };
        let Some(io) = array.step_io(at, fault, &mut self.random) else { return };
        let result = io.result.unwrap_or(StoreResult::Failed);
        if self.trace {
            eprintln!("{:6} {side} done {:?} {result:?}", self.now, io.purpose);
        }
        match io.purpose {
            Purpose::Command(command) | Purpose::Compare(command) => {
                if let (Some(found), Some(payload)) = (io.found, array.payloads.get_mut(&command)) {
                    payload.read = Some(found);
                }
                self.call(side, |volume, cx, out| volume.local_done(command, result, cx, out));
            }
            Purpose::Mend(command) => {
                if let Some(payload) = array.payloads.get_mut(&command)
                    && let Some((_, blocks)) = payload.fetched.take()
                    && payload.op == Op::Read
                {
                    let wanted = |lba: &u64| (payload.extent.lba..payload.extent.end()).contains(lba);
                    payload.read = Some(blocks.into_iter().filter(|(lba, _)| wanted(lba)).collect());
                }
                self.call(side, |volume, cx, out| volume.local_done(command, result, cx, out));
            }
            Purpose::Apply(apply) => {
                if let Some(found) = io.found {
                    array.lent.insert(apply, found);
                }
                self.call(side, |volume, cx, out| volume.applied(apply, result, cx, out));
            }
            Purpose::Sum(check) => {
                let found = io.found.filter(|_| result == StoreResult::Done);
                let sums = found.map(|found| super::verify::sums(io.extent, &found));
                self.call(side, |volume, cx, out| volume.summed(check, sums, false, cx, out));
            }
            Purpose::Weigh { .. } | Purpose::WeighMend { .. } => self.weighed(side, io, result),
            Purpose::Copy { copy, lane, header } if result != StoreResult::Done => {
                // What comes before the bad block may be on its way.
                let bad = self.arrays[side].bad.range(header.extent.lba..header.extent.end()).next().copied();
                if let Some(first) = bad.filter(|first| *first > header.extent.lba && self.random.chance(2)) {
                    let extent = Extent::new(header.extent.lba, first - header.extent.lba);
                    let disk = &self.arrays[side].disk;
                    let data =
                        disk.range(extent.lba..extent.end()).map(|(lba, value)| (*lba, *value)).collect();
                    let header = header.copy_frame(0, Op::Write, extent);
                    self.send(side, lane, Message::Data(lane, Frame { header, data }));
                }
                let why = CopyFailed::Store;
                self.call(side, |volume, cx, out| volume.copy_sent(copy, Err(why), cx, out));
            }
            Purpose::Copy { copy, .. } if !self.healing && !self.calm && self.random.chance(30) => {
                let why = if self.random.chance(2) { CopyFailed::Store } else { CopyFailed::Lane };
                self.call(side, |volume, cx, out| volume.copy_sent(copy, Err(why), cx, out));
            }
            Purpose::Copy { copy, lane, header } => {
                let found = io.found.unwrap_or_default();
                let parts = 1 + u32::try_from(self.random.below(3)).unwrap();
                let step = header.extent.blocks.div_ceil(u64::from(parts)).next_multiple_of(8);
                let mut frames = 0;
                let mut lba = header.extent.lba;
                while lba < header.extent.end() {
                    let extent = Extent::new(lba, step.min(header.extent.end() - lba));
                    let data = found.range(lba..extent.end()).map(|(lba, value)| (*lba, *value)).collect();
                    let header = header.copy_frame(frames, Op::Write, extent);
                    self.send(side, lane, Message::Data(lane, Frame { header, data }));
                    frames += 1;
                    lba = extent.end();
                }
                self.call(side, |volume, cx, out| volume.copy_sent(copy, Ok(frames), cx, out));
            }
        }
    }

    pub(super) fn deliver(&mut self, side: usize) {
        let stale = self.random.chance(if self.healing { 4 } else { 12 }) && !self.stale.is_empty();
        let message = if stale {
            let at = self.random.below(self.stale.len());
            let (from, queue) = &mut self.stale[at];
            let message = queue.pop_front().map(|message| (*from, message));
            if message.is_none() {
                self.stale.swap_remove(at);
            }
            message
        } else {
            let lane = self.random.below(LANES);
            self.lanes[lane][side].pop_front().map(|message| (side, message))
        };
        let Some((from, message)) = message else { return };
        let to = 1 - from;
        if self.arrays[to].frozen {
            return; // lost with its connection, which will be found broken
        }
        match message {
            Message::Data(lane, frame) => {
                let header = frame.header;
                let id = self.call(to, |volume, cx, out| volume.receive(lane, header, cx, out));
                if let Some(id) = id {
                    // The shell stores the payload before another thread can see the action.
                    self.arrays[to].applies.insert(id, frame);
                }
            }
            Message::AskSums(lane, header) => {
                let id = self.call(to, |volume, cx, out| volume.receive(lane, header, cx, out));
                if let Some(id) = id {
                    self.arrays[to].applies.insert(id, Frame { header, data: Image::new() });
                    self.arrays[to].summing.insert(id);
                }
            }
            Message::Sums(header, sums) => {
                self.call(to, |volume, cx, out| volume.sums_given(header, sums, cx, out));
            }
            Message::Given(header, blocks) => {
                let check = self.call(to, |volume, cx, _| volume.blocks_given(header, cx));
                if let Some(check) = check {
                    return self.weigh(to, check, header.extent, blocks);
                }
                let asked = self.call(to, |volume, cx, out| volume.fetched(header, cx, out));
                if let Some(payload) = asked.and_then(|id| self.arrays[to].payloads.get_mut(&id)) {
                    payload.fetched = Some((header.extent, blocks));
                }
            }
            Message::Ack(session, sequence, result) => {
                self.call(to, |volume, cx, out| volume.mirror_acked(session, sequence, result, cx, out));
            }
        }
    }

    pub(super) fn write_map(&mut self, side: usize) {
        let array = &mut self.arrays[side];
        let Some((generation, pages)) = array.map_write.take() else { return };
        if self.random.chance(30) && !self.healing {
            for page in &pages {
                array.write_page(page, Some(&mut self.random));
            }
            return self.call(side, |volume, cx, out| volume.map_failed(generation, cx, out));
        }
        for page in &pages {
            array.write_page(page, None);
        }
        self.call(side, |volume, cx, out| volume.map_durable(generation, cx, out));
    }
}
