//! A file system on a disk with physical and logical blocks of 4 KiB (a loop device), mounted for one daemon alone in
//! a mount namespace of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::site::Place;

/// Room for a file system with a journal and for what the tests write.
const SIZE: u64 = 400 << 20;

#[derive(Debug)]
pub struct Disk {
    kind: &'static str,
    device: PathBuf,
    _file: NamedTempFile,
}

/// Runs a command; false: it is not there or failed.
fn runs(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl Disk {
    /// `kind`: ext4, xfs or btrfs. `None`, with a note: not to be had here.
    pub fn new(kind: &'static str) -> Option<Self> {
        let skipped = |what: &str| {
            println!("skipped: no {kind} on a disk with blocks of 4 KiB: {what}");
            None
        };
        if !runs("unshare", &["-m", "true"]) {
            return skipped("no mount namespaces (root is needed)");
        }
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(file.path())
            .output();
        let Some(made) = made.ok().filter(|made| made.status.success()) else {
            return skipped("no loop devices");
        };
        let device = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
        let disk = Self { kind, device, _file: file };
        if !runs(&format!("mkfs.{kind}"), &["-q", disk.device.to_str().unwrap()]) {
            return skipped("its mkfs failed (apt-get install e2fsprogs xfsprogs btrfs-progs)");
        }
        Some(disk)
    }

    /// The array has its `data_dir` on this disk.
    pub fn under(&self, place: &mut Place) {
        fs::create_dir(&place.data_dir).unwrap();
        let script = "mount -t \"$1\" \"$2\" \"$3\" && shift 3 && exec \"$@\"";
        let words = ["unshare", "-m", "sh", "-c", script, "sh", self.kind];
        place.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        place.wrapper.extend([self.device.display().to_string(), place.data_dir.display().to_string()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        runs("losetup", &["--detach", self.device.to_str().unwrap_or_default()]);
    }
}
