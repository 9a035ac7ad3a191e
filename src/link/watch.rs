//! Whether a lane is alive (F1): a lane that is silent for `lane_timeout` while another one moves is
//! given up, and its writes go over the others. A lane with answers outstanding asks the peer's end for
//! a sign of life; a slow disk over there delays answers, not those. All lanes silent is the link's
//! affair (`link_timeout`), and nothing here.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::mirror::LaneId;

/// How often a lane looks at itself; an answer that takes no longer is nothing to ask about.
pub const TICK: Duration = Duration::from_millis(100);
const TICK_MS: u64 = 100;
/// While one lane asks, the others show that they move.
const PROBE_MS: u64 = 3 * TICK_MS;

/// When each lane of the pair was last heard, for all of them to see. Times are milliseconds since
/// `born`, from 1; 0 is never.
#[derive(Debug)]
pub struct Board {
    born: Instant,
    timeout_ms: u64,
    heard: Vec<AtomicU64>,
    probe_until: AtomicU64,
}

impl Board {
    /// `timeout` is `lane_timeout`.
    pub fn new(lanes: u16, timeout: Duration) -> Self {
        Self {
            born: Instant::now(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            heard: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            probe_until: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_add(1))
    }

    /// Has a lane other than `lane` been heard since `since`?
    fn another_moves(&self, lane: LaneId, since: u64) -> bool {
        let own = usize::from(lane.0);
        self.heard.iter().enumerate().any(|(other, heard)| other != own && heard.load(Relaxed) > since)
    }
}

/// What a lane owes itself now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Ask the peer's end for a sign of life.
    Ask,
    GiveUp,
}

/// One connection's view of itself; lives on its data thread.
#[derive(Debug)]
pub struct Watch {
    board: Arc<Board>,
    lane: LaneId,
    /// Writes sent less answers received.
    outstanding: Cell<u64>,
    heard: Cell<u64>,
    /// Since when something sent has found no echo of any kind.
    silent_since: Cell<Option<u64>>,
    asked: Cell<bool>,
}

impl Watch {
    pub fn new(board: Arc<Board>, lane: LaneId) -> Self {
        let watch = Self {
            lane,
            outstanding: Cell::new(0),
            heard: Cell::new(0),
            silent_since: Cell::new(None),
            asked: Cell::new(false),
            board,
        };
        watch.heard();
        watch
    }

    /// So many frames that want an answer are about to be written.
    pub fn sends(&self, frames: usize) {
        if frames > 0 {
            self.outstanding.set(self.outstanding.get() + frames as u64);
            self.expects(self.board.now());
        }
    }

    fn expects(&self, now: u64) {
        if self.silent_since.get().is_none() {
            self.silent_since.set(Some(now));
        }
    }

    /// Something arrived.
    pub fn heard(&self) {
        self.heard_at(self.board.now());
    }

    fn heard_at(&self, now: u64) {
        self.heard.set(now);
        self.silent_since.set(None);
        self.asked.set(false);
        if let Some(heard) = self.board.heard.get(usize::from(self.lane.0)) {
            heard.store(now, Relaxed);
        }
    }

    /// So many answers arrived.
    pub fn answered(&self, frames: usize) {
        self.outstanding.set(self.outstanding.get().saturating_sub(frames as u64));
    }

    /// To be called each [`TICK`].
    pub fn due(&self) -> Due {
        self.due_at(self.board.now())
    }

    fn due_at(&self, now: u64) -> Due {
        if let Some(since) = self.silent_since.get() {
            let silent = now.saturating_sub(since);
            if silent >= self.board.timeout_ms && self.board.another_moves(self.lane, since + TICK_MS) {
                return Due::GiveUp;
            }
            if silent < TICK_MS {
                return Due::Nothing;
            }
            self.board.probe_until.fetch_max(now + PROBE_MS, Relaxed);
        } else {
            let quiet = now.saturating_sub(self.heard.get()) >= TICK_MS;
            let probed = self.board.probe_until.load(Relaxed) > now;
            if !quiet || (self.outstanding.get() == 0 && !probed) {
                return Due::Nothing;
            }
            self.expects(now);
        }
        if self.asked.replace(true) { Due::Nothing } else { Due::Ask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> (Watch, Watch) {
        let board = Arc::new(Board::new(2, Duration::from_millis(300)));
        (Watch::new(Arc::clone(&board), LaneId(0)), Watch::new(board, LaneId(1)))
    }

    #[test]
    fn a_silent_lane_is_given_up_while_another_moves() {
        let (silent, other) = two();
        silent.sends(1);
        let since = silent.silent_since.get().unwrap();
        assert_eq!(silent.due_at(since + 50), Due::Nothing);
        assert_eq!(silent.due_at(since + 100), Due::Ask);
        assert_eq!(silent.due_at(since + 200), Due::Nothing, "asked once");
        // The other one, with nothing to do, shows that it moves.
        assert_eq!(other.due_at(since + 200), Due::Ask);
        other.heard_at(since + 202);
        assert_eq!(silent.due_at(since + 290), Due::Nothing);
        assert_eq!(silent.due_at(since + 300), Due::GiveUp);
    }

    #[test]
    fn a_link_that_is_silent_as_a_whole_keeps_its_lanes() {
        let (one, other) = two();
        one.sends(1);
        other.sends(1);
        let since = one.silent_since.get().unwrap();
        for ms in (0..5000).step_by(100) {
            assert_ne!(one.due_at(since + ms), Due::GiveUp);
            assert_ne!(other.due_at(since + ms), Due::GiveUp);
        }
    }

    #[test]
    fn a_slow_disk_over_there_is_no_silence() {
        let (slow, other) = two();
        slow.sends(3);
        let since = slow.silent_since.get().unwrap();
        for ms in (100..5000).step_by(100) {
            other.heard_at(since + ms);
            match slow.due_at(since + ms) {
                Due::Ask => slow.heard_at(since + ms + 1),
                due => assert_eq!(due, Due::Nothing),
            }
        }
        slow.heard_at(since + 5000);
        slow.answered(3);
        assert_eq!(slow.due_at(since + 9000), Due::Nothing, "nothing is outstanding");
    }

    #[test]
    fn answers_outstanding_keep_a_lane_watched_after_a_sign_of_life() {
        let (silent, other) = two();
        silent.sends(1);
        let since = silent.silent_since.get().unwrap();
        assert_eq!(silent.due_at(since + 100), Due::Ask);
        silent.heard_at(since + 110);
        assert_eq!(silent.due_at(since + 250), Due::Ask);
        other.heard_at(since + 500);
        assert_eq!(silent.due_at(since + 551), Due::GiveUp);
    }
}
