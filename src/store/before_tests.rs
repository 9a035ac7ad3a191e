#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use super::*;
use crate::store::DataFile;
use crate::sys::runtime::Runtime;

pub(super) const ID: VolumeId = VolumeId(*b"volume-of-a-test");
pub(super) const SIZE: u64 = (5 << 20) + 4096;
pub(super) const REGION: u64 = REGION_BLOCKS * BLOCK as u64;

fn filled(len: u64, byte: u8) -> Buffer {
    Buffer::copy_of(&vec![byte; len as usize])
}

pub(super) async fn fill(handle: &Handle, from: u64, len: u64, byte: u8) {
    let extent = Extent::new(from / u64::from(BLOCK), len / u64::from(BLOCK));
    assert_eq!(handle.write(extent, &filled(len, byte), Durability::Stable).await, StoreResult::Done);
}

pub(super) async fn content(handle: &Handle) -> Vec<u8> {
    handle.read(Extent::new(0, SIZE / u64::from(BLOCK))).await.unwrap().as_slice().to_vec()
}

fn engines() -> impl Iterator<Item = Engine> {
    [Engine::Plain].into_iter().chain(Engine::best().1.is_none().then_some(Engine::Ring))
}

#[test]
fn what_was_overwritten_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    comes_back(directory.path());
}

/// True: by a checkpoint.
pub(super) fn comes_back(directory: &Path) -> bool {
    let mut checkpoint = false;
    for engine in engines() {
        let path = directory.join(format!("v.{engine:?}"));
        let data = DataFile::create(&path, ID, SIZE, engine).unwrap();
        Runtime::new(engine).unwrap().block_on(async {
            let handle = data.handle().unwrap();
            fill(&handle, 0, REGION, 1).await;
            // A region that is a hole but for one block, and the last one, which is short.
            fill(&handle, 2 * REGION + 8192, 4096, 2).await;
            fill(&handle, 5 * REGION, 4096, 3).await;
            let before = content(&handle).await;
            let image = data.new_image(7, Some(1234), false).unwrap();
            checkpoint = image.is_checkpoint();
            for region in [0, 1, 2, 5] {
                let len = if region == 5 { 4096 } else { REGION };
                let extent = Extent::new(region * REGION_BLOCKS, len / u64::from(BLOCK));
                image.keep(&handle, extent).await.unwrap();
                fill(&handle, region * REGION, len, 9).await;
                // Kept once: what is there now is not taken for what was.
                image.keep(&handle, extent).await.unwrap();
            }
            assert_ne!(content(&handle).await, before);
            assert_eq!(image.regions(), [0, 1, 2, 5]);
            drop(image);
            // As after a restart.
            let image = data.find_image().unwrap().unwrap();
            assert_eq!((image.cut(), image.as_of(), image.regions()), (7, Some(1234), vec![0, 1, 2, 5]));
            assert_eq!(image.restore(&handle).await, Ok(4));
            assert_eq!(content(&handle).await, before);
            // Cut off and begun again, it comes to the same.
            fill(&handle, 0, REGION, 8).await;
            assert_eq!(image.restore(&handle).await, Ok(4));
            assert_eq!(content(&handle).await, before);
            image.remove().unwrap();
            assert!(data.find_image().unwrap().is_none());
        });
    }
    checkpoint
}

#[test]
fn two_threads_keep_a_region_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = DataFile::create(&directory.path().join("v"), ID, SIZE, Engine::Plain).unwrap();
    let image = Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        fill(&handle, 0, 5 * REGION, 1).await;
        data.new_image(7, None, false).unwrap()
    });
    std::thread::scope(|scope| {
        for byte in 2..6 {
            let (data, image) = (data.clone(), image.clone());
            scope.spawn(move || {
                Runtime::new(Engine::Plain).unwrap().block_on(async {
                    let handle = data.handle().unwrap();
                    for region in 0..5 {
                        let extent = Extent::new(region * REGION_BLOCKS + u64::from(byte) * 8, 8);
                        image.keep(&handle, extent).await.unwrap();
                        fill(&handle, extent.offset(), 4096, byte).await;
                    }
                });
            });
        }
    });
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        image.restore(&handle).await.unwrap();
        assert!(content(&handle).await[..5 * REGION as usize].iter().all(|&byte| byte == 1));
    });
}

