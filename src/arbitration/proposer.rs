//! An array's proposals: one Paxos instance per epoch among the voters and by the quorum of the
//! chosen configuration (ARBITRATION `propose`, *quorums*, *guards*).
//!
//! ```text
//!   begin: own promise --durable--> Prepare to the others
//!   phase-1 quorum: highest vote found, else the transition's value (guard again)
//!     value is a fresh re-enrol : Accept to W' -> own vote -> Accept to the peer
//!     value gives me office     : Accept to both -> (one accepted) own vote
//!     anything else             : own vote --durable--> Accept to both
//!   phase-2 quorum: learn, tell all
//! ```
//! Where the specification is open: an undecided own vote is finished by the primary at once, by
//! the secondary only when the vote names it, no link lives and its promise is over (else the
//! primary, whose vote it is too, does it). The voter whose undecided vote keeps it from granting
//! is left out of phase 1, be it the peer or the witness, as long as the third one answers.
//!
//! A *pre-elect* is chosen by both arrays together, and the peer may refuse it (T17). So the primary
//! asks the peer in phase 1, and a vote for one that an array asked in phase 1 does not hold is passed
//! over: that array promised a higher ballot and will never accept it, and had it been chosen by any
//! ballot, every later vote of that array would name the same value. Without that a refused pre-elect
//! would stand in the way of everything else, *drop* included, until the peer changed its mind.

use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::arbiter::{Arbiter, ArbiterAction};
use super::transition::{Phase1, Phase2, phase1, phase2, pre_elects};
use super::voter::Identity;
use super::{Ballot, Body, Config, InSync, Promise, Quorum, Transition, Vote, Voter};

/// After this many attempts without the voter in the way its vote is finished instead.
pub(super) const ATTEMPTS_AROUND: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proposer {
    pub running: Option<Proposal>,
    /// Nothing is begun before.
    pub retry_at: Time,
    /// Highest round seen in a refusal of this instance.
    highest: Ballot,
    /// A promise to another was reported: not before it is over.
    pub promised_away_until: Time,
    /// Attempts in a row that led to nothing.
    pub failures: u32,
    pub random: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Prepare,
    /// A fresh re-enrol: the new witness holds it first.
    WitnessFirst,
    Accept,
}

/// What one of the other two voters has said in this attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Heard {
    /// Its vote, once it promised.
    promised: Option<Option<Vote>>,
    accepted: bool,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Proposal {
    /// `None`: whatever phase 1 finds is finished.
    transition: Option<Transition>,
    /// Its answers in phase 1 count as lost.
    around: Option<Voter>,
    ballot: Ballot,
    /// The record with the own promise.
    pub own_promise: u64,
    stage: Stage,
    value: Option<Config>,
    fresh: bool,
    /// The record with the own vote.
    pub own_vote: Option<u64>,
    peer: Heard,
    witness: Heard,
    /// A voter of phase 1 is bound to another for so long.
    bound: Option<Duration>,
    pub deadline: Time,
}

impl Proposer {
    pub const fn new(seed: u64) -> Self {
        Self {
            running: None,
            retry_at: Time::ZERO,
            highest: Ballot::NONE,
            promised_away_until: Time::ZERO,
            failures: 0,
            random: seed,
        }
    }

    /// The instance is decided, or the group removed.
    pub const fn stop(&mut self) {
        self.running = None;
        self.highest = Ballot::NONE;
        self.failures = 0;
        self.retry_at = Time::ZERO;
    }

    /// No *promote* before.
    pub fn not_before(&mut self, until: Time) {
        self.promised_away_until = self.promised_away_until.max(until);
    }

    /// Moments to look again; past ones mean nothing.
    pub fn timeouts(&self) -> [Time; 3] {
        let deadline = self.running.map_or(Time::ZERO, |running| running.deadline);
        [deadline, self.retry_at, self.promised_away_until]
    }

    /// Highest ballot seen in a refusal.
    pub const fn highest(&self) -> Ballot {
        self.highest
    }

    /// An override is under way.
    pub const fn give_way(&mut self) {
        self.running = None;
    }

    /// The next random number (splitmix64).
    pub fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between one and two times `base`.
    fn jitter(&mut self, base: Duration) -> Duration {
        let span = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX).max(1);
        base + Duration::from_nanos(self.draw() % span)
    }
}

