//! Control of one group on one array: takes events in, lets arbitration and session react, and
//! publishes the gate.
//!
//! One pass of `settle`: what arbitration decided is applied to the volumes once it is durable
//! here; session and change of roles move on; the gate is computed anew and set on every volume;
//! only then do arbitration's writes and messages go out. So a stricter gate is in force before
//! anything that relies on it is persisted or answered (rule 5), and a more open one only follows
//! from what is on disk.

use crate::arbitration::{
    Arbiter, ArbiterAction, Config, Connection, Environment, Gate, InSync, Mode, Quorum, Side, Transition,
    Voter,
};
use crate::mirror::{Context, LaneId, Status};
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::api::{
    Action, BootNonce, Command, Event, Life, LogEntry, Members, PathView, Policy, Refused, SessionEnd,
    SessionMessage, Settings,
};
use super::attempts::{Attempt, Attempts};
use super::change::Changes;
use super::disks::{Disks, PeerDisk};
use super::memory::Memory;
use super::overriding::Wanted;
use super::session::{Primary, Secondary};
use super::state::State;

/// How long a former primary holds commands past its lease, and a restarted one at its start
/// (DESIGN §5).
pub(super) const FAILSAFE_HOLD: Duration = Duration::from_secs(2);
/// Passes of `settle` for one event: each pass needs something new to have been decided, and one
/// event decides at most a vote, its outcome and what follows from that.
const PASSES_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub connection: Connection,
    pub nonce: BootNonce,
}

/// What all volumes of the group say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sum {
    pub in_flight: u32,
    pub io_old: u32,
    pub dirty: u64,
    pub out_of_sync: u64,
    pub recovering: u64,
    /// Of these, because a write failed here (rule 17): what a hand over resolves.
    pub failed: u64,
    /// Physical blocks in doubt that neither array can read.
    pub lost: u64,
    pub map_pending: bool,
    pub oldest_unacked: Option<Time>,
    pub oldest_store_io: Option<Time>,
    pub peer_failed: bool,
    pub peer_refused: bool,
    pub store_failed: bool,
    /// What a frame is about to overwrite cannot be kept.
    pub unkept: bool,
    /// A member's write promise is *memory*.
    pub memory: bool,
    pub unflushed_here: bool,
    pub flush_failed: bool,
    pub forgetting: bool,
    pub unflushed_there: bool,
}

impl Sum {
    fn add(&mut self, status: &Status) {
        self.in_flight += status.in_flight;
        self.io_old += status.store_io_old;
        self.dirty += status.dirty_regions;
        self.out_of_sync += status.out_of_sync_regions;
        self.recovering += status.recovering_regions;
        self.failed += status.failed_regions;
        self.lost += status.lost_blocks;
        self.map_pending |= status.map_pending;
        self.oldest_unacked = [self.oldest_unacked, status.oldest_unacked].into_iter().flatten().min();
        self.oldest_store_io = [self.oldest_store_io, status.oldest_store_io].into_iter().flatten().min();
        self.peer_failed |= status.peer_failed;
        self.peer_refused |= status.peer_refused;
        self.store_failed |= status.store_failed;
        self.unkept |= status.unkept;
        if status.memory {
            self.memory = true;
            self.flush_failed |= status.flush_failed;
            self.forgetting |= status.forgetting;
            self.unflushed_here |= status.unflushed_here;
            self.unflushed_there |= status.unflushed_there;
        }
    }
}

