//! The host's side of a run: logs the guest in to both arrays, makes a file system, and orders the
//! two writers (raw device, file on ext4) about as one.

use crate::guest::Guest;
use crate::judge::{Judge, Verdict};
use crate::network::{Node, Plane};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Span of each writer; the judge wants 64 MiB.
const SPAN_MIB: u64 = 64;
/// Writes in flight on the raw device, and on the file beside it.
const RAW_WRITERS: u64 = 16;
const FILE_WRITERS: u64 = 4;
const READERS: u64 = 2;
/// Rest of a thread between commands: the guest's emulated processors are shared with the arrays.
const PAUSE_US: u64 = 4_000;
const MOUNT: &str = "/mnt/lab";
const ORDER_LIMIT: Duration = Duration::from_secs(30);
/// A scan reads 64 MiB through an emulated machine.
const SCAN_LIMIT: Duration = Duration::from_secs(180);
/// Longer than multipath queues without any path.
const PAUSE_LIMIT_S: u64 = 75;

#[derive(Debug)]
pub struct Load {
    raw: String,
    file_device: String,
    names: Vec<&'static str>,
    token: u64,
}

/// Figures of a phase, both writers together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    pub gap_ms: u64,
    pub writes: u64,
    pub reads: u64,
    pub io_errors: u64,
    pub stale: u64,
}

/// LUN numbers of the volumes in the group.
pub const RAW_LUN: u8 = 1;
pub const FILE_LUN: u8 = 2;

impl Load {
    /// Logs in, waits for both maps with both paths, makes the file system, opens the writers.
    pub fn start(guest: &mut Guest, run: u64, log: SocketAddr, pause_us: Option<u64>) -> io::Result<Self> {
        for node in [Node::A, Node::B] {
            let portal = node.ip(Plane::Host);
            guest.sh(&format!("iscsiadm -m discovery -t st -p {portal}"), ORDER_LIMIT)?;
        }
        guest.sh("iscsiadm -m node -l || true; udevadm settle -t 20 || true", ORDER_LIMIT * 3)?;
        let raw = device(guest, RAW_LUN)?;
        let file_device = device(guest, FILE_LUN)?;
        guest.sh(
            &format!(
                "mkfs.ext4 -q -F -E nodiscard {file_device} 200M && mkdir -p {MOUNT} && mount {file_device} {MOUNT} \
                 && dd if=/dev/zero of={MOUNT}/span bs=1M count={SPAN_MIB} oflag=direct 2>&1 && sync"
            ),
            Duration::from_secs(240),
        )?;
        let mut load = Self { raw, file_device, names: Vec::new(), token: 1 };
        let file = format!("{MOUNT}/span");
        let pause_us = pause_us.unwrap_or(PAUSE_US);
        for (name, path, stream, writers) in
            [("raw", load.raw.clone(), 1, RAW_WRITERS), ("file", file, 2, FILE_WRITERS)]
        {
            guest.ask(
                json!({ "op": "open", "name": name, "path": path, "stream": stream, "run": run, "span_mib": SPAN_MIB,
                    "writers": writers, "readers": READERS, "pause_us": pause_us, "log": log.to_string() }),
                ORDER_LIMIT,
            )?;
            load.names.push(name);
        }
        Ok(load)
    }

    pub fn raw_device(&self) -> &str {
        &self.raw
    }

    pub fn run(&self, guest: &mut Guest) -> io::Result<()> {
        for name in &self.names {
            guest.ask(json!({ "op": "run", "name": name }), ORDER_LIMIT)?;
        }
        Ok(())
    }

    pub fn pause(&self, guest: &mut Guest) -> io::Result<()> {
        for name in &self.names {
            let limit = Duration::from_secs(PAUSE_LIMIT_S + 15);
            let answer =
                guest.ask(json!({ "op": "pause", "name": name, "limit_s": PAUSE_LIMIT_S }), limit)?;
            if answer["paused"] != true {
                return Err(io::Error::other(format!("commands of the {name} writer do not come back")));
            }
        }
        Ok(())
    }

