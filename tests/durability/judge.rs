//! Writers with unique stamps over whichever array serves, and what must be there of them after
//! everything has been killed: every acknowledged stamp or a later one, on both copies.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::initiator::{PathState, Status};
use crate::ledger::Ledger;
use crate::lun::{Lun, Portal};
use crate::rig::{Member, Rig};
use crate::stamp::{self, BLOCK, Found, Stream};

/// Writers at work at the same time, each with one write in flight and with blocks of its own.
const WRITERS: usize = 8;
/// Blocks that each writer writes over and over. Few, so that most are written in each life.
const BLOCKS_EACH: usize = 192;
/// The writers' blocks lie apart by this: each has dirty map regions (1 MiB) of its own.
const APART: usize = (3 << 20) / BLOCK;
/// Blocks at the end of a writer's part that are written and given back by UNMAP, each once between
/// two verifications.
const UNMAPPED_EACH: usize = 64;
/// One operation of so many is an UNMAP.
const UNMAP_EVERY: u64 = 8;
const PAUSE: Duration = Duration::from_millis(15);
const EQUAL_AFTER: Duration = Duration::from_secs(3);
/// How long all writers may take to notice that they are to pause.
const PAUSE_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Shared {
    portals: [Portal; 2],
    stream: Stream,
    /// By writer and its own block: `writer * BLOCKS_EACH + n`.
    ledger: Mutex<Ledger>,
    /// Blocks of the LUN that must read as zeroes: their UNMAP was answered GOOD.
    unmapped: Mutex<BTreeSet<u64>>,
    unmaps: AtomicU64,
    /// Counts verifications.
    round: AtomicU64,
    unmapping: AtomicBool,
    running: AtomicBool,
    ended: AtomicBool,
    /// Writers that are at work or hold a session.
    busy: AtomicUsize,
}

