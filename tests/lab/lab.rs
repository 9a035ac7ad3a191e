//! One boot of the lab: network, site, guest, load, outside client and judge, with the verbs that
//! the rows use, and the judgement around each run.

mod verbs;

use crate::disk::Disk;
use crate::guest::{self, Contents, Guest};
use crate::judge::{Judge, Verdict};
use crate::load::{self, Load};
use crate::network::{Network, Node, Plane};
use crate::outside::Outside;
use crate::rows::{Expects, Row};
use crate::site::{self, Site};
use crate::wire::Wire;
use serde_json::{Map, Value, json};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A group that is not in sync again by then will not be.
const IN_SYNC_LIMIT: Duration = Duration::from_secs(120);
const PATHS_LIMIT: Duration = Duration::from_secs(40);
const OUTSIDE_VERIFY_LIMIT: Duration = Duration::from_secs(60);
/// A switchover under load, as the management API answers it.
const SWITCHOVER_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub enum Error {
    /// The arrays did not do what the row asks.
    Wrong(String),
    /// The lab itself failed.
    Lab(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Lab(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(why) => write!(f, "{why}"),
            Self::Lab(error) => write!(f, "lab: {error}"),
        }
    }
}

#[derive(Debug)]
pub struct Options {
    pub image: PathBuf,
    pub repository: PathBuf,
    pub binaries: PathBuf,
    pub directory: PathBuf,
    pub verbose: bool,
    pub tls: bool,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub array_gap_ms: u64,
    pub host_gap_ms: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub stale: u64,
    pub io_errors: u64,
    pub pass: bool,
    pub why: Vec<String>,
    pub notes: Map<String, Value>,
}

#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: what uses the network before the network.
    outside: Option<Outside>,
    load: Option<Load>,
    guest: Guest,
    site: Site,
    disk: Option<(Node, Disk)>,
    /// Legs that are long for the row.
    wires: Vec<Wire>,
    network: Network,
    judge: Judge,
    log: SocketAddr,
    options: Options,
    notes: Map<String, Value>,
    /// Gap of the guest taken before the row was over.
    guest_phase: Option<load::Phase>,
    stale_examples: Vec<String>,
    /// Where on the raw device no row has written yet.
    next_new_mib: u64,
}

impl Lab {
    pub fn up(options: Options) -> Result<Self, Error> {
        crate::network::sweep();
        let network = Network::up()?;
        let contents = Contents {
            image: &options.image,
            boot: &options.repository.join("tests/lab/boot.sh"),
            agent: &options.binaries.join("twinlun-guest"),
            target_config: &options.repository.join("target-config"),
        };
        let booting = guest::boot(&network, &options.directory.join("job"), &contents)?;
        let plan = site::lab_plan(
            |node| network.namespace(node),
            Node::ip_on,
            &options.binaries,
            &options.directory.join("site"),
        )?;
        let site = Site::start(if options.tls { plan.secured()? } else { plan })?;
        let judge = Judge::default();
        let (listener, log) = network.listen(Node::Host, &Node::Host.ip(Plane::Log))?;
        judge.listen(listener);
        let guest = booting.ready()?;
        let mut lab = Self {
            outside: None,
            load: None,
            guest,
            site,
            disk: None,
            wires: Vec::new(),
            network,
            judge,
            log,
            options,
            notes: Map::new(),
            guest_phase: None,
            stale_examples: Vec::new(),
            next_new_mib: 1024,
        };
        if let Err(error) = lab.attach(None) {
            lab.look_into_guest("start");
            return Err(error);
        }
        Ok(lab)
    }

