//! File systems of their own for tests: on a loop device, mounted for one test alone, which runs again in a mount
//! namespace. On XFS the power can go: nothing that was not flushed reaches the disk then.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const AT: &str = "TWINLUN_TEST_MOUNTED_AT";
const IMAGE: &str = "TWINLUN_TEST_IMAGE";
/// What XFS asks for at least.
const SIZE: u64 = 320 << 20;

/// Runs a command; false: it is not there or failed.
pub fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// Where the file system is mounted; `None`: in the outer process, which has run `test` (its whole name) once for
/// each of `kinds`, or said why not.
pub fn mounted(test: &str, kinds: &[&str]) -> Option<PathBuf> {
    if let Some(at) = std::env::var_os(AT) {
        return Some(at.into());
    }
    for kind in kinds {
        let directory = tempfile::tempdir().unwrap();
        let (image, at) = (directory.path().join("image"), directory.path().join("at"));
        fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(SIZE).unwrap();
        let words = [image.to_str().unwrap(), at.to_str().unwrap()];
        let tried = "mount -o loop \"$1\" \"$2\" && umount \"$2\"";
        if !runs(&format!("mkfs.{kind}"), &["-q", words[0]])
            || !runs("unshare", &["-m", "sh", "-c", tried, "sh", words[0], words[1]])
        {
            println!("skipped: no {kind} on loop devices here (root, xfsprogs, btrfs-progs)");
            continue;
        }
        let script = "mount -o loop \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", words[0], words[1]]);
        command.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]);
        let output = command.env(AT, &at).env(IMAGE, &image).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let well = output.status.success() && said.contains("1 passed");
        assert!(well, "on {kind}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
    None
}

/// The power goes for the XFS at `at`, and comes back. No file of it is open.
pub fn power_failure(at: &Path) {
    let text = at.to_str().unwrap();
    assert!(runs("xfs_io", &["-x", "-c", "shutdown", text]), "xfs_io shutdown");
    assert!(runs("umount", &[text]), "umount");
    assert!(runs("mount", &["-o", "loop", &std::env::var(IMAGE).unwrap(), text]), "mount");
}
