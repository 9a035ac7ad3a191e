//! Is a link alive? Only acknowledged round trips count (FAILURES F25): a link that carries one
//! direction is dead.

use crate::time::{Duration, Time};

/// Liveness of one control connection, by heartbeats. The shell sends a ping with the number that
/// `beat` gives and hands every pong's number in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Liveness {
    heartbeat: Duration,
    timeout: Duration,
    next_beat: Time,
    /// Number of the next ping; ping n was sent at `sent[n % len]`.
    number: u64,
    sent: [Time; Self::WINDOW],
    /// Send time of the newest acknowledged ping (or when the connection came up).
    proved: Time,
}

impl Liveness {
    /// Pings kept: with the default timers a link is dead after six without an answer; slower
    /// answers than this prove nothing.
    const WINDOW: usize = 32;

    /// A connection that came up `now` (its hello was a round trip).
    pub const fn new(heartbeat: Duration, timeout: Duration, now: Time) -> Self {
        Self { heartbeat, timeout, next_beat: now, number: 0, sent: [Time::ZERO; Self::WINDOW], proved: now }
    }

    /// A ping to send now, if one is due.
    pub fn beat(&mut self, now: Time) -> Option<u64> {
        if now < self.next_beat {
            return None;
        }
        self.next_beat = now + self.heartbeat;
        let number = self.number;
        self.number += 1;
        self.sent[Self::place(number)] = now;
        Some(number)
    }

    /// The peer answered ping `number`.
    pub fn pong(&mut self, number: u64) {
        let window = Self::WINDOW as u64;
        if number < self.number && self.number - number <= window {
            self.proved = self.proved.max(self.sent[Self::place(number)]);
        }
    }

    #[must_use]
    pub fn is_alive(&self, now: Time) -> bool {
        now < self.proved + self.timeout
    }

    /// When to call `beat` or `is_alive` next.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        self.next_beat.min(self.proved + self.timeout)
    }

    fn place(number: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "below WINDOW")]
        let place = (number % Self::WINDOW as u64) as usize;
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn only_acknowledged_round_trips_count() {
        let mut link = Liveness::new(Duration::from_millis(250), Duration::from_millis(1500), ms(0));
        assert_eq!(link.beat(ms(0)), Some(0));
        assert_eq!(link.beat(ms(100)), None);
        assert_eq!(link.beat(ms(250)), Some(1));
        link.pong(1);
        assert!(link.is_alive(ms(1749)));
        assert!(!link.is_alive(ms(1750)), "counted from the ping's send time");
        link.pong(0);
        link.pong(7);
        assert!(!link.is_alive(ms(1750)), "an older or unknown pong proves nothing");
        assert_eq!(link.next_timeout(), ms(500));
    }
}
