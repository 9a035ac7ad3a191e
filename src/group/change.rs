//! Changes of what the group is: drop, join, switch over, hand over, and the operator's commands.

use crate::arbitration::{Ballot, Config, InSync, Quorum, Timers};
use crate::mirror::Context;
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::api::{Action, LogEntry, Members, Refused, Request, SessionEnd, SessionMessage};
use super::control::Control;

/// Requests to the peer's control that wait for a reply; an operator gives few at a time.
const REQUESTS_MAX: usize = 16;
/// How often volumes are looked at while commands in flight are waited for.
const DRAIN_POLL: Duration = Duration::from_millis(2);
/// After a hand over of a bad disk came to nothing.
const HAND_OVER_RETRY: Duration = Duration::from_secs(5);

/// Who asked for a change of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    Here {
        ticket: u64,
    },
    Peer {
        number: u64,
    },
    /// This array itself (a disk that fails or hangs).
    Itself,
}

/// A switch over or hand over under way, from the command until the own vote is decided or the
/// hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Change {
    pub hand_over: bool,
    caller: Caller,
    hold_until: Time,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// *drop* is wanted; the session is closed.
    pub dropping: Option<SessionEnd>,
    pub role_change: Option<Change>,
    /// *switch over*: nothing in flight, own activity cleared durably.
    pub drained: bool,
    /// *join*: every volume agreed (`try_join`); both copies are needed from then on.
    pub joining: bool,
    /// An operator wants this secondary promoted, whatever the policy.
    pub operator_failover: bool,
    /// Its ticket, and when it is given up.
    failover_ticket: Option<(u64, Time)>,
    /// The secondary's operator wants a stopped group failed over: catch up, join, hand over.
    failing_over: Option<Caller>,
    stopping: Vec<Caller>,
    /// Requests sent to the peer's control.
    requests: Vec<(u64, u64, Request)>,
    number: u64,
    /// No session in {me} before.
    rejoin_at: Time,
    rejoin_delay: Duration,
    joined_at: Option<Time>,
    store_retry: Time,
    /// The own vote that this array take office, for which a hold was begun.
    noted_vote: Option<Ballot>,
}

impl Changes {
    /// The peer was dropped: it may come back after a while, which doubles when it keeps happening
    /// (F24), and is the short one again after `rejoin_delay_max` in sync.
    pub fn dropped(&mut self, now: Now, timers: &Timers) {
        let lasted = self.joined_at.take().map(|at| now.grantor.since(at));
        let quiet = lasted.is_none_or(|lasted| lasted >= timers.rejoin_delay_max);
        self.put_off(quiet, now, timers);
        self.dropping = None;
        self.joining = false;
    }

    /// No session for a while: the first time, or again.
    fn put_off(&mut self, first: bool, now: Now, timers: &Timers) {
        let stays = self.rejoin_delay.is_zero() || mutation::on(Mutation::RejoinDelayStays);
        self.rejoin_delay = if first || stays {
            timers.rejoin_delay
        } else {
            (self.rejoin_delay * 2).min(timers.rejoin_delay_max)
        };
        self.rejoin_at = now.grantor + self.rejoin_delay;
    }

    pub const fn joined(&mut self, now: Now) {
        self.joined_at = Some(now.grantor);
        self.joining = false;
    }

    /// The peer was asked for a failover, and has not answered.
    pub fn asks_for_failover(&self) -> bool {
        self.requests.iter().any(|(_, _, request)| *request == Request::FailOver)
    }

    pub fn forget_requests(&mut self) -> Vec<u64> {
        if matches!(self.failing_over, Some(Caller::Peer { .. })) {
            self.failing_over = None;
        }
        self.stopping.retain(|caller| !matches!(caller, Caller::Peer { .. }));
        self.requests.drain(..).map(|(_, ticket, _)| ticket).collect()
    }

    /// Moments to look again; past ones mean nothing.
    pub fn timeouts(&self) -> [Time; 4] {
        let hold_end = self.role_change.map_or(Time::ZERO, |change| change.hold_until);
        let failover = self.failover_ticket.map_or(Time::ZERO, |(_, until)| until);
        [hold_end, self.rejoin_at, self.store_retry, failover]
    }
}