/// The pure control of one remote copy group on one array. Call `begin` once, then `handle` for
/// every event and, at the latest, `handle(Event::Tick)` at `next_timeout`.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) settings: Settings,
    pub(super) me: Side,
    pub(super) policy: Policy,
    pub(super) arbiter: Arbiter,
    /// What arbitration wants done; goes out after the gate.
    pub(super) pending: Vec<ArbiterAction>,
    pub(super) attempts: Attempts,
    /// The configuration the volumes know: durable here.
    pub(super) applied: Config,
    /// The cut the volumes know, and whether it is a mixture: durable here.
    pub(super) applied_cut: (u64, bool),
    pub(super) link: Option<Link>,
    /// Since when the link is down.
    pub(super) link_lost: Option<Time>,
    /// The peer's nonce seen in this {A,B} (rule 16).
    pub(super) seen_nonce: Option<BootNonce>,
    pub(super) peer_restarted: bool,
    /// What this array and the other have told each other on this link: is the witness lost (T17)?
    told_witness_lost: Option<bool>,
    pub(super) peer_lost_witness: bool,
    pub(super) lanes: Vec<LaneId>,
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) changes: Changes,
    /// An operator's override under way.
    pub(super) wanted: Option<Wanted>,
    pub(super) state: State,
    pub(super) memory: Memory,
    /// `data_dir` hangs.
    pub(super) stalled: bool,
    pub(super) disks: Disks,
    pub(super) peer_disk: PeerDisk,
    pub(super) sum: Sum,
    /// Took office and has not drained what it took as secondary (rule 5, T9).
    pub(super) draining: bool,
    /// Regions in doubt since the restart of this primary (rule 15).
    pub(super) recovering_restart: bool,
    /// Lost blocks that were told of, most at a time.
    lost_told: u64,
    /// Commands that cannot be served are parked until then.
    /// Changes of the members under way.
    pub(super) members_held: u32,
    pub(super) hold_until: Time,
    pub(super) gate: Gate,
    gate_stale: bool,
    pub(super) serving: bool,
    pub(super) view: Option<PathView>,
    next: Option<Time>,
}

impl Control {
    /// The volumes were enrolled (`Volume::enrol`) with `settings.record.chosen` before `begin`.
    ///
    /// # Panics
    /// When `settings.record` holds no configuration: an array's record always does.
    pub fn new(settings: Settings) -> Self {
        let Settings { me, group, record, life, policy, timers, seed, .. } = settings;
        let arbiter = Arbiter::new(me, group, timers, record, life == Life::Restarted, seed);
        let applied = arbiter.chosen();
        Self {
            settings,
            me,
            policy,
            arbiter,
            pending: Vec::new(),
            attempts: Attempts::default(),
            applied,
            applied_cut: (record.cut, record.mixture),
            link: None,
            link_lost: None,
            seen_nonce: None,
            peer_restarted: false,
            told_witness_lost: None,
            peer_lost_witness: false,
            lanes: Vec::new(),
            primary: Primary::default(),
            secondary: Secondary::default(),
            changes: Changes::default(),
            wanted: None,
            state: State::default(),
            memory: Memory::default(),
            stalled: false,
            disks: Disks::default(),
            peer_disk: PeerDisk::default(),
            sum: Sum::default(),
            draining: false,
            recovering_restart: false,
            lost_told: 0,
            members_held: 0,
            hold_until: Time::ZERO,
            gate: Gate::closed(applied.tenure()),
            gate_stale: true,
            serving: false,
            view: None,
            next: None,
        }
    }

    /// The first call.
    pub fn begin(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        self.tell_cut(members);
        // As if the link had been silent from now on: the peer has time to connect.
        let timers = &self.settings.timers;
        self.link_lost = Some(now.grantor + timers.link_timeout);
        if self.applied.primary == self.me {
            self.hold_until = now.grantor + FAILSAFE_HOLD;
        }
        self.arbiter.begin(self.settings.memory, now, &mut self.pending);
        if self.arbiter.is_tainted() {
            self.log(LogEntry::Tainted, out);
        }
        if self.settings.life == Life::Restarted && self.applied.primary == self.me {
            // Rule 15, T8: as {A,B} (or voted so) active regions are in doubt, else out of sync.
            let both = self.arbiter.needs_both();
            let cx = Context { now, lane: None };
            members.each(&mut |_, volume, out| volume.restart_recovery(both, cx, out));
            self.recovering_restart = both;
        }
        self.settle(now, members, out);
    }

