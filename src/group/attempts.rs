//! What is tried, and refused, again and again until a fault is gone: told when it is new, and then
//! ever more rarely.

use crate::arbitration::{Epoch, Transition, Voter};

/// One thing that may be told often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attempt {
    Proposed(Option<Transition>),
    Refused(Voter),
}

/// How often each was there in the present epoch. Bounded by the number of transitions and voters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Attempts {
    epoch: Epoch,
    seen: Vec<(Attempt, u32)>,
}

impl Attempts {
    /// It is there once more; true for the first, second, fourth, eighth time of an epoch, and so on.
    pub fn is_to_be_told(&mut self, epoch: Epoch, attempt: Attempt) -> bool {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.seen.clear();
        }
        match self.seen.iter_mut().find(|(known, _)| *known == attempt) {
            Some((_, times)) => {
                *times = times.saturating_add(1);
                times.is_power_of_two()
            }
            None => {
                self.seen.push((attempt, 1));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_ever_more_rarely_and_anew_in_each_epoch() {
        let mut attempts = Attempts::default();
        let promote = Attempt::Proposed(Some(Transition::Promote));
        let told: Vec<u32> = (1..=20).filter(|_| attempts.is_to_be_told(Epoch(3), promote)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16]);
        assert!(attempts.is_to_be_told(Epoch(3), Attempt::Refused(Voter::Witness)));
        assert!(attempts.is_to_be_told(Epoch(4), promote));
    }
}
