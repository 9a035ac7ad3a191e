//! The mirror session as primary: what is sent, on which lane, and what its end means (rule 14).

use crate::block::{Extent, Op, StoreResult};
use crate::mutation::{self, Mutation};
use crate::time::Time;

use super::api::{Context, FrameHeader, LaneId, RegionRun, SessionId, VolumeAction};
use super::command::{Command, Mirror, Stage};
use super::copy::COPY_BIT;
use super::unflushed::FLUSH_BIT;
use super::volume::Volume;

/// A sequence is a counter above these bits; below them lies what it is the sequence of: a
/// command's slot, or with `COPY_BIT` a copy's slot and frame. So the peer's answer finds its
/// command without a search.
const TARGET_BITS: u32 = 20;
pub(super) const TARGET_MASK: u64 = (1 << TARGET_BITS) - 1;

#[derive(Clone, Debug)]
pub(super) struct Session {
    pub id: SessionId,
    counter: u64,
    /// Lanes that are up, ascending.
    lanes: Vec<LaneId>,
    /// Which lane is next for frames whose thread owns none.
    turn: usize,
}

impl Session {
    pub fn sequence(&mut self, target: u64) -> u64 {
        self.counter += 1;
        self.counter << TARGET_BITS | target
    }

    #[cfg(feature = "testing")]
    pub fn canonical(&self, into: &mut super::canonical::Canonical) {
        into.session(self.id);
        into.put(self.lanes.iter().fold(0, |lanes, lane| lanes | 1_u64 << lane.0));
        into.put(self.turn.checked_rem(self.lanes.len()).unwrap_or(0) as u64);
    }

    pub fn is_up(&self, lane: LaneId) -> bool {
        self.lanes.contains(&lane)
    }

    /// The caller's own lane when it is up, else one after the other.
    pub fn pick(&mut self, own: Option<LaneId>) -> Option<LaneId> {
        if let Some(lane) = own.filter(|lane| self.lanes.contains(lane)) {
            return Some(lane);
        }
        self.turn = self.turn.wrapping_add(1);
        let at = self.turn.checked_rem(self.lanes.len())?;
        self.lanes.get(at).copied()
    }
}

impl Volume {
    /// The secondary answered the hello. Every unacknowledged write is sent again (its `Mirror`
    /// actions may name any of `lanes`); with {me} chosen the union of both maps is to be copied.
    /// A session that is still open is closed first.
    pub fn open_session(
        &mut self,
        session: SessionId,
        lanes: &[LaneId],
        peer_dirty: &[RegionRun],
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        self.end_session();
        if !self.is_primary() {
            return;
        }
        let mut lanes = lanes.to_vec();
        lanes.sort_unstable();
        lanes.dedup();
        self.session = Some(Session { id: session, counter: 0, lanes, turn: 0 });
        if self.is_alone() && !self.joining {
            // T12: whatever either map of either array names. With a join voted nothing was dirty
            // when the vote was cast, and every write since needs both copies.
            self.plan_out_of_sync();
            if !mutation::on(Mutation::T12PeerDirtyIgnored) {
                for run in peer_dirty {
                    self.must_copy.insert_run(*run);
                }
                self.map.mark_all_out_of_sync(&self.must_copy);
            }
        }
        self.plan_owed |= self.joining;
        self.lost_until = None; // the peer may have its disk back
        self.send_unsent(cx, out);
        self.settle(cx, out);
    }

    /// `must_copy |= oos | activity`.
    pub(super) fn plan_out_of_sync(&mut self) {
        self.must_copy.union(self.map.out_of_sync());
        self.must_copy.union(self.map.activity());
    }

    /// Sends what is in flight and was not sent in this session, in the order it started.
    fn send_unsent(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        let mut order = self.in_order();
        order.retain(|&slot| {
            let command = self.commands.at(slot);
            command.must_be_mirrored() || command.stage == Stage::Fetching
        });
        order.sort_unstable_by_key(|&slot| self.commands.at(slot).started);
        for &slot in &order {
            if self.commands.at(slot).stage == Stage::Fetching {
                self.ask(slot, cx, out);
                continue;
            }
            let hopeless = self.commands.at(slot).local.is_some_and(|local| local != StoreResult::Done);
            if !hopeless && !mutation::on(Mutation::R14NotSentAgain) {
                self.send(slot, cx, out);
            }
        }
        self.give_back(order);
    }

