//! One array of the pair: the real core, with a disk, a map file, and threads that carry out its
//! actions when the scheduler lets them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use super::world::{Frame, HOT, Image, Random};
use crate::arbitration::{Config, Side, Tenure};
use crate::block::{BLOCKS_PER_PHYSICAL, Extent, Op, StoreResult};
use crate::time::Time;

/// What the shell keeps for a command.
#[derive(Clone, Debug)]
pub struct Payload {
    /// In which it arrived; `None`: parked first.
    pub tenure: Option<Tenure>,
    pub record: usize,
    pub op: Op,
    pub extent: Extent,
    pub stamp: u64,
    /// COMPARE AND WRITE: what every block must hold.
    pub expected: u64,
    pub read: Option<Image>,
    /// What the peer gave, and of which blocks.
    pub fetched: Option<(Extent, Image)>,
    pub answered: bool,
    pub freed: bool,
}

#[derive(Clone, Debug)]
pub enum Purpose {
    Command(CommandId),
    Compare(CommandId),
    Apply(ApplyId),
    Mend(CommandId),
    Copy {
        copy: CopyId,
        lane: LaneId,
        header: FrameHeader,
    },
    /// Digests for a verify.
    Sum(CopyId),
    /// The peer's blocks against the own ones, before and after those that were bad were written anew.
    Weigh {
        check: CopyId,
        theirs: Image,
        mended: bool,
    },
    WeighMend {
        check: CopyId,
        theirs: Image,
    },
}

/// One piece of I/O on the store, in steps: read the edges, carry out, report.
#[derive(Clone, Debug)]
pub struct Io {
    pub purpose: Purpose,
    pub op: Op,
    pub extent: Extent,
    pub data: Image,
    pub expected: u64,
    /// Neighbours in the physical blocks at the edges, as read before the write.
    pub edges: Option<Image>,
    pub result: Option<StoreResult>,
    pub found: Option<Image>,
    /// Once in a while a disk takes its time.
    pub slow: bool,
}

pub struct Array {
    pub side: Side,
    pub volume: Option<Volume>,
    pub disk: Image,
    /// First blocks of physical blocks that cannot be read until they are written whole.
    pub bad: BTreeSet<u64>,
    pub map_file: Vec<u8>,
    pub map_write: Option<(MapGeneration, Vec<MapPage>)>,
    pub threads: [VecDeque<VolumeAction>; 2],
    pub ios: Vec<Io>,
    pub payloads: BTreeMap<CommandId, Payload>,
    pub applies: BTreeMap<ApplyId, Frame>,
    /// What the peer asked for and was read.
    pub lent: BTreeMap<ApplyId, Image>,
    /// Frames of these ask for digests.
    pub summing: BTreeSet<ApplyId>,
    /// Durable: configuration known, own undecided vote, boot counter.
    pub known: Config,
    pub vote: Option<Config>,
    pub boot: u64,
    pub counter: u64,
    /// The session opened as primary, and the one whose hello waits.
    pub session: Option<SessionId>,
    pub hello: Option<SessionId>,
    /// What other voters promised.
    pub lease_end: Time,
    pub isolated: bool,
    pub frozen: bool,
    pub switching: bool,
    pub out: Vec<VolumeAction>,
}

pub fn hot(extent: Extent) -> impl Iterator<Item = u64> {
    HOT.iter().copied().filter(move |lba| (extent.lba..extent.end()).contains(lba))
}

impl Array {
    /// Power or process lost: what was on its way to disk is there, in part, or not at all.
    pub fn crash(&mut self, random: &mut Random) {
        self.volume = None;
        for mut io in core::mem::take(&mut self.ios) {
            let writes = io.op.writes() && !matches!(io.purpose, Purpose::Compare(_));
            if io.result.is_none() && writes && random.chance(2) {
                io.data.retain(|_, _| random.chance(2));
                self.disk.extend(io.data);
            }
        }
        if let Some((_, pages)) = self.map_write.take() {
            for page in pages {
                self.write_page(&page, Some(random));
            }
        }
        for thread in &mut self.threads {
            thread.clear();
        }
        self.payloads.clear();
        self.applies.clear();
        self.lent.clear();
        self.summing.clear();
        self.session = None;
        self.hello = None;
        self.switching = false;
        self.out.clear();
    }

