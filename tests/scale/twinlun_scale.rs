//! One pair at its size: 64 groups, 256 volumes, 16 hosts with a path to each array. Every group must
//! fail over within the gap of row F6, load alone must change no epoch, and what the arrays take
//! when nobody uses them is stated. One JSON object at the end.

#[path = "../host/outside.rs"]
mod outside;
#[allow(dead_code, unused_imports, reason = "lab, demo, benchmark and this each use a part of it")]
#[path = "../site/site.rs"]
mod site;

use clap::Parser;
use outside::Outside;
use serde_json::{Value, json};
use site::{Node, Site};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Row F6: no client waits longer for the other array.
const ARRAY_GAP_MS: u64 = 5_000;
const LIMIT: Duration = Duration::from_secs(300);
const QUIET: Duration = Duration::from_secs(20);

#[derive(Debug, Parser)]
#[command(name = "scripts/scale", about = "64 groups, 256 volumes and 32 sessions on one pair")]
struct Arguments {
    #[arg(long, default_value_t = 64)]
    groups: usize,
    /// In each group.
    #[arg(long, default_value_t = 4)]
    volumes: usize,
    /// Each with one session at each array.
    #[arg(long, default_value_t = 16)]
    hosts: usize,
    /// Commands a second of each host.
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// Of saturation, by as many commands as go, after everything else.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    #[arg(long, hide = true, env = "TWINLUN_BINARIES")]
    binaries: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_SCALE_DIRECTORY")]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match play(&arguments) {
        Ok((figures, wrong)) => {
            println!("{figures}");
            for line in &wrong {
                eprintln!("{line}");
            }
            if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("cannot go on: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Volume `v` of group `g` is LUN `1 + ...` of host `g % hosts`.
fn objects(arguments: &Arguments) -> String {
    let (mut text, mut luns) = (String::new(), vec![0; arguments.hosts]);
    // Writing to a string does not fail.
    for host in 0..arguments.hosts {
        let _ = writeln!(text, "[[host]]\nname = \"h{host}\"\niqns = [\"{}\"]", initiator(host));
    }
    for group in 0..arguments.groups {
        let names: Vec<String> = (0..arguments.volumes).map(|volume| format!("g{group}.{volume}")).collect();
        for name in &names {
            let host = group % arguments.hosts;
            luns[host] += 1;
            let _ = writeln!(text, "[[volume]]\nname = \"{name}\"\nsize = \"64M\"");
            let lun = luns[host];
            let _ = writeln!(text, "[[vlun]]\nvolume = \"{name}\"\nhost = \"h{host}\"\nlun = {lun}");
        }
        let _ = writeln!(text, "[[group]]\nname = \"g{group}\"\ntarget = \"array-b\"\nvolumes = {names:?}");
    }
    text
}

fn initiator(host: usize) -> String {
    format!("iqn.2026-11.scale.twinlun:h{host}")
}

fn tell(begin: Instant, text: &str) {
    eprintln!("{:>6.1} s  {text}", begin.elapsed().as_secs_f64());
}

fn all(groups: &[Value], count: usize, key: &str) -> bool {
    groups.len() == count && groups.iter().all(|group| group[key] == true)
}

fn epochs(groups: &[Value]) -> Vec<u64> {
    groups.iter().map(|group| group["epoch"].as_u64().unwrap_or(0)).collect()
}

fn play(arguments: &Arguments) -> io::Result<(Value, Vec<String>)> {
    let begin = Instant::now();
    let program = arguments.binaries.join("twinlun");
    let plan = site::loopback_plan(&program, &arguments.directory, true, &objects(arguments))?;
    let portals: Vec<String> = [Node::A, Node::B].iter().filter_map(|node| plan.portal(*node)).collect();
    tell(begin, "starting two arrays and the witness, making the objects");
    let mut site = Site::start(plan)?;
    let outcome = act(arguments, begin, &mut site, &portals);
    if outcome.is_err() {
        eprintln!("{}", site.last_words());
    }
    outcome
}

fn act(
    arguments: &Arguments,
    begin: Instant,
    site: &mut Site,
    portals: &[String],
) -> io::Result<(Value, Vec<String>)> {
    let count = arguments.groups;
    let (mut figures, mut wrong) = (json!({ "groups": count }), Vec::new());
    figures["volumes"] = json!(count * arguments.volumes);
    figures["sessions"] = json!(arguments.hosts * portals.len());
    figures["made_ms"] = json!(millis(begin));
    site.wait("every group in sync", LIMIT, |site| {
        Ok(all(&site.groups(Node::A)?, count, "inSync") && all(&site.groups(Node::B)?, count, "inSync"))
    })?;
    figures["in_sync_ms"] = json!(millis(begin));

    tell(begin, "hosts log in; then quiet for a while");
    let mut hosts = Vec::new();
    for host in 0..arguments.hosts {
        hosts.push(Outside::start(command(arguments, portals, host))?);
    }
    for host in &mut hosts {
        host.wait_ready(portals.len(), LIMIT)?;
    }
    let before = usage(site)?;
    std::thread::sleep(QUIET);
    for (node, before) in before {
        let (resident_kib, ticks) = site.process(node)?.usage()?;
        let permille = (ticks - before) * 10 / QUIET.as_secs();
        figures[format!("idle_cpu_permille_{}", node.name())] = json!(permille);
        figures[format!("idle_resident_kib_{}", node.name())] = json!(resident_kib);
    }

    tell(begin, "load, then A is killed");
    for host in &mut hosts {
        host.order("run")?;
    }
    std::thread::sleep(Duration::from_secs(5));
    for host in &mut hosts {
        host.phase("failover")?;
    }
    let killed = Instant::now();
    site.process(Node::A)?.kill()?;
    site.wait("B serves every group", LIMIT, |site| Ok(all(&site.groups(Node::B)?, count, "serves")))?;
    figures["failover_all_ms"] = json!(millis(killed));
    std::thread::sleep(Duration::from_secs(5));
    let gap = longest(&mut hosts, "return")?;
    figures["failover_gap_ms"] = json!(gap);
    if gap > ARRAY_GAP_MS {
        wrong.push(format!("a host waited {gap} ms for B, {ARRAY_GAP_MS} ms allowed"));
    }

    tell(begin, "A returns");
    let returned = Instant::now();
    site.process(Node::A)?.start()?;
    site.wait("every group in sync again", LIMIT, |site| {
        Ok(all(&site.groups(Node::A)?, count, "inSync") && all(&site.groups(Node::B)?, count, "inSync"))
    })?;
    figures["return_all_ms"] = json!(millis(returned));
    figures["return_gap_ms"] = json!(longest(&mut hosts, "stop")?);

    tell(begin, "B is stopped in order");
    let stopped = Instant::now();
    site.process(Node::B)?.terminate()?;
    site.wait("A serves every group", LIMIT, |site| Ok(all(&site.groups(Node::A)?, count, "serves")))?;
    figures["hand_over_all_ms"] = json!(millis(stopped));
    site.process(Node::B)?.wait_end(LIMIT)?;
    figures["hand_over_gap_ms"] = json!(longest(&mut hosts, "again")?);
    site.process(Node::B)?.start()?;
    site.wait("every group in sync at last", LIMIT, |site| {
        Ok(all(&site.groups(Node::A)?, count, "inSync") && all(&site.groups(Node::B)?, count, "inSync"))
    })?;

    if arguments.minutes > 0 {
        tell(begin, "saturation");
        let before = epochs(&site.groups(Node::A)?);
        std::thread::sleep(Duration::from_secs(arguments.minutes * 60));
        let after = epochs(&site.groups(Node::A)?);
        figures["saturation_minutes"] = json!(arguments.minutes);
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        figures["epochs_changed"] = json!(changed);
        if before.len() != after.len() || changed > 0 {
            wrong.push(format!("load alone changed the epoch of {changed} groups"));
        }
    }

    tell(begin, "reading every block back");
    for (node, _) in usage(site)? {
        let (resident_kib, _) = site.process(node)?.usage()?;
        figures[format!("resident_kib_{}", node.name())] = json!(resident_kib);
    }
    let mut sums = [("acknowledged", 0), ("lost", 0), ("stale", 0), ("io_errors", 0)];
    let mut checked = 0;
    for host in &mut hosts {
        checked += host.verify(LIMIT)?["checked"].as_u64().unwrap_or(0);
        let end = host.status()?;
        for (key, sum) in &mut sums {
            *sum += end[*key].as_u64().unwrap_or(0);
        }
    }
    figures["checked"] = json!(checked);
    for (key, sum) in sums {
        figures[key] = json!(sum);
        if key == "acknowledged" && (sum == 0 || checked == 0) {
            wrong.push(String::from("nothing was written, or nothing checked"));
        } else if key != "acknowledged" && sum > 0 {
            wrong.push(format!("{sum} {key}"));
        }
    }
    figures["seconds"] = json!(begin.elapsed().as_secs());
    tell(begin, "ending everything");
    Ok((figures, wrong))
}

fn command(arguments: &Arguments, portals: &[String], host: usize) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(arguments.binaries.join("examples/twinlun-host"));
    for portal in portals {
        command.args(["--portal", portal]);
    }
    command.args(["--initiator", &initiator(host), "--lun", "1", "--span-mib", "16"]);
    let rate = if arguments.minutes > 0 { 0 } else { arguments.rate };
    command.args(["--rate", &rate.to_string()]);
    command
}

/// Ends the phase of every host: the longest gap of all.
fn longest(hosts: &mut [Outside], next: &str) -> io::Result<u64> {
    let mut longest = 0;
    for host in hosts {
        longest = longest.max(host.phase(next)?["gap_ms"].as_u64().unwrap_or(u64::MAX));
    }
    Ok(longest)
}

/// CPU time of each process so far, in ticks of 10 ms.
fn usage(site: &mut Site) -> io::Result<Vec<(Node, u64)>> {
    [Node::A, Node::B, Node::Witness]
        .into_iter()
        .map(|node| Ok((node, site.process(node)?.usage()?.1)))
        .collect()
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
