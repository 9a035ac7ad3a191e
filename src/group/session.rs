//! The mirror session of the group, seen from its control on both arrays (ARBITRATION *session*,
//! rules 5, 11, 14): asked for by the primary over the control connection, answered by the
//! secondary once its own older I/O is drained, opened and closed on all volumes at once.

use std::collections::BTreeMap;

use crate::arbitration::{Connection, Tenure, Timers};
use crate::mirror::{Context, LaneId, RegionRun, SessionId, VolumeId};
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::api::{Action, Decline, LogEntry, Members, Refused, SessionEnd, SessionMessage};
use super::control::Control;
use super::runs::{ANSWER_RUNS_MAX, bound, parts};

/// A hello or join query without an answer is repeated: the secondary may only have been draining.
const REPEAT: Duration = Duration::from_millis(500);
/// A secondary whose volumes differ is given the group's state again: it may have had no space to grow.
const TELL_MEMBERS: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Asked {
        id: SessionId,
        at: Time,
        dirty: BTreeMap<VolumeId, Vec<RegionRun>>,
    },
    Up {
        id: SessionId,
    },
}

/// As primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Primary {
    state: State,
    counter: u64,
    /// Since when no session is up although there should be one.
    pub missing_since: Option<Time>,
    /// The secondary declined; not before.
    pub not_before: Time,
    /// Why the last session asked for was declined.
    pub declined: Option<Decline>,
    /// When the secondary was last given the group's state because its volumes differ.
    told_members: Option<Time>,
    /// When the join query was last sent.
    pub queried: Option<Time>,
    /// The secondary is ready for the join in this session.
    pub ready: bool,
}

impl Primary {
    pub const fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    pub const fn is_busy(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    pub const fn id(&self) -> Option<SessionId> {
        match &self.state {
            State::Closed => None,
            State::Asked { id, .. } | State::Up { id } => Some(*id),
        }
    }

    /// Moments to look again; past ones mean nothing.
    pub fn timeouts(&self, timers: &Timers) -> [Time; 4] {
        let repeat = match self.state {
            State::Asked { at, .. } => at + REPEAT,
            _ => Time::ZERO,
        };
        let missing = self.missing_since.map_or(Time::ZERO, |since| since + timers.mirror_timeout);
        let query = self.queried.filter(|_| !self.ready).map_or(Time::ZERO, |at| at + REPEAT);
        [repeat, missing, query, self.not_before]
    }
}

/// A hello that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hello {
    connection: Connection,
    tenure: Tenure,
    epoch: u64,
    session: SessionId,
    members: Vec<(VolumeId, u64)>,
}

/// As secondary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Secondary {
    hello: Option<Hello>,
    /// The session whose frames are taken.
    pub accepted: Option<SessionId>,
    /// The copy held all that the primary held in it.
    pub equal: Option<SessionId>,
    /// A join query that waits until that is noted down: session, group state.
    query: Option<(SessionId, u64)>,
    /// The other array said that it serves in this tenure.
    pub peer_serves: Option<Tenure>,
}

impl Secondary {
    /// The link, or the tenure, is over.
    pub fn forget(&mut self) {
        *self = Self { peer_serves: self.peer_serves, ..Self::default() };
    }

    /// The copy held all that the primary held in the session in force.
    pub fn is_equal(&self) -> bool {
        self.equal.is_some() && self.equal == self.accepted
    }

    /// The join query that waits, of the session in force.
    pub fn take_query(&mut self) -> Option<(SessionId, u64)> {
        let accepted = self.accepted;
        self.query.take().filter(|(session, _)| accepted == Some(*session))
    }
}

impl Control {
    /// Is a session wanted, as primary?
    fn wants_session(&self, now: Now) -> bool {
        let mirrored = self.is_both() || self.mirrors(now);
        self.settled()
            && self.is_primary()
            && mirrored
            && !self.arbiter.is_removed()
            && !self.arbiter.is_split()
            && !(self.is_both() && (self.arbiter.is_tainted() || self.peer_is_tainted()))
            && self.members_held == 0
            && !self.draining
            && !self.arbiter.voted_away()
            && self.changes.dropping.is_none()
            && !self.drop_is_voted()
            && !self.hands_over_by_majority()
    }