    /// Writes a page; with a source of chance perhaps only some of its sectors.
    pub fn write_page(&mut self, page: &MapPage, mut torn: Option<&mut Random>) {
        let at = usize::try_from(page.offset).unwrap();
        for sector in 0..8 {
            if torn.as_mut().is_none_or(|random| random.chance(2)) {
                let range = sector * 512..(sector + 1) * 512;
                self.map_file[at..at + 4096][range.clone()].copy_from_slice(&page.bytes[range]);
            }
        }
    }

    pub fn restart(&mut self, geometry: Geometry, limits: Limits, cx: Context) {
        let map = DirtyMap::decode(geometry, &self.map_file).expect("an own map is readable after any crash");
        let mut volume = Volume::restore(geometry, limits, map);
        self.boot += 1;
        volume.enrol(self.side, &self.known, false, cx, &mut self.out);
        if self.known.primary == self.side {
            let both = self.known.holds(self.side.other()) || self.vote.is_some();
            volume.restart_recovery(both, cx, &mut self.out);
        }
        self.volume = Some(volume);
    }

    /// Actions of one call go to one thread.
    pub fn dispatch(&mut self, random: &mut Random) {
        let thread = random.below(2);
        self.threads[thread].extend(self.out.drain(..));
    }

    /// Moves one piece of I/O on; its report when it is over.
    pub fn step_io(&mut self, at: usize, fault: Option<StoreResult>, random: &mut Random) -> Option<Io> {
        let io = &mut self.ios[at];
        if io.result.is_some() {
            return Some(self.ios.swap_remove(at));
        }
        let whole = Extent {
            lba: io.extent.lba / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL,
            blocks: io.extent.physical().blocks,
        };
        if matches!(io.purpose, Purpose::Compare(_)) || !io.op.writes() {
            if io.op != Op::Flush && self.bad.range(whole.lba..whole.end()).next().is_some() {
                io.result = Some(StoreResult::Failed);
                return None;
            }
            let found: Image =
                hot(io.extent).map(|lba| (lba, self.disk.get(&lba).copied().unwrap_or(0))).collect();
            let differs = matches!(io.purpose, Purpose::Compare(_))
                && found.values().any(|value| *value != io.expected);
            io.result = Some(if differs { StoreResult::Differs { offset: 0 } } else { StoreResult::Done });
            io.found = Some(found);
            return None;
        }
        if io.edges.is_none() {
            // Read-modify-write of the physical blocks at the edges.
            let edges = hot(whole).filter(|lba| !(io.extent.lba..io.extent.end()).contains(lba));
            io.edges = Some(edges.map(|lba| (lba, self.disk.get(&lba).copied().unwrap_or(0))).collect());
            return None;
        }
        // Of a bad block that is not written whole the rest cannot be read.
        let inside = |block: u64| io.extent.lba <= block && block + BLOCKS_PER_PHYSICAL <= io.extent.end();
        let torn = self.bad.range(whole.lba..whole.end()).any(|block| !inside(*block));
        let fault = fault.or(torn.then_some(StoreResult::Failed));
        if fault.is_none() {
            self.bad.retain(|block| !inside(*block));
        }
        if torn {
            io.data.clear();
        }
        if fault.is_some() {
            io.data.retain(|_, _| random.chance(2));
        } else {
            self.disk.extend(io.edges.take().unwrap_or_default());
        }
        self.disk.extend(core::mem::take(&mut io.data));
        io.result = Some(fault.unwrap_or(StoreResult::Done));
        None
    }
}