    /// Puts both hosts on the LUNs of the present arrays.
    fn attach(&mut self, pause_us: Option<u64>) -> Result<(), Error> {
        self.wait_in_sync()?;
        let run = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |t| u64::try_from(t.as_nanos()).unwrap_or(1));
        self.judge.reset();
        self.load = Some(Load::start(&mut self.guest, run, self.log, pause_us)?);
        let portals: Vec<String> = [Node::A, Node::B]
            .iter()
            .flat_map(|node| [String::from("--portal"), format!("{}:3260", node.ip(Plane::Host))])
            .collect();
        let mut arguments = portals;
        arguments.extend(
            ["--initiator", site::OUTSIDE_IQN, "--lun", &site::OUTSIDE_LUN.to_string(), "--rate", "500"]
                .map(str::to_owned),
        );
        if self.options.verbose {
            arguments.push(String::from("--verbose"));
        }
        let program = self.options.binaries.join("twinlun-host").display().to_string();
        let mut words = vec!["netns".to_owned(), "exec".to_owned(), self.network.namespace(Node::Host)];
        words.extend(["setpriv", "--pdeathsig", "KILL"].map(str::to_owned));
        words.push(program);
        words.extend(arguments);
        let mut command = std::process::Command::new("ip");
        command.args(words);
        self.outside = Some(Outside::start(command)?);
        self.outside()?.wait_ready(2, PATHS_LIMIT)?;
        Ok(())
    }

    /// What a person would look at first, into the log directory.
    pub fn look_into_guest(&mut self, when: &str) {
        let script = "multipath -ll; multipathd show paths; iscsiadm -m session -P 1; cat /proc/mounts; \
            date +%T.%N; cat /proc/uptime; dmesg | tail -400";
        let said = self.guest.sh(script, Duration::from_secs(30)).unwrap_or_else(|error| error.to_string());
        if let Err(error) = std::fs::write(self.options.directory.join(format!("guest-{when}.txt")), said) {
            eprintln!("the guest's state cannot be kept: {error}");
        }
    }

    fn outside(&mut self) -> io::Result<&mut Outside> {
        self.outside.as_mut().ok_or_else(|| io::Error::other("the outside client is not there"))
    }

    /// New arrays with empty volumes, the guest kept: after a row that failed, or that asks for it.
    pub fn renew(&mut self, pause_us: Option<u64>) -> Result<(), Error> {
        self.outside = None;
        self.load = None;
        load::forget(&mut self.guest)?;
        self.wires.clear();
        self.network.heal_all()?;
        self.site.kill_all()?;
        self.disk = None;
        self.site.renew()?;
        self.attach(pause_us)
    }

    /// Carries out a row once and judges it. An error means that the lab itself has broken.
    pub fn execute(&mut self, row: &Row) -> Result<Outcome, Error> {
        self.notes = Map::new();
        self.guest_phase = None;
        self.stale_examples.clear();
        let mut why = Vec::new();
        if let Some(node) = row.own_disk() {
            self.insert_disk(node)?;
        }
        self.prepare()?;
        let before = self.acknowledged()?;
        self.begin(row)?;
        if let Err(error) = (row.run)(self) {
            why.push(error.to_string());
        }
        self.undo_everything(&mut why);
        let outcome = self.judge_run(row, before, &mut why);
        self.remove_disk()?;
        match outcome {
            Ok(mut outcome) => {
                outcome.why = why;
                outcome.notes = std::mem::take(&mut self.notes);
                verdict(row, &mut outcome);
                Ok(outcome)
            }
            Err(error) => {
                why.push(error.to_string());
                Ok(Outcome { why, ..Outcome::default() })
            }
        }
    }

    /// From here on the volumes of an array lie on a file system of their own.
    fn insert_disk(&mut self, node: Node) -> Result<(), Error> {
        self.wait_in_sync()?;
        self.terminate(node)?;
        let at = self.site.data(node)?.join("volumes");
        let disk = Disk::insert(&at, &self.options.directory.join(format!("disk-{}", node.name())))?;
        self.disk = Some((node, disk));
        self.start(node)
    }

    fn remove_disk(&mut self) -> Result<(), Error> {
        if let Some((node, disk)) = self.disk.take() {
            self.terminate(node)?;
            disk.remove()?;
            self.start(node)?;
        }
        Ok(())
    }

    /// In sync, A serving, all paths there.
    fn prepare(&mut self) -> Result<(), Error> {
        self.wait_in_sync()?;
        if self.primary()? != Node::A {
            self.switch_over()?;
        }
        self.outside()?.wait_ready(2, PATHS_LIMIT)?;
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        load.wait_paths(&mut self.guest, PATHS_LIMIT)?;
        Ok(())
    }

    fn begin(&mut self, row: &Row) -> Result<(), Error> {
        self.outside()?.order("run")?;
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        load.run(&mut self.guest)?;
        // The first second of load is not part of the row.
        std::thread::sleep(Duration::from_secs(1));
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        load.phase(&mut self.guest)?;
        self.outside()?.phase(row.id)?;
        let outside = self.outside()?;
        outside.findings.clear();
        Ok(())
    }

    /// Undoes whatever is still broken, also after a row that gave up half-way.
    fn undo_everything(&mut self, why: &mut Vec<String>) {
        let healed = (|| -> Result<(), Error> {
            self.wires.clear();
            self.network.heal_all()?;
            if let Some((_, disk)) = &mut self.disk {
                disk.thaw()?;
                disk.relieve()?;
            }
            for node in [Node::A, Node::B, Node::Witness] {
                let process = self.site.process(node)?;
                process.set_environment(Vec::new());
                if process.is_running() {
                    process.thaw()?;
                } else {
                    process.start()?;
                }
            }
            self.wait_in_sync()
        })();
        if let Err(error) = healed {
            why.push(format!("after the fault was gone: {error}"));
        }
    }

    fn acknowledged(&mut self) -> Result<u64, Error> {
        let outside = self.outside()?.status()?;
        Ok(self.judge.acknowledged() + load::figure(&outside, "acknowledged"))
    }

    /// Takes the figures, then reads every block through one array, switches over, and reads every
    /// block through the other.
    fn judge_run(&mut self, row: &Row, before: u64, why: &mut Vec<String>) -> Result<Outcome, Error> {
        let outside = self.outside()?.phase("verify")?;
        let load = self.load.as_ref().ok_or_else(|| io::Error::other("no load"))?;
        let mut guest = load.phase(&mut self.guest)?;
        if let Some(first) = self.guest_phase.take() {
            guest = first;
        }
        load.pause(&mut self.guest)?;
        let mut outcome = Outcome {
            array_gap_ms: load::figure(&outside, "gap_ms"),
            host_gap_ms: guest.gap_ms,
            io_errors: guest.io_errors + load::figure(&outside, "io_errors"),
            ..Outcome::default()
        };
        for round in 0..2 {
            if round == 1 {
                self.switch_over()?;
            }
            let through = if self.primary()? == Node::A { "A" } else { "B" };
            let from_outside = self.outside()?.verify(OUTSIDE_VERIFY_LIMIT)?;
            let load = self.load.as_mut().ok_or_else(|| io::Error::other("no load"))?;
            let verdict: Verdict = load.scan(&mut self.guest, &self.judge)?;
            let lost = verdict.lost
                + verdict.foreign
                + load::figure(&from_outside, "lost")
                + load::figure(&from_outside, "foreign");
            outcome.lost += lost;
            if verdict.checked == 0 {
                why.push(format!("nothing was checked through {through}"));
            }
            why.extend(verdict.examples.iter().map(|example| format!("through {through}: {example}")));
            if lost > 0 {
                why.push(format!("through {through}: {}", from_outside["examples"]));
            }
            self.notes.insert(
                format!("checked_through_{}", through.to_lowercase()),
                json!(verdict.checked + load::figure(&from_outside, "checked")),
            );
        }
        let (stale, examples) = self.judge.take_stale();
        outcome.stale = stale + load::figure(&outside, "stale");
        why.extend(examples);
        let findings = std::mem::take(&mut self.outside()?.findings);
        why.extend(findings.iter().filter(|f| f["event"] != "phase").take(4).map(Value::to_string));
        outcome.acknowledged = self.acknowledged()?.saturating_sub(before);
        if outcome.acknowledged == 0 {
            why.push(format!("{}: no write was acknowledged", row.id));
        }
        Ok(outcome)
    }

    /// Takes the hosts off the LUNs; a damaged file system is an error.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.outside = None;
        match self.load.take() {
            Some(load) => Ok(load.stop(&mut self.guest)?),
            None => Ok(()),
        }
    }

    pub fn last_words(&mut self) -> String {
        self.site.last_words()
    }

    pub fn directory(&self) -> &std::path::Path {
        self.guest.directory()
    }
}