impl Control {
    /// The group is to be mirrored now.
    pub(super) fn mirrors(&self, now: Now) -> bool {
        self.is_wanted() && now.grantor >= self.changes.rejoin_at && now.grantor >= self.peer_disk.until()
    }

    fn is_wanted(&self) -> bool {
        self.policy.started || self.changes.failing_over.is_some()
    }

    /// Drains are looked at by time as well as by pokes.
    pub(super) fn drain_poll(&self, now: Now) -> Option<Time> {
        let waits = self.changes.role_change.is_some() && !self.arbiter.voted_away();
        waits.then_some(now.grantor + DRAIN_POLL)
    }

    /// One step of whatever change is wanted or under way.
    pub(super) fn change_roles(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        self.note_own_vote(now);
        if self.changes.failover_ticket.is_some_and(|(_, until)| now.grantor >= until) {
            self.end_operator_failover(Refused::Undecided, out);
        }
        if self.changes.role_change.is_some() {
            self.carry_on_role_change(now, members, out);
        }
        if !self.settled() || !self.is_primary() || self.arbiter.voted_away() || self.arbiter.is_tainted() {
            return;
        }
        if self.is_both() {
            self.drop_if_needed(now, members, out);
            self.hand_over_bad_disk(now);
            if self.changes.dropping.is_none()
                && let Some(caller) = self.changes.failing_over
                && self.changes.role_change.is_none()
            {
                self.changes.failing_over = None;
                self.begin_change(true, caller, now);
            }
        } else {
            self.join_if_equal(now, members, out);
        }
    }

    /// A vote that gives this array office: hosts that come here wait for its outcome.
    fn note_own_vote(&mut self, now: Now) {
        let vote = self.arbiter.record().vote.filter(|vote| vote.value.primary == self.me);
        let ballot = vote.map(|vote| vote.ballot);
        if !self.is_primary() && ballot.is_some() && ballot != self.changes.noted_vote {
            self.hold_until = self.hold_until.max(now.grantor + self.settings.timers.switchover_hold);
        }
        self.changes.noted_vote = ballot;
    }

    // Drop.

    fn reason_to_drop(&self, now: Now) -> Option<SessionEnd> {
        let timers = &self.settings.timers;
        let longer = |since: Option<Time>, than: Duration| since.is_some_and(|at| now.grantor >= at + than);
        if self.peer_restarted {
            Some(SessionEnd::PeerRestarted)
        } else if self.peer_is_tainted() {
            Some(SessionEnd::PeerTainted)
        } else if !self.is_wanted() && self.changes.role_change.is_none() {
            Some(SessionEnd::Stopped)
        } else if longer(self.link_lost, timers.heartbeat) {
            Some(SessionEnd::LinkLost)
        } else if self.sum.peer_failed && !self.sum.peer_refused {
            Some(SessionEnd::PeerFailed)
        } else if self.peer_disk.bad {
            Some(SessionEnd::PeerDisk)
        } else if longer(self.sum.oldest_unacked, timers.mirror_timeout)
            || longer(self.primary.missing_since, timers.mirror_timeout)
        {
            Some(SessionEnd::MirrorTimeout)
        } else if self.arbiter.vote_in_the_way().is_some() {
            Some(SessionEnd::ConfigurationChanged)
        } else {
            None
        }
    }

    fn drop_if_needed(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let reason = self.reason_to_drop(now);
        match (self.changes.dropping, reason) {
            (None, Some(why)) => {
                if self.changes.role_change.is_some() {
                    self.give_up_change(Refused::PeerUnreachable, now, out);
                }
                if why == SessionEnd::PeerFailed {
                    self.peer_disk_fails(now);
                }
                self.changes.dropping = Some(why);
                self.primary.missing_since = None;
                self.end_session(why, now, members, out);
            }
            // The link was back before anything was voted: mirroring goes on, nothing was lost.
            (Some(SessionEnd::LinkLost), None) if !self.drop_is_voted() => self.changes.dropping = None,
            _ => {}
        }
    }

