//! The shells of an exploration: what a core wants done is done at once, in its order; store I/O, map
//! writes and frames end when the search says so.

use std::rc::Rc;

use super::scenario::HOT;
use super::world::{Array, Blocks, End, Io, Message, Purpose, World, hot, map_geometry};
use twinlun::block::{BLOCKS_PER_PHYSICAL, Extent, Op, StoreResult};
use twinlun::mirror::*;

impl World {
    pub fn act(&mut self, side: usize, volume: usize, action: VolumeAction) {
        match action {
            VolumeAction::Local { command, .. } => self.start(side, volume, Purpose::Command(command)),
            VolumeAction::Compare { command } => self.start(side, volume, Purpose::Compare(command)),
            VolumeAction::Mend { command } => self.start(side, volume, Purpose::Mend(command)),
            VolumeAction::Mirror { command, lane, header } => {
                let payload = self.arrays[side].payloads.get(&(volume, command));
                let Some(payload) = payload else {
                    return self.fail(|| "a frame without payload".into());
                };
                let data = [payload.op + 1; HOT.len()];
                self.send(side, lane, Message::Data { volume, lane, header, data });
            }
            VolumeAction::Fetch { lane, header, .. } | VolumeAction::AskBlocks { lane, header } => {
                self.send(side, lane, Message::Data { volume, lane, header, data: [0; HOT.len()] });
            }
            VolumeAction::Give { apply, lane, header } => {
                let data = self.arrays[side].lent.remove(&(volume, apply)).unwrap_or_default();
                self.send(side, lane, Message::Given { volume, header, data });
            }
            VolumeAction::Answer { command, outcome } => self.answered(side, volume, command, outcome),
            VolumeAction::Free { command } => {
                let payload = self.arrays[side].payloads.get_mut(&(volume, command));
                let Some(payload) = payload.filter(|payload| !payload.freed) else {
                    return self.fail(|| "freed twice".into());
                };
                payload.freed = true;
                self.release(side, volume, command);
            }
            VolumeAction::PersistMap => {
                let array = &mut self.arrays[side];
                if array.map_writes[volume].is_some() {
                    return self.fail(|| "map asked for while it is being written".into());
                }
                let mut pages = Vec::new();
                let core = Rc::make_mut(&mut array.volumes[volume]);
                let generation = core.map_pages(&mut pages);
                array.map_writes[volume] = generation.map(|generation| (generation, Rc::new(pages)));
            }
            VolumeAction::Copy { copy, lane, header, .. } => {
                let io = Io {
                    volume,
                    purpose: Purpose::Copy(copy),
                    op: Op::Read,
                    extent: header.extent,
                    data: [0; HOT.len()],
                    edges: None,
                    frame: Some((lane, header)),
                    name: 0,
                };
                self.arrays[side].enter(io);
            }
            VolumeAction::Apply { apply, lane, header, .. } => {
                let Some((_, data)) = self.arrays[side].applies.remove(&(volume, apply)) else {
                    return self.fail(|| "applied twice, or without payload".into());
                };
                let io = Io {
                    volume,
                    purpose: Purpose::Apply(apply),
                    op: header.op,
                    extent: header.extent,
                    data,
                    edges: None,
                    frame: Some((lane, header)),
                    name: 0,
                };
                self.arrays[side].enter(io);
            }
            VolumeAction::Discard { apply } => {
                self.arrays[side].applies.remove(&(volume, apply));
            }
            VolumeAction::Acknowledge { lane, session, sequence, result } => {
                self.send(side, lane, Message::Ack { volume, session, sequence, result });
            }
            VolumeAction::Poke => {}
            VolumeAction::Sync { .. }
            | VolumeAction::Forget { .. }
            | VolumeAction::MirrorSync { .. }
            | VolumeAction::Sum { .. } => self.fail(|| format!("not in this model: {action:?}")),
        }
    }

    fn start(&mut self, side: usize, volume: usize, purpose: Purpose) {
        let (Purpose::Command(command) | Purpose::Compare(command) | Purpose::Mend(command)) = purpose else {
            return;
        };
        let Some(payload) = self.arrays[side].payloads.get(&(volume, command)) else {
            return self.fail(|| "I/O of a command without payload".into());
        };
        let deed = &self.scenario.script[usize::from(payload.op)];
        let mut io = Io {
            volume,
            purpose,
            op: deed.op,
            extent: deed.extent,
            data: [payload.op + 1; HOT.len()],
            edges: None,
            frame: None,
            name: u64::from(payload.op) << 8 | u64::from(payload.attempt),
        };
        if matches!(purpose, Purpose::Mend(_)) {
            let Some((extent, data)) = payload.fetched else {
                return self.fail(|| "mending without the peer's blocks".into());
            };
            io = Io { op: Op::Write, extent, data, ..io };
        }
        self.arrays[side].enter(io);
    }