impl Arbiter {
    /// The transition or vote being decided, for the operator.
    pub fn proposing(&self) -> bool {
        self.proposer.running.is_some()
    }

    /// A join proposed but not voted for counts for the acknowledgements already (T4).
    pub(super) fn proposes_both(&self) -> bool {
        self.proposer.running.is_some_and(|running| {
            running.transition == Some(Transition::Join)
                || running.value.is_some_and(|value| value.in_sync == InSync::Both)
        })
    }

    /// Carries a running proposal on, or begins what is due.
    pub(super) fn advance(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        self.advance_override(now, out);
        if self.is_removed() || self.is_split() {
            return;
        }
        self.expire(now);
        if self.proposer.running.is_none() {
            self.begin_what_is_due(now, out);
        }
        self.phase_one_done(now, out);
        self.own_vote_last(now, out);
        self.phase_two_done(now, out);
    }

    fn expire(&mut self, now: Now) {
        let Some(running) = self.proposer.running else { return };
        if now.grantor < running.deadline {
            return;
        }
        let waits_for_disk =
            running.own_promise > self.durable || running.own_vote.is_some_and(|vote| vote > self.durable);
        if waits_for_disk {
            // A slow disk is no lost message; only the disk can say when.
            let deadline = now.grantor + self.attempt();
            self.proposer.running = Some(Proposal { deadline, ..running });
        } else {
            self.give_up(now, self.timers.heartbeat);
        }
    }

    /// How long an attempt waits for answers.
    fn attempt(&self) -> Duration {
        self.timers.link_timeout / 2
    }

    fn give_up(&mut self, now: Now, pause: Duration) {
        self.proposer.running = None;
        self.proposer.failures = self.proposer.failures.saturating_add(1);
        let pause = self.proposer.jitter(pause);
        self.proposer.retry_at = now.grantor + pause;
    }

    fn begin_what_is_due(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        let overrides = self.is_overriding() || self.votes_for_override();
        if now.grantor < self.proposer.retry_at || overrides {
            return;
        }
        if let Some(vote) = self.vote() {
            let mine = vote.primary == self.me;
            let alone = self.env.primary_lost && self.promise_to_peer(now).is_none();
            let later = now.grantor < self.proposer.promised_away_until;
            if self.is_primary() || (mine && alone && !later && self.start_wait_over(now)) {
                return self.open_ballot(None, None, now, out);
            }
        }
        let Some(intent) = self.env.intent else { return };
        if self.guard(intent, now) {
            let around = (intent == Transition::Drop).then(|| self.way_around()).flatten();
            self.open_ballot(Some(intent), around, now, out);
        }
    }

    /// The voter to leave out of phase 1, if the third one can be asked instead.
    fn way_around(&self) -> Option<Voter> {
        let voter = self.vote_in_the_way()?;
        let third = match voter {
            Voter::Witness => Voter::Array(self.me.other()),
            Voter::Array(_) => Voter::Witness,
        };
        (self.other(third).connection.is_some() && self.proposer.failures < ATTEMPTS_AROUND).then_some(voter)
    }

    fn open_ballot(
        &mut self,
        transition: Option<Transition>,
        around: Option<Voter>,
        now: Now,
        out: &mut Vec<ArbiterAction>,
    ) {
        let ballot = self.register.record.promised.max(self.proposer.highest).next(self.me);
        if !self.register.prepare(ballot) {
            return; // rounds exhausted
        }
        self.persist(out);
        out.push(ArbiterAction::Proposed { transition, round: ballot.round });
        self.proposer.running = Some(Proposal {
            transition,
            around,
            ballot,
            own_promise: self.sequence,
            stage: Stage::Prepare,
            value: None,
            fresh: false,
            own_vote: None,
            peer: Heard::default(),
            witness: Heard::default(),
            bound: None,
            deadline: now.grantor + self.attempt(),
        });
        for voter in self.others() {
            if around != Some(voter) {
                self.say(voter, Body::Prepare { ballot }, out);
            }
        }
    }

    const fn others(&self) -> [Voter; 2] {
        [Voter::Array(self.me.other()), Voter::Witness]
    }