    // Join.

    fn join_if_equal(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        if !self.primary.is_up() {
            return;
        }
        // Hosts' writes wait for the mirror while its session lives: not for ever.
        let timers = &self.settings.timers;
        let stuck = self.sum.oldest_unacked.is_some_and(|at| now.grantor >= at + timers.mirror_timeout);
        if self.sum.peer_failed || stuck || self.peer_disk.bad {
            let why = if self.peer_disk.bad {
                SessionEnd::PeerDisk
            } else if stuck {
                SessionEnd::MirrorTimeout
            } else {
                SessionEnd::PeerFailed
            };
            self.changes.put_off(false, now, &self.settings.timers);
            if why == SessionEnd::PeerFailed {
                self.peer_disk_fails(now);
            }
            return self.end_session(why, now, members, out);
        }
        let equal = self.sum.dirty == 0 && self.sum.recovering == 0;
        let equal = equal || mutation::on(Mutation::JoinWhileDirty);
        if self.changes.joining || !equal || self.changes.role_change.is_some() {
            return;
        }
        if !self.primary.ready {
            return self.query_join(now, out);
        }
        let mut agreed = true;
        members.each(&mut |_, volume, _| agreed &= volume.try_join());
        self.changes.joining = true;
        if !agreed {
            self.cancel_join(now, members);
        }
    }

    /// Takes a join back, unless it is voted for: then it is finished (T4).
    pub(super) fn cancel_join(&mut self, now: Now, members: &mut dyn Members) {
        let voted = self.arbiter.vote().is_some_and(|vote| vote.in_sync == InSync::Both);
        let chosen = self.arbiter.chosen().in_sync == InSync::Both;
        if core::mem::take(&mut self.changes.joining) && !voted && !chosen {
            let cx = Context { now, lane: None };
            members.each(&mut |_, volume, out| volume.cancel_join(cx, out));
        }
    }

    // Switch over, hand over.

    fn begin_change(&mut self, hand_over: bool, caller: Caller, now: Now) {
        let hold_until = now.grantor + self.settings.timers.switchover_hold;
        self.hold_until = hold_until;
        self.changes.drained = false;
        self.changes.role_change = Some(Change { hand_over, caller, hold_until });
    }

    fn carry_on_role_change(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let Some(change) = self.changes.role_change else { return };
        let late = now.grantor >= change.hold_until;
        if self.arbiter.voted_away() || !self.settled() {
            // Finished, not forgotten (T3); what is held is refused when the hold ends.
            if late {
                self.give_up_change(Refused::Undecided, now, out);
            }
            return;
        }
        if late {
            self.log(LogEntry::SwitchOverGivenUp, out);
            return self.give_up_change(Refused::TimedOut, now, out);
        }
        if self.sum.flush_failed && !mutation::on(Mutation::T13SwitchKeepsCopy) {
            // What the flush lost is on the other disk alone: roles change without this copy.
            self.changes.role_change = Some(Change { hand_over: true, ..change });
            return;
        }
        let quiet = self.sum.in_flight == 0 && self.sum.recovering == 0 && self.primary.is_up();
        if !change.hand_over && !self.changes.drained && quiet {
            let cx = Context { now, lane: None };
            let mut cleared = true;
            members.each(&mut |_, volume, out| cleared &= volume.clear_activity(cx, out));
            self.changes.drained = cleared;
        }
    }

    fn give_up_change(&mut self, why: Refused, now: Now, out: &mut Vec<Action>) {
        let Some(change) = self.changes.role_change.take() else { return };
        self.changes.drained = false;
        self.changes.store_retry = now.grantor + HAND_OVER_RETRY;
        self.answer(change.caller, Err(why), out);
    }

    /// T14: a disk that fails, or hangs, cannot be switched over.
    fn hand_over_bad_disk(&mut self, now: Now) {
        let wanted = self.disk_is_bad()
            && !self.peer_disk.bad
            && !self.stalled
            && self.changes.dropping.is_none()
            && self.changes.role_change.is_none()
            && self.policy.auto_failover
            && self.primary.is_up()
            && !self.recovering_restart
            && now.grantor >= self.changes.store_retry;
        if wanted {
            self.begin_change(true, Caller::Itself, now);
        }
    }

