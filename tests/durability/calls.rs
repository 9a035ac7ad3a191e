//! What a daemon did, as seen from outside: its system calls by `strace`, and what its ring engine
//! submitted and got completed by that engine's own trace (`sys::trace`). Both tell the time by the
//! machine's clock.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::site::{Place, until};

/// Seconds of the machine's clock.
pub type Seconds = f64;

/// A change of the data file: a write or a punched hole.
#[derive(Clone, Debug)]
pub struct Change {
    pub bytes: Range<u64>,
    pub over: Seconds,
    /// By itself (O_DSYNC, RWF_DSYNC).
    pub stable: bool,
    /// First bytes of a write, where the observer saw them.
    pub data: Option<Vec<u8>>,
}

/// A flush of the data file that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    pub begun: Seconds,
    pub over: Seconds,
}

#[derive(Debug, Default)]
pub struct Observed {
    pub changes: Vec<Change>,
    pub flushes: Vec<Flush>,
    /// When the SCSI Response with status GOOD began to leave, by task tag.
    pub answers: BTreeMap<u32, Seconds>,
}

/// Bytes that strace shows of each buffer: a physical block.
const SHOWN: &str = "4096";

/// Lets the array run under strace; false: there is none.
pub fn watch(place: &mut Place, calls: &str) -> bool {
    let works = std::process::Command::new("strace").args(["-D", "-f", "true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("skipped: no strace here, or it may not trace (apt-get install strace)");
        return false;
    }
    let log = prefix(place);
    // -D: the array is the child that is killed; strace goes with it. -ff: a file for each thread.
    let words =
        ["strace", "-D", "-f", "-ff", "--seccomp-bpf", "-qq", "-ttt", "-T", "-yy", "-xx", "-s", SHOWN];
    let calls = format!("trace={calls}");
    place.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
    place.wrapper.extend(["-e".to_owned(), calls, "-o".to_owned(), log.display().to_string()]);
    true
}

fn prefix(place: &Place) -> PathBuf {
    place.directory.join(format!("{}.strace", place.name))
}

fn logs(place: &Place) -> Vec<PathBuf> {
    let name = format!("{}.strace.", place.name);
    let of_it = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&name));
    fs::read_dir(&place.directory).unwrap().map(|entry| entry.unwrap().path()).filter(of_it).collect()
}

/// What strace saw of an array that was killed, on its file `data`.
pub fn seen(place: &Place, data: &Path) -> Observed {
    until("strace has written everything", crate::site::LIMIT, || {
        let all = logs(place);
        let ended = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("+++ ");
        (!all.is_empty() && all.iter().all(ended)).then_some(())
    });
    // -xx shows the bytes of paths as well as those of buffers.
    let hex: String = data.as_os_str().as_encoded_bytes().iter().map(|b| format!("\\x{b:02x}")).collect();
    let file = format!("<{hex}>");
    let portal = format!("<TCP:[127.0.0.1:{}->", place.portal);
    let mut observed = Observed::default();
    for log in logs(place) {
        for line in fs::read_to_string(log).unwrap().lines() {
            let Some(call) = Call::parse(line) else { continue };
            if call.first_argument().contains(&file) {
                call.on_file(&mut observed);
            } else if call.first_argument().contains(&portal) {
                call.on_socket(&mut observed);
            }
        }
    }
    observed
}

/// One line of strace: `TIME NAME(ARGUMENTS) = RESULT <DURATION>`.
#[derive(Debug)]
struct Call<'a> {
    begun: Seconds,
    over: Seconds,
    name: &'a str,
    arguments: &'a str,
    result: i64,
}

