//! F14: the primary is lost for good in the middle of a resync. The secondary is a mixture then, and an
//! override serves what it held before.

use std::time::{Duration, Instant};

use super::disk::Disk;
use super::site::{Array, INITIATOR, LIMIT, Pair, Place, qemu_io, qemu_io_on, until};

/// A witness this old has no promises of a former life to fear.
const WITNESS_AGE: Duration = Duration::from_secs(11);
const OVERRIDE: Duration = Duration::from_secs(40);
/// How long the older content takes to be put back.
const RESTORE: Duration = Duration::from_secs(6);
/// Regions that get over before the resync stands still.
const COPIED: u64 = 20;

fn images(array: &Array) -> usize {
    // As the array sees it: its disk may be mounted for it alone.
    let volumes = array.place.data_dir.join("volumes");
    let seen = std::path::Path::new("/proc").join(array.daemon.pid().to_string()).join("root");
    let volumes = std::fs::read_dir(seen.join(volumes.strip_prefix("/").unwrap())).unwrap();
    volumes.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(".before.")).count()
}

fn whole_is(array: &Array, pattern: u8) -> Option<bool> {
    qemu_io(&array.place, &format!("read -P {pattern:#x} 0 64M")).map(|read| read.is_ok())
}

/// Dropped, and let alone by what a new witness refuses for its first seconds.
fn serves_alone(array: &Array) -> bool {
    let group = array.group();
    group["inSync"] == false && group["serves"] == true
}

