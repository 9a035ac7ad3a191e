//! The writer: threads that each own a share of the blocks and write them with O_DIRECT, so that
//! one write per thread is in flight, beside threads that read any block and check it.

use crate::records::Record;
use crate::stamp::{self, Found, Stream};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Blocks read at once by a scan.
const SCAN_BLOCKS: usize = 32;
/// After a failed command a thread waits so long.
const AFTER_ERROR: Duration = Duration::from_millis(100);
const PARKED_POLL: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Block {
    issued: AtomicU64,
    acknowledged: AtomicU64,
    seen: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub path: String,
    pub stream: u8,
    pub run: u64,
    pub span_mib: usize,
    pub writers: usize,
    pub readers: usize,
    /// Each thread rests so long after a command; zero saturates.
    pub pause: Duration,
    pub log: String,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    blocks: Vec<Block>,
    next_seq: AtomicU64,
    running: AtomicBool,
    closing: AtomicBool,
    parked: AtomicUsize,
    started: Instant,
    /// Nanoseconds since `started` of the newest completion, and the longest gap of this phase.
    last_done: AtomicU64,
    gap: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    errors: AtomicU64,
    stale: AtomicU64,
    log: Mutex<TcpStream>,
}

#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// A buffer whose first usable byte is aligned as O_DIRECT wants it.
struct Aligned {
    raw: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let raw = vec![0; length + stamp::BLOCK];
        let start = raw.as_ptr().align_offset(stamp::BLOCK);
        Self { raw, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.length]
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16).unwrap_or(0) % limit
    }
}

impl Shared {
    fn stream(&self) -> Stream {
        Stream { run: self.options.run, id: u64::from(self.options.stream) }
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_DIRECT).open(&self.options.path)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn completed(&self) {
        let now = self.now();
        let before = self.last_done.swap(now, Ordering::SeqCst);
        self.gap.fetch_max(now.saturating_sub(before), Ordering::SeqCst);
    }

    /// A log that is gone makes the run worthless: nothing goes on without it.
    fn log(&self, record: Record) {
        let mut log = self.log.lock().expect("no holder of the log panics");
        if let Err(error) = record.send(&mut *log) {
            eprintln!("the log is gone: {error}");
            std::process::exit(1);
        }
    }

    fn failed(&self, block: usize, error: &io::Error) {
        self.errors.fetch_add(1, Ordering::SeqCst);
        let errno = error.raw_os_error().and_then(|code| u64::try_from(code).ok()).unwrap_or(0);
        self.log(Record::Failed { stream: self.options.stream, block: index(block), errno });
        thread::sleep(AFTER_ERROR);
    }

    /// Waits while the writer is paused; false when it is over.
    fn may_go(&self) -> bool {
        if self.running.load(Ordering::SeqCst) {
            return !self.closing.load(Ordering::SeqCst);
        }
        self.parked.fetch_add(1, Ordering::SeqCst);
        while !self.running.load(Ordering::SeqCst) && !self.closing.load(Ordering::SeqCst) {
            thread::sleep(PARKED_POLL);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        !self.closing.load(Ordering::SeqCst)
    }

    fn write_loop(&self, thread_number: usize, file: &File) {
        let mut buffer = Aligned::new(stamp::BLOCK);
        let mut random = Random(self.options.run ^ (thread_number as u64 + 1) << 32 | 1);
        let share = self.blocks.len() / self.options.writers;
        while self.may_go() {
            let block = random.below(share) * self.options.writers + thread_number;
            let seq = self.next_seq.fetch_add(1, Ordering::SeqCst);
            self.blocks[block].issued.store(seq, Ordering::SeqCst);
            stamp::write(buffer.bytes(), self.stream(), block as u64, seq);
            match file.write_all_at(buffer.bytes(), offset(block)) {
                Ok(()) => {
                    self.completed();
                    self.writes.fetch_add(1, Ordering::SeqCst);
                    self.blocks[block].acknowledged.store(seq, Ordering::SeqCst);
                    self.log(Record::Acknowledged { stream: self.options.stream, block: index(block), seq });
                }
                Err(error) => self.failed(block, &error),
            }
            self.rest();
        }
    }

    fn read_loop(&self, thread_number: usize, file: &File) {
        let mut buffer = Aligned::new(stamp::BLOCK);
        let mut random = Random(self.options.run ^ (thread_number as u64 + 77) << 40 | 1);
        while self.may_go() {
            let block = random.below(self.blocks.len());
            let entry = &self.blocks[block];
            let floor = entry.acknowledged.load(Ordering::SeqCst).max(entry.seen.load(Ordering::SeqCst));
            if let Err(error) = file.read_exact_at(buffer.bytes(), offset(block)) {
                self.failed(block, &error);
                continue;
            }
            self.completed();
            self.reads.fetch_add(1, Ordering::SeqCst);
            let issued = entry.issued.load(Ordering::SeqCst);
            let (good, found) = match stamp::read(buffer.bytes(), self.stream(), block as u64) {
                Found::Stamp { oldest, newest } => {
                    entry.seen.fetch_max(oldest, Ordering::SeqCst);
                    (oldest >= floor && newest <= issued, oldest)
                }
                Found::Blank | Found::Foreign => (floor == 0, 0),
            };
            if !good {
                self.stale.fetch_add(1, Ordering::SeqCst);
                self.log(Record::Stale { stream: self.options.stream, block: index(block), found, floor });
            }
            self.rest();
        }
    }

    fn rest(&self) {
        if !self.options.pause.is_zero() {
            thread::sleep(self.options.pause);
        }
    }
}

fn offset(block: usize) -> u64 {
    block as u64 * stamp::BLOCK as u64
}

fn index(block: usize) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

impl Writer {
    /// Opens the device or file and starts the threads, paused.
    pub fn open(options: Options) -> io::Result<Self> {
        let count = options.span_mib * (1 << 20) / stamp::BLOCK / options.writers * options.writers;
        let log = TcpStream::connect(&options.log)?;
        log.set_nodelay(true)?;
        let new = || AtomicU64::new(0);
        let shared = Arc::new(Shared {
            blocks: (0..count).map(|_| Block { issued: new(), acknowledged: new(), seen: new() }).collect(),
            next_seq: AtomicU64::new(1),
            running: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            started: Instant::now(),
            last_done: new(),
            gap: new(),
            writes: new(),
            reads: new(),
            errors: new(),
            stale: new(),
            log: Mutex::new(log),
            options,
        });
        let mut threads = Vec::new();
        for number in 0..shared.options.writers + shared.options.readers {
            let file = shared.open()?;
            let shared = Arc::clone(&shared);
            threads.push(thread::spawn(move || {
                if number < shared.options.writers {
                    shared.write_loop(number, &file);
                } else {
                    shared.read_loop(number, &file);
                }
            }));
        }
        Ok(Self { shared, threads })
    }