    /// A new connection to a voter: what it has not answered yet is asked again.
    pub(super) fn resend(&mut self, voter: Voter, out: &mut Vec<ArbiterAction>) {
        let Some(running) = self.proposer.running else { return };
        let heard = if voter == Voter::Witness { running.witness } else { running.peer };
        let ballot = running.ballot;
        match running.stage {
            Stage::Prepare if heard.promised.is_none() && running.around != Some(voter) => {
                self.say(voter, Body::Prepare { ballot }, out);
            }
            Stage::WitnessFirst if voter != Voter::Witness => {}
            Stage::Accept | Stage::WitnessFirst if !heard.accepted => {
                if let Some(value) = running.value {
                    self.say(voter, Body::Accept { ballot, value }, out);
                }
            }
            _ => {}
        }
    }

    // Answers.

    fn heard_mut(&mut self, from: Voter, ballot: Ballot) -> Option<&mut Heard> {
        let running = self.proposer.running.as_mut().filter(|running| running.ballot == ballot)?;
        Some(if from == Voter::Witness { &mut running.witness } else { &mut running.peer })
    }

    /// Rule 12: only the incarnation in `chosen` is counted.
    fn enrolled_witness(&self) -> bool {
        let seen = self.witness.incarnation;
        (seen.is_some() && seen == self.chosen().witness) || mutation::on(Mutation::R12BlankWitnessVotes)
    }

    pub(super) fn promised(
        &mut self,
        from: Voter,
        ballot: Ballot,
        vote: Option<Vote>,
        promise: Option<Promise>,
        _now: Now,
    ) {
        let enrolled = from != Voter::Witness || self.enrolled_witness();
        let me = self.me;
        let Some(heard) = self.heard_mut(from, ballot) else { return };
        if enrolled {
            heard.promised = Some(vote);
        }
        self.note_contact(from);
        if let Some(running) = &mut self.proposer.running
            && running.around != Some(from)
            && enrolled
            && let Some(promise) = promise.filter(|promise| promise.holder != me)
        {
            running.bound = running.bound.max(Some(promise.remaining));
        }
    }

    pub(super) fn accepted(&mut self, from: Voter, ballot: Ballot) {
        let Some(running) = self.proposer.running.filter(|running| running.ballot == ballot) else { return };
        // The new witness counts before the own vote alone, the enrolled one in the quorum alone.
        let counts = match (from, running.stage) {
            (_, Stage::Prepare) => false,
            (Voter::Array(_), _) => true,
            (Voter::Witness, Stage::WitnessFirst) => {
                self.witness.incarnation.is_some()
                    && running.value.is_some_and(|value| value.witness == self.witness.incarnation)
            }
            (Voter::Witness, Stage::Accept) => self.enrolled_witness(),
        };
        if let Some(heard) = self.heard_mut(from, ballot) {
            heard.accepted |= counts;
        }
        self.note_contact(from);
    }

    /// False: the refusal of another attempt than the running one.
    pub(super) fn refused(
        &mut self,
        from: Voter,
        ballot: Ballot,
        promised: Ballot,
        promise: Option<Promise>,
        now: Now,
    ) -> bool {
        self.proposer.highest = self.proposer.highest.max(promised);
        let me = self.me;
        if !self.is_primary()
            && let Some(promise) = promise.filter(|promise| promise.holder != me)
        {
            self.proposer.not_before(now.grantor + promise.remaining);
        }
        let Some(heard) = self.heard_mut(from, ballot) else { return false };
        heard.refused = true;
        self.note_contact(from);
        let Some(running) = self.proposer.running else { return false };
        let hopeless = |voter: Voter, heard: Heard| {
            heard.refused || self.other(voter).connection.is_none() || running.around == Some(voter)
        };
        let [peer, witness] = self.others();
        let first = running.stage == Stage::WitnessFirst && from == Voter::Witness;
        if first || (hopeless(peer, running.peer) && hopeless(witness, running.witness)) {
            self.give_up(now, self.timers.heartbeat / 2);
        }
        true
    }

    // Phase 1.

