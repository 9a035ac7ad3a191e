//! A site under test: two arrays (or one) and the witness as processes, their configuration, and
//! what the command line says of them. Used by lab, demo and benchmark.

mod plan;
mod process;

pub use plan::{
    BENCH_IQN, BENCH_LUN, OUTSIDE_IQN, OUTSIDE_LUN, Plan, bench_plan, demo_plan, lab_plan, loopback_plan,
};
pub use process::Process;

use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    A,
    B,
    Witness,
    /// Where the hosts' tools run; no process of the site.
    Host,
}

impl Node {
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Witness => "w",
            Self::Host => "h",
        }
    }
}

/// Role of an array for the group, as `showrcopy` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    PrimaryRev,
    Secondary,
    SecondaryRev,
    Unknown,
}

/// What an array says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    pub role: Role,
    /// Answers media commands now.
    pub serves: bool,
    pub in_sync: bool,
    pub epoch: u64,
    /// The enrolled witness answers, so that a failover would be automatic.
    pub witness_counts: bool,
    /// The primary may go on alone without asking anybody, and nobody else may be promoted.
    pub pre_elected: bool,
    /// Why it does not serve, in words.
    pub reason: String,
}

impl Status {
    pub fn serves_alone(&self) -> bool {
        self.serves && !self.in_sync
    }
}

/// A tree with its holes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let status = Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cp -a {}: {status}", from.display())))
    }
}

const UP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Site {
    plan: Plan,
    processes: Vec<(Node, Process)>,
}

