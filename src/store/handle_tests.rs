#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::path::Path;

use super::*;
use crate::mirror::VolumeId;
use crate::store::loop_device_tests::LoopDevice;
use crate::sys::engine::Engine;
use crate::sys::runtime::Runtime;

const ID: VolumeId = VolumeId(*b"volume-of-a-test");
const SIZE: u64 = 4 << 20;
const BLOCKS: u64 = SIZE / BLOCK as u64;

/// SplitMix64: a seed replays exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn extent(&mut self, longest: u64) -> Extent {
        let blocks = 1 + self.below(longest);
        Extent::new(self.below(BLOCKS - blocks), blocks)
    }

    fn data(&mut self, len: usize) -> Buffer {
        let word = self.next();
        let bytes: Vec<u8> = (0..len).map(|n| (word >> (n % 8 * 8)) as u8 ^ (n / 512) as u8).collect();
        // Sometimes as it comes from a socket: at an odd place of a larger buffer.
        if self.below(2) == 0 {
            return Buffer::copy_of(&bytes);
        }
        let skip = [48, 512, 4096][self.below(3) as usize];
        let whole = Buffer::copy_of(&[&vec![0; skip][..], &bytes[..]].concat());
        whole.slice(skip..skip + len)
    }
}

fn range(extent: Extent) -> std::ops::Range<usize> {
    extent.offset() as usize..(extent.offset() + extent.bytes()) as usize
}

/// Random requests against a volume and against a copy in memory; the same answers, the same bytes.
fn agrees_with_memory(dir: &Path, engine: Engine, large_blocks: bool, seed: u64) {
    let file = DataFile::create(&dir.join(format!("v{seed}")), ID, SIZE, engine).unwrap();
    let runtime = Runtime::new(engine).unwrap();
    runtime.block_on(async {
        let handle = if large_blocks { large_block_handle(&file) } else { file.handle().unwrap() };
        let mut model = vec![0_u8; SIZE as usize];
        let mut random = Random(seed);
        for _ in 0..600 {
            let longest = [8, 16, 64, 2048][random.below(4) as usize];
            let extent = random.extent(longest);
            let durability = [Durability::Stable, Durability::AtFlush][random.below(2) as usize];
            let request = |op| Request { op, extent };
            match random.below(7) {
                0 | 1 => {
                    let data = random.data(extent.bytes() as usize);
                    let done = handle.execute(request(Op::Write), &data, durability).await;
                    assert_eq!(done, StoreResult::Done);
                    model[range(extent)].copy_from_slice(data.as_slice());
                }
                2 => {
                    let block = random.data(BLOCK as usize);
                    let done = handle.execute(request(Op::WriteSame), &block, durability).await;
                    assert_eq!(done, StoreResult::Done);
                    for part in model[range(extent)].chunks_mut(BLOCK as usize) {
                        part.copy_from_slice(block.as_slice());
                    }
                }
                3 => {
                    let op = [Op::Unmap, Op::WriteZeroes][random.below(2) as usize];
                    let done = handle.execute(request(op), &Buffer::empty(), durability).await;
                    assert_eq!(done, StoreResult::Done);
                    model[range(extent)].fill(0);
                }
                4 => {
                    let mut expected = model[range(extent)].to_vec();
                    let differ = random.below(2) == 0;
                    let at = random.below(extent.bytes()) as usize;
                    if differ {
                        expected[at] ^= 1;
                    }
                    let write = random.data(extent.bytes() as usize);
                    let both = Buffer::copy_of(&[&expected[..], write.as_slice()].concat());
                    let compared = handle.compare(extent, &both).await;
                    if differ {
                        assert_eq!(compared, StoreResult::Differs { offset: at as u32 });
                    } else {
                        assert_eq!(compared, StoreResult::Done);
                        let done = handle.execute(request(Op::CompareAndWrite), &both, durability).await;
                        assert_eq!(done, StoreResult::Done);
                        model[range(extent)].copy_from_slice(write.as_slice());
                    }
                }
                5 => {
                    if let Some(now) = handle.try_read_now(extent) {
                        assert_eq!(now.as_slice(), &model[range(extent)]);
                    }
                    assert_eq!(handle.flush().await, StoreResult::Done);
                }
                _ => {
                    let read = handle.read(extent).await.unwrap();
                    assert_eq!(read.as_slice(), &model[range(extent)], "{extent:?}");
                }
            }
        }
        let all = Extent::new(0, BLOCKS);
        assert_eq!(handle.read(all).await.unwrap().as_slice(), &model[..]);
        // What next_data passes over reads as zeroes.
        let mut at = 0;
        while at < BLOCKS {
            let data = handle.next_data(Extent::new(at, BLOCKS - at)).await.unwrap();
            let hole_end = data.map_or(BLOCKS, |data| data.lba);
            assert!(model[range(Extent::new(at, hole_end - at))].iter().all(|&b| b == 0));
            at = data.map_or(BLOCKS, Extent::end);
        }
    });
}

