//! One volume of one array: what its parts share, the gate, the dirty map's writing, status.
//!
//! The parts: host commands ([`super::host`]), the session and copies as primary
//! ([`super::session`], [`super::copy`]), the peer's frames as secondary ([`super::secondary`]),
//! and what a new configuration means ([`super::office`]).

use std::collections::BTreeSet;

use crate::arbitration::{Config, Gate, InSync, Mode, Side, Tenure};
use crate::block::{Extent, Refusal};
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::active::ActiveSet;
use super::api::{Context, Geometry, Limits, MapGeneration, REGION_BLOCKS, Status, VolumeAction};
use super::before::Before;
use super::command::{Commands, Mirror, Stage};
use super::copy::Copies;
use super::map::{DirtyMap, MapPage};
use super::overlap::OverlapIndex;
use super::regions::RegionSet;
use super::secondary::Applies;
use super::session::Session;
use super::unflushed::Unflushed;
use super::verify::Verify;

/// How long commands wait for a lease that ran out before anything else was decided: as long as a
/// former primary holds them (DESIGN §5, failsafe).
pub(super) const HOLD_PAST_LEASE: Duration = Duration::from_secs(2);
/// How long errors of a failing store are held back for the group to be handed over: two of
/// control's tries. Where nobody takes over, both copies are made equal and the error is answered.
const HAND_OVER_WAIT: Duration = Duration::from_secs(10);
/// How long bits that nothing waits for may stay unwritten: long enough to gather many.
const LAZY_WRITE: Duration = Duration::from_secs(1);
/// Numbers of the ledger's entries: copies first, then commands.
pub(super) const COMMAND_BASE: u32 = Limits::COPIES_MAX;

/// The pure core of one volume. Its shell keeps it behind one lock that is never held across I/O;
/// every method takes the outputs' vector from the caller and appends to it.
#[derive(Clone, Debug)]
pub struct Volume {
    pub(super) limits: Limits,
    pub(super) map: DirtyMap,
    pub(super) gate: Gate,
    /// `None`: solitary.
    pub(super) group: Option<Membership>,
    pub(super) commands: Commands,
    /// Extents of started and queued commands and of copies.
    pub(super) ledger: OverlapIndex,
    /// Order of events in the ledger.
    pub(super) clock: u64,
    pub(super) active: ActiveSet,
    /// Regions to be copied before the copies are equal; as primary of {me} part of out-of-sync.
    pub(super) must_copy: RegionSet,
    /// Regions in doubt (rules 15, 17).
    pub(super) recovering: RegionSet,
    /// Of these, the ones where a write failed on this copy (rule 17).
    pub(super) failed_here: RegionSet,
    /// First blocks of the physical blocks of regions in doubt that can be made equal from neither copy.
    pub(super) lost: BTreeSet<u64>,
    /// As `lost`, of copies under way.
    pub(super) found_lost: BTreeSet<u64>,
    /// The lost ones are tried again then, not before.
    pub(super) lost_until: Option<Time>,
    pub(super) copies: Copies,
    pub(super) session: Option<Session>,
    pub(super) applies: Applies,
    pub(super) before: Before,
    pub(super) unflushed: Unflushed,
    /// The newest verify of this life.
    pub(super) verify: Option<Verify>,
    /// A join was allowed or voted: answers need both copies although {me} is chosen (T4).
    pub(super) joining: bool,
    /// While joining, a session was opened without a plan of what to copy: made up for if the join
    /// is taken back.
    pub(super) plan_owed: bool,
    /// No answer before this snapshot of the map is durable.
    pub(super) barrier: u64,
    /// Since when this store is known to fail.
    pub(super) store_failed: Option<Time>,
    pub(super) peer_failed: bool,
    pub(super) peer_refused: bool,
    /// This store fails and nobody took over in time.
    pub(super) hand_over_hopeless: bool,
    /// Entries of the ledger that may be able to go on.
    pub(super) ready: Vec<u32>,
    /// Commands that look at the map again when a snapshot is durable.
    map_waiters: Vec<u32>,
    map_spare: Vec<u32>,
    map_requested: bool,
    /// Something waits for what is in memory but not in the snapshot being written.
    map_urgent: bool,
    /// Since when changes that nothing waits for are unwritten.
    map_lazy_since: Option<Time>,
    /// Control waits for the map.
    pub(super) poke_when_durable: bool,
    /// When a command first found the lease run out with the gate still open.
    lapsed_since: Option<Time>,
    pub(super) overlaps: Vec<u32>,
    order: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    pub me: Side,
    pub config: Config,
}

