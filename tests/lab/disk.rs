//! A disk of its own under the volumes of an array: ext4 in an image, which can be frozen (`fsfreeze`: every
//! write waits in the kernel), filled up, and put away again.

use crate::network::run;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const SIZE: u64 = 4 << 30;

/// Mounted at the array's `volumes` until dropped or put away.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
    frozen: bool,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What `from` holds, holes kept.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    run("cp", &["-a", "--sparse=always", &format!("{}/.", text(from)), &text(to)]).map(|_| ())
}

impl Disk {
    /// Moves the files at `at` to a file system of their own, mounted there. Nobody may use them meanwhile.
    pub fn insert(at: &Path, image: &Path) -> io::Result<Self> {
        File::create(image)?.set_len(SIZE)?;
        run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &text(image)])?;
        let aside = image.with_extension("files");
        fs::rename(at, &aside)?;
        fs::create_dir(at)?;
        run("mount", &["-o", "loop", &text(image), &text(at)])?;
        let disk = Self { image: image.to_owned(), at: at.to_owned(), frozen: false };
        fs::remove_dir(at.join("lost+found"))?;
        copy(&aside, at)?;
        fs::remove_dir_all(aside)?;
        Ok(disk)
    }

    pub fn freeze(&mut self) -> io::Result<()> {
        run("fsfreeze", &["-f", &text(&self.at)])?;
        self.frozen = true;
        Ok(())
    }

    pub fn thaw(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.frozen) {
            run("fsfreeze", &["-u", &text(&self.at)])?;
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.at.join(".ballast")
    }

    /// Takes whatever is free, but for the first 256 MiB of each file, which get their blocks before.
    pub fn fill(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.at)? {
            run("fallocate", &["-n", "-l", "256M", &text(&entry?.path())])?;
        }
        let free = run("df", &["--output=avail", "-B4096", &text(&self.at)])?;
        let blocks: u64 = free.split_whitespace().last().and_then(|n| n.parse().ok()).unwrap_or(0);
        // In steps: near the end a large request is refused whole.
        let mut length = 0;
        let mut step = blocks;
        while step > 0 {
            let (at, bytes) = ((length * 4096).to_string(), (step * 4096).to_string());
            if run("fallocate", &["-o", &at, "-l", &bytes, &text(&self.ballast())]).is_ok() {
                length += step;
            } else {
                step /= 2;
            }
        }
        if length == 0 { Err(io::Error::other("the disk cannot be filled")) } else { Ok(()) }
    }

    pub fn relieve(&mut self) -> io::Result<()> {
        match fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts the files back where they were. Nobody may use them meanwhile.
    pub fn remove(mut self) -> io::Result<()> {
        self.thaw()?;
        self.relieve()?;
        let aside = self.image.with_extension("files");
        fs::create_dir(&aside)?;
        copy(&self.at, &aside)?;
        run("umount", &[&text(&self.at)])?;
        fs::remove_dir(&self.at)?;
        fs::rename(aside, &self.at)
        // `drop` finds nothing mounted.
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A frozen file system would stay behind for ever; what is not mounted needs no unmounting.
        let _ = self.thaw();
        let _ = run("umount", &["-l", &text(&self.at)]);
        let _ = fs::remove_file(&self.image);
    }
}