    /// Takes in one event; appends what to do to `out`. Volumes are changed through `members`
    /// before this returns: their gate is stricter before anything is persisted or sent, and more
    /// open only after everything it needs is durable.
    pub fn handle(&mut self, event: Event, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let env = self.environment(now);
        self.arbiter.set_environment(env);
        match event {
            Event::Tick | Event::Poke => {}
            Event::LinkUp { connection, peer } => self.link_up(connection, peer, now, members, out),
            Event::LinkDown => self.link_down(now, members, out),
            Event::WitnessUp { connection } => {
                self.log(LogEntry::Witness(true), out);
                self.arbiter.connected(Voter::Witness, connection, now, &mut self.pending);
            }
            Event::WitnessDown => {
                self.log(LogEntry::Witness(false), out);
                self.arbiter.disconnected(Voter::Witness);
            }
            Event::LaneUp(lane) => self.lane_up(lane, now, members),
            Event::LaneLost(lane) => self.lane_lost(lane, now, members, out),
            Event::Message { from, connection, message } => {
                self.arbiter.receive(from, connection, &message, now, &mut self.pending);
            }
            Event::Session { connection, message } => {
                self.session_message(connection, message, now, members, out);
            }
            Event::Persisted { sequence } => self.arbiter.persisted(sequence, now, &mut self.pending),
            Event::MembersChanged => {
                self.gate_stale = true;
                self.secondary.equal = None;
                self.tell_cut(members);
                self.end_session(SessionEnd::MembersChanged, now, members, out);
            }
            Event::MembersSettled => self.release_members(),
            Event::DataDir { stalled } => self.data_dir(stalled, out),
            Event::Disk(probed) => self.disk_probed(probed),
            Event::GroupState { sequence } => self.state.counted(sequence),
            Event::StateTold { lineage, epoch, sequence } => self.state.heard((lineage, epoch), sequence),
            Event::Policy(policy) => self.policy = policy,
            Event::Command { ticket, command } => self.command(ticket, command, now, members, out),
        }
        self.settle(now, members, out);
    }

    /// When to call `handle(Event::Tick)` at the latest (grantor clock).
    pub const fn next_timeout(&self) -> Option<Time> {
        self.next
    }

    /// Newest configuration known to be committed.
    pub fn chosen(&self) -> Config {
        self.arbiter.chosen()
    }

    /// The gate as last published to the volumes.
    pub const fn gate(&self) -> Gate {
        self.gate
    }

    /// The newest view, as in the last `Action::Path`.
    pub const fn view(&self) -> Option<PathView> {
        self.view
    }

    pub const fn arbiter(&self) -> &Arbiter {
        &self.arbiter
    }

    /// Mirroring as primary: a session is open.
    pub const fn session_is_up(&self) -> bool {
        self.primary.is_up()
    }

    pub const fn policy(&self) -> Policy {
        self.policy
    }

    pub(super) fn log(&self, entry: LogEntry, out: &mut Vec<Action>) {
        out.push(Action::Log { epoch: self.arbiter.chosen().epoch, entry });
    }

    pub(super) fn tell(&self, message: SessionMessage, out: &mut Vec<Action>) {
        if let Some(link) = self.link {
            out.push(Action::SendSession { connection: link.connection, message });
        }
    }

    /// What arbitration decided is durable here and applied.
    pub(super) fn settled(&self) -> bool {
        self.applied == self.arbiter.chosen() && self.arbiter.chosen_is_durable()
    }

    /// The chosen configuration, applied or not, keeps this array in the office it holds.
    pub(super) fn stays_in_office(&self) -> bool {
        let chosen = self.arbiter.chosen();
        self.is_primary() && chosen.primary == self.me && chosen.tenure() == self.applied.tenure()
    }

    pub(super) fn is_primary(&self) -> bool {
        self.applied.primary == self.me
    }

    pub(super) fn is_both(&self) -> bool {
        self.applied.in_sync == InSync::Both
    }

    // The link to the peer.

    fn link_up(
        &mut self,
        connection: Connection,
        nonce: BootNonce,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        if self.link.is_some() {
            self.link_down(now, members, out);
        }
        self.link = Some(Link { connection, nonce });
        self.told_witness_lost = None;
        self.disks.link_is_new();
        self.peer_lost_witness = false;
        self.memory.forget_peer();
        self.end_operator_failover(Refused::PeerServes, out);
        if !self.arbiter.is_split() {
            self.end_override(Refused::PeerLinked, out);
        }
        self.link_lost = None;
        self.log(LogEntry::Link(true), out);
        // Rule 16: within one {A,B} the primary takes answers of one life of its peer only.
        let changed = self.seen_nonce.is_some_and(|seen| seen != nonce);
        if changed && !mutation::on(Mutation::R16BootNonceIgnored) {
            self.log(LogEntry::PeerRestarted, out);
            // By what is chosen, on this array's disk already or not; a join that is voted for may be.
            let chosen = self.arbiter.chosen();
            let voted = self.arbiter.vote().is_some_and(|vote| vote.in_sync == InSync::Both);
            self.peer_restarted = chosen.primary == self.me && (chosen.in_sync == InSync::Both || voted);
        }
        if !self.peer_restarted {
            self.seen_nonce = Some(nonce);
        }
        let env = self.environment(now);
        self.arbiter.set_environment(env);
        self.arbiter.connected(Voter::Array(self.me.other()), connection, now, &mut self.pending);
        if self.serving {
            self.tell(SessionMessage::Serving { tenure: self.applied.tenure() }, out);
        }
    }