    pub fn run(&self) {
        self.shared.last_done.store(self.shared.now(), Ordering::SeqCst);
        self.shared.running.store(true, Ordering::SeqCst);
    }

    /// Stops after the commands in flight; false if they do not come back within `limit`.
    pub fn pause(&self, limit: Duration) -> bool {
        self.shared.running.store(false, Ordering::SeqCst);
        let end = Instant::now() + limit;
        while self.shared.parked.load(Ordering::SeqCst) < self.threads.len() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(PARKED_POLL);
        }
        true
    }

    /// Ends the phase: its figures. The gap that is open now counts.
    pub fn phase(&self) -> Value {
        let shared = &self.shared;
        let now = shared.now();
        let running = shared.running.load(Ordering::SeqCst);
        let before = if running { shared.last_done.swap(now, Ordering::SeqCst) } else { now };
        let gap = shared.gap.swap(0, Ordering::SeqCst).max(now.saturating_sub(before));
        json!({
            "gap_ms": gap / 1_000_000, "writes": shared.writes.swap(0, Ordering::SeqCst), "reads": shared.reads.swap(0, Ordering::SeqCst),
            "io_errors": shared.errors.swap(0, Ordering::SeqCst), "stale": shared.stale.swap(0, Ordering::SeqCst),
        })
    }

    /// Reads the whole span and sends what is there to the judge, after the table of what was
    /// issued. To be called while paused.
    pub fn scan(&self, token: u64) -> io::Result<()> {
        let shared = &self.shared;
        let stream = shared.options.stream;
        let file = shared.open()?;
        let mut log = BufWriter::new(shared.log.lock().expect("no holder of the log panics").try_clone()?);
        for (block, entry) in shared.blocks.iter().enumerate() {
            let seq = entry.issued.load(Ordering::SeqCst);
            if seq != 0 {
                Record::Issued { stream, block: index(block), seq }.send(&mut log)?;
            }
        }
        let mut buffer = Aligned::new(SCAN_BLOCKS * stamp::BLOCK);
        for first in (0..shared.blocks.len()).step_by(SCAN_BLOCKS) {
            let count = SCAN_BLOCKS.min(shared.blocks.len() - first);
            let bytes = &mut buffer.bytes()[..count * stamp::BLOCK];
            file.read_exact_at(bytes, offset(first))?;
            for (block, content) in (first..).zip(bytes.chunks_exact(stamp::BLOCK)) {
                if shared.blocks[block].issued.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                let record = match stamp::read(content, shared.stream(), block as u64) {
                    Found::Stamp { oldest, newest } => {
                        Record::Found { stream, block: index(block), oldest, newest }
                    }
                    Found::Blank => Record::Found { stream, block: index(block), oldest: 0, newest: 0 },
                    Found::Foreign => Record::Foreign { stream, block: index(block) },
                };
                record.send(&mut log)?;
            }
        }
        Record::End { token }.send(&mut log)?;
        log.flush()
    }

    pub fn close(self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}