/// The operator's client gives up, or is killed, while the older content is being put back: the verb goes on. True: B
/// serves in the end.
fn override_without_its_client(mutation: Option<&str>) -> Option<bool> {
    let mut pair = Pair::new();
    let born = Instant::now();
    let (a, b) = pair.in_sync();
    if qemu_io(&a.place, "write -P 0x11 0 64M").is_none_or(|done| done.is_err()) {
        return None;
    }
    b.daemon.kill();
    until("A goes on alone", LIMIT, || serves_alone(&a).then_some(()));
    qemu_io(&a.place, "write -P 0x22 0 64M").unwrap().unwrap();
    a.daemon.terminate();
    pair.a.environment = vec![("TWINLUN_FAULT".into(), format!("copy_stops:{COPIED}"))];
    pair.b.environment = vec![("TWINLUN_FAULT".into(), format!("slow_restore:{}", RESTORE.as_millis()))];
    pair.b.environment.extend(mutation.map(|name| ("TWINLUN_MUTATION".into(), name.into())));
    let (a, b) = (pair.a.start(), pair.b.start());
    until("the resync stands still in its middle", LIMIT, || {
        let kept = b.group()["volumes"][0]["kept"]["regions"].as_u64()?;
        (kept >= COPIED).then_some(())
    });
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    a.daemon.kill();
    until("B has lost A", LIMIT, || (b.get("/api/twinlun/rcopy")["targetUp"] == false).then_some(()));
    let mut client = std::process::Command::new(super::site::BINARY)
        .args(["setrcopygroup", "override", "-f", "g"])
        .env("TWINLUN_ARRAY", format!("127.0.0.1:{}", b.place.management))
        .spawn()
        .unwrap();
    std::thread::sleep(RESTORE / 2);
    client.kill().unwrap();
    client.wait().unwrap();
    if mutation.is_none() {
        let twice = b.cli_refused(&["setrcopygroup", "override", "-f", "g"]);
        assert!(twice.contains("being put back already"), "{twice}");
    }
    let end = Instant::now() + if mutation.is_none() { OVERRIDE } else { RESTORE * 3 };
    while Instant::now() < end {
        if b.group()["serves"] == true {
            return Some(whole_is(&b, 0x11) == Some(true));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(false)
}

#[test]
fn an_override_goes_on_when_its_client_is_killed() {
    assert_ne!(override_without_its_client(None), Some(false));
}

#[test]
fn tied_to_its_client_an_override_would_be_lost() {
    assert_ne!(override_without_its_client(Some("VerbEndsWithClient")), Some(true));
}

#[test]
fn an_override_in_the_middle_of_a_resync_serves_what_the_copy_held_before() {
    overridden(Pair::new(), None);
}

/// The same with a checkpoint, where the file system shares blocks.
#[test]
fn an_override_in_the_middle_of_a_resync_serves_a_checkpoint() {
    let Some(disk) = Disk::new("xfs") else { return };
    let mut pair = Pair::new();
    disk.under(&mut pair.b);
    overridden(pair, Some(true));
}

/// `checkpoint`: whether it is one, where that is known.
fn overridden(mut pair: Pair, checkpoint: Option<bool>) {
    let born = Instant::now();
    let (a, b) = pair.in_sync();
    if qemu_io(&a.place, "write -P 0x11 0 64M").is_none_or(|done| done.is_err()) {
        return;
    }
    b.daemon.kill();
    until("A goes on alone", LIMIT, || serves_alone(&a).then_some(()));
    qemu_io(&a.place, "write -P 0x22 0 64M").unwrap().unwrap();
    a.daemon.terminate();
    pair.a.environment = vec![("TWINLUN_FAULT".into(), format!("copy_stops:{COPIED}"))];
    let (a, b) = (pair.a.start(), pair.b.start());
    until("the resync stands still in its middle", LIMIT, || {
        let kept = b.group()["volumes"][0]["kept"]["regions"].as_u64()?;
        (kept >= COPIED).then_some(())
    });
    assert_eq!(images(&b), 1);
    if let Some(expected) = checkpoint {
        assert_eq!(b.group()["volumes"][0]["kept"]["checkpoint"], expected);
    }
    let shown = b.cli(&["showrcopy"]);
    assert!(shown.contains("being brought up to date"), "{shown}");
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    a.daemon.kill();

    // B dies and starts again in between: the image is found, and still whole.
    b.daemon.kill();
    let b = pair.b.start();
    until("B has lost A", LIMIT, || (b.group()["serves"] == false).then_some(()));
    b.cli(&["setrcopygroup", "override", "-f", "g"]);
    until("B serves", OVERRIDE, || (b.group()["serves"] == true).then_some(()));
    assert_eq!(whole_is(&b, 0x11), Some(true), "the old content, all of it");
    let log = b.cli(&["showeventlog", "--json"]);
    assert!(log.contains("holds again what it held"), "{log}");
    until("the image has served its purpose", LIMIT, || (images(&b) == 0).then_some(()));
    qemu_io(&b.place, "write -P 0x33 4M 4M").unwrap().unwrap();

    // A, back, has what it wrote alone; given up, it takes over B's history.
    pair.a.environment.clear();
    let a = pair.a.start();
    until("A has diverged", LIMIT, || (a.group()["status"] == "Diverged").then_some(()));
    a.cli(&["setrcopygroup", "discard", "-f", "g"]);
    b.until_in_sync();
    a.until_in_sync();
    assert_eq!((images(&a), images(&b)), (0, 0));
    until("reversed back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "reverse", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    for (at, pattern) in [("0 4M", 0x11), ("4M 4M", 0x33), ("8M 56M", 0x11)] {
        qemu_io(&a.place, &format!("read -P {pattern:#x} {at}")).unwrap().unwrap();
    }
}

/// Without an accident the image is gone before the copy counts as in sync, and the next resync
/// begins another one.
#[test]
fn an_image_goes_with_the_join() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    if qemu_io(&a.place, "write -P 0x11 0 64M").is_none_or(|done| done.is_err()) {
        return;
    }
    let mut b = b;
    for pattern in [0x22, 0x33] {
        b.daemon.kill();
        until("A goes on alone", LIMIT, || serves_alone(&a).then_some(()));
        qemu_io(&a.place, &format!("write -P {pattern:#x} 0 32M")).unwrap().unwrap();
        b = pair.b.start();
        a.until_in_sync();
        b.until_in_sync();
        assert_eq!(images(&b), 0);
        assert_eq!(b.group()["volumes"][0]["mixture"], false);
    }
}

/// Nothing of the older content can be kept: the resync is made all the same.
#[test]
fn a_copy_that_cannot_be_kept_is_brought_up_to_date_all_the_same() {
    let mut pair = Pair::new();
    let (a, b) = pair.in_sync();
    if qemu_io(&a.place, "write -P 0x11 0 16M").is_none_or(|done| done.is_err()) {
        return;
    }
    b.daemon.kill();
    until("A goes on alone", LIMIT, || serves_alone(&a).then_some(()));
    qemu_io(&a.place, "write -P 0x22 0 16M").unwrap().unwrap();
    pair.b.environment = vec![("TWINLUN_FAULT".into(), "images_fail:1".into())];
    let b = pair.b.start();
    a.until_in_sync();
    b.until_in_sync();
    let log = b.cli(&["showeventlog", "--json"]);
    assert!(log.contains("before its resync cannot be kept"), "{log}");
    assert_eq!((images(&b), &b.group()["volumes"][0]["mixture"]), (0, &false.into()));
}

/// Both arrays, in sync, with two volumes of 64 MiB in one group that hold `pattern`. `None`: no qemu-io.
fn two_volumes(pair: &Pair, pattern: u8) -> Option<(Array, Array)> {
    let (a, b) = (pair.a.start(), pair.b.start());
    let path = pair.directory.path().join("two.toml");
    let mut text = format!(
        "[[host]]\nname = \"h\"\niqns = [\"{INITIATOR}\"]\n\
         [[group]]\nname = \"g\"\ntarget = \"array-b\"\nvolumes = [\"v0\", \"v1\"]\n"
    );
    for n in 0..2 {
        text += &format!(
            "[[volume]]\nname = \"v{n}\"\nsize = \"64M\"\n\
             [[vlun]]\nvolume = \"v{n}\"\nhost = \"h\"\nlun = {}\n",
            n + 1
        );
    }
    std::fs::write(&path, text).unwrap();
    a.cli(&["apply", path.to_str().unwrap(), "--wait"]);
    b.until_in_sync();
    fill_both(&a.place, pattern)?;
    Some((a, b))
}

fn fill_both(place: &Place, pattern: u8) -> Option<()> {
    for lun in [1, 2] {
        qemu_io_on(place, lun, &format!("write -P {pattern:#x} 0 64M"))?.unwrap();
    }
    Some(())
}

/// The images beside B's volumes.
fn image_files(place: &Place) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(place.data_dir.join("volumes")).unwrap().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(".before.")).collect()
}