    fn phase_one_done(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        let Some(running) = self.proposer.running else { return };
        if running.stage != Stage::Prepare || running.own_promise > self.durable {
            return;
        }
        let chosen = self.chosen();
        let counted =
            |voter: Voter, heard: Heard| (running.around != Some(voter)).then_some(heard.promised)?;
        let [peer, witness] = self.others();
        let from_peer = counted(peer, running.peer);
        let from_witness = counted(witness, running.witness);
        let own = self.register.record.vote;
        let alone = |vote: &Vote| pre_elects(&vote.value, &chosen);
        // What both arrays must accept is asked of both.
        let of_both = self.is_primary()
            && (running.transition == Some(Transition::PreElect) || own.as_ref().is_some_and(alone));
        let enough = match phase1(&chosen) {
            Phase1::TwoOfThree if of_both => from_peer.is_some(),
            Phase1::TwoOfThree => from_peer.is_some() || from_witness.is_some(),
            Phase1::Primary => self.is_primary() || from_peer.is_some(),
        };
        if !enough {
            return;
        }
        let held_by_all = |value: &Config| {
            let holds = |vote: Option<Vote>| vote.is_some_and(|vote| vote.value == *value);
            holds(own) && from_peer.is_none_or(holds)
        };
        let found = [own, from_peer.flatten(), from_witness.flatten()]
            .into_iter()
            .flatten()
            .filter(|vote| !alone(vote) || held_by_all(&vote.value))
            .max_by_key(|vote| vote.ballot);
        let (value, fresh) = match (found, running.transition) {
            (Some(vote), _) => (vote.value, false),
            (None, Some(transition)) => {
                if transition == Transition::Promote
                    && let Some(remaining) = running.bound
                    && !mutation::on(Mutation::T20PromoteVotesFirst)
                {
                    self.proposer.promised_away_until = now.grantor + remaining;
                    return self.give_up(now, Duration::ZERO);
                }
                if !self.guard(transition, now) {
                    return self.give_up(now, self.timers.heartbeat / 2);
                }
                (transition.value(&chosen, self.me, self.witness_to_enrol()), true)
            }
            (None, None) => {
                if own.is_some() {
                    self.register.withdraw();
                    self.persist(out);
                }
                return self.give_up(now, self.timers.heartbeat / 2);
            }
        };
        let ballot = running.ballot;
        let enrols = fresh && running.transition == Some(Transition::ReEnrol)
            || mutation::on(Mutation::T21ReEnrolWaitsForWitness) && value.witness != chosen.witness;
        let last = self.votes_last(&value);
        let stage = if enrols { Stage::WitnessFirst } else { Stage::Accept };
        let deadline = now.grantor + self.attempt();
        self.proposer.running = Some(Proposal { value: Some(value), fresh, stage, deadline, ..running });
        if enrols {
            return self.say(Voter::Witness, Body::Accept { ballot, value }, out);
        }
        if !last && !self.cast_own_vote(now, out) {
            return;
        }
        for voter in self.others() {
            self.say(voter, Body::Accept { ballot, value }, out);
        }
    }

    /// A value that gives this array office: its own vote comes last (T20), unless it voted so
    /// already.
    fn votes_last(&self, value: &Config) -> bool {
        let voted = self.vote().is_some_and(|vote| vote.primary == self.me);
        value.primary == self.me
            && !self.is_primary()
            && !voted
            && !mutation::on(Mutation::T20PromoteVotesFirst)
    }

    /// The own vote passes the same test as anybody's. False: refused, and the attempt is over.
    fn cast_own_vote(&mut self, now: Now, out: &mut Vec<ArbiterAction>) -> bool {
        let Some(running) = self.proposer.running else { return false };
        let Some(value) = running.value else { return false };
        let guard = !running.fresh || running.transition.is_none_or(|transition| self.guard(transition, now));
        let leased = self.serves_until().is_some_and(|end| now.holder < end);
        let identity = Identity::Array { me: self.me, leased };
        if !guard || !self.register.may_accept(identity, self.me, running.ballot, &value, now) {
            if let Some(remaining) = self.promise_to_peer(now).filter(|_| !self.is_primary()) {
                self.proposer.promised_away_until = now.grantor + remaining;
            }
            self.give_up(now, self.timers.heartbeat / 2);
            return false;
        }
        self.register.accept(running.ballot, &value);
        self.persist(out);
        self.proposer.running = Some(Proposal { own_vote: Some(self.sequence), ..running });
        true
    }

