//! The event log on disk: one line for each event in `data_dir`, two files of bounded size, written
//! by a thread of its own. It is read by people only: a line that was torn by a crash is left out,
//! and a disk that hangs or is full costs lines, never the array.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The present file is put aside at this size: two of them hold months of a quiet pair.
const FILE_MAX: u64 = 4 << 20;
/// Lines that wait for the disk; beyond it they are left out.
const WAITING_MAX: usize = 1024;

/// Appends lines; ends with its last clone, after what waits is written.
#[derive(Clone, Debug)]
pub struct EventFile {
    lines: SyncSender<String>,
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("1")
}

impl EventFile {
    /// The file, and the lines that are there already, oldest first.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or read.
    pub fn open(path: &Path) -> io::Result<(Self, Vec<String>)> {
        let mut lines = Vec::new();
        for file in [&aside(path), path] {
            match fs::read(file) {
                Ok(bytes) => lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        let mut len = file.metadata()?.len();
        if len > 0 {
            // Whatever a crash has left of the last line ends here.
            file.write_all(b"\n")?;
            len += 1;
        }
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let writer = Writer { path: path.to_owned(), file, len };
        std::thread::Builder::new().name("events".into()).spawn(move || writer.run(&receiver))?;
        Ok((Self { lines: sender }, lines))
    }

    /// Appends a line, which must not hold a line end. False: too many wait already.
    pub fn append(&self, line: String) -> bool {
        self.lines.try_send(line).is_ok()
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Writer {
    fn run(mut self, lines: &Receiver<String>) {
        let mut said = false;
        while let Ok(line) = lines.recv() {
            match self.write(&line) {
                Ok(()) => said = false,
                // Once for each time that it goes wrong: the same words go to the other log anyway.
                Err(error) if !said => {
                    said = true;
                    tracing::warn!(path = %self.path.display(), %error, "the event log cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.len >= FILE_MAX {
            fs::rename(&self.path, aside(&self.path))?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.len = 0;
        }
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes())?;
        self.len += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(path: &Path, text: &str) {
        for _ in 0..2000 {
            if fs::read_to_string(path).unwrap().contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{text} is not written");
    }

    #[test]
    fn what_was_appended_is_there_again_and_a_torn_line_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let (file, before) = EventFile::open(&path).unwrap();
        assert!(before.is_empty());
        assert!(file.append("one".into()) && file.append("two".into()));
        until(&path, "two\n");
        drop(file);
        File::options().append(true).open(&path).unwrap().write_all(b"tor").unwrap();
        let (file, before) = EventFile::open(&path).unwrap();
        assert_eq!(before, ["one", "two", "tor"]);
        assert!(file.append("three".into()));
        until(&path, "three\n");
        assert!(fs::read_to_string(&path).unwrap().ends_with("tor\nthree\n"));
    }

    #[test]
    fn two_files_of_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        let file = File::create(&path).unwrap();
        let mut writer = Writer { path: path.clone(), file, len: 0 };
        let line = "x".repeat(1 << 20);
        for _ in 0..20 {
            writer.write(&line).unwrap();
        }
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(len(&path) <= FILE_MAX + (1 << 20) + 1 && len(&aside(&path)) <= FILE_MAX + (1 << 20) + 1);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