fn large_block_handle(file: &DataFile) -> Handle {
    let io = engine::Handle::new(&file.inner.raw, file.inner.engine).unwrap();
    Handle::with_alignment(file.clone(), io, u64::from(crate::block::PHYSICAL_BLOCK), 4096)
}

#[test]
fn the_ring_agrees_with_memory() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..4 {
        agrees_with_memory(dir.path(), Engine::Ring, seed % 2 == 1, seed);
    }
}

#[test]
fn the_plain_engine_agrees_with_memory() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..4 {
        agrees_with_memory(dir.path(), Engine::Plain, seed % 2 == 1, seed);
    }
}

#[test]
fn files_in_memory_agree_with_memory() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for seed in 0..4 {
        agrees_with_memory(dir.path(), Engine::Ring, seed % 2 == 1, seed);
    }
}

#[cfg(feature = "testing")]
#[test]
fn the_volatile_engine_agrees_with_memory() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..4 {
        agrees_with_memory(dir.path(), Engine::Volatile, seed % 2 == 1, seed);
    }
}

/// Eight neighbours in each physical block, written one after the other (as the ledger has it)
/// while the other blocks' writers run at the same time, through several handles.
#[test]
fn neighbours_in_a_physical_block_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    for engine in [Engine::Ring, Engine::Plain] {
        let file = DataFile::create(&dir.path().join(format!("{engine:?}")), ID, SIZE, engine).unwrap();
        let runtime = Runtime::new(engine).unwrap();
        runtime.block_on(async {
            let handles = [large_block_handle(&file), large_block_handle(&file), file.handle().unwrap()];
            let writers: Vec<_> = (0..32_u64)
                .map(|block| {
                    let handle = handles[block as usize % handles.len()].clone();
                    tokio::task::spawn_local(async move {
                        for round in 0..3_u8 {
                            for n in 0..8 {
                                let stamp = Buffer::copy_of(&[(block * 8 + n) as u8 ^ round; 512]);
                                let at = Extent::new(block * 8 + n, 1);
                                let done = handle.write(at, &stamp, Durability::Stable).await;
                                assert_eq!(done, StoreResult::Done);
                            }
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.unwrap();
            }
            for n in 0..256 {
                let read = handles[2].read(Extent::new(n, 1)).await.unwrap();
                assert_eq!(read.as_slice(), &[n as u8 ^ 2; 512], "block {n}");
            }
        });
    }
}

#[test]
fn unmap_gives_space_back() {
    for (dir, engine) in [
        (tempfile::tempdir().unwrap(), Engine::Ring),
        (tempfile::tempdir().unwrap(), Engine::Plain),
        (tempfile::tempdir_in("/dev/shm").unwrap(), Engine::Ring),
    ] {
        let file = DataFile::create(&dir.path().join("v"), ID, SIZE, engine).unwrap();
        let runtime = Runtime::new(engine).unwrap();
        runtime.block_on(async {
            let handle = file.handle().unwrap();
            let all = Extent::new(0, BLOCKS);
            let data = Buffer::copy_of(&vec![1; SIZE as usize]);
            assert_eq!(handle.next_data(all).await, Ok(None));
            assert_eq!(handle.write(all, &data, Durability::Stable).await, StoreResult::Done);
            let full = file.allocated().unwrap();
            assert!(full >= SIZE);
            // 1 MiB less both edges, which are zeroed in place.
            let middle = Extent::new(2049, 2047);
            assert_eq!(handle.unmap(middle, Durability::Stable).await, StoreResult::Done);
            assert!(file.allocated().unwrap() <= full - (1 << 20) + 8192);
            assert!(handle.read(middle).await.unwrap().as_slice().iter().all(|&b| b == 0));
            assert_eq!(handle.read(Extent::new(2048, 1)).await.unwrap().as_slice(), &[1; 512]);
            assert_eq!(handle.read(Extent::new(4096, 1)).await.unwrap().as_slice(), &[1; 512]);
            assert_eq!(handle.next_data(Extent::new(2056, 2000)).await, Ok(None));
            let next = handle.next_data(Extent::new(2056, 4000)).await.unwrap().unwrap();
            assert_eq!(next.lba, 4096);
        });
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = DataFile::create(&dir.path().join("v"), ID, SIZE, Engine::Plain).unwrap();
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = file.handle().unwrap();
        let block = Buffer::zeroed(512);
        for bad in [Extent::new(BLOCKS, 1), Extent::new(u64::MAX, 1), Extent::new(1, u64::MAX)] {
            assert_eq!(handle.read(bad).await.unwrap_err(), StoreResult::Failed);
            assert!(handle.try_read_now(bad).is_none());
            assert_eq!(handle.write(bad, &block, Durability::Stable).await, StoreResult::Failed);
            assert_eq!(handle.write_same(bad, &block, Durability::Stable).await, StoreResult::Failed);
            assert_eq!(handle.unmap(bad, Durability::Stable).await, StoreResult::Failed);
            assert_eq!(handle.next_data(bad).await, Err(StoreResult::Failed));
        }
        let short = handle.write(Extent::new(0, 2), &block, Durability::Stable).await;
        assert_eq!(short, StoreResult::Failed);
        let nothing = Extent::new(5, 0);
        assert_eq!(handle.write(nothing, &Buffer::empty(), Durability::Stable).await, StoreResult::Done);
        assert_eq!(handle.unmap(nothing, Durability::Stable).await, StoreResult::Done);
        assert!(handle.read(nothing).await.unwrap().is_empty());
        // The record behind the data is out of reach.
        assert_eq!(handle.unmap(Extent::new(0, BLOCKS), Durability::Stable).await, StoreResult::Done);
    });
    drop(file);
    DataFile::open(&dir.path().join("v"), ID, SIZE, Engine::Plain).unwrap();
}

/// What `strace` looks at: stable requests on the plain engine, a word on standard output after each.
#[test]
#[ignore = "run under strace by the test below"]
fn plain_engine_says_good() {
    use std::io::Write;

    let Some(dir) = std::env::var_os("TWINLUN_TEST_DIR") else { return };
    let file = DataFile::create(&Path::new(&dir).join("v"), ID, SIZE, Engine::Plain).unwrap();
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = file.handle().unwrap();
        for n in 0..20 {
            let op = [Op::Write, Op::WriteSame, Op::Unmap][n as usize % 3];
            let extent = Extent::new(n * 16, 16);
            let data = match op {
                Op::Write => Buffer::copy_of(&[n as u8 + 1; 8192]),
                Op::WriteSame => Buffer::copy_of(&[n as u8 + 1; 512]),
                _ => Buffer::empty(),
            };
            let done = handle.execute(Request { op, extent }, &data, Durability::Stable).await;
            assert_eq!(done, StoreResult::Done);
            std::io::stdout().write_all(format!("GOOD {n}\n").as_bytes()).unwrap();
        }
    });
}

