//! The witness's process: its core, its state file with the proof of continuity, and the ways in
//! which it may come back.

use twinlun::arbitration::{
    Caller, Connection, Incarnation, Message as Vote, WitnessAction, WitnessCore, WitnessImage,
};

use twinlun::time::{Duration, Now};

use crate::clock::Clocks;
use crate::control::side;
use crate::network::{ConnectionId, Item, Process, WITNESS};
use crate::prng::Prng;
use crate::world::{Message, Work, World};

#[derive(Clone, Debug)]
pub struct ToWitness {
    pub batch: Vec<Vote>,
}

#[derive(Clone, Debug)]
pub struct FromWitness {
    pub batch: Vec<Vote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// State and token match.
    Continuous,
    /// The machine was started anew: state without its token.
    Rebooted,
    /// Nothing left.
    Blank,
    /// An older state.
    Restored,
}

pub struct Witness {
    pub alive: bool,
    pub paused: bool,
    pub boot: u32,
    pub wake_at: u64,
    pub deferred: Vec<Work>,
    clocks: Clocks,
    core: Option<WitnessCore>,
    /// What is durable, and what is being written.
    pub image: Option<WitnessImage>,
    writing: Vec<(u32, u64, WitnessImage)>,
    /// States of the past, for restores.
    pub backups: Vec<WitnessImage>,
    /// The durable image proved continuity (its token survived).
    pub token: bool,
}

impl Witness {
    pub fn new(rng: &mut Prng) -> Self {
        Self {
            alive: true,
            paused: false,
            boot: 0,
            wake_at: u64::MAX,
            deferred: Vec::new(),
            clocks: Clocks::new(rng),
            core: None,
            image: None,
            writing: Vec::new(),
            backups: Vec::new(),
            token: false,
        }
    }

    pub fn incarnation(&self) -> Incarnation {
        self.core.as_ref().map_or(Incarnation([0; 16]), WitnessCore::incarnation)
    }

    /// A write of the state file reached the disk.
    /// It runs, and has no undecided vote in a group.
    pub fn is_settled(&self, group: twinlun::arbitration::GroupId) -> bool {
        self.core.as_ref().is_some_and(|core| core.record(group).is_none_or(|record| record.vote.is_none()))
    }

    pub fn durable(&mut self, token: u32) {
        let Some(at) = self.writing.iter().position(|(t, _, _)| *t == token) else { return };
        let (_, _, image) = &self.writing[at];
        if self
            .image
            .as_ref()
            .is_none_or(|old| old.sequence < image.sequence || old.incarnation != image.incarnation)
        {
            self.backups.extend(self.image.take());
            self.image = Some(image.clone());
        }
    }
}

impl World {
    pub fn witness_start(&mut self) {
        // Well before the groups were made: its first silence is over.
        let mut began = self.witness.clocks.now(self.now);
        began.grantor = began.grantor - Duration::from_secs(20);
        self.start_witness(WITNESS, false, began);
    }

    fn start_witness(&mut self, which: Process, continued: bool, now: Now) {
        let mut fresh = [0; 16];
        fresh[..8].copy_from_slice(&self.rng.next_u64().to_le_bytes());
        let mut out = Vec::new();
        let timers = self.plan.timers;
        let witness = self.voter_mut(which);
        let image = witness.image.clone();
        witness.core = Some(WitnessCore::start(timers, image, continued, Incarnation(fresh), now, &mut out));
        witness.alive = true;
        witness.token = true;
        self.witness_actions(which, out);
    }

    pub fn witness_work(&mut self, which: Process, work: Work) {
        let mut out = Vec::new();
        let now = self.voter(which).clocks.now(self.now);
        match work {
            Work::Arrived { connection, item: Item::End } => {
                self.network.close(connection, which, 0, self.now, &mut self.rng);
            }
            Work::Arrived { connection, item: Item::Message(Message::ToWitness(ToWitness { batch })) } => {
                let Some(from) = self.network.get(connection).map(|c| c.ends[0]) else { return };
                let Some(core) = &mut self.voter_mut(which).core else { return };
                let caller = Caller::of(side(from));
                core.receive(&caller, Connection(u64::from(connection)), &batch, now, &mut out);
            }
            Work::SyncOver { token } => {
                let witness = self.voter_mut(which);
                let Some(at) = witness.writing.iter().position(|(t, _, _)| *t == token) else { return };
                let (_, sequence, _) = witness.writing.remove(at);
                let Some(core) = &mut witness.core else { return };
                core.persisted(sequence, &mut out);
            }
            _ => {}
        }
        self.witness_actions(which, out);
        self.observe_witness(which);
    }

    fn observe_witness(&mut self, which: Process) {
        for g in 0..self.plan.groups {
            let id = crate::control::group_id(g);
            let record = self.voter(which).core.as_ref().and_then(|core| core.record(id)).copied();
            if let Some(chosen) = record.and_then(|record| record.chosen) {
                self.note_chosen(WITNESS, g, &chosen);
            }
            self.note_vote(WITNESS, g, record.and_then(|record| record.vote));
        }
    }

    fn witness_actions(&mut self, which: Process, actions: Vec<WitnessAction>) {
        for action in actions {
            match action {
                WitnessAction::Persist { sequence, .. } => {
                    let token = self.new_token();
                    let witness = self.voter_mut(which);
                    let Some(core) = &witness.core else { return };
                    witness.writing.push((token, sequence, core.image().clone()));
                    self.begin_sync(which, token);
                }
                WitnessAction::Reply { connection, messages } => {
                    let reply = FromWitness { batch: messages };
                    self.send(connection.0 as ConnectionId, which, Message::FromWitness(reply));
                }
            }
        }
    }

    pub fn witness_crash(&mut self, which: Process) {
        let witness = self.voter_mut(which);
        if !witness.alive {
            return;
        }
        witness.alive = false;
        witness.paused = false;
        witness.boot += 1;
        witness.deferred.clear();
        witness.core = None;
        // What was being written is there or not; a file whose write was cut off is the one before.
        for (_, _, image) in core::mem::take(&mut witness.writing) {
            if self.rng.coin() {
                // The token is written after the state: it may name the one before.
                let token = self.rng.coin();
                let witness = self.voter_mut(which);
                witness.image = Some(image);
                witness.token &= token;
            } else {
                break;
            }
        }
        for connection in self.network.of_process(which) {
            self.network.close(connection, which, 0, self.now, &mut self.rng);
        }
    }

    pub fn witness_restart(&mut self, which: Process, how: Return) {
        if self.voter(which).alive {
            return;
        }
        let witness = self.voter(which);
        let continued = how == Return::Continuous && witness.token && witness.image.is_some();
        match how {
            Return::Blank => self.voter_mut(which).image = None,
            Return::Restored if !witness.backups.is_empty() => {
                let backups = witness.backups.len() as u64;
                let n = self.rng.below(backups) as usize;
                let witness = self.voter_mut(which);
                witness.image = Some(witness.backups[n].clone());
            }
            _ => {}
        }
        let now = self.voter(which).clocks.now(self.now);
        self.start_witness(which, continued, now);
    }

    pub fn witness_resume(&mut self, which: Process) {
        self.voter_mut(which).paused = false;
        for work in core::mem::take(&mut self.voter_mut(which).deferred) {
            self.work(which, work);
        }
    }
}
