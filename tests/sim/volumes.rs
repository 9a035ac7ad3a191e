//! The shell around each array's volumes: payloads under the core's numbers, its actions carried
//! out on simulated disks and lanes, and the abort and reinstatement duties of a front end.

use twinlun::arbitration::Tenure;
use twinlun::block::{Extent, Op, Request, StoreResult};
use twinlun::mirror::{
    ApplyId, CommandId, Context, CopyFailed, CopyId, DirtyMap, FrameHeader, Geometry, LaneId, Limits,
    MapPage, SessionId, Volume, VolumeAction, VolumeId, Weighing,
};

use crate::array::Array;
use crate::disk::{Failure, File, IoId, Kind, Owner};
use crate::layout::{Payload, Stamp, span};
use crate::network::{ConnectionId, Process};
use crate::world::{Event, Message, World};

/// A host's command inside a volume.
#[derive(Clone, Debug)]
pub struct Command {
    pub id: CommandId,
    pub connection: ConnectionId,
    pub host: Process,
    pub tag: Stamp,
    pub request: Request,
    /// What it writes; after the I/O of a read, what it read.
    pub payload: Payload,
    /// First half of a COMPARE AND WRITE.
    pub expected: Payload,
    /// What the peer gave for what could not be read here.
    pub fetched: Option<(Extent, Payload)>,
    /// Answered to the host, or aborted.
    pub answered: bool,
    /// ABORT TASK waits for its end.
    pub aborting: bool,
    /// The tenure it arrived in, unless it was parked.
    pub arrived: Option<Tenure>,
    /// Data thread (lane) it runs on.
    pub thread: u16,
}

/// A frame of the peer.
#[derive(Clone, Copy, Debug)]
pub struct Applying {
    pub id: ApplyId,
    pub payload: Payload,
}

/// A region on its way to the peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Copying {
    pub id: CopyId,
    pub lane: LaneId,
    pub header: FrameHeader,
}

/// The extent of a flush.
const NOWHERE: Extent = Extent::new(0, 0);

pub type IoOwner = Owner<CommandId, ApplyId, Copying>;

impl Eq for Copying {}

#[derive(Clone, Debug)]
pub struct VolumeShell {
    pub core: Volume,
    pub group: usize,
    /// The group's control sees to it.
    pub member: bool,
    pub commands: Vec<Option<Command>>,
    pub applying: Vec<Option<Applying>>,
    /// When the core wants `tick`.
    pub wake_at: u64,
    /// The snapshot being written, if one is.
    pub writing: Option<(u32, twinlun::mirror::MapGeneration)>,
}

pub fn volume_id(v: usize) -> VolumeId {
    VolumeId([v as u8 + 1; 16])
}

pub fn geometry(v: usize, regions: u64) -> Geometry {
    Geometry { id: volume_id(v), blocks: regions * twinlun::mirror::REGION_BLOCKS }
}

pub fn limits() -> Limits {
    // Small enough that a full cache is met: writes of a block or two, and of a whole physical block.
    Limits { commands: 32, copies: 2, active_regions: 2, unflushed_bytes: 40_000, ..Limits::default() }
}

/// The map file of a new volume.
pub fn new_map(v: usize, regions: u64) -> File {
    let geometry = geometry(v, regions);
    let mut file = File::default();
    file.bytes.resize(DirtyMap::file_len(geometry) as usize, 0);
    let header = DirtyMap::file_header(geometry);
    file.bytes[..header.len()].copy_from_slice(&header[..]);
    file
}

impl World {
    pub fn context(&mut self, a: usize, thread: u16) -> Context {
        let array = &self.arrays[a];
        let lanes = array.lanes.len() as u16;
        let own = thread % lanes;
        let lane = array.lane_is_up(own).then_some(LaneId(own));
        Context { now: array.clocks.now(self.now), lane }
    }

    /// Calls the core of one volume and carries out what it says.
    pub fn with_volume<R>(
        &mut self,
        a: usize,
        v: usize,
        thread: u16,
        call: impl FnOnce(&mut Volume, Context, &mut Vec<VolumeAction>) -> R,
    ) -> R {
        let cx = self.context(a, thread);
        let mut actions = self.spare_actions.pop().unwrap_or_default();
        let result = call(&mut self.arrays[a].volumes[v].core, cx, &mut actions);
        self.carry_out(a, v, thread, &actions);
        actions.clear();
        self.spare_actions.push(actions);
        self.volume_timer(a, v);
        result
    }