#[test]
fn on_the_plain_engine_each_good_follows_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("strace");
    let ran = std::process::Command::new("strace")
        .args(["-f", "-e", "trace=pwrite64,pwritev2,fallocate,fdatasync,write", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "store::handle::tests::plain_engine_says_good"])
        .env("TWINLUN_TEST_DIR", dir.path())
        .output();
    let Ok(ran) = ran else {
        eprintln!("no strace here: nothing was shown");
        return;
    };
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let log = std::fs::read_to_string(log).unwrap();
    // Since the last GOOD: something was written or punched, and the last of it is stable.
    let (mut good, mut stable, mut done) = (0, false, false);
    for line in log.lines() {
        let whole = line.contains("resumed>") || !line.contains("<unfinished");
        if line.contains("write(1, \"GOOD ") {
            assert!(stable && done, "GOOD {good} without a flush before it:\n{log}");
            good += 1;
            (stable, done) = (false, false);
        } else if line.contains("pwritev2") && whole {
            // A resumed line has no arguments of its own before the flag but ends with it.
            stable = line.contains("RWF_DSYNC");
            done = true;
        } else if line.contains("fallocate") && whole {
            (stable, done) = (false, true);
        } else if line.contains("fdatasync") && whole && line.ends_with("= 0") {
            stable = true;
        }
    }
    assert_eq!(good, 20, "{log}");
}

#[cfg(feature = "testing")]
mod power {
    use super::*;
    use crate::sys::file::{Access, RawFile};
    use crate::sys::trace::{self, Event, Kind};
    use crate::sys::volatile;