#[derive(Debug)]
pub struct Judge {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer's own block as a block of the LUN.
fn place(index: usize) -> u64 {
    (index / BLOCKS_EACH * APART + index % BLOCKS_EACH) as u64
}

impl Judge {
    pub fn new(rig: &Rig, run: u64) -> Self {
        let shared = Arc::new(Shared {
            portals: [Portal::of(&rig.places[0]), Portal::of(&rig.places[1])],
            stream: Stream { run, id: 1 },
            ledger: Mutex::new(Ledger::new(WRITERS * BLOCKS_EACH)),
            unmapped: Mutex::default(),
            unmaps: AtomicU64::new(0),
            round: AtomicU64::new(0),
            unmapping: AtomicBool::new(true),
            running: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
        });
        let writers = (0..WRITERS)
            .map(|writer| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.write(writer))
            })
            .collect();
        Self { shared, writers }
    }

    pub fn run(&self) {
        self.shared.running.store(true, Ordering::SeqCst);
    }

    /// Only writes from now on: nothing of them is flushed by the flush of an UNMAP.
    pub fn unmap_no_more(&self) {
        self.shared.unmapping.store(false, Ordering::SeqCst);
    }

    /// Ends all commands and sessions.
    pub fn pause(&self) {
        self.shared.running.store(false, Ordering::SeqCst);
        let end = Instant::now() + PAUSE_LIMIT;
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < end, "a writer does not pause");
            std::thread::sleep(PAUSE);
        }
    }

    pub fn acknowledged(&self) -> u64 {
        held(&self.shared.ledger).acknowledged
    }

    pub fn unmaps(&self) -> u64 {
        self.shared.unmaps.load(Ordering::SeqCst)
    }

    /// Waits until so many more writes are acknowledged; false: not within `limit`.
    pub fn write_on(&self, count: u64, limit: Duration) -> bool {
        let (goal, end) = (self.acknowledged() + count, Instant::now() + limit);
        while self.acknowledged() < goal {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// Reads everything back and compares the copies, while the writers pause, the site is in sync
    /// and `primary` serves.
    ///
    /// # Errors
    /// What is lost, and how the two copies differ.
    pub fn verify(&self, rig: &Rig, primary: Member) -> Result<(), String> {
        self.read_back(primary)?;
        self.compare(rig)?;
        // No session of a writer is left, so nothing that was given up is alive.
        let mut ledger = held(&self.shared.ledger);
        for block in 0..ledger.len() {
            while !ledger.is_free(block) {
                ledger.release(block);
            }
        }
        held(&self.shared.unmapped).clear();
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Every block is read through the array that serves.
    ///
    /// # Errors
    /// The first block that is lost.
    pub fn read_back(&self, primary: Member) -> Result<(), String> {
        let portal = &self.shared.portals[usize::from(primary == Member::B)];
        let mut lun = portal.open(200).map_err(|error| format!("no session with {primary:?}: {error}"))?;
        let mut ledger = held(&self.shared.ledger);
        let mut wrong = Vec::new();
        for index in (0..ledger.len()).step_by(32) {
            let bytes = lun.read(place(index) * 8, 32 * 8).map_err(|error| format!("read: {error}"))?;
            for (block, bytes) in (index..).zip(bytes.chunks_exact(BLOCK)) {
                let found = stamp::read(bytes, self.shared.stream, place(block));
                let floor = ledger.floor(block);
                if block % BLOCKS_EACH >= BLOCKS_EACH - UNMAPPED_EACH {
                    if held(&self.shared.unmapped).contains(&place(block)) && found != Found::Blank {
                        wrong.push(format!("block {}, unmapped, holds {found:?}", place(block)));
                    }
                } else if let Err(why) = ledger.judge(block, floor, found) {
                    wrong.push(format!("block {}: {why:?}, {found:?} for at least {floor}", place(block)));
                }
            }
        }
        if let Some(first) = wrong.first() {
            return Err(format!("{} blocks are wrong through {primary:?}; {first}", wrong.len()));
        }
        Ok(())
    }

    /// Both disks hold the same. Writes whose sessions are gone may still be on their way to the
    /// second copy, for a moment.
    fn compare(&self, rig: &Rig) -> Result<(), String> {
        let end = Instant::now() + EQUAL_AFTER;
        loop {
            let [a, b] = rig.copies();
            let mut differ = a.chunks(BLOCK).zip(b.chunks(BLOCK)).enumerate().filter(|(_, (a, b))| a != b);
            let Some((block, (a, b))) = differ.next() else { return Ok(()) };
            if Instant::now() > end {
                let shown = |bytes: &[u8]| stamp::read(bytes, self.shared.stream, block as u64);
                let (a, b, more) = (shown(a), shown(b), differ.count());
                return Err(format!("block {block} is {a:?} on A, {b:?} on B, and {more} more differ"));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// What a writer has in hand; counted as busy while it lives.
struct Hand<'a> {
    lun: Lun,
    busy: &'a AtomicUsize,
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn write(&self, writer: usize) {
        let mut data = vec![0; BLOCK];
        let mut turn = 0_u64;
        let mut side = 0;
        let (mut round, mut unmaps) = (0, 0);
        let mut hand: Option<Hand<'_>> = None;
        while !self.ended.load(Ordering::SeqCst) {
            if !self.running.load(Ordering::SeqCst) {
                hand = None;
                std::thread::sleep(PAUSE);
                continue;
            }
            let Some(open) = &mut hand else {
                side = 1 - side;
                hand = self.connect(side, writer);
                if hand.is_none() {
                    std::thread::sleep(PAUSE);
                }
                continue;
            };
            turn += 1;
            if round != self.round.load(Ordering::SeqCst) {
                round = self.round.load(Ordering::SeqCst);
                unmaps = 0;
            }
            let unmapping = self.unmapping.load(Ordering::SeqCst) && unmaps < UNMAPPED_EACH;
            let done = if unmapping && turn.is_multiple_of(UNMAP_EVERY) {
                unmaps += 1;
                self.unmap(&mut open.lun, writer, unmaps)
            } else {
                self.stamp(&mut open.lun, writer, turn, &mut data)
            };
            if !done {
                hand = None;
            }
        }
    }

    fn connect(&self, side: usize, writer: usize) -> Option<Hand<'_>> {
        // First counted, then looked at: `pause` waits for whoever it may not have stopped.
        self.busy.fetch_add(1, Ordering::SeqCst);
        let isid = u8::try_from(writer + 1).unwrap_or(u8::MAX);
        let lun = if self.running.load(Ordering::SeqCst) { self.portals[side].open(isid).ok() } else { None };
        match lun {
            Some(lun) if lun.state == PathState::Optimized => Some(Hand { lun, busy: &self.busy }),
            _ => {
                self.busy.fetch_sub(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// One write of a block with none of unknown fate. False: the session is of no use any more;
    /// the block stays held, since the write may still be alive.
    fn stamp(&self, lun: &mut Lun, writer: usize, turn: u64, data: &mut [u8]) -> bool {
        let own = usize::try_from(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or(0);
        let index = writer * BLOCKS_EACH + own % (BLOCKS_EACH - UNMAPPED_EACH);
        let seq = {
            let mut ledger = held(&self.ledger);
            if !ledger.is_free(index) {
                return true;
            }
            ledger.hold(index);
            ledger.issue(index)
        };
        stamp::write(data, self.stream, place(index), seq);
        if !matches!(lun.write(place(index) * 8, data), Ok(Status::GOOD)) {
            return false;
        }
        let mut ledger = held(&self.ledger);
        ledger.acknowledge(index, seq);
        ledger.release(index);
        true
    }

    /// Writes the `nth` of the blocks that are to be unmapped, counted from 1, and unmaps it.
    fn unmap(&self, lun: &mut Lun, writer: usize, nth: usize) -> bool {
        let index = writer * BLOCKS_EACH + BLOCKS_EACH - nth;
        let mut data = vec![0; BLOCK];
        stamp::write(&mut data, self.stream, place(index), 1);
        let done = [lun.write(place(index) * 8, &data), lun.unmap(place(index) * 8, 8)];
        if !done.iter().all(|status| matches!(status, Ok(Status::GOOD))) {
            return false;
        }
        held(&self.unmapped).insert(place(index));
        self.unmaps.fetch_add(1, Ordering::SeqCst);
        true
    }
}
