//! What the driver does next: which block is read or written, over which path.

use super::{Command, Driver, Mode, PATH_COMMANDS_MAX, Purpose, SECTORS, TICK, Task};
use crate::initiator::{self, PathState, Session};
use crate::stamp;
use serde_json::json;
use std::time::{Duration, Instant};

impl Driver {
    fn random(&mut self) -> u64 {
        // xorshift64*: reproducible from the run's number.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn dispatch(&mut self, now: Instant) {
        for slot in 0..self.tasks.len() {
            if self.tasks[slot].is_none() {
                self.tasks[slot] = self.next_task(now);
            }
            match self.tasks[slot] {
                Some(task) if !task.running && now >= task.not_before => self.attempt(slot, now),
                _ => {}
            }
        }
        if let Mode::Checking { next } = self.mode
            && next >= self.ledger.len()
            && self.tasks.iter().all(Option::is_none)
        {
            self.mode = Mode::Paused;
            let served: Vec<_> = self
                .paths
                .iter()
                .zip(&self.check.served_before)
                .filter(|(p, before)| p.served > **before)
                .map(|(p, _)| p.portal.to_string())
                .collect();
            self.say(json!({
                "event": "verified", "portals": served, "checked": self.check.checked, "lost": self.check.lost, "foreign": self.check.foreign,
                "examples": self.check.first_wrong,
            }));
        }
    }

    fn next_task(&mut self, now: Instant) -> Option<Task> {
        let mut task = Task {
            write: false,
            block: 0,
            seq: 0,
            floor: 0,
            path: None,
            running: false,
            not_before: now,
            checking: false,
        };
        match self.mode {
            Mode::Paused => return None,
            Mode::Checking { ref mut next } => {
                // Blocks still written by tasks from before wait for those.
                while *next < self.ledger.len() && !self.ledger.was_written(*next) {
                    *next += 1;
                }
                if *next >= self.ledger.len() {
                    return None;
                }
                task.block = *next;
                task.checking = true;
                *next += 1;
            }
            Mode::Running => {
                if self.options.rate != 0 {
                    if now < self.next_start {
                        return None;
                    }
                    // No catching up after a gap: a burst would only measure itself.
                    self.next_start = self.next_start.max(now - TICK * 2)
                        + Duration::from_secs(1) / u32::try_from(self.options.rate).unwrap_or(u32::MAX);
                }
                task.write = self.random() % 100 >= self.options.read_percent;
                task.block = usize::try_from(self.random() % self.ledger.len() as u64).unwrap_or(0);
                if task.write && !self.ledger.is_free(task.block) {
                    return None;
                }
            }
        }
        if task.write {
            task.seq = self.ledger.issue(task.block);
        } else {
            task.floor = self.ledger.floor(task.block);
        }
        self.issued += 1;
        self.ledger.hold(task.block);
        Some(task)
    }

    /// The path for the next attempt of a task that was last on `previous`.
    fn choose(&self, previous: Option<usize>) -> Option<usize> {
        let usable = |index: &usize| {
            let path = &self.paths[*index];
            path.session.as_ref().is_some_and(Session::window_open) && path.commands.len() < PATH_COMMANDS_MAX
        };
        let others = || (0..self.paths.len()).filter(|index| Some(*index) != previous).filter(usable);
        let optimized = |index: &usize| self.paths[*index].state == Some(PathState::Optimized);
        others().find(optimized).or_else(|| others().next()).or_else(|| previous.filter(usable))
    }

    fn attempt(&mut self, slot: usize, now: Instant) {
        let Some(mut task) = self.tasks[slot] else { return };
        // The first attempt goes where the LUN is active; a repeated one to the other path.
        let Some(index) = self.choose(task.path) else { return };
        let lba = task.block as u64 * SECTORS;
        let mut data = Vec::new();
        let path = &mut self.paths[index];
        let Some(session) = path.session.as_mut() else { return };
        let sent = if task.write {
            data.resize(stamp::BLOCK, 0);
            stamp::write(&mut data, self.options.stream, task.block as u64, task.seq);
            session.write(&initiator::transfer(true, lba, 8), &data)
        } else {
            session.read(&initiator::transfer(false, lba, 8), 4096)
        };
        match sent {
            Ok(sent) => {
                path.commands.insert(
                    sent.tag,
                    Command {
                        purpose: Purpose::Task(slot),
                        sent,
                        deadline: now + self.options.timeout,
                        data,
                        abort: None,
                    },
                );
                task.path = Some(index);
                task.running = true;
                self.tasks[slot] = Some(task);
            }
            Err(error) => {
                // A part of it may have been sent.
                if task.write {
                    self.ledger.hold(task.block);
                    path.limbo.push(task.block);
                }
                self.drop_session(index, &error.to_string());
            }
        }
    }
}