    /// Lives ended by power failures; true: a write that was reported stable, or that a flush
    /// covered, was not there afterwards.
    fn loses(mutation: Option<Mutation>, durability: Durability, seed: u64) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        drop(DataFile::create(&path, ID, SIZE, Engine::Volatile).unwrap());
        let mut random = Random(seed);
        let mut model = vec![0_u8; SIZE as usize];
        let mut lost = false;
        mutation::set(mutation);
        for _ in 0..20 {
            let file = DataFile::open(&path, ID, SIZE, Engine::Volatile).unwrap();
            Runtime::new(Engine::Volatile).unwrap().block_on(async {
                let handle = file.handle().unwrap();
                let read = handle.read(Extent::new(0, BLOCKS)).await.unwrap();
                lost |= read.as_slice() != &model[..];
                model.copy_from_slice(read.as_slice());
                for _ in 0..10 {
                    let extent = random.extent(32);
                    let data = random.data(extent.bytes() as usize);
                    let op = [Op::Write, Op::Write, Op::Unmap][random.below(3) as usize];
                    let done = handle.execute(Request { op, extent }, &data, durability).await;
                    assert_eq!(done, StoreResult::Done);
                    match op {
                        Op::Write => model[range(extent)].copy_from_slice(data.as_slice()),
                        _ => model[range(extent)].fill(0),
                    }
                }
                assert_eq!(handle.flush().await, StoreResult::Done);
                if durability == Durability::Stable {
                    // After the last flush: each must be there by itself.
                    let extent = random.extent(32);
                    let data = random.data(extent.bytes() as usize);
                    assert_eq!(handle.write(extent, &data, durability).await, StoreResult::Done);
                    model[range(extent)].copy_from_slice(data.as_slice());
                }
            });
            drop(file);
            RawFile::open(&path, Access { volatile: true, ..Access::default() }).unwrap().cut_power();
        }
        mutation::set(None);
        lost
    }

    #[test]
    fn what_was_promised_survives_a_power_failure() {
        volatile::seed(5);
        for seed in 0..3 {
            assert!(!loses(None, Durability::Stable, seed));
            assert!(!loses(None, Durability::AtFlush, seed));
        }
    }

    #[test]
    fn with_any_flush_removed_it_does_not() {
        volatile::seed(6);
        assert!(loses(Some(Mutation::StoreWriteNotStable), Durability::Stable, 1));
        assert!(loses(Some(Mutation::StoreFlushSkipped), Durability::AtFlush, 1));
        // An unmap's own flush.
        assert!(loses(Some(Mutation::StoreFlushSkipped), Durability::Stable, 1));
    }

    /// The ring's own trace: between two answers the last thing that changed the file is stable.
    #[test]
    fn on_the_ring_each_good_follows_a_flush() {
        let dir = tempfile::tempdir().unwrap();
        let file = DataFile::create(&dir.path().join("v"), ID, SIZE, Engine::Ring).unwrap();
        let identity = file.inner.raw.identity();
        trace::start();
        Runtime::new(Engine::Ring).unwrap().block_on(async {
            let handle = file.handle().unwrap();
            let mut random = Random(3);
            for n in 0..60 {
                let op = [Op::Write, Op::WriteSame, Op::Unmap, Op::Write][n % 4];
                let extent = random.extent(64);
                let len = if op == Op::WriteSame { 512 } else { extent.bytes() as usize };
                let data = random.data(len);
                let done = handle.execute(Request { op, extent }, &data, Durability::Stable).await;
                assert_eq!(done, StoreResult::Done);
                trace::note("GOOD");
            }
        });
        let (mut unstable, mut changed, mut good) = (std::collections::BTreeMap::new(), 0, 0);
        for event in trace::take() {
            match event {
                // Other tests of this process trace along.
                Event::Submitted { op, kind, file, .. } if file == identity => match kind {
                    Kind::Read => {}
                    Kind::Flush => {
                        unstable.insert(op, true);
                    }
                    Kind::StableWrite => {
                        changed += 1;
                        unstable.insert(op, false);
                    }
                    Kind::Write | Kind::Punch => {
                        changed += 1;
                        unstable.insert(u64::MAX - op, false); // stays until a flush
                    }
                },
                Event::Completed { op, ok } => {
                    if unstable.remove(&op) == Some(true) {
                        unstable.retain(|&op, _| op < u64::MAX / 2);
                    }
                    assert!(ok || !unstable.contains_key(&op));
                }
                Event::Note(word) if word == "GOOD" => {
                    assert!(changed > 0 && unstable.is_empty(), "answered before the flush");
                    (changed, good) = (0, good + 1);
                }
                _ => {}
            }
        }
        assert_eq!(good, 60);
    }
}