    /// Nothing is mirrored past a hand over. Where both arrays must accept it (no witness), its guard
    /// asks for the session until the vote is cast (ARBITRATION *guards*).
    fn hands_over_by_majority(&self) -> bool {
        use crate::arbitration::Quorum;
        self.changes.role_change.is_some_and(|change| change.hand_over)
            && self.applied.quorum == Quorum::Majority
            // What the peer took from memory is to reach its disk first, in this session or a new one (T13).
            && (!self.peer_may_be_unflushed()
                || (!self.primary.is_up() && mutation::on(Mutation::T13HandOverKeepsNoSession)))
    }

    /// An own undecided vote for *drop*: the cut point is set, nothing is mirrored past it.
    pub(super) fn drop_is_voted(&self) -> bool {
        use crate::arbitration::InSync;
        self.is_both() && self.arbiter.vote().is_some_and(|vote| vote.in_sync == InSync::Primary)
    }

    /// Opens what is wanted, watches what is open, answers hellos.
    pub(super) fn sessions(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        self.answer_hello(now, members, out);
        if !self.settled() && self.primary.is_up() && self.stays_in_office() {
            return; // a join or re-enrol on its way to the disk: the session lives on
        }
        if !self.wants_session(now) {
            self.primary.missing_since = None;
            if self.primary.is_busy() && self.changes.role_change.is_none_or(|change| change.hand_over) {
                self.end_session(SessionEnd::Stopped, now, members, out);
            }
            return;
        }
        if self.primary.is_up() {
            self.primary.missing_since = None;
            if self.sum.peer_refused {
                self.end_session(SessionEnd::PeerRefused, now, members, out);
            }
        }
        if !self.primary.is_up() {
            self.primary.missing_since.get_or_insert(now.grantor);
            self.ask_session(now, members, out);
        }
    }

    fn ask_session(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let ready = self.link.is_some()
            && !self.lanes.is_empty()
            && !self.peer_restarted
            && now.grantor >= self.primary.not_before;
        if !ready {
            return;
        }
        let (id, dirty) = match &mut self.primary.state {
            State::Asked { at, .. } if now.grantor < *at + REPEAT => return,
            // What was answered so far stays: the rest of that answer may come before the one to this hello,
            // and its last part would then stand for a whole answer.
            State::Asked { id, dirty, .. } => (*id, core::mem::take(dirty)),
            State::Closed | State::Up { .. } => {
                self.primary.counter += 1;
                let boot = if mutation::on(Mutation::R14BootCounterStays) { 1 } else { self.settings.boot };
                (SessionId { boot, counter: self.primary.counter }, BTreeMap::new())
            }
        };
        let dirty = if mutation::on(Mutation::T12AnswerForgotten) { BTreeMap::new() } else { dirty };
        self.primary.state = State::Asked { id, at: now.grantor, dirty };
        self.primary.queried = None;
        self.primary.ready = false;
        let mut list = Vec::new();
        members.each(&mut |volume, core, _| list.push((volume, core.geometry().blocks)));
        list.sort_unstable();
        let tenure = self.applied.tenure();
        let epoch = self.applied.epoch;
        self.tell(SessionMessage::Hello { tenure, epoch, session: id, members: list }, out);
    }

    /// Closes the session on every volume (rules 11, 14); a join that is not voted for is taken
    /// back.
    pub(super) fn end_session(
        &mut self,
        why: SessionEnd,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        let state = core::mem::take(&mut self.primary.state);
        self.primary.queried = None;
        self.primary.ready = false;
        let cx = Context { now, lane: None };
        if let State::Up { id } = state {
            // Nothing is sent any more, on any volume, before something is answered alone on one of them: else the
            // other copy may get a later write than the first it lacks (rule 11).
            if !mutation::on(Mutation::R11SessionEndsByVolume) {
                members.each(&mut |_, volume, _| volume.mute_session());
            }
            let mut first = true;
            members.each(&mut |_, volume, out| {
                if core::mem::take(&mut first) || !mutation::on(Mutation::R11VolumesStopApart) {
                    volume.close_session(cx, out);
                }
            });
            self.log(LogEntry::SessionClosed { session: id, why }, out);
        }
        self.cancel_join(now, members);
        self.sum.peer_refused = false;
        self.sum.peer_failed = false;
        self.sum.oldest_unacked = None;
    }