/// What the gate says to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Serve,
    /// Not now; the gate's next change decides.
    Wait,
    /// Never again: another tenure, or closed.
    Late,
}

impl Volume {
    /// A volume with an empty dirty map, outside any group: served at once, never mirrored, no
    /// map kept.
    pub fn new(geometry: Geometry, limits: Limits) -> Self {
        Self::restore(geometry, limits, DirtyMap::new(geometry))
    }

    /// A volume with the dirty map read from disk (of this geometry), outside any group until
    /// [`Volume::enrol`].
    pub fn restore(geometry: Geometry, limits: Limits, map: DirtyMap) -> Self {
        debug_assert_eq!(map.geometry(), geometry);
        let limits = Limits {
            commands: limits.commands.clamp(1, Limits::COMMANDS_MAX),
            copies: limits.copies.clamp(1, Limits::COPIES_MAX),
            ..limits
        };
        let none = RegionSet::new(map.activity().regions());
        Self {
            limits,
            map,
            gate: Gate::solitary(),
            group: None,
            commands: Commands::default(),
            ledger: OverlapIndex::new(),
            clock: 0,
            active: ActiveSet::new(limits.active_regions),
            must_copy: none.clone(),
            failed_here: none.clone(),
            recovering: none.clone(),
            lost: BTreeSet::new(),
            found_lost: BTreeSet::new(),
            lost_until: None,
            copies: Copies::new(limits.copies),
            session: None,
            applies: Applies::new(),
            before: Before::default(),
            unflushed: Unflushed::new(none.regions(), limits.unflushed_bytes),
            verify: None,
            joining: false,
            plan_owed: false,
            barrier: 0,
            store_failed: None,
            peer_failed: false,
            peer_refused: false,
            hand_over_hopeless: false,
            ready: Vec::new(),
            map_waiters: Vec::new(),
            map_spare: Vec::new(),
            map_requested: false,
            map_urgent: false,
            map_lazy_since: None,
            poke_when_durable: false,
            lapsed_since: None,
            overlaps: Vec::new(),
            order: Vec::new(),
        }
    }

    /// The store has grown to `blocks`, which read as zeroes on every copy; less than now changes
    /// nothing. The peer's copy has grown before.
    pub fn grow(&mut self, blocks: u64) {
        self.map.grow(blocks);
        let regions = self.map.activity().regions();
        for set in [&mut self.must_copy, &mut self.recovering, &mut self.failed_here] {
            set.grow(regions);
        }
        self.unflushed.grow(regions);
    }

    pub const fn geometry(&self) -> Geometry {
        self.map.geometry()
    }

    /// The gate as the data path sees it.
    pub const fn gate(&self) -> Gate {
        self.gate
    }

    /// The data path's copy of the gate. `Closed`, or another tenure, refuses every command at
    /// once (those whose I/O runs stay in the ledger until it is over); opening lets the parked
    /// ones arrive. Nothing starts, whatever the gate says, before what older tenures and sessions
    /// sent to this disk has arrived there (rule 5; `Status::store_io_old`).
    pub fn set_gate(&mut self, gate: Gate, cx: Context, out: &mut Vec<VolumeAction>) {
        let old = core::mem::replace(&mut self.gate, gate);
        let renewed = Gate { lease_end: gate.lease_end, ..old } == gate;
        if renewed && self.lapsed_since.is_none() && gate.mode != Mode::Closed {
            return; // a renewal: no command waits for it
        }
        self.lapsed_since = None;
        if gate.mode == Mode::Closed {
            self.refuse_all(Refusal::Standby, true, cx, out);
        } else {
            self.reconsider_all(cx, out);
        }
        self.settle(cx, out);
    }