    /// Sends a write, once within a session.
    pub(super) fn send(&mut self, slot: u32, cx: Context, out: &mut Vec<VolumeAction>) {
        let &Command { op, extent, tenure, mirror, .. } = self.commands.at(slot);
        if mirror != Mirror::Unsent || !self.is_primary() {
            return;
        }
        let memory = op.writes() && self.may_stay_in_peers_memory();
        let there = self.unflushed.there_written();
        let Some(session) = &mut self.session else { return };
        let Some(lane) = session.pick(cx.lane) else { return };
        let sequence = session.sequence(u64::from(slot));
        // The comparison was made here: only its write is mirrored.
        let op = if op == Op::CompareAndWrite { Op::Write } else { op };
        let extent = if op == Op::Flush { Extent::new(0, 0) } else { extent };
        let header = FrameHeader { tenure, session: session.id, sequence, op, extent, memory };
        let command = self.commands.get(slot);
        command.covers[1] = there;
        command.mirror = Mirror::Sent { sequence, lane, at: cx.now.grantor, memory };
        let command = self.commands.id(slot);
        out.push(VolumeAction::Mirror { command, lane, header });
    }

    /// A header and a lane for the frames of a copy.
    pub(super) fn address_copy(
        &mut self,
        copy: u32,
        extent: Extent,
        cx: Context,
    ) -> Option<(LaneId, FrameHeader)> {
        let tenure = self.tenure()?;
        let session = self.session.as_mut()?;
        let lane = session.pick(cx.lane)?;
        let sequence = session.sequence(COPY_BIT | u64::from(copy) << super::copy::FRAME_BITS);
        let (op, memory) = (Op::Write, false);
        Some((lane, FrameHeader { tenure, session: session.id, sequence, op, extent, memory }))
    }

    pub(super) fn can_send(&self) -> bool {
        self.session.as_ref().is_some_and(|session| !session.lanes.is_empty())
    }

    /// The peer's answer to a frame of this volume (`Acknowledge` there).
    pub fn mirror_acked(
        &mut self,
        session: SessionId,
        sequence: u64,
        result: Option<StoreResult>,
        cx: Context,
        out: &mut Vec<VolumeAction>,
    ) {
        if self.session.as_ref().is_none_or(|open| open.id != session) {
            return; // of an older session: its writes were sent again, or are marked
        }
        let Some(result) = result else {
            self.peer_refused = true;
            return self.peer_has_failed(out);
        };
        let target = sequence & TARGET_MASK;
        if target & COPY_BIT != 0 {
            self.copy_acked(sequence, target & !COPY_BIT, result, cx, out);
        } else if target & FLUSH_BIT != 0 {
            self.peer_flushed(sequence, result, out);
        } else {
            let slot = u32::try_from(target).unwrap_or(u32::MAX);
            let command = self.commands.find_slot(slot);
            let asked = |command: &Command| matches!(command.mirror, Mirror::Sent { sequence: sent, .. } if sent == sequence);
            if !command.is_some_and(asked) {
                return;
            }
            if self.commands.at(slot).stage == Stage::Fetching {
                self.not_given(slot, cx, out);
                return self.settle(cx, out);
            }
            let command = self.commands.get(slot);
            let memory = matches!(command.mirror, Mirror::Sent { memory: true, .. });
            let flushed = (command.op == Op::Flush).then_some(command.covers[1]);
            command.mirror = Mirror::Acked(result);
            if result != StoreResult::Done {
                self.peer_has_failed(out);
            } else if let Some(upto) = flushed {
                self.unflushed.flushed_there(upto);
            } else if memory {
                self.unflushed.acknowledged();
            }
            self.evaluate(slot, cx, out);
        }
        self.settle(cx, out);
    }

    pub(super) fn peer_has_failed(&mut self, out: &mut Vec<VolumeAction>) {
        if !core::mem::replace(&mut self.peer_failed, true) || self.peer_refused {
            out.push(VolumeAction::Poke);
        }
    }

    /// The session as primary is about to be closed: nothing more is sent in it. What waits for its answers goes on
    /// waiting, and nothing is answered alone, until [`Self::close_session`].
    pub fn mute_session(&mut self) {
        if let Some(session) = &mut self.session {
            session.lanes.clear();
        }
    }

