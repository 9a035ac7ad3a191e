//! One process of a site (array or witness): started, killed, frozen, ended in order, always by
//! the id it was started with. It dies with the program that started it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Process {
    name: String,
    /// Network namespace it lives in; none: this one.
    namespace: Option<String>,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub fn new(
        name: &str,
        namespace: Option<String>,
        program: PathBuf,
        arguments: Vec<String>,
        log: PathBuf,
    ) -> Self {
        Self {
            name: name.to_owned(),
            namespace,
            program,
            arguments,
            environment: Vec::new(),
            log,
            child: None,
        }
    }

    /// For the next start only what is set here.
    pub fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// A command in the same namespace, ended when this program ends.
    pub fn command(&self, program: &str, arguments: &[String]) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
        }
        words.extend(["setpriv", "--pdeathsig", "KILL", program].map(str::to_owned));
        words.extend_from_slice(arguments);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    pub fn start(&mut self) -> io::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.command(&self.program.display().to_string(), &self.arguments);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        self.child = Some(command.stdin(Stdio::null()).stderr(log.try_clone()?).stdout(log).spawn()?);
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let child = self
            .child
            .as_ref()
            .ok_or_else(|| io::Error::other(format!("{} was never started", self.name)))?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
    }

    /// At once and without a word, as a crash does.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut child) = self.child.take() {
            // Fails only if it has ended by itself.
            let _ = child.kill();
            child.wait()?;
        }
        Ok(())
    }

    pub fn freeze(&self) -> io::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> io::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Asks it to end in order.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Waits until it has ended by itself.
    pub fn wait_end(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        let child = self
            .child
            .as_mut()
            .ok_or_else(|| io::Error::other(format!("{} was never started", self.name)))?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("{} does not end within {limit:?}", self.name)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Last lines of its log, for a person who wonders.
    pub fn last_words(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log)
            .map(|raw| String::from_utf8_lossy(&raw).into_owned())
            .unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Resident memory in KiB and CPU time used so far in clock ticks, from /proc.
    pub fn usage(&self) -> io::Result<(u64, u64)> {
        let pid = self.child.as_ref().map(Child::id).ok_or_else(|| io::Error::other("not running"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|n| n.parse().ok());
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15, counted after the name in parentheses, which may hold blanks.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Ok((resident.unwrap_or(0), ticks(11) + ticks(12)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing better can be done about a process that will not be waited for.
        let _ = self.kill();
    }
}

/// A fresh log file.
pub fn truncate(path: &PathBuf) -> io::Result<()> {
    File::create(path).map(|_| ())
}
