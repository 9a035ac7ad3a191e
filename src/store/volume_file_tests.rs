use std::process::Command;

use super::*;

const ID: VolumeId = VolumeId(*b"volume-of-a-test");
const OTHER: VolumeId = VolumeId(*b"volume-of-others");
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn is_made_sparse_and_found_again() {
    let dir = dir();
    let path = dir.path().join("v");
    let file = DataFile::create(&path, ID, 100 * MIB, Engine::Plain).unwrap();
    assert_eq!((file.blocks(), file.id(), file.path()), (100 * MIB / 512, ID, &*path));
    assert!(file.allocated().unwrap() < MIB);
    drop(file);
    assert_eq!(DataFile::open(&path, ID, 100 * MIB, Engine::Plain).unwrap().size_bytes(), 100 * MIB);
    DataFile::remove(&path, ID, 100 * MIB, Engine::Plain).unwrap();
    assert!(!path.exists());
}

#[test]
fn is_open_once() {
    let dir = dir();
    let path = dir.path().join("v");
    let held = DataFile::create(&path, ID, MIB, Engine::Plain).unwrap();
    let again = DataFile::open(&path, ID, MIB, Engine::Plain);
    assert!(matches!(again, Err(VolumeFileError::Locked { .. })));
    assert!(matches!(DataFile::remove(&path, ID, MIB, Engine::Plain), Err(VolumeFileError::Locked { .. })));
    // A write of a former life that is still under way keeps its handle, and others out.
    let handle = held.handle_alone();
    drop(held);
    let again = DataFile::open(&path, ID, MIB, Engine::Plain);
    assert!(matches!(again, Err(VolumeFileError::Locked { .. })));
    drop(handle);
    let held = DataFile::open(&path, ID, MIB, Engine::Plain).unwrap();
    drop((held.handle().unwrap(), held.handle().unwrap()));
}

impl DataFile {
    fn handle_alone(&self) -> crate::sys::engine::Handle {
        crate::sys::engine::Handle::new(&self.inner.raw, Engine::Plain).unwrap()
    }
}

#[test]
fn refuses_what_is_not_this_volume() {
    let dir = dir();
    let path = dir.path().join("v");
    let open = |id, size| DataFile::open(&path, id, size, Engine::Plain).map(drop);
    assert!(matches!(open(ID, MIB), Err(VolumeFileError::Io { .. })), "a file that is not there");
    drop(DataFile::create(&path, ID, MIB, Engine::Plain).unwrap());
    let exists = DataFile::create(&path, OTHER, MIB, Engine::Plain);
    assert!(matches!(exists, Err(VolumeFileError::Exists { .. })));
    assert!(matches!(open(OTHER, MIB), Err(VolumeFileError::OtherVolume { .. })));
    assert!(matches!(open(ID, 2 * MIB), Err(VolumeFileError::OtherSize { .. })));
    open(ID, MIB).unwrap();

    let good = fs::read(&path).unwrap();
    let record = usize::try_from(MIB).unwrap();
    let damaged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        open(ID, MIB).unwrap_err()
    };
    let blank = damaged(&|bytes| bytes[record..].fill(0));
    assert!(matches!(blank, VolumeFileError::NoVolume { source: SlotError::Blank, .. }), "{blank}");
    let torn = damaged(&|bytes| {
        bytes[record + 25] ^= 1;
        bytes[record + 4096 + 25] ^= 1;
    });
    assert!(matches!(torn, VolumeFileError::NoVolume { .. }), "{torn}");
    assert!(torn.to_string().contains(&path.display().to_string()), "{torn}");
    let foreign = damaged(&|bytes| bytes[record..].fill(0x77));
    assert!(matches!(foreign, VolumeFileError::NoVolume { .. }), "{foreign}");
    let short = damaged(&|bytes| bytes.truncate(5000));
    assert!(matches!(short, VolumeFileError::OtherSize { .. } | VolumeFileError::NoVolume { .. }), "{short}");
    let tiny = damaged(&|bytes| bytes.truncate(10));
    assert!(matches!(tiny, VolumeFileError::OtherSize { .. }), "{tiny}");
    // One slot of the record torn: the other has it.
    fs::write(&path, &good).unwrap();
    let mut bytes = good.clone();
    bytes[record + 25] ^= 1;
    fs::write(&path, bytes).unwrap();
    open(ID, MIB).unwrap();
    assert!(DataFile::remove(&path, OTHER, MIB, Engine::Plain).is_err());
    assert!(path.exists());
}