    pub fn volume_timer(&mut self, a: usize, v: usize) {
        let array = &mut self.arrays[a];
        let at = array.volumes[v].core.next_timeout().map_or(u64::MAX, |t| array.clocks.when_grantor(t));
        array.volumes[v].wake_at = at;
        self.wake(a, at);
        self.look_at_release(a, v);
    }

    pub fn carry_out(&mut self, a: usize, v: usize, thread: u16, actions: &[VolumeAction]) {
        for action in actions {
            self.carry_out_one(a, v, thread, *action);
        }
    }

    pub fn carry_out_one(&mut self, a: usize, v: usize, thread: u16, action: VolumeAction) {
        self.note_volume_action(a, v, &action);
        match action {
            VolumeAction::Local { command, stable } => {
                let Some(c) = self.command(a, v, command) else { return };
                let kind = match c.request.op {
                    Op::Read => Kind::Read,
                    Op::Flush => Kind::Flush,
                    _ if stable => Kind::Write,
                    _ => Kind::CachedWrite,
                };
                let (extent, payload) = (c.request.extent, c.payload);
                self.begin_io(a, v, Owner::Command(command), kind, extent, payload);
            }
            VolumeAction::Sync { sync } => {
                let nothing = Payload { span: span(NOWHERE), ..Payload::default() };
                self.begin_io(a, v, Owner::Sync(sync), Kind::Flush, NOWHERE, nothing);
            }
            VolumeAction::Forget { sync } => {
                let nothing = Payload { span: span(NOWHERE), ..Payload::default() };
                self.begin_io(a, v, Owner::Forget(sync), Kind::Forget, NOWHERE, nothing);
            }
            VolumeAction::Compare { command } => {
                let Some(c) = self.command(a, v, command) else { return };
                let (extent, expected) = (c.request.extent, c.expected);
                self.begin_io(a, v, Owner::Command(command), Kind::Compare, extent, expected);
            }
            VolumeAction::Mirror { command, lane, header } => {
                let Some(c) = self.command(a, v, command) else { return };
                let payload = Payload { span: span(header.extent), ..c.payload };
                self.send_frame(a, v, lane, header, payload);
            }
            VolumeAction::Fetch { lane, header, .. } | VolumeAction::MirrorSync { lane, header } => {
                let nothing = Payload { span: span(header.extent), ..Payload::default() };
                self.send_frame(a, v, lane, header, nothing);
            }
            VolumeAction::Mend { command } => {
                let Some((extent, payload)) = self.command(a, v, command).and_then(|c| c.fetched) else {
                    return self.violate("a mending without the peer's blocks".into());
                };
                self.begin_io(a, v, Owner::Mend(command), Kind::Write, extent, payload);
            }
            VolumeAction::Give { apply, lane, header } => {
                let held = self.arrays[a].volumes[v].applying.get(apply.slot() as usize).copied().flatten();
                let Some(held) = held.filter(|h| h.id == apply) else { return };
                self.drop_applying(a, v, apply);
                if let Some(connection) = self.arrays[a].lane(lane.0) {
                    let given = Message::Given { volume: v as u8, header, payload: held.payload };
                    self.send(connection, a, given);
                }
            }
            VolumeAction::Answer { command, outcome } => self.answer(a, v, command, outcome),
            VolumeAction::Free { command } => {
                let shell = &mut self.arrays[a].volumes[v];
                let slot = command.slot() as usize;
                if shell.commands.get(slot).and_then(Option::as_ref).is_some_and(|c| c.id == command) {
                    shell.commands[slot] = None;
                }
                shell.core.release(command);
            }
            VolumeAction::PersistMap => self.write_map(a, v),
            VolumeAction::Copy { copy, lane, header, .. } => {
                let payload = Payload { span: span(header.extent), ..Payload::default() };
                let owner = Owner::Copy(Copying { id: copy, lane, header });
                self.begin_io(a, v, owner, Kind::Read, header.extent, payload);
            }
            VolumeAction::AskBlocks { lane, header } => {
                let nothing = Payload { span: span(header.extent), ..Payload::default() };
                self.send_frame(a, v, lane, header, nothing);
            }
            VolumeAction::Sum { .. } => {
                self.violate("a check of a verify that nobody asked for".into());
            }
            VolumeAction::Apply { apply, header, stable, .. } => {
                let held = self.arrays[a].volumes[v].applying.get(apply.slot() as usize).copied().flatten();
                let Some(held) = held.filter(|h| h.id == apply) else { return };
                if header.op == Op::Read {
                    self.begin_io(a, v, Owner::Apply(apply), Kind::Read, header.extent, held.payload);
                    return;
                }
                if header.op == Op::Flush {
                    self.begin_io(a, v, Owner::Apply(apply), Kind::Flush, header.extent, held.payload);
                    return;
                }
                self.note_frame(a, v);
                if !self.keep_first(a, v, apply, header.extent) {
                    let kind = if stable { Kind::Write } else { Kind::CachedWrite };
                    self.begin_io(a, v, Owner::Apply(apply), kind, header.extent, held.payload);
                }
            }
            VolumeAction::Discard { apply } => self.drop_applying(a, v, apply),
            VolumeAction::Acknowledge { lane, session, sequence, result } => {
                if let Some(connection) = self.arrays[a].lane(lane.0) {
                    let ack = Message::Ack { volume: v as u8, session, sequence, result };
                    self.send(connection, a, ack);
                }
            }
            VolumeAction::Poke => {
                if !self.arrays[a].poked {
                    self.arrays[a].poked = true;
                    let boot = self.arrays[a].boot;
                    let after = self.rng.below(300_000);
                    self.queue.push(self.now + after, Event::Poke { array: a as u8, boot });
                }
            }
        }
        let _ = thread;
    }