    /// Looks at every command again, in order of arrival: the gate, or what both copies need, has
    /// changed. Parked ones come last: those in the ledger arrived before them.
    pub(super) fn reconsider_all(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        let order = self.in_order();
        for &slot in &order {
            self.reconsider(slot, cx, out);
        }
        for &slot in &order {
            if self.commands.at(slot).stage == Stage::Parked && self.may_start(cx.now) {
                self.arrive(slot, cx, out);
            }
        }
        self.order = order;
    }

    /// Slots of the live commands in order of arrival. Give the vector back to `order`.
    pub(super) fn in_order(&mut self) -> Vec<u32> {
        let mut order = core::mem::take(&mut self.order);
        self.commands.in_order(&mut order);
        order
    }

    pub(super) fn give_back(&mut self, order: Vec<u32>) {
        self.order = order;
    }

    /// The gate is open, and what older tenures sent to this disk has arrived there (rule 5): a
    /// late write of the former primary never lands on a new one.
    pub(super) fn may_start(&self, now: Now) -> bool {
        self.gate.may_start(now) && self.applies.running_old() == 0
    }

    /// Rule 6, at the start of a command.
    pub(super) fn check_start(&mut self, tenure: Tenure, now: Now) -> Check {
        let open = self.may_start(now);
        self.check(tenure, open, now)
    }

    /// Rule 6, right before an answer; also before a started command goes on to its I/O.
    pub(super) fn check_answer(&mut self, tenure: Tenure, now: Now) -> Check {
        let open = self.gate.may_answer(now);
        self.check(tenure, open, now)
    }

    fn check(&mut self, tenure: Tenure, open: bool, now: Now) -> Check {
        let outlives = mutation::on(Mutation::T10CommandOutlivesTenure);
        if (tenure != self.gate.tenure && !outlives) || self.gate.mode == Mode::Closed {
            return Check::Late;
        }
        if open {
            return Check::Serve;
        }
        self.note_lapse(now);
        Check::Wait
    }

    /// Until when writes that failed here wait for the other array to take over; `None`: none need
    /// to, or they did for long enough.
    pub(super) fn awaited_hand_over(&self) -> Option<Time> {
        let since = self.store_failed.filter(|_| self.needs_both() && !self.hand_over_hopeless)?;
        Some(since + HAND_OVER_WAIT)
    }

    /// Control has noted that this store failed, and this array is not in office: no answer waits for it.
    pub fn forgive_store(&mut self) {
        if !self.is_primary() {
            self.forget_failure();
        }
    }

    /// This store works again, as far as is known.
    pub(super) fn forget_failure(&mut self) {
        self.store_failed = None;
        self.hand_over_hopeless = false;
    }

    /// A command waits for the gate: when its mode is open, the lease ran out.
    pub(super) fn note_lapse(&mut self, now: Now) {
        if matches!(self.gate.mode, Mode::Both | Mode::Alone | Mode::Draining)
            && now.holder >= self.gate.lease_end
        {
            self.lapsed_since.get_or_insert(now.grantor);
        }
    }

    /// Until when commands wait for the gate, where they do.
    pub(super) fn hold_end(&self) -> Option<Time> {
        let lapsed = self.lapsed_since.map(|since| since + HOLD_PAST_LEASE);
        match self.gate.mode {
            Mode::Closed => None,
            Mode::Both | Mode::Alone => lapsed,
            Mode::Held | Mode::Draining => Some(self.gate.hold_until),
        }
    }

    /// This array is the chosen primary in the tenure of the gate.
    pub(super) fn is_primary(&self) -> bool {
        self.group.is_some_and(|group| group.config.primary == group.me)
    }

    /// This array is the chosen primary, and {me} is chosen.
    pub(super) fn is_alone(&self) -> bool {
        self.group
            .is_some_and(|group| group.config.primary == group.me && group.config.in_sync == InSync::Primary)
    }

    pub(super) fn tenure(&self) -> Option<Tenure> {
        self.group.map(|group| group.config.tenure())
    }

