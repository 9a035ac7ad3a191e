//! The client outside the guest: `twinlun-host` with a path timeout of 250 ms. Its longest gap is
//! the array's, without a guest's own waiting.

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Outside {
    child: Child,
    orders: ChildStdin,
    said: Receiver<Value>,
    /// What it reported without being asked: wrong blocks, failed commands.
    pub findings: Vec<Value>,
}

impl Outside {
    /// `command` is the program with its arguments, in the right namespace.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::other("no pipe to the outside client");
        let orders = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { child, orders, said, findings: Vec::new() })
    }

    pub fn order(&mut self, order: &str) -> io::Result<()> {
        writeln!(self.orders, "{order}")
    }

    /// Gives an order and waits for the event that answers it.
    pub fn ask(&mut self, order: &str, event: &str, limit: Duration) -> io::Result<Value> {
        self.order(order)?;
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let value = self
                .said
                .recv_timeout(left)
                .map_err(|_| io::Error::other(format!("the outside client does not answer {order:?}")))?;
            if value["event"] == event {
                return Ok(value);
            }
            self.findings.push(value);
        }
    }

    pub fn phase(&mut self, name: &str) -> io::Result<Value> {
        self.ask(&format!("phase {name}"), "phase", ANSWER_LIMIT)
    }

    pub fn status(&mut self) -> io::Result<Value> {
        self.ask("status", "status", ANSWER_LIMIT)
    }

    /// Reads back every block through whatever path serves now, and goes on afterwards.
    pub fn verify(&mut self, limit: Duration) -> io::Result<Value> {
        self.order("pause")?;
        self.ask("verify", "verified", limit)
    }

    /// Waits until `paths` paths are logged in and one of them is active.
    pub fn wait_ready(&mut self, paths: usize, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            let status = self.status()?;
            let list = status["paths"].as_array().cloned().unwrap_or_default();
            let up = list.iter().filter(|path| path["up"] == true).count();
            if up >= paths && list.iter().any(|path| path["state"] == "Optimized") {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!("the outside client has no {paths} paths: {status}")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