    pub(super) fn lane_up(&mut self, lane: LaneId, now: Now, members: &mut dyn Members) {
        if !self.lanes.contains(&lane) {
            self.lanes.push(lane);
        }
        if self.primary.is_up() {
            let cx = Context { now, lane: None };
            members.each(&mut |_, volume, out| volume.lane_up(lane, cx, out));
        }
    }

    pub(super) fn lane_lost(
        &mut self,
        lane: LaneId,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        self.lanes.retain(|up| *up != lane);
        let mut unacknowledged = false;
        members.each(&mut |_, volume, _| unacknowledged |= volume.lane_lost(lane));
        if unacknowledged || self.lanes.is_empty() {
            self.end_session(SessionEnd::LaneLost, now, members, out);
        }
    }

    pub(super) fn session_message(
        &mut self,
        connection: Connection,
        message: SessionMessage,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        if self.link.is_none_or(|link| link.connection != connection) {
            return; // T16: of a former connection
        }
        match message {
            SessionMessage::Hello { tenure, epoch, session, members } => {
                self.secondary.hello = Some(Hello { connection, tenure, epoch: epoch.0, session, members });
            }
            SessionMessage::Answer { session, volume, runs, last } => {
                self.hello_answered(session, volume, runs, last, now, members, out);
            }
            SessionMessage::Decline { session, why } => {
                if self.primary.id() == Some(session) {
                    if self.primary.declined != Some(why) {
                        self.log(LogEntry::SessionDeclined { why }, out);
                    }
                    // A copy there that is smaller follows this one's growth by the group's state, and by nothing
                    // else: no session comes before.
                    let told = &mut self.primary.told_members;
                    if why == Decline::Members
                        && told.is_none_or(|at| now.grantor >= at + TELL_MEMBERS)
                        && !mutation::on(Mutation::SmallerCopyStays)
                    {
                        *told = Some(now.grantor);
                        out.push(Action::SendGroupState);
                    }
                    self.primary.declined = Some(why);
                    self.end_session(SessionEnd::PeerRefused, now, members, out);
                    self.primary.not_before = now.grantor + REPEAT;
                }
            }
            SessionMessage::JoinQuery { session, group_state } => {
                if self.secondary.accepted == Some(session) {
                    self.secondary.query = Some((session, group_state));
                    if self.is_behind() && self.secondary.equal != Some(session) {
                        self.secondary.equal = Some(session);
                        self.arbiter.end_cut(&mut self.pending);
                    }
                }
            }
            SessionMessage::JoinReady { session, group_state } => {
                if self.primary.is_up() && self.primary.id() == Some(session) {
                    if group_state >= self.state.own() {
                        self.primary.ready = true;
                    } else {
                        out.push(Action::SendGroupState);
                    }
                }
            }
            SessionMessage::Serving { tenure } => {
                // Held commands may be answered now: with a refusal that sends the host there.
                self.secondary.peer_serves = Some(tenure);
                if !self.is_primary() && tenure == self.applied.tenure() {
                    self.hold_until = Time::ZERO;
                }
            }
            SessionMessage::WitnessLost(lost) => self.peer_lost_witness = lost,
            SessionMessage::DiskBad(bad) => self.peer_disk_is(bad, now, out),
            SessionMessage::Tainted { epoch, tainted } => self.memory.peer_says(epoch, tainted),
            SessionMessage::Request { number, request } => self.requested(number, request, now, out),
            SessionMessage::Reply { number, result } => self.replied(number, result, out),
        }
    }

    // As secondary.