    /// Only the raw device goes on.
    pub fn pause_file(&self, guest: &mut Guest) -> io::Result<()> {
        let limit = Duration::from_secs(PAUSE_LIMIT_S + 15);
        guest.ask(json!({ "op": "pause", "name": "file", "limit_s": PAUSE_LIMIT_S }), limit).map(|_| ())
    }

    /// Ends the phase of both writers: the longer gap, the sum of the rest.
    pub fn phase(&self, guest: &mut Guest) -> io::Result<Phase> {
        let mut all = Phase::default();
        for name in &self.names {
            let answer = guest.ask(json!({ "op": "phase", "name": name }), ORDER_LIMIT)?;
            let figure = |key: &str| answer[key].as_u64().unwrap_or(0);
            all.gap_ms = all.gap_ms.max(figure("gap_ms"));
            all.writes += figure("writes");
            all.reads += figure("reads");
            all.io_errors += figure("io_errors");
            all.stale += figure("stale");
        }
        Ok(all)
    }

    /// Reads both spans back, while paused, and lets the judge say what is missing.
    pub fn scan(&mut self, guest: &mut Guest, judge: &Judge) -> io::Result<Verdict> {
        let mut all = Verdict::default();
        for name in &self.names {
            self.token += 1;
            guest.ask(json!({ "op": "scan", "name": name, "token": self.token }), SCAN_LIMIT)?;
            let one = judge
                .verdict(self.token, ORDER_LIMIT)
                .ok_or_else(|| io::Error::other("the scan did not reach the judge"))?;
            all.checked += one.checked;
            all.lost += one.lost;
            all.foreign += one.foreign;
            all.examples.extend(one.examples);
        }
        Ok(all)
    }

    /// Ends the writers and takes the guest off the LUNs; a file system that is damaged is an error.
    pub fn stop(mut self, guest: &mut Guest) -> io::Result<()> {
        for name in std::mem::take(&mut self.names) {
            guest.ask(json!({ "op": "close", "name": name }), ORDER_LIMIT * 3)?;
        }
        guest.sh(&format!("umount {MOUNT}"), ORDER_LIMIT * 2)?;
        guest.sh(&format!("e2fsck -fn {}", self.file_device), ORDER_LIMIT * 2)?;
        forget(guest)
    }

    /// Waits until both maps show two paths that the checker finds usable.
    pub fn wait_paths(&self, guest: &mut Guest, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let paths = guest.sh("multipathd show paths format '%m %d %t %o %T' || true", ORDER_LIMIT)?;
            let whole = [&self.raw, &self.file_device].iter().all(|device| {
                let map = device.rsplit('/').next().unwrap_or_default();
                paths
                    .lines()
                    .filter(|line| {
                        line.starts_with(map) && line.contains("active") && !line.contains("faulty")
                    })
                    .count()
                    >= 2
            });
            if whole {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the guest does not get both paths back:\n{paths}")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// Logs out and drops every map, so that other arrays can take the place of these.
pub fn forget(guest: &mut Guest) -> io::Result<()> {
    guest.sh(
        "multipathd disablequeueing maps; umount -l /mnt/lab 2>/dev/null; multipath -F; iscsiadm -m node -u; iscsiadm -m node -o delete; \
         for i in 1 2 3; do multipath -F; [ -z \"$(dmsetup ls --target multipath | grep -v 'No devices')\" ] && break; sleep 1; done; true",
        ORDER_LIMIT * 3,
    )?;
    Ok(())
}

/// The multipath map over both paths to a LUN.
fn device(guest: &mut Guest, lun: u8) -> io::Result<String> {
    let script = format!(
        "for i in $(seq 60); do for d in $(ls /dev/disk/by-path/ | grep -E 'lun-{lun}$'); do \
           id=$(/lib/udev/scsi_id -g -u -d /dev/disk/by-path/$d); \
           [ \"$(multipath -l $id 2>/dev/null | grep -cE ' sd[a-z]+ ')\" -ge 2 ] && [ -b /dev/mapper/$id ] && echo /dev/mapper/$id && exit 0; \
         done; sleep 0.5; done; multipath -ll; iscsiadm -m session; ls /dev/disk/by-path; exit 1"
    );
    Ok(guest.sh(&script, Duration::from_secs(90))?.trim().to_owned())
}

/// What the outside client is to be told, and what it said.
pub fn figure(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}
