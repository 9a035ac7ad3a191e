//! The judge: holds the log of acknowledgements outside the guest and says what of it is missing
//! when a device is read back.

use crate::records::Record;
use std::collections::HashMap;
use std::io::BufReader;
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    acknowledged: u64,
    issued: u64,
}

/// What one scan came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub checked: u64,
    /// Blocks older than their last acknowledged write.
    pub lost: u64,
    /// Blocks that hold what nobody wrote there.
    pub foreign: u64,
    pub examples: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<(u8, u32), Block>,
    acknowledged: u64,
    failed: u64,
    stale: u64,
    scan: HashMap<u8, Verdict>,
    stale_examples: Vec<String>,
    ended: HashMap<u64, Verdict>,
}

#[derive(Clone, Debug, Default)]
pub struct Judge {
    state: Arc<(Mutex<State>, Condvar)>,
}

/// Examples kept for a person to look at.
const EXAMPLES_MAX: usize = 6;

impl State {
    fn take(&mut self, record: Record) {
        match record {
            Record::Acknowledged { stream, block, seq } => {
                let entry = self.blocks.entry((stream, block)).or_default();
                entry.acknowledged = entry.acknowledged.max(seq);
                self.acknowledged += 1;
            }
            Record::Failed { .. } => self.failed += 1,
            Record::Stale { stream, block, found, floor } => {
                self.stale += 1;
                if self.stale_examples.len() < EXAMPLES_MAX {
                    self.stale_examples.push(format!(
                        "stream {stream} block {block}: a read gave write {found}, {floor} was there before"
                    ));
                }
            }
            Record::Issued { stream, block, seq } => {
                self.blocks.entry((stream, block)).or_default().issued = seq
            }
            Record::Found { stream, block, oldest, newest } => {
                let entry = self.blocks.entry((stream, block)).or_default();
                let verdict = self.scan.entry(stream).or_default();
                verdict.checked += 1;
                let wrong = if oldest < entry.acknowledged {
                    verdict.lost += 1;
                    format!("holds write {oldest}, {} was acknowledged", entry.acknowledged)
                } else if newest > entry.issued {
                    verdict.foreign += 1;
                    format!("holds write {newest}, only {} was issued", entry.issued)
                } else {
                    return;
                };
                // One loss is counted once: what is there now is what is expected from here on.
                entry.acknowledged = oldest;
                if verdict.examples.len() < EXAMPLES_MAX {
                    verdict.examples.push(format!("stream {stream} block {block} {wrong}"));
                }
            }
            Record::Foreign { stream, block } => {
                let verdict = self.scan.entry(stream).or_default();
                verdict.checked += 1;
                // A block whose first write was never acknowledged may hold anything.
                if self.blocks.get(&(stream, block)).is_some_and(|entry| entry.acknowledged != 0) {
                    verdict.foreign += 1;
                    verdict.examples.push(format!("stream {stream} block {block} holds no stamp"));
                    verdict.examples.truncate(EXAMPLES_MAX);
                }
            }
            Record::End { token } => {
                let mut all = Verdict::default();
                for (_, one) in self.scan.drain() {
                    all.checked += one.checked;
                    all.lost += one.lost;
                    all.foreign += one.foreign;
                    all.examples.extend(one.examples);
                }
                self.ended.insert(token, all);
            }
        }
    }
}

impl Judge {
    /// Takes the writers' connections from `listener` for as long as the program runs.
    pub fn listen(&self, listener: TcpListener) {
        let judge = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let judge = judge.clone();
                std::thread::spawn(move || {
                    let mut input = BufReader::new(stream);
                    while let Ok(record) = Record::receive(&mut input) {
                        let (state, changed) = &*judge.state;
                        state.lock().expect("no holder panics").take(record);
                        if matches!(record, Record::End { .. }) {
                            changed.notify_all();
                        }
                    }
                });
            }
        });
    }

    /// The verdict of the scan that carried `token`.
    pub fn verdict(&self, token: u64, limit: Duration) -> Option<Verdict> {
        let (state, changed) = &*self.state;
        let end = Instant::now() + limit;
        let mut state = state.lock().expect("no holder panics");
        loop {
            if let Some(verdict) = state.ended.remove(&token) {
                return Some(verdict);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = changed.wait_timeout(state, left).expect("no holder panics").0;
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.state.0.lock().expect("no holder panics").acknowledged
    }

    /// Reads that went back in time since the last call, with examples.
    pub fn take_stale(&self) -> (u64, Vec<String>) {
        let mut state = self.state.0.lock().expect("no holder panics");
        (std::mem::take(&mut state.stale), std::mem::take(&mut state.stale_examples))
    }

    /// New devices: what the old ones held is forgotten.
    pub fn reset(&self) {
        *self.state.0.lock().expect("no holder panics") = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(records: &[Record]) -> Verdict {
        let mut state = State::default();
        for record in records {
            state.take(*record);
        }
        state.take(Record::End { token: 1 });
        state.ended.remove(&1).unwrap_or_default()
    }

    const ACK: Record = Record::Acknowledged { stream: 1, block: 5, seq: 10 };

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        let issued = Record::Issued { stream: 1, block: 5, seq: 11 };
        let old = Record::Found { stream: 1, block: 5, oldest: 9, newest: 9 };
        assert_eq!(scan(&[ACK, issued, old]).lost, 1);
        let torn = Record::Found { stream: 1, block: 5, oldest: 9, newest: 10 };
        assert_eq!(scan(&[ACK, issued, torn]).lost, 1);
    }

    #[test]
    fn a_later_issued_write_is_as_good_as_the_acknowledged_one() {
        let issued = Record::Issued { stream: 1, block: 5, seq: 11 };
        for seq in [10, 11] {
            let verdict =
                scan(&[ACK, issued, Record::Found { stream: 1, block: 5, oldest: seq, newest: seq }]);
            assert_eq!((verdict.checked, verdict.lost, verdict.foreign), (1, 0, 0));
        }
        assert_eq!(
            scan(&[ACK, issued, Record::Found { stream: 1, block: 5, oldest: 12, newest: 12 }]).foreign,
            1
        );
        assert_eq!(scan(&[ACK, issued, Record::Foreign { stream: 1, block: 5 }]).foreign, 1);
    }

    #[test]
    fn streams_are_told_apart() {
        let other = Record::Found { stream: 2, block: 5, oldest: 0, newest: 0 };
        assert_eq!(scan(&[ACK, other]).lost, 0);
    }
}