    // Phase 2.

    fn own_vote_last(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        let Some(running) = self.proposer.running else { return };
        let Some(value) = running.value.filter(|_| running.own_vote.is_none()) else { return };
        match running.stage {
            Stage::Prepare => {}
            Stage::WitnessFirst => {
                if running.witness.accepted && self.cast_own_vote(now, out) {
                    // What W' accepted counted as its consent; in the quorum it has no part.
                    if let Some(running) = &mut self.proposer.running {
                        running.stage = Stage::Accept;
                        running.witness.accepted = false;
                    }
                    let peer = Voter::Array(self.me.other());
                    self.say(peer, Body::Accept { ballot: running.ballot, value }, out);
                }
            }
            Stage::Accept => {
                if running.peer.accepted || running.witness.accepted {
                    self.cast_own_vote(now, out);
                }
            }
        }
    }

    fn phase_two_done(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        let Some(running) = self.proposer.running else { return };
        let Some(value) = running.value.filter(|_| running.stage == Stage::Accept) else { return };
        let own = running.own_vote.is_some_and(|vote| vote <= self.durable);
        let (peer, witness) = (running.peer.accepted, running.witness.accepted);
        let primary = if self.is_primary() { own } else { peer };
        let votes = u8::from(own) + u8::from(peer) + u8::from(witness);
        let decided = match phase2(&self.chosen(), &value) {
            Phase2::TwoOfThree => votes >= 2,
            Phase2::BothArrays => own && peer,
            Phase2::PrimaryAndOne => primary && votes >= 2,
            Phase2::Primary => primary,
        };
        if decided && own {
            self.learn(&value, now, out);
            for voter in self.others() {
                self.say(voter, Body::Learn, out);
            }
        }
    }

    // Guards.

    /// ARBITRATION *guards*. Control's part of each is in the environment.
    pub(super) fn guard(&self, transition: Transition, now: Now) -> bool {
        let chosen = self.chosen();
        let env = &self.env;
        let primary = self.is_primary();
        let both = chosen.in_sync == InSync::Both;
        match transition {
            Transition::Drop => {
                primary
                    && both
                    && !env.holding
                    && env.session_closed
                    && !self.tainted
                    && (!env.unflushed || mutation::on(Mutation::T13DropUnflushed))
            }
            Transition::Promote => {
                !primary
                    && (both || mutation::on(Mutation::R4StaleCopyPromoted))
                    // A primary that says itself that it is tainted agrees to be relieved.
                    && (chosen.quorum == Quorum::Majority || env.peer_tainted)
                    && env.primary_lost
                    && (!self.tainted || mutation::on(Mutation::T13TaintedSecondaryPromoted))
                    && (!env.unflushed || mutation::on(Mutation::T13PromoteUnflushed))
                    && (self.promise_to_peer(now).is_none()
                        || mutation::on(Mutation::T2OwnVoteIgnoresPromise))
                    && now.grantor >= self.proposer.promised_away_until
                    && self.start_wait_over(now)
            }
            Transition::Join => primary && !both && env.join_ready,
            Transition::SwitchOver => {
                let flushed = !env.unflushed && !env.peer_unflushed;
                let flushed = flushed || mutation::on(Mutation::T13SwitchUnflushed);
                let whole = !self.tainted && !env.peer_tainted;
                primary && both && env.holding && env.drained && whole && flushed
            }
            Transition::HandOver => {
                let flushed = !env.peer_unflushed || mutation::on(Mutation::T13HandOverUnflushed);
                let whole = !self.tainted && !env.peer_tainted;
                primary && both && env.may_hand_over && whole && flushed
            }
            Transition::PreElect => {
                primary
                    && both
                    && chosen.quorum == Quorum::Majority
                    && !env.holding
                    && !self.tainted
                    && self.peer.connection.is_some()
                    && self.witness_is_lost(now)
                    && (env.peer_lost_witness || mutation::on(Mutation::T17PreElectByOneView))
            }
            Transition::ReEnrol => primary && self.has_contact() && self.witness_to_enrol().is_some(),
        }
    }
}