    fn command(&self, a: usize, v: usize, id: CommandId) -> Option<&Command> {
        self.arrays[a].volumes[v].commands.get(id.slot() as usize)?.as_ref().filter(|c| c.id == id)
    }

    pub fn drop_applying(&mut self, a: usize, v: usize, apply: ApplyId) {
        let applying = &mut self.arrays[a].volumes[v].applying;
        if let Some(slot) = applying.get_mut(apply.slot() as usize)
            && slot.is_some_and(|held| held.id == apply)
        {
            *slot = None;
        }
    }

    fn send_frame(&mut self, a: usize, v: usize, lane: LaneId, header: FrameHeader, payload: Payload) {
        if let Some(connection) = self.arrays[a].lane(lane.0) {
            self.lane_sends(a, lane.0);
            self.send(connection, a, Message::Frame { volume: v as u8, header, payload });
        }
    }

    // Volume I/O.

    pub fn begin_io(
        &mut self,
        a: usize,
        v: usize,
        owner: IoOwner,
        kind: Kind,
        extent: twinlun::block::Extent,
        payload: Payload,
    ) {
        let id = self.arrays[a].store.begin(owner, v as u8, kind, extent, payload);
        let boot = self.arrays[a].boot;
        if self.plan.io_stalls != 0 && self.rng.per_mille(self.plan.io_stalls) {
            // The thread is late between the core's word and the system call; a stop of the
            // process falls in between.
            let after = self.rng.below(self.plan.io_max);
            self.queue.push(self.now + after, Event::IoSubmit { array: a as u8, boot, io: id });
        } else {
            self.io_submit(a, id);
        }
    }

    pub fn io_submit(&mut self, a: usize, id: IoId) {
        let duration =
            self.rng.between(self.plan.io_min, self.plan.io_max) + self.arrays[a].disk_hang(self.now);
        let (now, boot) = (self.now, self.arrays[a].boot);
        let failure = self.arrays[a].disk_failure;
        let torn = if failure == Some(Failure::TornWrites) { self.rng.below(16) as u8 } else { 0 };
        let store = &mut self.arrays[a].store;
        let Some(io) = store.get_mut(id) else { return };
        io.done_at = now + duration;
        if let Some(result) = failure.and_then(|failure| failure.result(io.kind)) {
            (io.result, io.torn) = (result, torn);
        }
        store.submitted(id);
        match self.rng.below(3) {
            0 => self.io_effect(a, id),
            1 => {
                let at = now + self.rng.below(duration + 1);
                self.queue.push(at, Event::IoEffect { array: a as u8, boot, io: id });
            }
            _ => {}
        }
        self.queue.push(now + duration, Event::IoDone { array: a as u8, boot, io: id });
    }

    pub fn io_effect(&mut self, a: usize, id: IoId) {
        if let Some((volume, changed)) = self.arrays[a].store.effect(id) {
            for index in changed.span.range() {
                self.note_medium_changed(a, usize::from(volume), index);
            }
        }
    }

