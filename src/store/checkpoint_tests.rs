//! Checkpoints on file systems that share blocks: XFS and btrfs on loop devices, each mounted for one test alone,
//! which runs again in a mount namespace of its own.

use super::tests::{ID, REGION, SIZE, comes_back, content, fill};
use super::*;
use crate::sys::mounted_tests::{power_failure, runs};
use crate::sys::runtime::Runtime;

fn mounted(test: &str, kinds: &[&str]) -> Option<PathBuf> {
    crate::sys::mounted_tests::mounted(&format!("store::before::checkpoint_tests::{test}"), kinds)
}

#[test]
fn what_was_overwritten_comes_back_from_a_checkpoint() {
    let Some(at) = mounted("what_was_overwritten_comes_back_from_a_checkpoint", &["xfs", "btrfs"]) else {
        return;
    };
    assert!(comes_back(&at), "the file system shares blocks");
    // Whoever gives a fully provisioned volume its space does not want it shared.
    let data = DataFile::create(&at.join("full"), ID, SIZE, Engine::Plain).unwrap();
    data.reserve().unwrap();
    assert!(!data.new_image(7, None, false).unwrap().is_checkpoint());
}

/// A region is overwritten, then the power goes. True: what was is not to be had any more.
fn loses(at: &Path, broken: Option<Mutation>) -> bool {
    let path = at.join("v");
    let runtime = Runtime::new(Engine::Plain).unwrap();
    {
        let data = DataFile::create(&path, ID, SIZE, Engine::Plain).unwrap();
        runtime.block_on(async {
            let handle = data.handle().unwrap();
            fill(&handle, 0, 5 * REGION, 1).await;
            let image = data.new_image(7, None, false).unwrap();
            assert!(image.is_checkpoint());
            for region in [3, 1] {
                // The entry is written on a thread of the pool: the mutation is set there as well.
                if region == 1 && broken.is_some() {
                    let image = image.clone();
                    mutation::set(broken);
                    image.store(region, &[]).unwrap();
                    mutation::set(None);
                } else {
                    image.keep(&handle, Extent::new(region * REGION_BLOCKS, 8)).await.unwrap();
                }
                fill(&handle, region * REGION, REGION, 9).await;
            }
        });
    }
    power_failure(at);
    let data = DataFile::open(&path, ID, SIZE, Engine::Plain).unwrap();
    let image = data.find_image().unwrap().expect("the checkpoint itself was durable");
    let lost = runtime.block_on(async {
        let handle = data.handle().unwrap();
        image.restore(&handle).await.unwrap();
        content(&handle).await[..5 * usize::try_from(REGION).unwrap()].iter().any(|&byte| byte != 1)
    });
    image.remove().unwrap();
    drop(image);
    drop(data);
    DataFile::remove(&path, ID, SIZE, Engine::Plain).unwrap();
    lost
}

#[test]
fn a_power_failure_leaves_a_checkpoint_that_is_true() {
    let Some(at) = mounted("a_power_failure_leaves_a_checkpoint_that_is_true", &["xfs"]) else { return };
    for _ in 0..5 {
        assert!(!loses(&at, None));
    }
    assert!(loses(&at, Some(Mutation::BeforeEntryNotFlushed)));
}

/// The disk is full of what nobody can give back: the checkpoint goes, and with it its space.
#[test]
fn a_checkpoint_that_is_given_up_gives_its_space_back() {
    let Some(at) = mounted("a_checkpoint_that_is_given_up_gives_its_space_back", &["xfs"]) else { return };
    let data = DataFile::create(&at.join("v"), ID, SIZE, Engine::Plain).unwrap();
    Runtime::new(Engine::Plain).unwrap().block_on(async {
        let handle = data.handle().unwrap();
        fill(&handle, 0, 5 * REGION, 1).await;
        let image = data.new_image(7, None, false).unwrap();
        image.keep(&handle, Extent::new(0, 8)).await.unwrap();
        assert!(runs(
            "sh",
            &[
                "-c",
                "cat /dev/zero > \"$1/filler\" 2>/dev/null; sync; test -s \"$1/filler\"",
                "sh",
                at.to_str().unwrap()
            ]
        ));
        let whole = Extent::new(0, 5 * REGION_BLOCKS);
        let bytes = Buffer::copy_of(&vec![2; usize::try_from(5 * REGION).unwrap()]);
        assert_eq!(handle.write(whole, &bytes, Durability::Stable).await, StoreResult::NoSpace);
        image.remove().unwrap();
        drop(image);
        let written = async || handle.write(whole, &bytes, Durability::Stable).await;
        // XFS gives the blocks back in the background.
        for _ in 0..100 {
            if written().await == StoreResult::Done {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("no space came back");
    });
}
