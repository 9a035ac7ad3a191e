//! Files of a `data_dir` that are torn, foreign or gone: the array names them and does not start,
//! and with the right ones back it is what it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::site::{LIMIT, Pair, read_back, until, write_and_read};

fn overwrite(path: &Path, offset: u64, byte: u8, count: usize) {
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&vec![byte; count], offset).unwrap();
}

fn length(path: &Path) -> usize {
    usize::try_from(fs::metadata(path).unwrap().len()).unwrap()
}

fn truncate(path: &Path, len: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// One bit of the content of every record: only a checksum notices.
fn rot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for slot in bytes.chunks_mut(4096).filter(|slot| slot.iter().any(|&byte| byte != 0)) {
        slot[48] ^= 1;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn damaged_files_are_named_and_left_alone() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    a.cli(&["createvv", "other", "64M"]);
    write_and_read(&a.place, &a.place, 0x66);
    a.daemon.terminate();
    let data = &pair.a.data_dir;
    type Damage = fn(&Path);
    let damages: [(&str, &str, Damage); 8] = [
        ("a foreign vote table", "votes", |path| fs::write(path, "not votes at all\n".repeat(999)).unwrap()),
        ("a flipped vote table", "votes", |path| {
            overwrite(path, 0, 0xff, length(path));
        }),
        ("a foreign object store", "objects", |path| fs::write(path, "hello, world\n".repeat(999)).unwrap()),
        ("a torn object store", "objects", |path| truncate(path, fs::metadata(path).unwrap().len() / 2)),
        ("a foreign identity", "IDENTITY", |path| overwrite(path, 0, 0xee, 8192)),
        ("a rotten vote table", "votes", rot),
        ("a rotten identity", "IDENTITY", rot),
        ("no identity", "IDENTITY", |path| fs::remove_file(path).unwrap()),
    ];
    let mut wrong = Vec::new();
    for (what, file, damage) in damages {
        let path = data.join(file);
        let kept = pair.directory.path().join("kept");
        fs::copy(&path, &kept).unwrap();
        damage(&path);
        let before = fs::read(&path).ok();
        let said = std::panic::catch_unwind(|| pair.a.start_refused());
        match said {
            Ok(said) if said.contains(file) => println!("{what}: {}", said.trim()),
            Ok(said) => wrong.push(format!("{what}: {file} is not named: {said}")),
            Err(_) => wrong.push(format!("{what}: the array starts or dies otherwise")),
        }
        if fs::read(&path).ok() != before {
            wrong.push(format!("{what}: the damaged file was changed"));
        }
        fs::copy(&kept, &path).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(b.group()["serves"], true);
    let a = pair.a.start();
    a.until_in_sync();
    b.until_in_sync();
    read_back(&b.place, 0x66);
}

/// The array says which volume is lost, takes no part in its group, and leaves alone what is not its own; with the
/// right file back the copy is what it was.
#[test]
fn a_damaged_data_file_is_named_and_left_alone() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    a.cli(&["createvv", "other", "64M"]);
    write_and_read(&a.place, &a.place, 0x66);
    a.daemon.terminate();
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    let path = pair.a.data_dir.join("volumes/v0");
    let kept = pair.directory.path().join("kept");
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("torn", |path| truncate(path, 2 << 20)),
        ("foreign", |path| fs::write(path, vec![0x5a; 1 << 20]).unwrap()),
        ("another volume's, renamed", |path| {
            fs::copy(path.with_file_name("other"), path).unwrap();
            overwrite(path, 0, 1, 4096);
        }),
        ("without its record", |path| overwrite(path, 64 << 20, 0x33, 8192)),
    ];
    let mut said = 0;
    for (what, damage) in damages {
        fs::copy(&path, &kept).unwrap();
        damage(&path);
        let before = fs::read(&path).unwrap();
        let mut a = pair.a.start();
        a.daemon.says("volumes/v0");
        let group = a.group();
        assert_eq!((&group["role"], &group["serves"]), (&"Absent".into(), &false.into()), "{what}: {group}");
        let refused = "volumes/v0 holds something else than this volume; move it away";
        if said == 0 {
            until("B says why it is not enrolled", LIMIT, || b.daemon.log().contains(refused).then_some(()));
            said = 1;
        } else {
            std::thread::sleep(std::time::Duration::from_secs(5));
        }
        assert!(fs::read(&path).unwrap() == before, "{what}: the file was changed");
        a.daemon.terminate();
        fs::copy(&kept, &path).unwrap();
    }
    let a = pair.a.start();
    a.until_in_sync();
    assert!(!a.daemon.log().contains("begins anew"), "{}", a.daemon.log());
    read_back(&b.place, 0x66);
}

/// Votes that are gone may have said anything: the array takes no part until the primary enrols it.
#[test]
fn a_lost_vote_table_counts_for_nothing() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    a.daemon.kill();
    b.daemon.kill();
    let votes = pair.a.data_dir.join("votes");
    fs::remove_file(&votes).unwrap();
    let mut a = pair.a.start();
    a.daemon.says("there is no vote of it in");
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(a.group()["serves"], false, "{}", a.group());
    // B is promoted once it may, and takes A in again.
    let b = pair.b.start();
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    a.until_in_sync();
}

/// Without a dirty map nobody knows which regions differ: the copy counts for nothing, and is made anew.
#[test]
fn a_foreign_dirty_map_costs_a_full_copy() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x77);
    a.daemon.terminate();
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    let map = fs::read_dir(pair.a.data_dir.join("maps")).unwrap().next().unwrap().unwrap().path();
    overwrite(&map, 0, 0x77, length(&map));
    let mut a = pair.a.start();
    a.daemon.says("the dirty map has no valid header");
    a.until_in_sync();
    until("the roles change", LIMIT, || {
        b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x77);
}
