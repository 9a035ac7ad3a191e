//! The two clients of the benchmark, neither of them ours: `iscsi-perf` of libiscsi (reads) and
//! `qemu-img bench` (reads and writes). Each connection is a process of its own.

use std::io;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A LUN to be measured.
#[derive(Clone, Debug)]
pub struct Target {
    pub portal: String,
    pub iqn: String,
    pub lun: u8,
    pub initiator: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    IscsiPerf,
    QemuImg,
}

#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub client: Client,
    pub write: bool,
    pub bytes: u64,
    pub depth: u64,
    pub random: bool,
}

pub const JOBS: [Job; 9] = [
    Job { client: Client::IscsiPerf, write: false, bytes: 4096, depth: 1, random: true },
    Job { client: Client::IscsiPerf, write: false, bytes: 4096, depth: 32, random: true },
    Job { client: Client::IscsiPerf, write: false, bytes: 131_072, depth: 8, random: false },
    Job { client: Client::QemuImg, write: false, bytes: 4096, depth: 1, random: true },
    Job { client: Client::QemuImg, write: true, bytes: 4096, depth: 1, random: true },
    Job { client: Client::QemuImg, write: false, bytes: 4096, depth: 32, random: true },
    Job { client: Client::QemuImg, write: true, bytes: 4096, depth: 32, random: true },
    Job { client: Client::QemuImg, write: false, bytes: 131_072, depth: 8, random: false },
    Job { client: Client::QemuImg, write: true, bytes: 131_072, depth: 8, random: false },
];

/// Requests of the run that finds out how many fit into the time asked for.
const TRIAL_REQUESTS: u64 = 400;
/// A stride that touches other blocks each time and is prime to the size of the volume.
const STRIDE_BLOCKS: u64 = 257;

impl Job {
    pub fn name(self) -> String {
        let client = match self.client {
            Client::IscsiPerf => "iscsi-perf",
            Client::QemuImg => "qemu-img",
        };
        let kind = if self.write { "write" } else { "read" };
        format!("{client} {}K {kind} depth {}", self.bytes / 1024, self.depth)
    }

    /// Requests a second over all `connections`, measured for about `time`.
    pub fn measure(self, target: &Target, connections: usize, time: Duration) -> io::Result<f64> {
        match self.client {
            Client::IscsiPerf => {
                let seconds = time.as_secs().max(1).to_string();
                let outputs = side_by_side(connections, || self.iscsi_perf(target, &seconds))?;
                outputs.iter().map(|output| average(&String::from_utf8_lossy(&output.stdout))).sum()
            }
            Client::QemuImg => {
                let trial = self.timed(target, connections, TRIAL_REQUESTS)?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a positive count of requests"
                )]
                let count = (trial * time.as_secs_f64() / connections as f64) as u64;
                self.timed(target, connections, count.max(TRIAL_REQUESTS))
            }
        }
    }

    fn timed(self, target: &Target, connections: usize, count: u64) -> io::Result<f64> {
        let begin = Instant::now();
        let outputs = side_by_side(connections, || self.qemu_img(target, count))?;
        // The program's own figure leaves out its start and the login.
        let mut longest = 0.0f64;
        for output in outputs {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let seconds = said
                .split("completed in ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .and_then(|number| number.parse::<f64>().ok());
            longest = longest
                .max(seconds.ok_or_else(|| io::Error::other(format!("qemu-img bench said {said:?}")))?);
        }
        let longest = if longest > 0.0 { longest } else { begin.elapsed().as_secs_f64() };
        Ok(count as f64 * connections as f64 / longest)
    }

    fn iscsi_perf(self, target: &Target, seconds: &str) -> Command {
        let mut command = Command::new("iscsi-perf");
        command.args([
            "-i",
            &target.initiator,
            "-t",
            seconds,
            "-m",
            &self.depth.to_string(),
            "-b",
            &(self.bytes / 512).to_string(),
        ]);
        if self.random {
            command.arg("-r");
        }
        command.arg(format!("iscsi://{}/{}/{}", target.portal, target.iqn, target.lun));
        command
    }

    fn qemu_img(self, target: &Target, count: u64) -> Command {
        let mut command = Command::new("qemu-img");
        let step = if self.random { STRIDE_BLOCKS * self.bytes } else { self.bytes };
        command.args(["bench", "-t", "none", "-c", &count.to_string(), "-d", &self.depth.to_string()]);
        command.args(["-s", &self.bytes.to_string(), "-S", &step.to_string()]);
        if self.write {
            command.args(["-w", "--pattern=90"]);
        }
        command.arg(url(target));
        command
    }
}

/// With the initiator's name in it, which a plain iscsi:// address has no place for.
fn url(target: &Target) -> String {
    format!(
        "json:{{\"driver\":\"raw\",\"file\":{{\"driver\":\"iscsi\",\"transport\":\"tcp\",\"portal\":\"{}\",\"target\":\"{}\",\"lun\":{},\"initiator-name\":\"{}\"}}}}",
        target.portal, target.iqn, target.lun, target.initiator
    )
}

/// Writes the whole volume once: reads of holes would measure nothing.
pub fn fill(target: &Target, bytes: u64) -> io::Result<()> {
    let count = bytes >> 17;
    let mut command = Command::new("qemu-img");
    command.args([
        "bench",
        "-q",
        "-w",
        "--pattern=165",
        "-t",
        "none",
        "-d",
        "8",
        "-s",
        "131072",
        "-c",
        &count.to_string(),
        &url(target),
    ]);
    side_by_side(1, || {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        again
    })
    .map(|_| ())
}

fn side_by_side(connections: usize, make: impl Fn() -> Command) -> io::Result<Vec<Output>> {
    let mut children = Vec::new();
    for _ in 0..connections {
        children.push(make().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    }
    let mut outputs = Vec::new();
    for child in children {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(io::Error::other(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&said).trim()
            )));
        }
        outputs.push(output);
    }
    Ok(outputs)
}

/// The last average that iscsi-perf printed.
fn average(said: &str) -> io::Result<f64> {
    said.rsplit("iops average ")
        .next()
        .and_then(|rest| rest.split(' ').next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| io::Error::other(format!("iscsi-perf said {said:?}")))
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_average_counts() {
        let said =
            "lba 1, iops current 5 (1 MB/s), iops average 7 (1 MB/s)\riops average 21555 (84 MB/s)   \n";
        assert!((average(said).expect("a figure") - 21555.0).abs() < 0.5);
        assert!(average("could not connect").is_err());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