    fn answer(&self, caller: Caller, result: Result<(), Refused>, out: &mut Vec<Action>) {
        match caller {
            Caller::Here { ticket } => out.push(Action::Outcome { ticket, result }),
            Caller::Peer { number } => self.tell(SessionMessage::Reply { number, result }, out),
            Caller::Itself => {}
        }
    }

    /// A new configuration is in force here.
    pub(super) fn roles_changed(&mut self, old: &Config, out: &mut Vec<Action>) {
        let left = old.primary == self.me && !self.is_primary();
        if !self.is_primary() && self.secondary.peer_serves == Some(self.applied.tenure()) {
            self.hold_until = Time::ZERO;
        }
        if left {
            self.changes.dropping = None;
            self.changes.joining = false;
            match self.changes.role_change.take() {
                // Until the new primary says that it serves, or the hold ends, commands wait.
                Some(change) => self.answer(change.caller, Ok(()), out),
                None => self.hold_until = Time::ZERO,
            }
            if let Some(caller) = self.changes.failing_over.take() {
                self.answer(caller, Ok(()), out);
            }
            // The new primary has its own word on whether the group is started. Answered later, the caller
            // would take this array's for it.
            for caller in core::mem::take(&mut self.changes.stopping) {
                self.answer(caller, Err(Refused::NotPrimary), out);
            }
        }
        if self.is_primary() && old.tenure() != self.applied.tenure() {
            self.changes.operator_failover = false;
            if let Some((ticket, _)) = self.changes.failover_ticket.take() {
                out.push(Action::Outcome { ticket, result: Ok(()) });
            }
        }
        // Without the policy for it nothing is mirrored by itself that was lost.
        let failed_over = self.is_primary() && old.tenure() != self.applied.tenure() && !self.is_both();
        let dropped = self.is_primary() && !failed_over && old.in_sync == InSync::Both && !self.is_both();
        if failed_over && !self.policy.auto_synchronize || dropped && !self.policy.auto_recover {
            self.take_started(false, out);
        }
        if !self.is_both() {
            self.changes.dropping = None;
            for caller in core::mem::take(&mut self.changes.stopping) {
                self.answer(caller, Ok(()), out);
            }
        }
    }

    // The operator.

    pub(super) fn switch_over(
        &mut self,
        caller: Caller,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        if !self.is_primary() {
            return self.ask_peer(caller, Request::SwitchOver, out);
        }
        self.may_change_roles()?;
        if !self.primary.is_up() {
            return Err(Refused::NotInSync);
        }
        if self.sum.recovering != 0 {
            return Err(Refused::Recovering);
        }
        self.begin_change(false, caller, now);
        Ok(None)
    }

    pub(super) fn hand_over(&mut self, caller: Caller, now: Now) -> Result<Option<()>, Refused> {
        if !self.is_primary() {
            return Ok(Some(()));
        }
        self.may_change_roles()?;
        if self.recovering_restart {
            return Err(Refused::Recovering);
        }
        self.begin_change(true, caller, now);
        Ok(None)
    }

    fn may_change_roles(&self) -> Result<(), Refused> {
        if !self.is_both() || !self.settled() {
            return Err(Refused::NotInSync);
        }
        if self.link.is_none() {
            return Err(Refused::PeerUnreachable);
        }
        if self.arbiter.is_tainted() {
            return Err(Refused::NotInSync);
        }
        if self.peer_disk.bad {
            return Err(Refused::PeerDiskBad);
        }
        let busy = self.changes.role_change.is_some()
            || self.changes.dropping.is_some()
            || self.arbiter.vote().is_some();
        if busy { Err(Refused::Busy) } else { Ok(()) }
    }

