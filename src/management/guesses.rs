//! Wrong passwords: each further one of an address makes it wait longer for its next try. Pure but for
//! the clock that the caller reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong passwords that cost nothing: people mistype.
const FREE: u32 = 3;
/// The first wait; it doubles.
const WAIT: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// After so long without a wrong one all is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);
/// Addresses remembered; of more the one that may try again first is forgotten.
const ADDRESSES_MAX: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Wrong {
    count: u32,
    last: Instant,
    next: Instant,
}

/// The wrong passwords of all addresses.
#[derive(Debug, Default)]
pub struct Guesses(BTreeMap<IpAddr, Wrong>);

impl Guesses {
    /// # Errors
    /// How long this address has to wait before it may try again.
    pub fn may_try(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let wait =
            self.0.get(&from).map_or(Duration::ZERO, |wrong| wrong.next.saturating_duration_since(now));
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// A try is made, and counts as wrong until `right`: many at once gain nothing.
    pub fn tries(&mut self, from: IpAddr, now: Instant) {
        self.0.retain(|_, wrong| now.saturating_duration_since(wrong.last) < FORGOTTEN_AFTER);
        if self.0.len() >= ADDRESSES_MAX && !self.0.contains_key(&from) {
            let first = self.0.iter().min_by_key(|(_, wrong)| wrong.next).map(|(address, _)| *address);
            first.map(|address| self.0.remove(&address));
        }
        let wrong = self.0.entry(from).or_insert(Wrong { count: 0, last: now, next: now });
        wrong.count = wrong.count.saturating_add(1);
        wrong.last = now;
        if let Some(beyond) = wrong.count.checked_sub(FREE) {
            wrong.next = now + (WAIT * 2u32.saturating_pow(beyond.min(16))).min(WAIT_MAX);
        }
    }

    /// The try was right.
    pub fn right(&mut self, from: IpAddr) {
        self.0.remove(&from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_passwords_cost_ever_more_time_and_a_right_one_ends_that() {
        let (mut guesses, mut now) = (Guesses::default(), Instant::now());
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let begin = now;
        let mut tries = 0;
        while now < begin + Duration::from_secs(3600) {
            match guesses.may_try(one, now) {
                Ok(()) => {
                    guesses.tries(one, now);
                    tries += 1;
                }
                Err(wait) => now += wait,
            }
        }
        assert!((60..80).contains(&tries), "{tries} in an hour");
        assert_eq!(guesses.may_try(two, now), Ok(()));
        guesses.right(one);
        assert_eq!(guesses.may_try(one, now), Ok(()));
        for n in 0..5000u32 {
            guesses.tries(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(guesses.0.len(), ADDRESSES_MAX);
    }
}