#[test]
fn a_bad_size_is_refused_and_leaves_nothing() {
    let dir = dir();
    let path = dir.path().join("v");
    for size in [0, 512, 4097] {
        let bad = DataFile::create(&path, ID, size, Engine::Plain);
        assert!(matches!(bad, Err(VolumeFileError::BadSize { .. })));
    }
    for size in [u64::MAX - 4095, 1 << 63] {
        let bad = DataFile::create(&path, ID, size, Engine::Plain);
        assert!(matches!(bad, Err(VolumeFileError::TooLarge { .. })), "{bad:?}");
        assert!(!path.exists());
    }
    let nowhere = DataFile::create(&dir.path().join("no/v"), ID, MIB, Engine::Plain);
    assert!(matches!(nowhere, Err(VolumeFileError::Io { .. })));
}

#[test]
fn sixty_four_tebibytes_on_tmpfs() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("v");
    drop(DataFile::create(&path, ID, 64 * TIB, Engine::Plain).unwrap());
    let file = DataFile::open(&path, ID, 64 * TIB, Engine::Plain).unwrap();
    assert_eq!(file.blocks(), 64 * TIB / 512);
    assert!(file.allocated().unwrap() < MIB);
    let runtime = crate::sys::runtime::Runtime::new(Engine::Plain).unwrap();
    runtime.block_on(async {
        use crate::block::{Extent, StoreResult};
        let handle = file.handle().unwrap();
        let last = Extent::new(file.blocks() - 8, 8);
        let data = crate::sys::buffer::Buffer::copy_of(&[0xa5; 4096]);
        let durable = crate::store::Durability::Stable;
        assert_eq!(handle.write(last, &data, durable).await, StoreResult::Done);
        assert_eq!(handle.read(last).await.unwrap().as_slice(), data.as_slice());
        assert_eq!(handle.next_data(Extent::new(0, file.blocks())).await, Ok(Some(last)));
        let past = Extent::new(file.blocks() - 7, 8);
        assert_eq!(handle.write(past, &data, durable).await, StoreResult::Failed);
    });
}

#[test]
fn sixteen_tebibytes_are_too_much_for_ext4() {
    let dir = dir();
    let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(dir.path()).output().unwrap();
    if !String::from_utf8_lossy(&kind.stdout).contains("ext") {
        return; // not ext4 here
    }
    let path = dir.path().join("v");
    let error = DataFile::create(&path, ID, 16 * TIB, Engine::Plain).unwrap_err();
    let VolumeFileError::TooLarge { limit, .. } = error else { panic!("{error}") };
    assert!(!path.exists());
    assert!(limit < 16 * TIB && limit > 16 * TIB - MIB, "{limit}");
    DataFile::create(&path, ID, limit, Engine::Plain).unwrap();
}