    pub(super) fn tick_clock(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(super) fn region_extent(&self, region: u64) -> Extent {
        let lba = region * REGION_BLOCKS;
        Extent::new(lba, REGION_BLOCKS.min(self.geometry().blocks.saturating_sub(lba)))
    }

    // The dirty map: the metadata thread.

    /// Snapshot of the changed pages, appended to `pages`. `None`: nothing to write, or the last
    /// snapshot is not durable yet (its `map_durable` asks again).
    pub fn map_pages(&mut self, pages: &mut Vec<MapPage>) -> Option<MapGeneration> {
        let generation = self.map.snapshot(pages);
        if generation.is_some() {
            self.map_requested = false;
            self.map_urgent = false;
            self.map_lazy_since = None;
        }
        generation
    }

    /// The snapshot is on stable storage.
    pub fn map_durable(&mut self, generation: MapGeneration, cx: Context, out: &mut Vec<VolumeAction>) {
        if !self.map.snapshot_durable(generation) {
            return;
        }
        // Those that wait on enter the list anew.
        let mut waiters = core::mem::take(&mut self.map_waiters);
        core::mem::swap(&mut self.map_waiters, &mut self.map_spare);
        for slot in waiters.drain(..) {
            if self.commands.find_slot(slot).is_some_and(|command| command.awaits_map) {
                self.commands.get(slot).awaits_map = false;
                self.reconsider(slot, cx, out);
            }
        }
        self.map_spare = waiters;
        if self.map_urgent {
            self.map_urgent = false;
            self.request_map(out);
        }
        if self.poke_when_durable && !self.map_pending() {
            self.poke_when_durable = false;
            out.push(VolumeAction::Poke);
        }
        self.settle(cx, out);
    }

    /// The snapshot could not be written; what is on disk is unknown. `PersistMap`
    /// asks for it again at once: the shell decides when to try.
    pub fn map_failed(&mut self, generation: MapGeneration, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.map.snapshot_failed(generation) {
            self.request_map(out);
            self.settle(cx, out);
        }
    }

    /// Something waits for the map as it is now.
    pub(super) fn request_map(&mut self, out: &mut Vec<VolumeAction>) {
        if !self.map.changed() {
            return; // the snapshot being written has it all
        }
        if self.map.writing() {
            self.map_urgent = true;
        } else if !self.map_requested {
            self.map_requested = true;
            out.push(VolumeAction::PersistMap);
        }
    }

    /// The command goes on when a snapshot is durable.
    pub(super) fn await_map(&mut self, slot: u32, out: &mut Vec<VolumeAction>) {
        if !core::mem::replace(&mut self.commands.get(slot).awaits_map, true) {
            self.map_waiters.push(slot);
        }
        self.request_map(out);
    }

    pub(super) fn map_pending(&self) -> bool {
        self.map.changed() || self.map.writing()
    }

    /// From now on no answer before what is in the map now is durable.
    pub(super) fn raise_barrier(&mut self, out: &mut Vec<VolumeAction>) {
        self.barrier = self.map.covering();
        self.request_map(out);
    }

    pub(super) fn barrier_is_down(&self) -> bool {
        self.map.durable() >= self.barrier
    }

    /// What waits for the map, and for time.
    #[cfg(feature = "testing")]
    pub(super) fn waits_canonical(
        &self,
        names: &super::canonical::Names<'_>,
        into: &mut super::canonical::Canonical,
    ) {
        for &slot in &self.map_waiters {
            if self.commands.find_slot(slot).is_some_and(|command| command.awaits_map) {
                into.put((names.command)(slot));
            }
        }
        let lazy = self.map_lazy_since.is_some();
        let waits = [self.map_requested, self.map_urgent, lazy, self.lapsed_since.is_some()];
        std::hash::Hash::hash(&waits, into);
    }

    // Time and status.

    /// Call at or after `next_timeout`: ends holds, clears activity of idle regions.
    pub fn tick(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if self.hold_end().is_some_and(|end| cx.now.grantor >= end) {
            // A draining array answers what is in flight; elsewhere nothing can be answered any more.
            let started = self.gate.mode != Mode::Draining || self.lapsed_since.is_some();
            self.lapsed_since = None;
            self.refuse_all(Refusal::Transition, started, cx, out);
        }
        if self.is_primary() {
            while let Some(region) = self.active.expire(cx.now.grantor, self.limits.activity_linger) {
                self.retire(region);
            }
        }
        self.copies.end_pause(cx.now.grantor);
        self.lost_until = self.lost_until.filter(|until| cx.now.grantor < *until);
        if self.awaited_hand_over().is_some_and(|end| cx.now.grantor >= end) {
            self.hand_over_hopeless = true;
        }
        if self.map_lazy_since.is_some_and(|since| cx.now.grantor >= since + LAZY_WRITE) {
            self.map_lazy_since = None;
            self.request_map(out);
        }
        self.settle(cx, out);
    }

    /// When `tick` is due next (grantor clock).
    pub fn next_timeout(&self) -> Option<Time> {
        let waiting = self.commands.live() != 0;
        let hold = self.hold_end().filter(|_| waiting && self.someone_is_held());
        let expiry = self.active.next_expiry(self.limits.activity_linger).filter(|_| self.is_primary());
        let lazy = self.map_lazy_since.map(|since| since + LAZY_WRITE);
        let retry = self.copies.next_retry();
        let give_in = self.awaited_hand_over().filter(|_| !self.failed_here.is_empty());
        let lost = self.lost_until.filter(|_| !self.lost.is_empty());
        [hold, expiry, lazy, retry, give_in, lost, self.flush_timeout()].into_iter().flatten().min()
    }

    fn someone_is_held(&self) -> bool {
        let draining = self.gate.mode == Mode::Draining && self.lapsed_since.is_none();
        self.commands.iter_live().any(|command| command.waiting() || (!draining && !command.answered))
    }

    pub fn status(&self) -> Status {
        let mut status = Status {
            dirty_regions: self.must_copy.len(),
            recovering_regions: self.recovering.len(),
            failed_regions: self.failed_here.len(),
            lost_blocks: self.lost.len() as u64,
            out_of_sync_regions: self.map.out_of_sync().len(),
            active_regions: self.map.activity().len(),
            map_pending: self.map_pending(),
            peer_failed: self.peer_failed,
            peer_refused: self.peer_refused,
            store_failed: self.store_failed.is_some(),
            unkept: self.is_unkept(),
            memory: self.is_memory(),
            flush_failed: self.unflushed.has_failed(),
            unflushed_here: self.unflushed.here() || self.has_phantoms_alone(),
            forgetting: self.unflushed.is_forgetting(),
            unflushed_there: self.unflushed_there(),
            ..Status::default()
        };
        let primary = self.is_primary() || self.group.is_none();
        for command in self.commands.iter_live() {
            status.in_flight += u32::from(command.in_flight());
            status.waiting += u32::from(command.waiting());
            if command.store_io() {
                status.store_io += 1;
                status.oldest_store_io = Self::oldest(status.oldest_store_io, Some(command.issued));
                status.store_io_old += u32::from(!primary || command.tenure != self.gate.tenure);
            }
            match command.mirror {
                Mirror::Sent { at, .. } => {
                    status.oldest_unacked = Self::oldest(status.oldest_unacked, Some(at));
                }
                Mirror::Unsent if command.must_be_mirrored() => status.unsent += 1,
                _ => {}
            }
        }
        status.store_io += u32::from(self.unflushed.oldest_flush().is_some());
        status.oldest_store_io = Self::oldest(status.oldest_store_io, self.unflushed.oldest_flush());
        status.oldest_unacked = Self::oldest(status.oldest_unacked, self.unflushed.oldest_asked());
        self.copies.add_to(&mut status);
        status.store_io += self.applies.running();
        status.store_io_old += self.applies.running_old() + u32::from(self.is_rolling_back());
        status.oldest_store_io = Self::oldest(status.oldest_store_io, self.applies.oldest_running());
        status
    }

    /// What every entry point ends with: lets entries of the ledger that became free go on, and
    /// starts copies where there is room.
    pub(super) fn settle(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        loop {
            let mut at = 0;
            while let Some(&number) = self.ready.get(at) {
                at += 1;
                if number < COMMAND_BASE {
                    self.start_copy(number, cx, out);
                } else {
                    self.reconsider(number - COMMAND_BASE, cx, out);
                }
            }
            self.ready.clear();
            if !self.pump(cx, out) {
                break;
            }
        }
        self.pump_flushes(cx, out);
        if !self.map.changed() {
            self.map_lazy_since = None;
        } else if self.map_lazy_since.is_none() && !self.map_requested && !self.map_urgent {
            self.map_lazy_since = Some(cx.now.grantor);
        }
    }
}