/// Pass or fail, with the reasons put into words.
fn verdict(row: &Row, outcome: &mut Outcome) {
    match row.expects {
        Expects::LossCaught => {
            outcome.pass = outcome.lost + outcome.stale > 0;
            if !outcome.pass {
                outcome.why.push(String::from("the write that was dropped went unnoticed"));
            }
            return;
        }
        Expects::StaleCaught => {
            // Served while blocks are read back, it looks like a loss there: caught as well.
            outcome.pass = outcome.stale + outcome.lost > 0;
            if !outcome.pass {
                outcome.why.push(String::from("the stale read went unnoticed"));
            }
            return;
        }
        Expects::NothingLost => {}
    }
    for (count, what) in
        [(outcome.lost, "blocks lost"), (outcome.stale, "stale reads"), (outcome.io_errors, "I/O errors")]
    {
        if count > 0 {
            outcome.why.push(format!("{count} {what}"));
        }
    }
    for (limit, gap, who) in
        [(row.array_gap_ms, outcome.array_gap_ms, "array"), (row.host_gap_ms, outcome.host_gap_ms, "host")]
    {
        if let Some(limit) = limit.filter(|limit| gap > *limit) {
            outcome.why.push(format!("{who} gap {gap} ms, {limit} ms allowed"));
        }
    }
    outcome.pass = outcome.why.is_empty();
}