/// In a mount namespace of this thread's own; false: not allowed here (needs root).
fn mount_small_tmpfs(at: &Path, options: &str) -> bool {
    let private = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_ok()
        && Command::new("mount").args(["--make-rprivate", "/"]).status().is_ok_and(|s| s.success());
    let mount = |at| Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
    private && mount(at).is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    use crate::block::{Extent, StoreResult};
    use crate::store::{DataDir, Durability, Owner};
    use crate::sys::buffer::Buffer;

    let dir = dir();
    let at = dir.path().to_owned();
    std::thread::spawn(move || {
        if !mount_small_tmpfs(&at, "size=4m") {
            return;
        }
        let data_dir = DataDir::open(&at.join("array"), Owner::Witness, Engine::Plain).unwrap();
        let format = Format { magic: *b"TWLNTEST", version: 1, readable_from: 1 };
        let (mut votes, _) =
            crate::store::RecordTable::open(&data_dir.votes(), format, Engine::Plain).unwrap();
        let file = DataFile::create(&at.join("v"), ID, 16 * MIB, Engine::Plain).unwrap();
        let runtime = crate::sys::runtime::Runtime::new(Engine::Plain).unwrap();
        runtime.block_on(async {
            let handle = file.handle().unwrap();
            let data = Buffer::copy_of(&[7; 65536]);
            let mut stored = 0;
            while stored < 256 {
                match handle.write(Extent::new(stored * 128, 128), &data, Durability::Stable).await {
                    StoreResult::Done => stored += 1,
                    other => {
                        assert_eq!(other, StoreResult::NoSpace);
                        break;
                    }
                }
            }
            assert!(stored > 10 && stored < 64, "{stored} pieces fitted");
            // The rest of the space goes too.
            let mut rest = fs::File::create(at.join("rest")).unwrap();
            while io::Write::write_all(&mut rest, &[1; 4096]).is_ok() {}
            for n in 0..stored {
                let read = handle.read(Extent::new(n * 128, 128)).await.unwrap();
                assert_eq!(read.as_slice(), data.as_slice());
            }
            // What is there can be written again, and given back.
            let again = handle.write(Extent::new(0, 128), &data, Durability::Stable).await;
            assert_eq!(again, StoreResult::Done);
            // Votes have their space.
            for n in 0..4 {
                votes.write([([1; 16], &[n; 100][..]), ([2; 16], &[n; 100][..])]).unwrap();
            }
            let unmapped = handle.unmap(Extent::new(0, 128), Durability::Stable).await;
            assert_eq!(unmapped, StoreResult::Done);
        });
        fs::remove_file(at.join("rest")).unwrap();
        while fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(at.join("rest"))
            .is_ok_and(|mut f| io::Write::write_all(&mut f, &[1; 4096]).is_ok())
        {}
        let error = DataFile::create(&at.join("w"), OTHER, MIB, Engine::Plain).unwrap_err();
        assert!(matches!(error, VolumeFileError::NoSpace { .. }), "{error}");
        assert!(!at.join("w").exists());
        let error = DataDir::open(&at.join("second"), Owner::Witness, Engine::Plain).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        drop((votes, data_dir));
        let again = DataDir::open(&at.join("array"), Owner::Witness, Engine::Plain).unwrap();
        assert_eq!(again.identity().boot, 2);
    })
    .join()
    .unwrap();
}

#[test]
fn a_block_device_is_taken_only_when_blank() {
    let Some(device) = crate::store::loop_device_tests::LoopDevice::new(64 * MIB + 512, 512) else {
        eprintln!("no loop devices here: nothing was shown");
        return;
    };
    let path = &device.device;
    let too_large = DataFile::create(path, ID, 64 * MIB, Engine::Plain);
    let Err(VolumeFileError::TooLarge { limit, .. }) = too_large else { panic!("{too_large:?}") };
    assert_eq!(limit, 64 * MIB - TRAILER);
    for mark in [0, 1080, 64 * MIB - 4096] {
        let write = |byte| RawFile::open(path, Access::default()).unwrap().write_at(&[byte; 512], mark, true);
        write(1).unwrap();
        let marked = DataFile::create(path, ID, 32 * MIB, Engine::Plain);
        assert!(matches!(marked, Err(VolumeFileError::NotBlank { .. })), "{marked:?}");
        write(0).unwrap();
    }
    let held = DataFile::create(path, ID, 32 * MIB, Engine::Plain).unwrap();
    assert!(matches!(DataFile::open(path, ID, 32 * MIB, Engine::Plain), Err(VolumeFileError::Io { .. })));
    drop(held);
    let again = DataFile::create(path, OTHER, 32 * MIB, Engine::Plain);
    assert!(matches!(again, Err(VolumeFileError::NotBlank { .. })));
    let other = DataFile::open(path, OTHER, 32 * MIB, Engine::Plain);
    assert!(matches!(other, Err(VolumeFileError::OtherVolume { .. })));
    assert!(matches!(
        DataFile::open(path, ID, 16 * MIB, Engine::Plain),
        Err(VolumeFileError::OtherSize { .. })
    ));
    drop(DataFile::open(path, ID, 32 * MIB, Engine::Plain).unwrap());
    DataFile::remove(path, ID, 32 * MIB, Engine::Plain).unwrap();
    let gone = DataFile::open(path, ID, 32 * MIB, Engine::Plain);
    assert!(matches!(gone, Err(VolumeFileError::NoVolume { source: SlotError::Blank, .. })));
    DataFile::create(path, OTHER, limit, Engine::Plain).unwrap();
}

