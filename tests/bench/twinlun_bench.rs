//! One array against Debian's `tgt`, and the mirrored pair against one array, with clients that
//! neither wrote, in the same run: repetitions of both sides alternate, medians are compared.

mod clients;
mod peer;
#[allow(dead_code, unused_imports, reason = "lab, demo and benchmark each use a part of it")]
#[path = "../site/site.rs"]
mod site;

use clap::Parser;
use clients::{JOBS, Target};
use serde_json::json;
use site::Site;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Size of each volume.
const VOLUME_BYTES: u64 = 1 << 30;

#[derive(Debug, Parser)]
#[command(name = "scripts/bench", about = "twinlun against tgt in the same run")]
struct Arguments {
    /// One object a line.
    #[arg(long)]
    json: bool,
    /// Tables: a (both on tmpfs), b (both on one disk, equal durability), c (pair against one array), d
    /// (pair with TLS against pair without, both on tmpfs).
    #[arg(long, value_delimiter = ',', default_value = "a,b,c,d")]
    tables: Vec<char>,
    /// Only jobs whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Measurements of each side; the median counts.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    connections: Vec<usize>,
    /// A directory on tmpfs for tables a and d.
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// A directory on the disk of tables b and c.
    #[arg(long, env = "TWINLUN_BENCH_DISK", default_value = "/var/tmp")]
    disk: PathBuf,
    /// The peer against itself: how far from 1 a ratio is by chance here.
    #[arg(long)]
    self_check: bool,
    #[arg(long, hide = true, env = "TWINLUN_BINARIES")]
    binaries: PathBuf,
}

/// Both sides of a table, each kept alive for as long as it is measured.
struct Table {
    name: char,
    ours: Target,
    peer: Target,
    peer_name: &'static str,
    _site: Option<Site>,
    _other: Option<Site>,
    _peers: Vec<peer::Peer>,
    _directory: Scratch,
}

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is only litter.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut behind = 0;
    for &name in &arguments.tables {
        match table(&arguments, name).and_then(|table| measure(&arguments, &table)) {
            Ok(lines) => behind += lines,
            Err(error) => {
                eprintln!("table {name}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if !arguments.json {
        println!("{behind} lines behind the peer");
    }
    ExitCode::SUCCESS
}

fn table(arguments: &Arguments, name: char) -> io::Result<Table> {
    let base = if matches!(name, 'a' | 'd') { &arguments.memory } else { &arguments.disk };
    let directory = Scratch(base.join(format!("twinlun-bench-{}-{name}", std::process::id())));
    std::fs::create_dir_all(&directory.0)?;
    let binary = |name: &str| arguments.binaries.join(name);
    let single = |label: &str| -> io::Result<(Site, Target)> {
        let site = Site::start(site::bench_plan(&binary("twinlun"), &directory.0.join(label), false)?)?;
        let target = target(&site)?;
        Ok((site, target))
    };
    match name {
        'a' | 'b' if arguments.self_check => {
            let (first, second) = (peer::Peer::start()?, peer::Peer::start()?);
            let ours = first.add(1, &volume_file(&directory.0, "first.img")?, name == 'b')?;
            let theirs = second.add(1, &volume_file(&directory.0, "second.img")?, name == 'b')?;
            Ok(Table {
                name,
                ours,
                peer: theirs,
                peer_name: "tgt",
                _site: None,
                _other: None,
                _peers: vec![first, second],
                _directory: directory,
            })
        }
        'a' | 'b' => {
            let (site, ours) = single("ours")?;
            let tgt = peer::Peer::start()?;
            let theirs = tgt.add(1, &volume_file(&directory.0, "peer.img")?, name == 'b')?;
            Ok(Table {
                name,
                ours,
                peer: theirs,
                peer_name: "tgt",
                _site: Some(site),
                _other: None,
                _peers: vec![tgt],
                _directory: directory,
            })
        }
        'c' => {
            let pair = Site::start(site::bench_plan(&binary("twinlun"), &directory.0.join("pair"), true)?)?;
            let ours = target(&pair)?;
            let (one, theirs) = single("one")?;
            Ok(Table {
                name,
                ours,
                peer: theirs,
                peer_name: "one array",
                _site: Some(pair),
                _other: Some(one),
                _peers: Vec::new(),
                _directory: directory,
            })
        }
        'd' => {
            let pair = |label: &str| site::bench_plan(&binary("twinlun"), &directory.0.join(label), true);
            let secured = Site::start(pair("tls")?.secured()?)?;
            let plain = Site::start(pair("plain")?)?;
            Ok(Table {
                name,
                ours: target(&secured)?,
                peer: target(&plain)?,
                peer_name: "without",
                _site: Some(secured),
                _other: Some(plain),
                _peers: Vec::new(),
                _directory: directory,
            })
        }
        other => Err(io::Error::other(format!("there is no table {other}; a, b, c, d"))),
    }
}

fn target(site: &Site) -> io::Result<Target> {
    let (portal, iqn) = site.serving()?;
    Ok(Target { portal, iqn, lun: site::BENCH_LUN, initiator: site::BENCH_IQN.to_owned() })
}

fn volume_file(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let path = directory.join(name);
    std::fs::File::create(&path)?.set_len(VOLUME_BYTES)?;
    Ok(path)
}

/// Runs every job on both sides in turn; the number of lines on which ours is behind.
fn measure(arguments: &Arguments, table: &Table) -> io::Result<usize> {
    if !arguments.json {
        let what = match table.name {
            'a' => "both on tmpfs",
            'b' => "both on one disk, each write flushed before its answer",
            'c' => "the mirrored pair against one array, on one disk",
            _ => "the pair with TLS against the pair without, on tmpfs",
        };
        println!("table {}: {what} (thousand requests a second)", table.name);
        println!("{:<36} {:>11} {:>9} {:>9} {:>6}", "job", "connections", "ours", table.peer_name, "ratio");
    }
    for side in [&table.ours, &table.peer] {
        clients::fill(side, VOLUME_BYTES)?;
    }
    let mut behind = 0;
    for job in JOBS.iter().filter(|job| job.name().contains(&arguments.only)) {
        for &connections in &arguments.connections {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..arguments.repeat.max(1) {
                let time = Duration::from_secs(arguments.seconds.max(1));
                ours.push(job.measure(&table.ours, connections, time)?);
                theirs.push(job.measure(&table.peer, connections, time)?);
            }
            let (ours, theirs) = (clients::median(ours), clients::median(theirs));
            let ratio = ours / theirs;
            behind += usize::from(ratio < 1.0);
            if arguments.json {
                println!(
                    "{}",
                    json!({ "table": table.name.to_string(), "job": job.name(), "connections": connections, "ours": ours.round(), "peer": theirs.round(),
                        "peer_name": table.peer_name, "ratio": (ratio * 1000.0).round() / 1000.0 })
                );
            } else {
                println!(
                    "{:<36} {connections:>11} {:>9.1} {:>9.1} {ratio:>6.2}",
                    job.name(),
                    ours / 1000.0,
                    theirs / 1000.0
                );
            }
            io::stdout().flush()?;
        }
    }
    Ok(behind)
}