    fn link_down(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        if self.link.take().is_none() {
            return;
        }
        self.link_lost = Some(now.grantor);
        self.peer_lost_witness = false;
        self.peer_disk.link_is_gone(now);
        self.memory.forget_peer();
        self.log(LogEntry::Link(false), out);
        self.arbiter.disconnected(Voter::Array(self.me.other()));
        self.secondary.forget();
        self.end_session(SessionEnd::LinkLost, now, members, out);
        self.requests_lost(out);
    }

    // One pass after another until nothing new was decided.

    fn settle(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        for _ in 0..PASSES_MAX {
            self.apply_chosen(now, members, out);
            self.void_promise(now, members, out);
            self.apply_cut(members);
            self.order_stability(now, members);
            self.sum = Sum::default();
            members.each(&mut |_, volume, _| self.sum.add(&volume.status()));
            self.note_mixture(out);
            self.answer_join_query(out);
            self.recovering_restart &= self.sum.recovering != self.sum.failed;
            self.tell_of_lost_blocks(out);
            self.draining &= self.sum.io_old != 0 && !mutation::on(Mutation::T9GateBeforeDrain);
            self.watch_disks(now, out);
            if self.sum.store_failed && !self.is_primary() {
                // Noted; a later probe says whether it is over. In office it stands for errors held back (rule 17).
                members.each(&mut |_, volume, _| volume.forgive_store());
            }
            self.tell_of_witness(now, out);
            self.tell_of_taint(out);
            self.sessions(now, members, out);
            self.change_roles(now, members, out);
            self.watch_override(now, out);
            let env = self.environment(now);
            self.arbiter.set_environment(env);
            self.arbiter.tick(now, &mut self.pending);
            self.taint_if_lost(now, out);
            self.order_before_vote(now, members);
            let moved = self.publish(now, members, out) || self.memory.stable != self.must_be_stable(now);
            // By now all know who is in office.
            self.tell_state(out);
            self.end_stop(out);
            if !self.emit(out) && !moved && self.settled_or_waits() {
                break;
            }
        }
        self.report(now, out);
        self.next = self.earliest(now);
    }

    /// T17: each array knows whether the other one hears the witness.
    fn tell_of_witness(&mut self, now: Now, out: &mut Vec<Action>) {
        let lost = self.arbiter.witness_is_lost(now);
        if self.link.is_some() && self.told_witness_lost != Some(lost) {
            self.told_witness_lost = Some(lost);
            self.tell(SessionMessage::WitnessLost(lost), out);
        }
    }

    fn settled_or_waits(&self) -> bool {
        self.settled() || !self.arbiter.chosen_is_durable()
    }

    /// Hands arbitration's writes and messages out. True: there were some.
    fn emit(&mut self, out: &mut Vec<Action>) -> bool {
        let mut pending = core::mem::take(&mut self.pending);
        let (any, epoch) = (!pending.is_empty(), self.arbiter.chosen().epoch);
        for action in pending.drain(..) {
            match action {
                ArbiterAction::Persist { sequence, record } => {
                    out.push(Action::Persist { sequence, record });
                }
                ArbiterAction::Send { to, connection, message } => {
                    out.push(Action::Send { to, connection, message });
                }
                ArbiterAction::Learned { new, .. } => {
                    self.log(LogEntry::Chosen { config: new }, out);
                }
                ArbiterAction::Proposed { transition, round } => {
                    if self.attempts.is_to_be_told(epoch, Attempt::Proposed(transition)) {
                        self.log(LogEntry::Proposed { transition, round }, out);
                    }
                }
                ArbiterAction::Refused { by, promise, higher } => {
                    if self.attempts.is_to_be_told(epoch, Attempt::Refused(by)) {
                        self.log(LogEntry::Refused { by, promise, higher }, out);
                    }
                }
                ArbiterAction::Split => self.log(LogEntry::SplitBrain, out),
                ArbiterAction::Removed => out.push(Action::Removed),
            }
        }
        self.pending = pending;
        any
    }