    /// DESIGN §3.2, `failover`: of a lost primary in sync; or of a stopped group whose primary is
    /// reached, which then loses nothing.
    pub(super) fn fail_over(
        &mut self,
        caller: Caller,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        if self.is_primary() {
            return Err(Refused::AlreadyPrimary);
        }
        if !self.primary_is_lost(now) {
            if self.policy.started || self.is_both() {
                return Err(Refused::PeerServes);
            }
            return self.ask_peer(caller, Request::FailOver, out);
        }
        if !self.is_both() || self.arbiter.is_tainted() {
            return Err(Refused::Stale);
        }
        if self.applied.quorum == Quorum::PrimaryAlone && !self.peer_is_tainted() {
            return Err(Refused::PrimaryAlone);
        }
        if self.disk_is_bad() {
            return Err(Refused::DiskBad);
        }
        let Caller::Here { ticket } = caller else { return Err(Refused::NotPrimary) };
        if self.changes.failover_ticket.is_some() {
            return Err(Refused::Busy);
        }
        let timers = &self.settings.timers;
        let wait = if self.arbiter.start_wait_over(now) { Duration::ZERO } else { timers.start_wait };
        // Promises of this array and of the witness end one after the other at the worst.
        let until = now.grantor + wait + timers.promise() * 3;
        self.changes.operator_failover = true;
        self.changes.failover_ticket = Some((ticket, until));
        self.arbiter.ask_soon(now);
        Ok(None)
    }

    /// The promotion that the operator wanted came to nothing.
    pub(super) fn end_operator_failover(&mut self, why: Refused, out: &mut Vec<Action>) {
        if let Some((ticket, _)) = self.changes.failover_ticket.take() {
            self.changes.operator_failover = false;
            out.push(Action::Outcome { ticket, result: Err(why) });
        }
    }

    pub(super) fn set_started(
        &mut self,
        started: bool,
        caller: Caller,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        if !self.is_primary() {
            return self.ask_peer(caller, Request::SetStarted(started), out);
        }
        self.take_started(started, out);
        if started {
            self.changes.rejoin_at = now.grantor;
            self.peer_disk.forgive();
        } else if self.is_both() {
            self.changes.stopping.push(caller);
            return Ok(None);
        }
        Ok(Some(()))
    }

    fn take_started(&mut self, started: bool, out: &mut Vec<Action>) {
        if self.policy.started != started {
            self.policy.started = started;
            out.push(Action::Policy(self.policy));
        }
    }

    fn ask_peer(
        &mut self,
        caller: Caller,
        request: Request,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        // A request that came from the peer is not sent back.
        let Caller::Here { ticket } = caller else { return Err(Refused::NotPrimary) };
        if self.link.is_none() {
            return Err(Refused::PeerUnreachable);
        }
        if self.changes.requests.len() >= REQUESTS_MAX {
            return Err(Refused::Busy);
        }
        self.changes.number += 1;
        let number = self.changes.number;
        self.changes.requests.push((number, ticket, request));
        self.tell(SessionMessage::Request { number, request }, out);
        Ok(None)
    }

    pub(super) fn requested(&mut self, number: u64, request: Request, now: Now, out: &mut Vec<Action>) {
        let caller = Caller::Peer { number };
        let result = match request {
            Request::SwitchOver => self.switch_over(caller, now, out),
            Request::SetStarted(started) => self.set_started(started, caller, now, out),
            Request::FailOver if !self.is_primary() => Err(Refused::NotPrimary),
            Request::FailOver if self.changes.failing_over.is_some() => Err(Refused::Busy),
            Request::FailOver => {
                self.changes.failing_over = Some(caller);
                self.changes.rejoin_at = now.grantor;
                self.peer_disk.forgive();
                Ok(None)
            }
        };
        match result {
            Ok(None) => {}
            Ok(Some(())) => self.answer(caller, Ok(()), out),
            Err(refused) => self.answer(caller, Err(refused), out),
        }
    }

    pub(super) fn replied(&mut self, number: u64, result: Result<(), Refused>, out: &mut Vec<Action>) {
        let Some(at) = self.changes.requests.iter().position(|(asked, _, _)| *asked == number) else {
            return;
        };
        let (_, ticket, request) = self.changes.requests.swap_remove(at);
        if let (Request::SetStarted(started), Ok(())) = (request, result) {
            self.take_started(started, out);
        }
        out.push(Action::Outcome { ticket, result });
    }
}
