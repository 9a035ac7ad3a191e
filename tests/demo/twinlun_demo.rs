//! The demonstration: two arrays and the witness on loopback from the files of `target-config`, a
//! small multipath host on the mirrored LUN, a switchover, a killed array and its return; at the
//! end a table that says what the host saw of it.

#[path = "../host/outside.rs"]
mod outside;
#[allow(dead_code, unused_imports, reason = "lab, demo and benchmark each use a part of it")]
#[path = "../site/site.rs"]
mod site;

use clap::Parser;
use outside::Outside;
use serde_json::{Value, json};
use site::{Node, Role, Site};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

const READY_LIMIT: Duration = Duration::from_secs(30);
const VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// Load before, between and after the events.
const LOAD: Duration = Duration::from_secs(4);
/// Commands a second: enough to see every gap, little enough for any laptop.
const RATE: &str = "2000";

#[derive(Debug, Parser)]
#[command(
    name = "scripts/demo",
    about = "One LUN, two arrays, a witness, and a host that lives through the loss of an array"
)]
struct Arguments {
    /// One object with the figures instead of the story.
    #[arg(long)]
    json: bool,
    #[arg(long, hide = true, env = "TWINLUN_REPOSITORY")]
    repository: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_BINARIES")]
    binaries: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_DEMO_DIRECTORY")]
    directory: PathBuf,
}

#[derive(Debug, Default)]
struct Figures {
    acknowledged: u64,
    lost: u64,
    stale: u64,
    io_errors: u64,
    switchover_gap_ms: u64,
    failover_gap_ms: u64,
    return_gap_ms: u64,
    resync_bytes: u64,
    checked: [u64; 2],
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match play(&arguments) {
        Ok(figures) => {
            if arguments.json {
                println!("{}", figures.json());
            } else {
                figures.print();
            }
            let nothing_wrong =
                figures.lost + figures.stale + figures.io_errors == 0 && figures.acknowledged > 0;
            if nothing_wrong { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the demo cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Story {
    begin: Instant,
}

impl Story {
    /// The story goes to standard error, so that standard output holds the result alone.
    fn tell(&self, text: &str) {
        eprintln!("{:>5.1} s  {text}", self.begin.elapsed().as_secs_f64());
    }
}

fn play(arguments: &Arguments) -> io::Result<Figures> {
    let story = Story { begin: Instant::now() };
    let plan = site::demo_plan(
        &arguments.repository.join("target-config"),
        &arguments.binaries,
        &arguments.directory,
    )?;
    let portals: Vec<String> = [Node::A, Node::B].iter().filter_map(|node| plan.portal(*node)).collect();
    let host =
        plan.host.clone().ok_or_else(|| io::Error::other("objects.toml exports nothing to any host"))?;
    story.tell("starting array A, array B and the witness on loopback, and making a mirrored LUN");
    let mut site = Site::start(plan)?;
    let outcome = act(&story, &mut site, host_command(&arguments.binaries, &portals, &host));
    if outcome.is_err() {
        eprintln!("{}", site.last_words());
    }
    outcome
}

fn act(story: &Story, site: &mut Site, host: Command) -> io::Result<Figures> {
    site.wait("both arrays in sync", READY_LIMIT, |site| {
        Ok(site.status(Node::A)?.in_sync && site.status(Node::B)?.in_sync)
    })?;
    let mut host = Outside::start(host)?;
    host.wait_ready(2, READY_LIMIT)?;
    let status = host.status()?;
    story.tell(&format!(
        "the host sees LUN {} over both arrays; A is active, B stands by",
        text(&status, "naa")
    ));
    host.order("run")?;
    std::thread::sleep(LOAD);

    let mut figures = Figures::default();
    host.phase("switchover")?;
    story.tell("switching over from A to B under load");
    site.switch_over(Node::A)?;
    site.wait("B serves", READY_LIMIT, |site| Ok(site.status(Node::B)?.serves))?;
    std::thread::sleep(LOAD / 2);
    figures.switchover_gap_ms = gap(&host.phase("failover")?);

    story.tell("killing array B, which is active now (kill -9)");
    site.process(Node::B)?.kill()?;
    site.wait("A takes over", READY_LIMIT, |site| Ok(site.status(Node::A)?.serves))?;
    story.tell("the witness has let A take over; the host goes on there");
    std::thread::sleep(LOAD);
    figures.failover_gap_ms = gap(&host.phase("return")?);

    let before = site.resync_bytes(Node::A)?;
    story.tell("starting array B again; A copies what B missed, while the host writes on");
    site.process(Node::B)?.start()?;
    site.wait("both arrays in sync again", READY_LIMIT * 2, |site| {
        let b = site.status(Node::B)?;
        Ok(b.in_sync
            && matches!(b.role, Role::Secondary | Role::SecondaryRev)
            && site.status(Node::A)?.in_sync)
    })?;
    figures.resync_bytes = site.resync_bytes(Node::A)?.saturating_sub(before);
    std::thread::sleep(LOAD / 2);
    figures.return_gap_ms = gap(&host.phase("check")?);
    story.tell("in sync again; reading every block back through A, then through B");

    for (round, place) in figures.checked.iter_mut().enumerate() {
        if round == 1 {
            host.wait_ready(2, READY_LIMIT)?;
            site.switch_over(Node::A)?;
            site.wait("B serves", READY_LIMIT, |site| Ok(site.status(Node::B)?.serves))?;
        }
        *place = host.verify(VERIFY_LIMIT)?["checked"].as_u64().unwrap_or(0);
    }
    let end = host.status()?;
    let count = |key: &str| end[key].as_u64().unwrap_or(0);
    figures.acknowledged = count("acknowledged");
    figures.lost = count("lost");
    figures.stale = count("stale");
    figures.io_errors = count("io_errors");
    figures.seconds = story.begin.elapsed().as_secs();
    story.tell("ending everything");
    Ok(figures)
}

fn host_command(binaries: &Path, portals: &[String], (initiator, lun): &(String, u64)) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binaries.join("examples/twinlun-host"));
    for portal in portals {
        command.args(["--portal", portal]);
    }
    command.args(["--initiator", initiator, "--lun", &lun.to_string(), "--rate", RATE]);
    command
}

fn gap(phase: &Value) -> u64 {
    phase["gap_ms"].as_u64().unwrap_or(u64::MAX)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("?")
}

impl Figures {
    fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged, "lost": self.lost, "stale": self.stale, "io_errors": self.io_errors,
            "switchover_gap_ms": self.switchover_gap_ms, "failover_gap_ms": self.failover_gap_ms, "return_gap_ms": self.return_gap_ms,
            "resync_bytes": self.resync_bytes, "checked_through_a": self.checked[0], "checked_through_b": self.checked[1],
            "seconds": self.seconds,
        })
    }

    fn print(&self) {
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        let rows = [
            ("writes acknowledged to the host", self.acknowledged.to_string()),
            ("of these lost", self.lost.to_string()),
            ("reads that went back in time", self.stale.to_string()),
            ("I/O errors the host saw", self.io_errors.to_string()),
            ("longest pause: switchover", seconds(self.switchover_gap_ms)),
            ("longest pause: active array killed", seconds(self.failover_gap_ms)),
            ("longest pause: array returns", seconds(self.return_gap_ms)),
            (
                "copied to the array that returned",
                format!("{:.1} MiB", self.resync_bytes as f64 / f64::from(1 << 20)),
            ),
            ("blocks read back through A / B", format!("{} / {}", self.checked[0], self.checked[1])),
        ];
        println!();
        for (what, figure) in rows {
            println!("  {what:<36} {figure:>14}");
        }
        println!();
    }
}
