//! Test builds: the form in which states that behave alike are equal, so that an exploration of all
//! states ends (`tests/model`). A clock is moved so that it always shows the same time, what is past
//! counts as long past, and numbers that only have to differ from each other begin again.
//!
//! Nothing that decides anything may be lost here: a lease that ended is none, a question that nobody
//! can answer any more is none, an age counts up to the limit that it is compared with.

use crate::time::{Duration, Now, Time};

use super::arbiter::{Arbiter, Lease};
use super::proposer::ATTEMPTS_AROUND;
use super::voter::Register;
use super::{LEASE_MAX, Message, Voter, WitnessCore};

/// What the clocks of a process showed, and show from now on.
#[derive(Clone, Copy, Debug)]
pub struct Rebase {
    pub now: Now,
    /// Both clocks from now on.
    pub to: Time,
    /// The pause before a new attempt is rounded up to this: its chance is none of the model's.
    pub grain: Duration,
    /// What the next random number is drawn from; `None`: as it is.
    pub random: Option<u64>,
    /// For how long the primary has been silent is looked at.
    pub silence: bool,
}

impl Rebase {
    /// An instant to come on the grantor's clock; past ones are long past.
    fn coming(&self, at: Time) -> Time {
        Self::moved(at, self.now.grantor, self.to)
    }

    fn moved(at: Time, now: Time, to: Time) -> Time {
        if at == Time::FOREVER {
            at
        } else if at <= now {
            Time::ZERO
        } else {
            to + at.since(now)
        }
    }

    /// An instant on the grantor's clock whose age matters up to `longest`.
    fn past(&self, at: Time, longest: Duration) -> Time {
        self.to - self.now.grantor.since(at).min(longest)
    }

    fn lease(&self, lease: Option<Lease>) -> Option<Lease> {
        let end = |lease: Lease| Self::moved(lease.end, self.now.holder, self.to);
        lease.map(|lease| Lease { end: end(lease), ..lease }).filter(|lease| lease.end > self.to)
    }

    fn register(&self, register: &mut Register) {
        register.until = self.coming(register.until);
        register.refuses_until = self.coming(register.refuses_until);
        if register.until == Time::ZERO {
            register.holder = None;
        }
    }
}

impl Arbiter {
    /// Moves the clocks of this process, and numbers its records anew. Returns by how much the numbers
    /// of records not yet durable went down.
    pub fn rebase(&mut self, by: &Rebase) -> u64 {
        let timers = self.timers;
        by.register(&mut self.register);
        self.restarted = false; // matters in `begin` alone
        self.awaits_primary &= by.now.grantor.since(self.began) < timers.start_wait;
        self.began = if self.awaits_primary { by.past(self.began, timers.start_wait) } else { by.to };
        let listens = by.silence && !self.is_primary() && self.peer.connection.is_some();
        self.peer_quiet_since =
            if listens { by.past(self.peer_quiet_since, timers.promise()) } else { by.to };
        self.witness_seen = by.past(self.witness_seen, timers.witness_lost_after);
        self.peer_lease = by.lease(self.peer_lease);
        self.witness_lease = by.lease(self.witness_lease);
        for other in [&mut self.peer, &mut self.witness] {
            // Read by control, for the paths' states, alone.
            other.heard = None;
            other.promise = None;
        }
        for asked in &mut self.asked {
            asked.sent = by.to - by.now.holder.since(asked.sent).min(LEASE_MAX);
            asked.at = by.past(asked.at, timers.witness_lost_after);
        }
        self.next_ask = by.coming(self.next_ask);
        self.withdraw_at = by.coming(self.withdraw_at);
        if let Some(running) = &mut self.overriding {
            running.lonely_since = by.past(running.lonely_since, timers.promise_of(LEASE_MAX));
            running.next = by.coming(running.next);
        }
        let proposer = &mut self.proposer;
        proposer.promised_away_until = by.coming(proposer.promised_away_until);
        proposer.failures = proposer.failures.min(ATTEMPTS_AROUND);
        proposer.random = by.random.unwrap_or(proposer.random);
        if proposer.retry_at > by.now.grantor {
            let pause = proposer.retry_at.since(by.now.grantor).as_nanos();
            let pause = pause.next_multiple_of(by.grain.as_nanos().max(1));
            proposer.retry_at = by.to + Duration::from_nanos(u64::try_from(pause).unwrap_or(u64::MAX));
        } else {
            proposer.retry_at = Time::ZERO;
        }
        let durable = self.durable;
        if let Some(running) = &mut proposer.running {
            running.deadline = by.coming(running.deadline);
            running.own_promise = running.own_promise.saturating_sub(durable);
            running.own_vote = running.own_vote.map(|vote| vote.saturating_sub(durable));
        }
        for (needs, ..) in &mut self.outbox {
            *needs = needs.saturating_sub(durable);
        }
        self.chosen_sequence = self.chosen_sequence.saturating_sub(durable);
        self.sequence -= durable;
        self.durable = 0;
        durable
    }

    /// The questions not answered yet, in the order in which they were asked: to whom, the number, and
    /// whether a lease that is granted now would be over.
    pub fn questions(&self, now: Now) -> impl Iterator<Item = (Voter, u64, bool)> {
        self.asked.iter().map(move |asked| (asked.to, asked.number, asked.sent + asked.lease <= now.holder))
    }

    /// Gives the questions that `is_pending` the numbers from 1, and forgets the others.
    pub fn renumber(&mut self, is_pending: impl Fn(Voter, u64) -> bool) {
        self.asked.retain(|asked| is_pending(asked.to, asked.number));
        self.number = 0;
        for asked in &mut self.asked {
            self.number += 1;
            asked.number = self.number;
        }
    }

    /// The incarnation that the connected witness told.
    pub const fn witness_told(&self) -> Option<super::Incarnation> {
        self.witness.incarnation
    }

    /// The number of the newest question.
    pub const fn numbers_used(&self) -> u64 {
        self.number
    }

    /// Messages that wait for the disk, with the voter they go to.
    pub fn waiting(&self) -> impl Iterator<Item = (Voter, &Message)> {
        self.outbox.iter().map(|(_, to, _, message)| (*to, message))
    }

    /// Messages that wait for the disk, with the voter they go to.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = (Voter, &mut Message)> {
        self.outbox.iter_mut().map(|(_, to, _, message)| (*to, message))
    }
}

impl WitnessCore {
    /// See [`Arbiter::rebase`].
    pub fn rebase(&mut self, by: &Rebase) -> u64 {
        for register in self.groups.values_mut() {
            by.register(register);
        }
        self.blanket = by.coming(self.blanket);
        let durable = self.durable;
        for held in &mut self.held {
            held.needs = held.needs.saturating_sub(durable);
        }
        self.sequence -= durable;
        self.durable = 0;
        durable
    }

    /// Answers that wait for the disk, with the connection they go to.
    pub fn waiting(&self) -> impl Iterator<Item = (super::Connection, &Message)> {
        self.held.iter().flat_map(|held| held.messages.iter().map(|m| (held.connection, m)))
    }

    /// Answers that wait for the disk, with the connection they go to.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = (super::Connection, &mut Message)> {
        self.held.iter_mut().flat_map(|held| held.messages.iter_mut().map(|m| (held.connection, m)))
    }
}