    /// The kernel is done (whatever the process does); the process learns of it now or when it is
    /// let run again.
    pub fn io_done(&mut self, a: usize, id: IoId) {
        let Some(io) = self.arrays[a].store.end(id) else { return };
        let v = usize::from(io.volume);
        match io.owner {
            Owner::Command(command) => {
                let slot = command.slot() as usize;
                let mut thread = 0;
                if let Some(Some(c)) = self.arrays[a].volumes[v].commands.get_mut(slot)
                    && c.id == command
                {
                    thread = c.thread;
                    if !io.kind.changes()
                        && io.kind != Kind::Flush
                        && (io.kind == Kind::Read || io.result != StoreResult::Done)
                    {
                        c.expected = io.payload;
                    }
                }
                self.with_volume(a, v, thread, |core, cx, out| core.local_done(command, io.result, cx, out));
            }
            Owner::Mend(command) => {
                let slot = command.slot() as usize;
                if let Some(Some(c)) = self.arrays[a].volumes[v].commands.get_mut(slot)
                    && c.id == command
                    && let Some((_, blocks)) = c.fetched.take()
                    && c.request.op == Op::Read
                {
                    c.expected = blocks.part(span(c.request.extent));
                }
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.local_done(command, io.result, cx, out));
            }
            Owner::Apply(apply) if io.kind == Kind::Read => {
                let slot = apply.slot() as usize;
                if let Some(Some(held)) = self.arrays[a].volumes[v].applying.get_mut(slot)
                    && held.id == apply
                {
                    held.payload = io.payload;
                }
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.applied(apply, io.result, cx, out));
                self.drop_applying(a, v, apply);
            }
            Owner::Apply(apply) => {
                self.drop_applying(a, v, apply);
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.applied(apply, io.result, cx, out));
            }
            Owner::Weigh(copy) => {
                let done = io.result == StoreResult::Done;
                let result =
                    if done { Ok(Weighing { differing: Vec::new(), mended: true }) } else { Err(io.result) };
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.weighed(copy.id, result, cx, out));
            }
            Owner::Forget(sync) => {
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.forgotten(sync, cx, out));
            }
            Owner::Sync(sync) => {
                let thread = self.any_thread(a);
                self.with_volume(a, v, thread, |core, cx, out| core.synced(sync, io.result, cx, out));
            }
            Owner::Copy(copy) => self.copy_read(a, v, copy, io.payload, io.result),
            Owner::Back => self.was_put_back(v, io.result == StoreResult::Done),
        }
    }

    fn any_thread(&mut self, a: usize) -> u16 {
        let lanes = self.arrays[a].lanes.len() as u64;
        self.rng.below(lanes) as u16
    }

    /// A region was read: it goes out whole, or in pieces, as the holes of a real file would have it.
    fn copy_read(&mut self, a: usize, v: usize, copy: Copying, payload: Payload, result: StoreResult) {
        let frames = if result != StoreResult::Done {
            Err(CopyFailed::Store)
        } else if copy.header.extent.blocks <= 8 || self.rng.coin() {
            self.send_frame(
                a,
                v,
                copy.lane,
                copy.header.copy_frame(0, Op::Write, copy.header.extent),
                payload,
            );
            Ok(1)
        } else {
            let whole = copy.header.extent;
            let middle = twinlun::block::Extent::new(whole.lba, 8.min(whole.blocks));
            let rest = twinlun::block::Extent::new(middle.end(), whole.blocks - middle.blocks);
            let mut from = 0;
            for (i, part) in [middle, rest].into_iter().enumerate() {
                let mut piece = Payload { span: span(part), ..Payload::default() };
                let count = usize::from(piece.span.count);
                piece.stamps[..count].copy_from_slice(&payload.stamps[from..from + count]);
                from += count;
                let op = if self.rng.coin() { Op::Write } else { Op::Unmap };
                self.send_frame(a, v, copy.lane, copy.header.copy_frame(i as u32, op, part), piece);
            }
            Ok(2)
        };
        let thread = copy.lane.0;
        self.with_volume(a, v, thread, |core, cx, out| core.copy_sent(copy.id, frames, cx, out));
    }

    // The dirty map's file.

    fn write_map(&mut self, a: usize, v: usize) {
        let shell = &mut self.arrays[a].volumes[v];
        if shell.writing.is_some() {
            return;
        }
        let mut pages: Vec<MapPage> = Vec::new();
        let Some(generation) = shell.core.map_pages(&mut pages) else { return };
        let token = self.new_token();
        self.arrays[a].volumes[v].writing = Some((token, generation));
        for page in pages {
            self.arrays[a].maps[v].write(token, page.offset, page.bytes.to_vec());
        }
        self.begin_sync(a, token);
    }

    /// A write of the map file is durable. True if the token was one of a map.
    pub fn map_durable(&mut self, a: usize, token: u32) -> bool {
        let found = (0..self.arrays[a].maps.len()).find(|&v| self.arrays[a].maps[v].durable(token));
        let Some(v) = found else { return false };
        self.note_map_durable(a, v);
        true
    }

    /// The process learns that its map is durable.
    pub fn map_written(&mut self, a: usize, token: u32) -> bool {
        let volumes = &mut self.arrays[a].volumes;
        let found = volumes.iter().position(|s| s.writing.is_some_and(|(t, _)| t == token));
        let Some(v) = found else { return false };
        let Some((_, generation)) = volumes[v].writing.take() else { return false };
        let thread = self.any_thread(a);
        self.with_volume(a, v, thread, |core, cx, out| core.map_durable(generation, cx, out));
        self.write_map(a, v);
        self.look_at_marks(a);
        true
    }

    // What the peer says on a lane.

    pub fn frame_arrived(&mut self, a: usize, lane: u16, v: usize, header: FrameHeader, payload: Payload) {
        self.with_volume_after(
            a,
            v,
            lane,
            |core, cx, out| core.receive(LaneId(lane), header, cx, out),
            |world, id| {
                if let Some(id) = id {
                    let applying = &mut world.arrays[a].volumes[v].applying;
                    let slot = id.slot() as usize;
                    if applying.len() <= slot {
                        applying.resize(slot + 1, None);
                    }
                    applying[slot] = Some(Applying { id, payload });
                }
            },
        );
    }

    pub fn given_arrived(&mut self, a: usize, lane: u16, v: usize, header: FrameHeader, payload: Payload) {
        let mut weighs = None;
        self.with_volume(a, v, lane, |core, cx, _| weighs = core.blocks_given(header, cx));
        if let Some(id) = weighs {
            let copy = Copying { id, lane: LaneId(lane), header };
            let bad = self.arrays[a].store.bad[v]
                .iter()
                .any(|lba| (header.extent.lba..header.extent.end()).contains(lba));
            if bad {
                self.begin_io(a, v, Owner::Weigh(copy), Kind::Write, header.extent, payload);
            } else {
                let nothing = Ok(Weighing::default());
                self.with_volume(a, v, lane, |core, cx, out| core.weighed(id, nothing, cx, out));
            }
            return;
        }
        self.with_volume_after(
            a,
            v,
            lane,
            |core, cx, out| core.fetched(header, cx, out),
            |world, id| {
                let Some(id) = id else { return };
                let commands = &mut world.arrays[a].volumes[v].commands;
                if let Some(Some(c)) = commands.get_mut(id.slot() as usize)
                    && c.id == id
                {
                    c.fetched = Some((header.extent, payload));
                }
            },
        );
    }

    /// Like `with_volume`, with something to keep before the actions are carried out.
    pub fn with_volume_after<R>(
        &mut self,
        a: usize,
        v: usize,
        thread: u16,
        call: impl FnOnce(&mut Volume, Context, &mut Vec<VolumeAction>) -> R,
        keep: impl FnOnce(&mut Self, R),
    ) {
        let cx = self.context(a, thread);
        let mut actions = self.spare_actions.pop().unwrap_or_default();
        let result = call(&mut self.arrays[a].volumes[v].core, cx, &mut actions);
        keep(self, result);
        self.carry_out(a, v, thread, &actions);
        actions.clear();
        self.spare_actions.push(actions);
        self.volume_timer(a, v);
    }

    pub fn ack_arrived(
        &mut self,
        a: usize,
        lane: u16,
        v: usize,
        session: SessionId,
        sequence: u64,
        result: Option<StoreResult>,
    ) {
        self.with_volume(a, v, lane, |core, cx, out| {
            core.mirror_acked(session, sequence, result, cx, out);
        });
    }
}

impl Array {
    pub fn lane_is_up(&self, lane: u16) -> bool {
        self.lane(lane).is_some()
    }
}