/// A removal from a block device, then a power failure: is the device free? `None`: none to be had.
#[cfg(feature = "testing")]
fn device_is_free_after_removal(mutation: Option<Mutation>) -> Option<bool> {
    let device = crate::store::loop_device_tests::LoopDevice::new(4 * MIB, 512)?;
    let path = &device.device;
    drop(DataFile::create(path, ID, MIB, Engine::Volatile).unwrap());
    mutation::set(mutation);
    DataFile::remove(path, ID, MIB, Engine::Volatile).unwrap();
    mutation::set(None);
    let access = Access { volatile: true, ..Access::default() };
    RawFile::open(path, access).unwrap().cut_power();
    Some(DataFile::create(path, ID, MIB, Engine::Volatile).is_ok())
}

#[cfg(feature = "testing")]
#[test]
fn the_record_on_a_device_is_wiped_for_good() {
    let Some(free) = device_is_free_after_removal(None) else {
        eprintln!("no loop devices here: nothing was shown");
        return;
    };
    assert!(free);
    // A power failure may spare what was not flushed.
    let broken = || device_is_free_after_removal(Some(Mutation::VolumeWipeNotStable));
    assert!((0..20).any(|_| broken() == Some(false)));
}

mod growth {
    use super::*;

    const OLD: u64 = 4 << 20;
    const NEW: u64 = (9 << 20) + 4096;

    fn written(path: &Path) -> DataFile {
        let file = DataFile::create(path, ID, OLD, Engine::Plain).unwrap();
        // The last blocks of the old size, which the record stands right behind.
        file.inner.lock.write_at(&[7; 4096], OLD - 4096, true).unwrap();
        file
    }

    fn content(file: &DataFile, size: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        file.inner.lock.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_new_reads_as_zeroes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let file = written(&path);
        assert!(matches!(file.grow(OLD), Err(VolumeFileError::BadSize { .. })));
        assert!(matches!(file.grow(OLD + 512), Err(VolumeFileError::BadSize { .. })));
        file.grow(NEW).unwrap();
        assert_eq!((file.size_bytes(), file.blocks()), (NEW, NEW / 512));
        let bytes = content(&file, NEW);
        let old = usize::try_from(OLD).unwrap();
        assert!(bytes[old - 4096..old].iter().all(|&byte| byte == 7));
        assert!(bytes[old..].iter().all(|&byte| byte == 0), "the old record among it");
        file.inner.lock.write_at(&[8; 4096], NEW - 4096, true).unwrap();
        drop(file);
        let file = DataFile::open(&path, ID, NEW, Engine::Plain).unwrap();
        assert_eq!(content(&file, NEW)[usize::try_from(NEW).unwrap() - 1], 8);
        drop(file);
        // Its owner went back to an older state of its own: what was written since is not thrown away.
        assert!(matches!(
            DataFile::open(&path, ID, OLD, Engine::Plain),
            Err(VolumeFileError::OtherSize { found: NEW, expected: OLD, .. })
        ));
    }

    /// A crash after each of its steps: the volume has its old size again.
    #[test]
    fn a_growth_that_was_cut_off_is_undone() {
        for steps in 1..=3 {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("v");
            let file = written(&path);
            let raw = &file.inner.lock;
            raw.set_len(NEW + TRAILER).unwrap();
            if steps > 1 {
                write_record(raw, NEW, ID.into(), NEW).unwrap();
            }
            if steps > 2 {
                raw.write_at(&vec![0; RECORD.file_len()], OLD, true).unwrap();
            }
            drop(file);
            let file = DataFile::open(&path, ID, OLD, Engine::Plain).unwrap();
            assert_eq!(file.size_bytes(), OLD, "{steps}");
            assert_eq!(file.inner.lock.size().unwrap(), OLD + TRAILER);
            assert_eq!(content(&file, OLD)[usize::try_from(OLD).unwrap() - 1], 7);
            drop(file);
            DataFile::open(&path, ID, OLD, Engine::Plain).unwrap().grow(NEW).unwrap();
        }
    }