#[test]
fn a_void_image_keeps_nothing_and_stays_void() {
    let directory = tempfile::tempdir().unwrap();
    let data = DataFile::create(&directory.path().join("v"), ID, SIZE, Engine::Plain).unwrap();
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        let image = data.new_image(7, None, true).unwrap();
        image.keep(&handle, Extent::new(4096, 8)).await.unwrap();
        assert!(image.is_void() && image.regions().is_empty());
    });
    let image = data.find_image().unwrap().unwrap();
    assert!(image.is_void() && image.regions().is_empty());
}

/// A copy that is smaller than the primary's grows while it is brought up to date.
#[test]
fn an_image_outlives_the_growth_of_its_volume() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    let data = DataFile::create(&path, ID, SIZE, Engine::Plain).unwrap();
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        fill(&handle, 0, REGION, 1).await;
        let image = data.new_image(7, None, false).unwrap();
        image.keep(&handle, Extent::new(0, 8)).await.unwrap();
        fill(&handle, 0, REGION, 9).await;
        // Region 256 has its entry where the content of the first one begins.
        image.keep(&handle, Extent::new(256 * REGION_BLOCKS, 8)).await.unwrap();
        assert_eq!(image.regions(), [0]);
        let grown = BeforeImage::find(&path, ID, 300 * REGION_BLOCKS, Engine::Plain).unwrap().unwrap();
        assert_eq!(grown.restore(&handle).await, Ok(1));
        assert!(content(&handle).await[..REGION as usize].iter().all(|&byte| byte == 1));
    });
}

#[test]
fn foreign_and_cut_off_files_are_no_images() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v");
    let data = DataFile::create(&path, ID, SIZE, Engine::Plain).unwrap();
    let other = BeforeImage::create(
        &path,
        New { id: VolumeId([1; 16]), blocks: SIZE / 512, cut: 7, as_of: None, void: false },
        Engine::Plain,
        None,
    )
    .unwrap();
    std::fs::write(directory.path().join("v.before.7"), b"something of somebody").unwrap();
    std::fs::File::create(directory.path().join("v.before.8")).unwrap().set_len(100_000).unwrap();
    std::fs::write(directory.path().join("v.before.mine"), b"not even a number").unwrap();
    assert!(data.find_image().unwrap().is_none());
    let there = |name: &str| directory.path().join(name).exists();
    assert!(there("v.before.1") && there("v.before.7") && there("v.before.mine"), "left alone");
    assert!(!there("v.before.8"), "what a crash left of one that was being made");
    drop(other);
    let image = data.new_image(7, None, false).unwrap();
    assert!(there("v.before.8") && image.regions().is_empty());
    assert!(is_before_image(&directory.path().join("v.before.8")) && !is_before_image(&path));
}

/// A region is kept and, unless `early`, overwritten, and the power goes. `early`: it goes while the
/// entry is on its way. True: what was is not to be had any more.
fn loses(broken: Option<Mutation>, early: bool, seed: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let data = DataFile::create(&directory.path().join("v"), ID, SIZE, Engine::Volatile).unwrap();
    let region = seed % 5;
    let whole = Extent::new(region * REGION_BLOCKS, REGION_BLOCKS);
    let runtime = Runtime::new(Engine::Volatile).unwrap();
    runtime.block_on(async {
        let handle = data.handle().unwrap();
        fill(&handle, 0, 5 * REGION, 1).await;
        let image = data.new_image(7, None, false).unwrap();
        image.keep(&handle, Extent::new((region + 1) % 5 * REGION_BLOCKS, 8)).await.unwrap();
        let was = handle.read(whole).await.unwrap();
        mutation::set(broken);
        let file = &image.0.file;
        if early {
            file.write_at(was.as_slice(), data_start(image.0.header.blocks) + whole.offset(), false).unwrap();
            image.settle_content().unwrap();
            image.enter(region).unwrap();
        } else {
            image.store(region, &[(whole.offset(), was)]).unwrap();
        }
        mutation::set(None);
        if !early {
            fill(&handle, whole.offset(), REGION, 9).await;
        }
        image.0.file.cut_power();
    });
    let image = data.find_image().unwrap().expect("the image itself was durable");
    runtime.block_on(async {
        let handle = data.handle().unwrap();
        image.restore(&handle).await.unwrap();
        content(&handle).await[..5 * REGION as usize].iter().any(|&byte| byte != 1)
    })
}