impl Site {
    /// Starts every process, waits until the arrays answer, and makes the objects.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let mut site = Self { processes: Vec::new(), plan };
        for part in &site.plan.parts {
            let verb = if part.node == Node::Witness { "witness" } else { "array" };
            let arguments =
                vec![verb.to_owned(), String::from("--config"), part.configuration.display().to_string()];
            let process = Process::new(
                part.node.name(),
                part.namespace.clone(),
                site.plan.program.clone(),
                arguments,
                part.log.clone(),
            );
            site.processes.push((part.node, process));
        }
        site.bring_up()?;
        Ok(site)
    }

    fn bring_up(&mut self) -> io::Result<()> {
        for (_, process) in &mut self.processes {
            process.start()?;
        }
        for node in [Node::A, Node::B] {
            self.wait_management(node)?;
        }
        let objects = self.plan.objects.display().to_string();
        self.cli(Node::A, &["apply", &objects])?;
        Ok(())
    }

    fn wait_management(&mut self, node: Node) -> io::Result<()> {
        if !self.processes.iter().any(|(each, _)| *each == node) {
            return Ok(());
        }
        let end = Instant::now() + UP_LIMIT;
        while let Err(error) = self.cli(node, &["showvv", "--json"]) {
            if !self.process(node)?.is_running() {
                let words = self.process(node)?.last_words(10);
                return Err(io::Error::other(format!("array {} ended:\n{words}", node.name())));
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("array {} does not come up: {error}", node.name())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The same site with nothing in it.
    pub fn renew(&mut self) -> io::Result<()> {
        for (_, process) in &mut self.processes {
            process.kill()?;
            process.set_environment(Vec::new());
        }
        for node in [Node::A, Node::B, Node::Witness] {
            self.wipe(node)?;
        }
        self.bring_up()
    }

    pub fn process(&mut self, node: Node) -> io::Result<&mut Process> {
        let found = self.processes.iter_mut().find(|(each, _)| *each == node);
        found
            .map(|(_, process)| process)
            .ok_or_else(|| io::Error::other(format!("no process {}", node.name())))
    }

    /// Removes what a node kept. To be called while it is down.
    pub fn wipe(&mut self, node: Node) -> io::Result<()> {
        for part in self.plan.parts.iter().filter(|part| part.node == node) {
            for directory in &part.data {
                std::fs::remove_dir_all(directory)?;
                std::fs::create_dir_all(directory)?;
            }
        }
        Ok(())
    }

    pub fn kill_all(&mut self) -> io::Result<()> {
        self.processes.iter_mut().try_for_each(|(_, process)| process.kill())
    }

    /// Where a node keeps what it has.
    pub fn data(&self, node: Node) -> io::Result<PathBuf> {
        let part = self.plan.parts.iter().find(|part| part.node == node);
        part.and_then(|part| part.data.first().cloned()).ok_or_else(|| io::Error::other("no such node"))
    }

    fn backup(&self, node: Node) -> PathBuf {
        self.plan.directory.join(format!("{}.backup", node.name()))
    }

    /// Copies what a node keeps. To be called while it is down.
    pub fn back_up(&self, node: Node) -> io::Result<()> {
        let backup = self.backup(node);
        if backup.exists() {
            std::fs::remove_dir_all(&backup)?;
        }
        copy(&self.data(node)?, &backup)
    }

    /// The volumes of an array are gone. To be called while it is down.
    pub fn wipe_volumes(&self, node: Node) -> io::Result<()> {
        for entry in std::fs::read_dir(self.data(node)?.join("volumes"))? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Puts back what was copied. To be called while it is down.
    pub fn restore(&self, node: Node) -> io::Result<()> {
        let data = self.data(node)?;
        std::fs::remove_dir_all(&data)?;
        copy(&self.backup(node), &data)
    }

    /// Runs the command line on an array, where it runs.
    pub fn cli(&mut self, node: Node, arguments: &[&str]) -> io::Result<String> {
        let part = self
            .plan
            .parts
            .iter()
            .find(|part| part.node == node)
            .ok_or_else(|| io::Error::other("no such node"))?;
        let management = part.management.clone();
        let program = self.plan.program.display().to_string();
        let mut words = vec![String::from("--array"), management];
        words.extend(arguments.iter().map(|&word| word.to_owned()));
        let output = self.process(node)?.command(&program, &words).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("twinlun {}: {said}", arguments.join(" "))))
    }

    /// Every group of an array, in its own words.
    pub fn groups(&mut self, node: Node) -> io::Result<Vec<Value>> {
        let said = self.cli(node, &["showrcopy", "--json"])?;
        let value: Value = serde_json::from_str(&said).map_err(io::Error::other)?;
        Ok(value["groups"].as_array().cloned().unwrap_or_default())
    }

    /// The only group, in the array's own words.
    fn group(&mut self, node: Node) -> io::Result<Value> {
        self.groups(node)?.into_iter().next().ok_or_else(|| io::Error::other("no group yet"))
    }

    /// What an array says of the group.
    pub fn status(&mut self, node: Node) -> io::Result<Status> {
        let group = self.group(node)?;
        Ok(Status {
            role: match group["role"].as_str() {
                Some("Primary") => Role::Primary,
                Some("Primary-Rev") => Role::PrimaryRev,
                Some("Secondary") => Role::Secondary,
                Some("Secondary-Rev") => Role::SecondaryRev,
                _ => Role::Unknown,
            },
            serves: group["serves"] == true,
            in_sync: group["inSync"] == true,
            epoch: group["epoch"].as_u64().unwrap_or(0),
            witness_counts: group["witness"] == true,
            pre_elected: group["quorum"] == "primary alone",
            reason: group["reason"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Bytes copied by resyncs since the array started, from its metrics.
    pub fn resync_bytes(&mut self, node: Node) -> io::Result<u64> {
        self.metric(node, "twinlun_resync_bytes_total")
    }

    /// Blocks that an array could not read and has written anew since it started.
    pub fn mended_blocks(&mut self, node: Node) -> io::Result<u64> {
        self.metric(node, "twinlun_mended_blocks_total")
    }

    fn metric(&mut self, node: Node, name: &str) -> io::Result<u64> {
        let said = self.metrics(node)?;
        let line = said.lines().find(|line| line.split(' ').next() == Some(name));
        let number = line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        number.ok_or_else(|| io::Error::other(format!("no {name} in /metrics")))
    }

    fn metrics(&mut self, node: Node) -> io::Result<String> {
        self.cli(node, &["metrics"])
    }

    /// Asks the serving array to give its role to the other.
    pub fn switch_over(&mut self, from: Node) -> io::Result<()> {
        // The group has another name on the other array.
        let name = self.group(from)?["name"].as_str().unwrap_or_default().to_owned();
        self.cli(from, &["setrcopygroup", "switchover", &name]).map(|_| ())
    }

    /// Waits until `holds`, which may fail while a process is coming up.
    pub fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&mut Self) -> io::Result<bool>,
    ) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let last = holds(self);
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > end {
                let why = last.err().map_or(String::new(), |error| format!(" ({error})"));
                return Err(io::Error::other(format!("not within {} s: {what}{why}", limit.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Portal and target name of the array that serves.
    pub fn serving(&self) -> io::Result<(String, String)> {
        let part = self
            .plan
            .parts
            .iter()
            .find(|part| part.node == Node::A)
            .ok_or_else(|| io::Error::other("no array"))?;
        Ok((part.portal.clone(), part.iqn.clone()))
    }

    /// Last lines of every log.
    pub fn last_words(&self) -> String {
        let words: Vec<_> = self
            .processes
            .iter()
            .map(|(node, process)| format!("--- {}\n{}", node.name(), process.last_words(15)))
            .collect();
        words.join("\n")
    }
}