    /// The session as primary is over (rules 11 and 14): call on every volume of the group, when all of them were
    /// muted. While alone,
    /// what was not acknowledged is dirty and answered alone.
    pub fn close_session(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        self.end_session();
        self.reconsider_all(cx, out);
        self.settle(cx, out);
    }

    /// Forgets the session and what only it knew. The caller looks at the commands again.
    pub(super) fn end_session(&mut self) {
        if self.session.take().is_none() {
            return;
        }
        self.peer_failed = false;
        self.peer_refused = false;
        self.unflushed.end_session();
        let order = self.in_order();
        for &slot in &order {
            let command = self.commands.get(slot);
            if command.mirror != Mirror::Acked(StoreResult::Done) {
                command.mirror = Mirror::Unsent;
            }
        }
        self.give_back(order);
        self.abandon_copies();
    }

    /// A lane is back, or new, in the present session.
    pub fn lane_up(&mut self, lane: LaneId, cx: Context, out: &mut Vec<VolumeAction>) {
        let Some(session) = &mut self.session else { return };
        if let Err(at) = session.lanes.binary_search(&lane) {
            session.lanes.insert(at, lane);
            self.send_unsent(cx, out);
            self.settle(cx, out);
        }
    }

    /// A lane was given up. True: frames of the present session were unacknowledged on it, so the
    /// group's session must be closed (rule 14).
    #[must_use]
    pub fn lane_lost(&mut self, lane: LaneId) -> bool {
        let Some(session) = &mut self.session else { return false };
        session.lanes.retain(|up| *up != lane);
        let waits = |command: &Command| matches!(command.mirror, Mirror::Sent { lane: on, .. } if on == lane);
        self.commands.iter_live().any(waits) || self.copies.wait_on(lane) || self.unflushed.waits_on(lane)
    }

    /// Guard of *join* (under the lock): nothing dirty or recovering, every started write sent in
    /// this session. True: from now on an answer needs both copies, until `learned` or
    /// `cancel_join`.
    #[must_use]
    pub fn try_join(&mut self) -> bool {
        let sent = |command: &Command| {
            command.stage != Stage::Failed
                && (!command.must_be_mirrored()
                    || matches!(command.mirror, Mirror::Sent { .. } | Mirror::Acked(StoreResult::Done)))
        };
        let equal = self.must_copy.is_empty() && self.recovering.is_empty() && self.copies.idle();
        let all_sent = self.commands.iter_live().all(sent);
        let guard = equal && all_sent || mutation::on(Mutation::JoinWhileDirty);
        let allowed = self.is_alone() && self.can_send() && !self.peer_failed && guard;
        if allowed {
            self.joining = true;
            self.plan_owed = false;
        }
        allowed
    }

    /// Takes a successful `try_join` back; only while no vote for the join was cast.
    pub fn cancel_join(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if core::mem::replace(&mut self.joining, false) {
            if core::mem::replace(&mut self.plan_owed, false) {
                self.plan_out_of_sync(); // a session was opened meanwhile and has planned nothing
            }
            self.reconsider_all(cx, out);
            self.settle(cx, out);
        }
    }

    /// Switchover, held and drained: clears all activity. True once that is durable: only then the
    /// own vote. False while a write is in flight or the map is being written; ask again after the
    /// next `Poke`.
    pub fn clear_activity(&mut self, cx: Context, out: &mut Vec<VolumeAction>) -> bool {
        let busy = self.commands.iter_live().any(Command::in_flight) || !self.recovering.is_empty();
        // T13: both disks hold what the bits stand for.
        let unflushed = self.is_memory() && (self.unflushed.here() || self.unflushed_there());
        let unflushed = unflushed && !mutation::on(Mutation::T13SwitchUnflushed);
        if busy || unflushed || self.gate.may_start(cx.now) {
            return false;
        }
        self.active.clear();
        self.map.clear_all_activity();
        if !self.map_pending() {
            return true;
        }
        self.poke_when_durable = true;
        self.request_map(out);
        false
    }

    /// Oldest unacknowledged frame of the session, commands' and copies'.
    pub(super) fn oldest(one: Option<Time>, other: Option<Time>) -> Option<Time> {
        [one, other].into_iter().flatten().min()
    }
}
