//! Files of a `data_dir` that are torn, foreign or gone: the array names them and does not start,
//! and with the right ones back it is what it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::site::{Pair, read_back, write_and_read};

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
    let map = fs::read_dir(data.join("maps")).unwrap().next().unwrap().unwrap().path();
    let map = map.strip_prefix(data).unwrap().to_str().unwrap().to_owned();
    type Damage = fn(&Path);
    let damages: [(&str, &str, Damage); 15] = [
        ("a torn data file", "volumes/v0", |path| truncate(path, 1 << 20)),
        ("an empty data file", "volumes/v0", |path| truncate(path, 0)),
        ("a foreign data file", "volumes/v0", |path| {
            fs::write(path, vec![0x5a; 1 << 20]).unwrap();
        }),
        ("another volume's data file", "volumes/v0", |path| {
            fs::copy(path.with_file_name("other"), path).unwrap();
        }),
        ("no data file", "volumes/v0", |path| fs::remove_file(path).unwrap()),
        ("a torn vote table", "votes", |path| truncate(path, 100)),
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
        ("a foreign dirty map", "", |path| {
            overwrite(path, 0, 0x77, length(path));
        }),
    ];
    let mut wrong = Vec::new();
    for (what, file, damage) in damages {
        let file = if file.is_empty() { map.as_str() } else { file };
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

#[test]
fn a_lost_vote_table_is_not_made_anew() {
    let pair = Pair::new();
    let (a, _b) = pair.in_sync();
    a.daemon.terminate();
    let votes = pair.a.data_dir.join("votes");
    fs::remove_file(&votes).unwrap();
    let said = pair.a.start_refused();
    assert!(said.contains("votes: group g has no vote on record"), "{said}");
}