    /// ARBITRATION `learn`, the volumes' part, once the configuration is on disk here.
    fn apply_chosen(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let new = self.arbiter.chosen();
        if new == self.applied || !self.arbiter.chosen_is_durable() {
            return;
        }
        let old = core::mem::replace(&mut self.applied, new);
        let same_office = old.tenure() == new.tenure();
        let is = new.primary == self.me;
        let dropped = old.in_sync == InSync::Both && new.in_sync == InSync::Primary;
        if !same_office || dropped {
            self.end_session(SessionEnd::ConfigurationChanged, now, members, out);
        }
        let cx = Context { now, lane: None };
        members.each(&mut |_, volume, out| volume.learned(&new, cx, out));
        self.gate_stale = true;
        if is && old.lineage != new.lineage {
            self.accept_loss(now, members);
        }
        if !same_office {
            self.recovering_restart = false;
            self.draining = is;
            if is {
                self.hold_until = self.hold_until.max(now.grantor + self.settings.timers.switchover_hold);
            }
            self.secondary.forget();
        }
        if dropped {
            self.secondary.accepted = None;
        }
        if new.in_sync == InSync::Primary {
            self.recovering_restart = false;
            self.peer_restarted = false;
            self.seen_nonce = self.link.map(|link| link.nonce);
            if is && old.in_sync == InSync::Both {
                self.changes.dropped(now, &self.settings.timers);
            }
        } else if old.in_sync == InSync::Primary {
            self.changes.joined(now);
            self.peer_disk.joined(now);
        }
        self.roles_changed(&old, out);
    }

    // The gate.

    /// True: the gate's mode is another one now.
    fn publish(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) -> bool {
        let gate = self.plan_gate(now);
        let moved = gate.mode != self.gate.mode || gate.tenure != self.gate.tenure;
        if gate != self.gate || self.gate_stale {
            self.gate = gate;
            self.gate_stale = false;
            let cx = Context { now, lane: None };
            members.each(&mut |_, volume, out| volume.set_gate(gate, cx, out));
        }
        let serving = gate.may_start(now);
        if serving != self.serving {
            self.serving = serving;
            self.log(LogEntry::Serving(serving), out);
            if serving {
                self.hold_until = Time::ZERO;
                self.tell(SessionMessage::Serving { tenure: gate.tenure }, out);
            }
        }
        moved
    }

    /// While they are tried again they are not lost, for a moment: that is not told.
    fn tell_of_lost_blocks(&mut self, out: &mut Vec<Action>) {
        let (lost, told) = (self.sum.lost, self.lost_told);
        if lost > told || (told != 0 && self.sum.recovering == 0) {
            self.lost_told = lost;
            self.log(LogEntry::BlocksLost(lost), out);
        }
    }

    // What the proposer may do.

    fn environment(&self, now: Now) -> Environment {
        let holding = self.changes.role_change.is_some();
        Environment {
            intent: self.intent(now),
            primary_lost: self.primary_is_lost(now),
            holding,
            drained: self.changes.drained && self.primary.is_up() && self.sum.recovering == 0,
            may_hand_over: holding
                && !self.recovering_restart
                && self.link.is_some()
                && (self.applied.quorum == Quorum::Majority || self.primary.is_up()),
            join_ready: self.changes.joining && self.primary.is_up(),
            session_closed: !self.primary.is_up(),
            stalled: self.stalled,
            peer_lost_witness: self.peer_lost_witness,
            memory: self.wants_mark(now),
            unflushed: self.may_be_unflushed(),
            peer_unflushed: self.peer_may_be_unflushed(),
            peer_tainted: self.peer_is_tainted(),
            flush_failed: self.sum.flush_failed,
        }
    }

    /// As secondary: the primary is not linked, or asks for no lease although it is.
    pub(super) fn primary_is_lost(&self, now: Now) -> bool {
        self.link.is_none() || self.arbiter.primary_is_silent(now) || self.peer_is_tainted()
    }