    #[test]
    fn a_record_written_over_another_one_may_be_cut_off_anywhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = DataFile::create(&directory.path().join("v"), ID, OLD, Engine::Plain).unwrap();
        let slots = || {
            let mut bytes = vec![0; RECORD.file_len()];
            file.inner.lock.read_at(&mut bytes, OLD).unwrap();
            bytes
        };
        let before = slots();
        // As on a device that grows, whose record stays in its place.
        write_body(&file.inner.lock, OLD, &body_of(ID.into(), OLD, Some(4096))).unwrap();
        let after = slots();
        assert_eq!(after[..SLOT_UNIT], after[SLOT_UNIT..]);
        for torn in [[&before[..SLOT_UNIT], &after[SLOT_UNIT..]], [&after[..SLOT_UNIT], &before[SLOT_UNIT..]]]
        {
            assert!(RECORD.decode(&torn.concat()).is_ok());
        }
    }

    #[test]
    fn a_size_that_the_file_system_cannot_hold_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let file = written(&path);
        let asked = i64::MAX.unsigned_abs() / 4096 * 4096 - 4096;
        assert!(matches!(file.grow(asked), Err(VolumeFileError::TooLarge { .. })));
        assert_eq!(file.size_bytes(), OLD);
        drop(file);
        DataFile::open(&path, ID, OLD, Engine::Plain).unwrap();
    }

    #[test]
    fn a_block_device_grows_within_itself() {
        let Some(device) = crate::store::loop_device_tests::LoopDevice::new(32 << 20, 512) else { return };
        let path = &device.device;
        let file = DataFile::create(path, ID, OLD, Engine::Plain).unwrap();
        // Left behind by somebody before.
        file.inner.lock.write_at(&[9; 4096], OLD + 4096, true).unwrap();
        assert!(matches!(file.grow(64 << 20), Err(VolumeFileError::TooLarge { .. })));
        file.grow(NEW).unwrap();
        assert!(content(&file, NEW).iter().all(|&byte| byte == 0));
        drop(file);
        // Cut off before anybody was told: the old size. Later the new one, and no other.
        drop(DataFile::open(path, ID, OLD, Engine::Plain).unwrap());
        DataFile::open(path, ID, OLD, Engine::Plain).unwrap().grow(NEW).unwrap();
        drop(DataFile::open(path, ID, NEW, Engine::Plain).unwrap());
        assert!(DataFile::open(path, ID, NEW - 4096, Engine::Plain).is_err());
    }

    /// What a volume has grown by after a loss of power: does all of it read as zeroes?
    #[cfg(feature = "testing")]
    fn grown(path: &Path, broken: Option<Mutation>) -> bool {
        let file = DataFile::create(path, ID, OLD, Engine::Volatile).unwrap();
        if file.inner.lock.medium() == Medium::Device {
            file.inner.lock.write_at(&[9; 8192], OLD + 4096, true).unwrap();
        }
        mutation::set(broken);
        file.grow(NEW).unwrap();
        mutation::set(None);
        file.inner.lock.cut_power();
        drop(file);
        let file = DataFile::open(path, ID, NEW, Engine::Volatile).unwrap();
        let blank = content(&file, NEW).iter().all(|&byte| byte == 0);
        drop(file);
        DataFile::remove(path, ID, NEW, Engine::Volatile).unwrap();
        blank
    }

    #[cfg(feature = "testing")]
    #[test]
    fn what_a_volume_grew_by_reads_as_zeroes_after_a_power_failure() {
        let directory = tempfile::tempdir().unwrap();
        let device = crate::store::loop_device_tests::LoopDevice::new(32 << 20, 512);
        let places = [Some(directory.path().join("v")), device.as_ref().map(|device| device.device.clone())];
        for path in places.into_iter().flatten() {
            assert!((0..5).all(|_| grown(&path, None)), "{}", path.display());
            assert!(!(0..20).all(|_| grown(&path, Some(Mutation::GrowthNotFlushed))), "{}", path.display());
        }
    }
}

#[cfg(feature = "testing")]
#[test]
fn the_space_of_a_full_volume_is_taken_for_good() {
    use crate::sys::mounted_tests::{mounted, power_failure};

    let test = "store::volume_file::tests::the_space_of_a_full_volume_is_taken_for_good";
    let Some(at) = mounted(test, &["xfs"]) else { return };
    let path = at.join("v");
    let taken = |broken| {
        let file = DataFile::create(&path, ID, 32 * MIB, Engine::Plain).unwrap();
        mutation::set(broken);
        file.reserve().unwrap();
        mutation::set(None);
        drop(file);
        power_failure(&at);
        let file = DataFile::open(&path, ID, 32 * MIB, Engine::Plain).unwrap();
        let allocated = file.inner.lock.allocated().unwrap();
        drop(file);
        DataFile::remove(&path, ID, 32 * MIB, Engine::Plain).unwrap();
        allocated >= 32 * MIB
    };
    assert!(taken(None) && !taken(Some(Mutation::ReservationNotFlushed)));
}
