//! Control of one group on one array.

use crate::arbitration::{Arbiter, Config, Gate};
use crate::time::{Now, Time};

use super::api::{Action, Event, Members, PathView, Settings};

/// The pure control of one remote copy group on one array. Call `begin` once, then `handle` for
/// every event and, at the latest, `handle(Event::Tick)` at `next_timeout`.
#[derive(Clone, Debug)]
pub struct Control {
    settings: Settings,
    arbiter: Arbiter,
}

impl Control {
    /// The volumes were enrolled (`Volume::enrol`) with `settings.record.chosen` before `begin`.
    pub fn new(settings: Settings) -> Self {
        Self { settings, arbiter: Arbiter::new(settings.record) }
    }

    /// The first call.
    pub fn begin(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        self.handle(Event::Tick, now, members, out);
    }

    /// Takes in one event; appends what to do to `out`. Volumes are changed through `members`
    /// before this returns: their gate is stricter before anything is persisted or sent, and more
    /// open only after everything it needs is durable.
    pub fn handle(&mut self, _event: Event, _now: Now, _members: &mut dyn Members, _out: &mut Vec<Action>) {}

    /// When to call `handle(Event::Tick)` at the latest (grantor clock).
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }

    /// Newest configuration known to be committed.
    pub fn chosen(&self) -> Config {
        self.settings.record.chosen.expect("an array's record always holds a configuration")
    }

    /// The gate as last published to the volumes.
    pub fn gate(&self) -> Gate {
        Gate::closed(self.chosen().tenure())
    }

    /// The newest view, as in the last `Action::Path`.
    pub fn view(&self) -> Option<PathView> {
        None
    }

    pub const fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }
}