    fn intent(&self, now: Now) -> Option<Transition> {
        if !self.settled() {
            return None;
        }
        if !self.is_primary() {
            let promote = self.primary_is_lost(now)
                && (!self.arbiter.is_tainted() || mutation::on(Mutation::T13TaintedSecondaryPromoted))
                && (self.is_both() || mutation::on(Mutation::R4StaleCopyPromoted))
                && (!self.disk_is_bad() || mutation::on(Mutation::BadDiskPromoted))
                && self.promotes_itself();
            return promote.then_some(Transition::Promote);
        }
        if self.changes.dropping.is_some() {
            return Some(Transition::Drop);
        }
        if let Some(change) = &self.changes.role_change {
            let hand_over = change.hand_over && !mutation::on(Mutation::T14NoHandOver);
            return Some(if hand_over { Transition::HandOver } else { Transition::SwitchOver });
        }
        if self.changes.joining {
            return Some(Transition::Join);
        }
        // From {A,B} both arrays must accept it: wait for the link.
        let reachable = self.link.is_some() || !self.is_both();
        if self.arbiter.witness_to_enrol().is_some() {
            return reachable.then_some(Transition::ReEnrol);
        }
        let lost = self.arbiter.witness_is_lost(now)
            && (self.peer_lost_witness || mutation::on(Mutation::T17PreElectByOneView));
        let majority = self.applied.quorum == Quorum::Majority && self.is_both();
        let majority = majority && !mutation::on(Mutation::PreElectLeftOut);
        (lost && majority && self.link.is_some()).then_some(Transition::PreElect)
    }

    fn command(
        &mut self,
        ticket: u64,
        command: Command,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) {
        match self.start_command(ticket, command, now, members, out) {
            Ok(None) => {}
            Ok(Some(())) => out.push(Action::Outcome { ticket, result: Ok(()) }),
            Err(refused) => out.push(Action::Outcome { ticket, result: Err(refused) }),
        }
    }

    /// `Ok(None)`: under way, the outcome comes later.
    fn start_command(
        &mut self,
        ticket: u64,
        command: Command,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        use super::change::Caller;
        let caller = Caller::Here { ticket };
        match command {
            Command::SwitchOver => self.switch_over(caller, now, out),
            Command::FailOver => self.fail_over(caller, now, out),
            Command::Override { stale } => self.begin_override(ticket, stale, now, out),
            Command::Discard => self.discard(out),
            Command::HandOver => self.leave_in_order(ticket, now),
            Command::Start => self.set_started(true, caller, now, out),
            Command::Stop => self.set_started(false, caller, now, out),
            Command::HoldMembers => self.hold_members(now, members, out).map(Some),
            Command::Remove => {
                if self.policy.started && self.is_both() {
                    return Err(Refused::Started);
                }
                self.arbiter.remove(&mut self.pending);
                Ok(Some(()))
            }
        }
    }

    /// When anything here is due (grantor clock).
    fn earliest(&self, now: Now) -> Option<Time> {
        let timers = &self.settings.timers;
        let of_holder = |end: Time| now.grantor + end.since(now.holder);
        let lease_ends = (self.gate.mode != Mode::Closed && self.gate.lease_end != Time::FOREVER)
            .then_some(self.gate.lease_end)
            .into_iter()
            .flat_map(|end| [end, end + FAILSAFE_HOLD])
            .filter(|&end| end > now.holder)
            .map(of_holder);
        let watch = self.primary.is_busy().then_some(now.grantor + timers.mirror_timeout / 8);
        let start_wait = (!self.arbiter.start_wait_over(now)).then_some(now.grantor + timers.renewal);
        [
            self.arbiter.next_timeout(now),
            Some(self.hold_until),
            Some(self.promotion_hold(now)),
            self.link_lost.map(|lost| lost + timers.heartbeat),
            self.drain_poll(now),
            self.arbiter.witness_lost_at(),
            self.wanted.map(|wanted| wanted.until),
            Some(self.peer_disk.until()).filter(|&until| until != Time::FOREVER),
            watch,
            start_wait,
        ]
        .into_iter()
        .flatten()
        .chain(self.primary.timeouts(timers))
        .chain(self.changes.timeouts())
        .chain(self.disks.timeouts(self))
        .filter(|&at| at > now.grantor)
        .chain(lease_ends)
        .min()
    }
}