/// B dies, A writes `pattern` everywhere, and the resync of B stands still after so many regions of the 128.
fn in_the_middle(
    pair: &mut Pair,
    (a, b): (Array, Array),
    pattern: u8,
    regions: u64,
    while_down: impl FnOnce(),
) -> (Array, Array) {
    b.daemon.kill();
    until("A goes on alone", LIMIT, || serves_alone(&a).then_some(()));
    fill_both(&a.place, pattern);
    a.daemon.terminate();
    while_down();
    pair.a.environment = vec![("TWINLUN_FAULT".into(), format!("copy_stops:{regions}"))];
    (pair.a.start(), pair.b.start())
}

/// The data files of a place hold nothing but that.
fn hold(place: &Place, pattern: u8) -> bool {
    let volumes = std::fs::read_dir(place.data_dir.join("volumes")).unwrap().flatten();
    let volumes = volumes.filter(|entry| !entry.file_name().to_string_lossy().contains(".before."));
    let contents: Vec<_> = volumes.map(|entry| std::fs::read(entry.path()).unwrap()).collect();
    assert_eq!(contents.len(), 2);
    contents.iter().all(|content| content[..64 << 20].iter().all(|&byte| byte == pattern))
}

/// Images of a content that has ended are left beside two volumes (as a crash before their removal leaves
/// them), A is lost for good in the middle of the next resync, and B is told to serve what it has. True: both volumes
/// hold what they held when that began.
fn serves_one_content(mutation: Option<&str>) -> bool {
    let mut pair = Pair::new();
    let born = Instant::now();
    let Some(both) = two_volumes(&pair, 0x11) else { return mutation.is_none() };
    let (a, b) = in_the_middle(&mut pair, both, 0x22, 80, || ());
    until("both volumes are being brought up to date", LIMIT, || (images(&b) == 2).then_some(()));
    let left: Vec<_> =
        image_files(&b.place).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    a.daemon.terminate();
    pair.a.environment.clear();
    let a = pair.a.start();
    a.until_in_sync();
    b.until_in_sync();
    until("the images have gone", LIMIT, || (images(&b) == 0).then_some(()));
    pair.b.environment = mutation.map(|name| ("TWINLUN_MUTATION".into(), name.into())).into_iter().collect();
    // The same once more: one volume has an image of this cut, the other was not written to.
    let (a, b) = in_the_middle(&mut pair, (a, b), 0x22, 1, || {
        left.iter().for_each(|(content, path)| std::fs::write(path, content).unwrap());
    });
    until("the resync stands still", LIMIT, || {
        let volumes = b.group()["volumes"].as_array().cloned()?;
        volumes.iter().any(|volume| volume["kept"]["regions"] == 1).then_some(())
    });
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    a.daemon.kill();
    until("B has lost A", LIMIT, || (b.group()["serves"] == false).then_some(()));
    b.cli(&["setrcopygroup", "override", "-f", "g"]);
    until("B serves", OVERRIDE, || (b.group()["serves"] == true).then_some(()));
    b.daemon.terminate();
    hold(&pair.b, 0x22)
}

