//! Callers that were sent away, for the log: each address with each reason at once, and then at most
//! once a minute with how often, whatever they do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One address and reason is told so often at most.
const EVERY: Duration = Duration::from_secs(60);
/// Reasons of one address that are told apart,
const REASONS_MAX: usize = 8;
/// and addresses. What is beyond is counted, not told.
const ADDRESSES_MAX: usize = 64;

#[derive(Debug)]
struct Told {
    at: Instant,
    /// Times that were not told since.
    untold: u64,
}

/// What was told of whom.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<BTreeMap<IpAddr, BTreeMap<String, Told>>>);

impl Refusals {
    /// Is this to be told now? With it comes how often it was not told since the last time.
    pub fn is_due(&self, from: IpAddr, why: &str) -> Option<u64> {
        self.is_due_at(from, why, Instant::now())
    }

    fn is_due_at(&self, from: IpAddr, why: &str, now: Instant) -> Option<u64> {
        let is_over = |told: &Told| now.saturating_duration_since(told.at) >= EVERY;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = all.get_mut(&from).and_then(|reasons| reasons.get_mut(why)) {
            if !is_over(told) {
                told.untold += 1;
                return None;
            }
            let untold = std::mem::take(&mut told.untold);
            told.at = now;
            return Some(untold);
        }
        let is_full = |all: &BTreeMap<IpAddr, BTreeMap<String, Told>>| match all.get(&from) {
            Some(reasons) => reasons.len() >= REASONS_MAX,
            None => all.len() >= ADDRESSES_MAX,
        };
        if is_full(&all) {
            all.retain(|_, reasons| {
                reasons.retain(|_, told| !is_over(told));
                !reasons.is_empty()
            });
            if is_full(&all) {
                return None;
            }
        }
        all.entry(from).or_default().insert(why.to_owned(), Told { at: now, untold: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_who_take_turns_fill_no_log() {
        let refusals = Refusals::default();
        let (one, two, now) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]), Instant::now());
        let mut lines = 0;
        for n in 0..100 {
            for (from, why) in [(one, "no TLS"), (two, "not believed")] {
                lines += usize::from(refusals.is_due_at(from, why, now + Duration::from_millis(n)).is_some());
            }
        }
        assert_eq!(lines, 2);
        assert_eq!(refusals.is_due_at(two, "no TLS", now), Some(0), "another address");
        assert_eq!(refusals.is_due_at(one, "no TLS", now + EVERY), Some(99), "how often meanwhile");
    }

    #[test]
    fn whoever_invents_reasons_or_addresses_fills_no_log_either() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let one = IpAddr::from([192, 0, 2, 1]);
        let told = (0..1000).filter(|n| refusals.is_due_at(one, &n.to_string(), now).is_some()).count();
        assert_eq!(told, REASONS_MAX);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let told = (0..1000).filter(|n| refusals.is_due_at(address(*n), "x", now).is_some()).count();
        assert_eq!(told, ADDRESSES_MAX - 1);
        assert!(refusals.is_due_at(address(2000), "x", now + EVERY).is_some(), "a minute later");
    }
}