    pub fn send(&mut self, side: usize, lane: LaneId, message: Message) {
        let lane = usize::from(lane.0);
        if self.lanes_up[lane] && self.is_up(1 - side) {
            self.lanes[lane][side].push_back(message);
        }
    }

    /// Blocks beside the extent in its physical blocks, which a write must read first.
    fn edges(io: &Io) -> impl Iterator<Item = usize> {
        let whole = Extent {
            lba: io.extent.lba / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL,
            blocks: io.extent.physical().blocks,
        };
        let extent = io.extent;
        hot(whole).filter(move |at| !(extent.lba..extent.end()).contains(&HOT[*at]))
    }

    pub fn has_edges(&self, io: &Io) -> bool {
        let written = self.scenario.script.iter().filter(|deed| deed.op.writes());
        let second =
            written.clone().any(|deed| deed.volume == io.volume && hot(deed.extent).any(|at| at == 1));
        second && io.is_write() && io.op.writes() && Self::edges(io).next().is_some()
    }

    pub fn run_io(&mut self, side: usize, at: usize, end: End) {
        let io = &self.arrays[side].ios[at];
        if io.edges.is_none() && self.has_edges(io) {
            let disk = self.arrays[side].disks[io.volume];
            self.arrays[side].ios[at].edges = Some(disk);
            return;
        }
        let io = self.arrays[side].ios.remove(at);
        let volume = io.volume;
        let disk = &mut self.arrays[side].disks[volume];
        let found = *disk;
        let writes = io.op.writes() && io.is_write();
        if writes && end != (End::Failed { landed: false }) {
            io.land(disk);
        }
        let mut result = if end == End::Done { StoreResult::Done } else { StoreResult::Failed };
        let lane = io.frame.map(|(lane, _)| lane.0);
        match io.purpose {
            Purpose::Command(command) | Purpose::Compare(command) => {
                let array = &mut self.arrays[side];
                let Some(payload) = array.payloads.get_mut(&(volume, command)) else {
                    return self.fail(|| "I/O of a command that is gone".into());
                };
                payload.read = found;
                let deed = &self.scenario.script[usize::from(payload.op)];
                let differs = hot(io.extent).any(|at| found[at] != deed.expected);
                if matches!(io.purpose, Purpose::Compare(_)) && differs {
                    result = StoreResult::Differs { offset: 0 };
                }
                let lane = Some(deed.lane);
                self.call(side, volume, lane, |core, cx, out| core.local_done(command, result, cx, out));
            }
            Purpose::Mend(command) => {
                if let Some(payload) = self.arrays[side].payloads.get_mut(&(volume, command))
                    && let Some((_, data)) = payload.fetched.take()
                {
                    payload.read = data;
                }
                self.call(side, volume, None, |core, cx, out| core.local_done(command, result, cx, out));
            }
            Purpose::Apply(apply) => {
                if !writes {
                    self.arrays[side].lent.insert((volume, apply), found);
                }
                self.call(side, volume, lane, |core, cx, out| core.applied(apply, result, cx, out));
            }
            Purpose::Copy(copy) => self.copy_read(side, volume, copy, io.frame, found),
        }
    }

    fn copy_read(
        &mut self,
        side: usize,
        volume: usize,
        copy: CopyId,
        frame: Option<(LaneId, FrameHeader)>,
        data: Blocks,
    ) {
        let Some((lane, header)) = frame else { return };
        let frames = self.scenario.copy_frames;
        let step = header.extent.blocks / u64::from(frames);
        for index in 0..frames {
            let first = u64::from(index) * step;
            let blocks = if index + 1 == frames { header.extent.blocks - first } else { step };
            let extent = Extent::new(header.extent.lba + first, blocks);
            let header = header.copy_frame(index, Op::Write, extent);
            self.send(side, lane, Message::Data { volume, lane, header, data });
        }
        self.call(side, volume, Some(lane.0), |core, cx, out| core.copy_sent(copy, Ok(frames), cx, out));
    }

    pub fn map_written(&mut self, side: usize, volume: usize) {
        let array = &mut self.arrays[side];
        let Some((generation, pages)) = array.map_writes[volume].take() else { return };
        array.write_map(volume, &pages);
        self.call(side, volume, None, |core, cx, out| core.map_durable(generation, cx, out));
    }