#[test]
fn an_image_that_is_left_behind_is_not_believed() {
    assert!(serves_one_content(None));
}

#[test]
fn with_any_image_believed_a_volume_goes_back_too_far() {
    if qemu_io(&Pair::new().a, "read 0 4k").is_some() {
        // On a busy machine the session may end before anything was copied.
        let noticed = (0..3).any(|_| !serves_one_content(Some("BeforeCutIgnored")));
        assert!(noticed, "nobody notices");
    }
}

/// One volume's image cannot be made: the other's is not put back either, and the operator is told.
#[test]
fn where_one_volume_is_a_mixture_none_is_put_back() {
    let mut pair = Pair::new();
    let born = Instant::now();
    let Some(both) = two_volumes(&pair, 0x11) else { return };
    pair.b.environment = vec![("TWINLUN_FAULT".into(), "images_fail:2".into())];
    let (a, b) = in_the_middle(&mut pair, both, 0x22, 80, || ());
    let mixture = |b: &Array| {
        let volumes = b.group()["volumes"].as_array().cloned()?;
        volumes.iter().all(|volume| volume["mixture"] == true).then_some(())
    };
    until("the group is a mixture", LIMIT, || mixture(&b));
    until("the other image has gone", LIMIT, || (images(&b) == 0).then_some(()));
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    a.daemon.kill();
    b.daemon.kill();
    pair.b.environment.clear();
    let b = pair.b.start();
    assert!(mixture(&b).is_some(), "known after a restart");
    until("B has lost A", LIMIT, || (b.group()["serves"] == false).then_some(()));
    let said = b.try_cli(&["setrcopygroup", "override", "-f", "g"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("a mixture of old and new"), "{said}");
    until("B serves", OVERRIDE, || (b.group()["serves"] == true).then_some(()));
    assert!(!b.cli(&["showeventlog", "--json"]).contains("holds again what it held"));
    b.daemon.terminate();
    assert!(!hold(&pair.b, 0x11) && !hold(&pair.b, 0x22));
}