impl<'a> Call<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (time, rest) = line.split_once(' ')?;
        let begun: Seconds = time.parse().ok()?;
        let (name, rest) = rest.split_once('(')?;
        let (arguments, tail) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(")  = "))?;
        let (result, duration) = tail.rsplit_once(" <")?;
        let duration: Seconds = duration.strip_suffix('>')?.parse().ok()?;
        let result = result.split_whitespace().next()?.parse().ok()?;
        Some(Self { begun, over: begun + duration, name, arguments: arguments.trim_end(), result })
    }

    fn first_argument(&self) -> &str {
        self.arguments.split(", ").next().unwrap_or_default()
    }

    /// The last numbers among the arguments, flags and the like left out.
    fn numbers(&self) -> Vec<u64> {
        self.arguments.split(", ").filter_map(|word| word.parse().ok()).collect()
    }

    /// All strings among the arguments, one after the other (`-xx`: each byte as `\xHH`).
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = &self.arguments[self.first_argument().len()..];
        while let Some(at) = rest.find("\\x") {
            if let Some(byte) = rest.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                bytes.push(byte);
            }
            rest = &rest[at + 2..];
        }
        bytes
    }

    fn on_file(&self, observed: &mut Observed) {
        let (begun, over) = (self.begun, self.over);
        let numbers = self.numbers();
        let change =
            |start: u64, len: u64, stable, data| Change { bytes: start..start + len, over, stable, data };
        match (self.name, &numbers[..]) {
            // pwrite64(FILE, "...", LEN, OFFSET); pwritev2(FILE, [{...}], COUNT, OFFSET, FLAGS)
            ("pwrite64" | "pwritev" | "pwritev2", [.., offset]) if self.result > 0 => {
                let stable = self.arguments.contains("RWF_DSYNC");
                let len = self.result.unsigned_abs();
                observed.changes.push(change(*offset, len, stable, Some(self.bytes())));
            }
            ("fallocate", [offset, len]) if self.result == 0 => {
                observed.changes.push(change(*offset, *len, false, None));
            }
            ("fdatasync" | "fsync", _) if self.result == 0 => observed.flushes.push(Flush { begun, over }),
            _ => {}
        }
    }

    fn on_socket(&self, observed: &mut Observed) {
        let bytes = self.bytes();
        let mut rest = &bytes[..];
        while let [opcode, _, _, status, extra, high, middle, low, ..] = *rest {
            if rest.len() < 48 {
                return;
            }
            if opcode & 0x3f == crate::initiator::OP_SCSI_RESPONSE && status == 0 {
                let tag = u32::from_be_bytes([rest[16], rest[17], rest[18], rest[19]]);
                observed.answers.entry(tag).or_insert(self.begun);
            }
            let data = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            let len = 48 + usize::from(extra) * 4 + data.next_multiple_of(4);
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// Where the array's engine writes its own trace.
pub fn trace_path(place: &Place) -> PathBuf {
    place.directory.join(format!("{}.trace", place.name))
}

/// Lets the array's engine write its own trace.
pub fn trace(place: &mut Place) {
    let path = trace_path(place).display().to_string();
    place.environment.push(("TWINLUN_IO_TRACE".to_owned(), path));
}

/// What the engine of an array that was killed submitted for its file `data`, and got completed.
pub fn submitted(place: &Place, data: &Path) -> Observed {
    let metadata = fs::metadata(data).unwrap();
    let file = format!("{}:{}", metadata.dev(), metadata.ino());
    let mut observed = Observed::default();
    // By number of the operation: its kind, its range, and when it was submitted.
    let mut open = BTreeMap::new();
    for line in fs::read_to_string(trace_path(place)).unwrap().lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            [at, "submitted", op, kind, of, offset, len] if of == file => {
                let (offset, len): (u64, u64) = (offset.parse().unwrap(), len.parse().unwrap());
                let begun: Seconds = at.parse().unwrap();
                open.insert(op.to_owned(), (kind.to_owned(), offset..offset + len, begun));
            }
            [at, "completed", op, "ok"] => {
                let Some((kind, bytes, begun)) = open.remove(op) else { continue };
                let over = at.parse().unwrap();
                let change = |stable| Change { bytes, over, stable, data: None };
                match kind.as_str() {
                    "StableWrite" => observed.changes.push(change(true)),
                    "Write" | "Punch" => observed.changes.push(change(false)),
                    "Flush" => observed.flushes.push(Flush { begun, over }),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    observed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_strace_are_understood() {
        let lines = [
            "1700000000.000100 pwritev2(9</d/v0>, [{iov_base=\"\\x01\\x02\"..., iov_len=4096}], 1, 8192, RWF_DSYNC) = 4096 <0.000050>",
            "1700000000.000200 pwrite64(9</d/v0>, \"\\x03\"..., 512, 512) = 512 <0.000010>",
            "1700000000.000300 fallocate(9</d/v0>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 65536, 4096) = 0 <0.1>",
            "1700000000.000400 fdatasync(9</d/v0>) = 0 <0.000300>",
            "1700000000.000500 fdatasync(9</d/v0>) = -1 EIO (Input/output error) <0.000300>",
        ];
        let mut observed = Observed::default();
        for line in lines {
            Call::parse(line).unwrap().on_file(&mut observed);
        }
        let [stable, plain, hole] = &observed.changes[..] else { panic!("{observed:?}") };
        assert!(stable.stable && stable.bytes == (8192..12288) && stable.data == Some(vec![1, 2]));
        assert!(!plain.stable && plain.bytes == (512..1024) && plain.data == Some(vec![3]));
        assert!(!hole.stable && hole.bytes == (65536..69632) && hole.over > 1_700_000_000.1);
        assert_eq!(observed.flushes.len(), 1);
    }

    #[test]
    fn responses_are_found_behind_one_another() {
        let mut pdu = [0_u8; 48];
        pdu[0] = 0x21;
        pdu[19] = 7;
        let mut other = pdu;
        other[3] = 2;
        other[7] = 3;
        other[19] = 8;
        let all = [&other[..], &[0; 4], &pdu].concat();
        let hex: String = all.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let line =
            format!("5.5 sendto(3<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"{hex}\", 100, 0, NULL, 0) = 100 <0.1>");
        let mut observed = Observed::default();
        Call::parse(&line).unwrap().on_socket(&mut observed);
        assert_eq!(observed.answers, BTreeMap::from([(7, 5.5)]));
    }
}