#[test]
fn a_power_failure_leaves_an_image_that_is_true() {
    crate::sys::volatile::seed(11);
    assert!((0..40).all(|seed| !loses(None, seed % 2 == 0, seed)));
}

#[test]
fn with_either_flush_removed_it_does_not() {
    crate::sys::volatile::seed(12);
    assert!((0..20).any(|seed| loses(Some(Mutation::BeforeContentNotFlushed), true, seed)));
    assert!((0..20).any(|seed| loses(Some(Mutation::BeforeEntryNotFlushed), false, seed)));
}

/// What an image says after `make` and a loss of power, with a flush left out or none. All that is held back goes:
/// with the last handle of a volatile file.
fn after_power_failure(
    broken: Option<Mutation>,
    make: impl AsyncFn(&DataFile, &Handle),
) -> (Option<BeforeImage>, DataFile, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let data = DataFile::create(&directory.path().join("v"), ID, SIZE, Engine::Volatile).unwrap();
    Runtime::new(Engine::Volatile).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        fill(&handle, 0, 2 * REGION, 1).await;
        mutation::set(broken);
        make(&data, &handle).await;
        mutation::set(None);
    });
    data.inner.raw.cut_power();
    drop(data);
    crate::sys::volatile::crash_names(directory.path());
    let data = DataFile::open(&directory.path().join("v"), ID, SIZE, Engine::Volatile).unwrap();
    (data.find_image().unwrap(), data, directory)
}

#[test]
fn a_blank_copy_is_known_as_a_mixture_after_a_power_failure() {
    let void = |broken| {
        let (image, ..) = after_power_failure(broken, async |data, _| {
            data.new_image(7, None, true).unwrap();
        });
        image.is_some_and(|image| image.is_void())
    };
    assert!(void(None) && !void(Some(Mutation::BeforeHeaderNotFlushed)));
    assert!(!void(Some(Mutation::VolumeNameNotSynced)));
}

#[test]
fn an_image_that_was_removed_does_not_come_back_after_a_power_failure() {
    let gone = |broken| {
        let (image, ..) = after_power_failure(broken, async |data, handle| {
            let image = data.new_image(7, None, false).unwrap();
            image.keep(handle, Extent::new(0, 8)).await.unwrap();
            image.remove().unwrap();
        });
        image.is_none()
    };
    assert!(gone(None) && !gone(Some(Mutation::VolumeRemovalNotSynced)));
}

#[test]
fn what_was_put_back_is_there_after_a_power_failure() {
    let whole = |broken| {
        let (_, data, _directory) = after_power_failure(None, async |data, handle| {
            let image = data.new_image(7, None, false).unwrap();
            image.keep(handle, Extent::new(0, REGION_BLOCKS)).await.unwrap();
            fill(handle, 0, REGION, 9).await;
            mutation::set(broken);
            image.restore(handle).await.unwrap();
            mutation::set(None);
        });
        let data = data.path().to_owned();
        std::fs::read(data).unwrap()[..REGION as usize].iter().all(|&byte| byte == 1)
    };
    assert!((0..5).all(|_| whole(None)));
    assert!(!(0..20).all(|_| whole(Some(Mutation::StoreFlushSkipped))));
}