/// Numbers for a person: `cargo test --release measure -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn measure() {
    const SIZE: u64 = 256 << 20;
    for (place, dir) in [("tmpfs", "/dev/shm"), ("disk", "/tmp")] {
        for engine in [Engine::Ring, Engine::Plain] {
            let dir = tempfile::tempdir_in(dir).unwrap();
            let file = DataFile::create(&dir.path().join("v"), ID, SIZE, engine).unwrap();
            Runtime::new(engine).unwrap().block_on(async {
                let handle = file.handle().unwrap();
                let filler = Buffer::copy_of(&vec![1; 1 << 20]);
                for n in 0..SIZE / (1 << 20) {
                    handle.write(Extent::new(n * 2048, 2048), &filler, Durability::AtFlush).await;
                }
                handle.flush().await;
                for (what, write, blocks) in [
                    ("read 4k", false, 8),
                    ("write 4k", true, 8),
                    ("read 128k", false, 256),
                    ("write 128k", true, 256),
                ] {
                    for depth in [1_u64, 32] {
                        let start = std::time::Instant::now();
                        let tasks: Vec<_> = (0..depth)
                            .map(|n| {
                                let handle = handle.clone();
                                tokio::task::spawn_local(async move {
                                    let mut random = Random(n);
                                    let data = Buffer::copy_of(&vec![2; blocks as usize * 512]);
                                    let mut done = 0_u64;
                                    while start.elapsed().as_millis() < 1000 {
                                        let slots = SIZE / 512 / blocks / depth;
                                        let at =
                                            Extent::new((random.below(slots) * depth + n) * blocks, blocks);
                                        if write {
                                            let wrote = handle.write(at, &data, Durability::Stable).await;
                                            assert_eq!(wrote, StoreResult::Done);
                                        } else if handle.try_read_now(at).is_none() {
                                            handle.read(at).await.unwrap();
                                        }
                                        done += 1;
                                        if done.is_multiple_of(64) {
                                            tokio::task::yield_now().await;
                                        }
                                    }
                                    done
                                })
                            })
                            .collect();
                        let mut done = 0;
                        for task in tasks {
                            done += task.await.unwrap();
                        }
                        let rate = done as f64 / start.elapsed().as_secs_f64();
                        eprintln!(
                            "{place:5} {engine:?} direct={} {what:10} depth {depth:2}: {rate:9.0}/s",
                            file.is_direct()
                        );
                    }
                }
            });
        }
    }
}

#[test]
fn block_devices_agree_with_memory() {
    for (sector, engine) in
        [(512, Engine::Ring), (512, Engine::Plain), (4096, Engine::Ring), (4096, Engine::Plain)]
    {
        let Some(device) = LoopDevice::new(SIZE + (1 << 20), sector) else {
            eprintln!("no loop devices here: nothing was shown");
            return;
        };
        let name = |seed: u64| {
            // `agrees_with_memory` names its file by the seed; here all are the device.
            let link = tempfile::tempdir().unwrap();
            std::os::unix::fs::symlink(&device.device, link.path().join(format!("v{seed}"))).unwrap();
            link
        };
        let link = name(7);
        agrees_with_memory(link.path(), engine, false, 7);
        let file = DataFile::open(&device.device, ID, SIZE, engine).unwrap();
        let align =
            Runtime::new(engine).unwrap().block_on(async { file.handle().unwrap().inner.offset_align });
        assert_eq!(align, u64::from(sector), "the read-modify-write was not what was tested");
    }
}

/// The volume's shell polls once what it is told is done in line.
#[test]
fn in_line_means_over_at_the_first_poll() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    const SIZE: u64 = 64 << 20;
    let file = DataFile::create(&dir.path().join("v"), ID, SIZE, Engine::Ring).unwrap();
    Runtime::new(Engine::Ring).unwrap().block_on(async {
        let handle = file.handle().unwrap();
        for blocks in [1, 8, 2048, 8192, 8200, SIZE / 512] {
            let extent = Extent::new(0, blocks);
            for op in [Op::Write, Op::WriteSame, Op::Unmap, Op::WriteZeroes, Op::Flush, Op::Read] {
                let data = match op {
                    Op::Write => Buffer::zeroed(extent.bytes() as usize),
                    Op::WriteSame => Buffer::zeroed(512),
                    _ => Buffer::empty(),
                };
                let request = Request { op, extent };
                let mut future = std::pin::pin!(handle.execute(request, &data, Durability::Stable));
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let over = future.as_mut().poll(&mut context).is_ready();
                assert!(over || !handle.is_inline_for(request), "{request:?}");
                if !over {
                    assert_eq!(future.await, StoreResult::Done);
                }
            }
        }
    });
}