    fn answer_hello(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let Some(hello) = &self.secondary.hello else { return };
        let link = self.link.is_some_and(|link| link.connection == hello.connection);
        if !link {
            self.secondary.hello = None;
            return;
        }
        // The sender's configuration must be known and durable here: its own messages bring it.
        if !self.settled() || hello.epoch > self.applied.epoch.0 {
            return;
        }
        // What comes in the new session is kept, of the cut that the register will then tell.
        if !self.cut_is_applied() && !mutation::on(Mutation::BeforeCutNotAwaited) {
            return;
        }
        let session = hello.session;
        if self.is_primary() || hello.tenure != self.applied.tenure() {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::NotPrimary }, out);
        }
        if self.is_diverged() {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::Diverged }, out);
        }
        if self.disk_is_bad() {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::DiskBad }, out);
        }
        if self.is_both() && self.arbiter.is_tainted() {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::Tainted }, out);
        }
        let mut mine = Vec::new();
        members.each(&mut |volume, core, _| mine.push((volume, core.geometry().blocks)));
        mine.sort_unstable();
        // A copy that is larger has grown already; the primary's, which is the one served, will.
        let fits =
            |(own, primary): (&(VolumeId, u64), &(VolumeId, u64))| own.0 == primary.0 && own.1 >= primary.1;
        if mine.len() != hello.members.len() || !mine.iter().zip(&hello.members).all(fits) {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::Members }, out);
        }
        if self.secondary.accepted.is_some_and(|newest| session < newest) {
            self.secondary.hello = None;
            return self.tell(SessionMessage::Decline { session, why: Decline::Old }, out);
        }
        let tenure = hello.tenure;
        let cx = Context { now, lane: None };
        let mut drained = true;
        members.each(&mut |_, volume, out| drained &= volume.accept_session(tenure, session, cx, out));
        if self.secondary.accepted != Some(session) {
            self.secondary.equal = None;
            self.secondary.query = None;
        }
        self.secondary.accepted = Some(session);
        if !drained {
            return; // rule 5: a Poke follows when the older I/O is over
        }
        self.secondary.hello = None;
        // A primary that opens a session was started, unless it is for a failover of the stopped group that was
        // asked for here. What this array thinks of that may be older: a stop that was given here, and a
        // start that was given there right behind it.
        if !self.policy.started && !self.changes.asks_for_failover() {
            self.policy.started = true;
            out.push(Action::Policy(self.policy));
        }
        let mut answers = Vec::new();
        members.each(&mut |volume, core, _| {
            let mut runs = Vec::new();
            core.dirty_runs(&mut runs);
            answers.push((volume, runs));
        });
        for (volume, runs) in parts(answers, ANSWER_RUNS_MAX) {
            self.tell(SessionMessage::Answer { session, volume: Some(volume), runs, last: false }, out);
        }
        self.tell(SessionMessage::Answer { session, volume: None, runs: Vec::new(), last: true }, out);
    }

    // As primary.

    #[expect(clippy::too_many_arguments, reason = "the fields of one message, and where to act")]
    fn hello_answered(
        &mut self,
        session: SessionId,
        volume: Option<VolumeId>,
        runs: Vec<RegionRun>,
        last: bool,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        let State::Asked { id, dirty, .. } = &mut self.primary.state else { return };
        if *id != session {
            return;
        }
        if let Some(volume) = volume {
            let known = dirty.entry(volume).or_default();
            known.extend(runs);
            bound(known, ANSWER_RUNS_MAX);
        }
        if !last || !self.wants_session(now) || self.lanes.is_empty() {
            return;
        }
        let State::Asked { dirty, .. } =
            core::mem::replace(&mut self.primary.state, State::Up { id: session })
        else {
            return;
        };
        self.primary.missing_since = None;
        self.primary.declined = None;
        self.peer_disk.tried();
        self.primary.told_members = None;
        let cx = Context { now, lane: None };
        let lanes = &self.lanes;
        members.each(&mut |volume, core, out| {
            let runs = dirty.get(&volume).map_or(&[][..], Vec::as_slice);
            core.open_session(session, lanes, runs, cx, out);
        });
        if mutation::on(Mutation::R16BootNonceIgnored) {
            self.peer_restarted = false;
        }
        self.log(LogEntry::SessionOpened { session }, out);
    }

    /// Asks, now and then, whether the secondary is ready to be joined.
    pub(super) fn query_join(&mut self, now: Now, out: &mut Vec<Action>) {
        let State::Up { id } = self.primary.state else { return };
        let due = self.primary.queried.is_none_or(|at| now.grantor >= at + REPEAT);
        if due && !self.primary.ready {
            self.primary.queried = Some(now.grantor);
            let group_state = self.state.own();
            self.tell(SessionMessage::JoinQuery { session: id, group_state }, out);
        }
    }

    pub(super) fn requests_lost(&mut self, out: &mut Vec<Action>) {
        for ticket in self.changes.forget_requests() {
            out.push(Action::Outcome { ticket, result: Err(Refused::PeerUnreachable) });
        }
    }
}