    pub fn deliver(&mut self, from: usize, message: Message) {
        let to = 1 - from;
        if !self.is_up(to) {
            return;
        }
        match message {
            Message::Data { volume, lane, header, data } => {
                let cx = self.cx(to, Some(lane.0));
                let mut out = Vec::new();
                let array = &mut self.arrays[to];
                let core = Rc::make_mut(&mut array.volumes[volume]);
                if let Some(id) = core.receive(lane, header, cx, &mut out) {
                    array.applies.insert((volume, id), (header, data));
                }
                self.carry_out(to, volume, cx, out);
            }
            Message::Given { volume, header, data } => {
                let cx = self.cx(to, None);
                let mut out = Vec::new();
                let array = &mut self.arrays[to];
                let core = Rc::make_mut(&mut array.volumes[volume]);
                if let Some(id) = core.fetched(header, cx, &mut out)
                    && let Some(payload) = array.payloads.get_mut(&(volume, id))
                {
                    payload.fetched = Some((header.extent, data));
                }
                self.carry_out(to, volume, cx, out);
            }
            Message::Ack { volume, session, sequence, result } => {
                self.call(to, volume, None, |core, cx, out| {
                    core.mirror_acked(session, sequence, result, cx, out);
                });
            }
        }
    }

    /// The connection is gone; what it held of data may still arrive, late.
    pub fn break_connection(&mut self, lane: usize) {
        self.lanes_up[lane] = false;
        for from in [0, 1] {
            let mut queue = core::mem::take(&mut self.lanes[lane][from]);
            queue.retain(|message| matches!(message, Message::Data { .. }));
            if !queue.is_empty() && self.left.late > 0 {
                self.stale.push((from, queue));
            }
        }
    }

    /// Process and power lost: of what was on its way to disk some is there.
    pub fn crash(&mut self, side: usize, landed: u8, map: bool) {
        for lane in 0..super::world::LANES {
            self.cut_lane(lane);
        }
        self.stale.retain(|(from, _)| *from == side);
        let array = &mut self.arrays[side];
        array.volumes.clear();
        let mut number = 0;
        for io in core::mem::take(&mut array.ios) {
            if io.op.writes() && io.is_write() {
                if landed >> number & 1 == 1 {
                    io.land(&mut array.disks[io.volume]);
                }
                number += 1;
            }
        }
        for volume in 0..array.map_writes.len() {
            let write = array.map_writes[volume].take();
            if let Some((_, pages)) = write.filter(|_| map) {
                array.write_map(volume, &pages);
            }
        }
        array.payloads.clear();
        array.applies.clear();
        array.lent.clear();
        array.session = None;
        array.counter = 0;
        array.hello = None;
        array.dropping = false;
        array.switching = false;
        array.lapsed = false;
        array.sweep = None;
        array.gate_waits = false;
        for at in 0..self.asked.len() {
            if self.asked[at].at == Some(side as u8) {
                let again = self.asked[at].attempts <= self.scenario.script[at].retries;
                self.asked[at].at = None;
                self.asked[at].over = !again;
                self.asked[at].doubtful = true;
                let deed = &self.scenario.script[at];
                if deed.op == Op::Read && !again {
                    hot(deed.extent).for_each(|block| _ = self.judges[deed.volume][block].closed(at));
                }
            }
        }
    }
}

impl Io {
    fn land(&self, disk: &mut Blocks) {
        if let Some(edges) = self.edges {
            World::edges(self).for_each(|at| disk[at] = edges[at]);
        }
        hot(self.extent).for_each(|at| disk[at] = self.data[at]);
    }

    /// Their order has no meaning: one order of those of a state.
    fn key(&self) -> (usize, u8, u64, u64, u64, u64) {
        let kind = match self.purpose {
            Purpose::Command(_) => 0,
            Purpose::Compare(_) => 1,
            Purpose::Mend(_) => 2,
            Purpose::Apply(_) => 3,
            Purpose::Copy(_) => 4,
        };
        let header = self.frame.map(|(_, header)| header);
        let session = header.map(|header| header.session).unwrap_or_default();
        let sequence = header.map_or(0, |header| header.sequence);
        (self.volume, kind, self.name, session.boot, session.counter, sequence)
    }
}

impl Array {
    fn enter(&mut self, io: Io) {
        let at = self.ios.partition_point(|other| other.key() <= io.key());
        self.ios.insert(at, io);
    }

    fn write_map(&mut self, volume: usize, pages: &[MapPage]) {
        let file = Rc::make_mut(&mut self.map_files[volume]);
        for page in pages {
            let at = usize::try_from(page.offset).unwrap();
            file[at..at + page.bytes.len()].copy_from_slice(&*page.bytes);
        }
        let map = DirtyMap::decode(map_geometry(volume), file).expect("an own map is readable");
        self.durable[volume] = map.first_words();
    }
}
