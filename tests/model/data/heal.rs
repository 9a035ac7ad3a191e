//! No faults any more: everything must come to rest, with everything answered and both copies equal.

use super::world::{End, Step, World};
use twinlun::arbitration::InSync;
use twinlun::mirror::canonical::Canonical;

/// More than any state within the bounds needs.
const STEPS: usize = 400;

impl World {
    /// From here to rest by the steps that a pair left alone takes; the verdict is left behind in `violation`.
    pub fn heal(&mut self) {
        self.left = Default::default();
        self.stale.clear();
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            self.check();
            if self.violation.is_some() {
                return;
            }
            if self.rests() && self.asked.iter().all(|asked| asked.at.is_none()) {
                return self.check_rest();
            }
            steps.clear();
            self.left.ticks = 1;
            self.steps(&mut steps);
            steps.retain(|step| Self::urgency(*step, self.chosen.in_sync).is_some());
            steps.sort_by_key(|step| Self::urgency(*step, self.chosen.in_sync));
            if !steps.iter().any(|step| self.moves(*step)) {
                break;
            }
        }
        let (chosen, status) = (self.chosen, [self.status(0), self.status(1)]);
        self.fail(|| format!("stuck: {chosen:?} {status:?}"));
    }

    /// Takes the step if it changes anything.
    fn moves(&mut self, step: Step) -> bool {
        let mut after = self.clone();
        let mut canonical = Canonical::default();
        let moved = after.take(step) && after.digest(&mut canonical) != self.digest(&mut canonical);
        if moved {
            *self = after;
        }
        moved
    }

    /// What comes first; `None`: not by itself.
    const fn urgency(step: Step, in_sync: InSync) -> Option<u8> {
        let both = matches!(in_sync, InSync::Both);
        Some(match step {
            Step::Sweep { .. } => 0,
            Step::Return | Step::Restart { .. } | Step::LaneUp { .. } => 1,
            Step::Learn { .. } | Step::OpenGate { .. } | Step::JoinChosen | Step::Drop { .. } => 2,
            Step::Io { end: End::Done, .. } | Step::Map { .. } | Step::Deliver { .. } => 3,
            Step::Answer { .. } | Step::SwitchEnd { .. } => 4,
            Step::HandOver { .. } if both => 5,
            Step::Hello { .. } => 6,
            Step::StopMirror { .. } => 7,
            Step::JoinVote { .. } => 8,
            Step::Tick { .. } => 9,
            _ => return None,
        })
    }
}
