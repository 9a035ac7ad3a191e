//! The groups of this array: each control with its volumes, and the shell around it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::arbitration::{Connection, GroupId, Message, Voter, VoterRecord};
use crate::group::{Action, Control, Event, Members, PathView, Policy, SessionMessage};
use crate::mirror::{self, VolumeAction, VolumeId};
use crate::sys::clock;
use crate::time::Time;
use crate::volume::Volume;

/// What hosts and operators see of each group, for every thread to read.
pub type Views = Arc<ArcSwap<BTreeMap<GroupId, PathView>>>;

/// One group.
#[derive(Debug)]
pub struct GroupEntry {
    control: Control,
    pub members: Vec<Volume>,
    /// When a volume of the group wants its `tick`.
    volumes_due: Option<Time>,
}

/// What a group asks the rest of the array to do, after a call of its control.
#[derive(Debug)]
pub enum Wish {
    Persist { group: GroupId, sequence: u64, record: VoterRecord },
    Send { to: Voter, connection: Connection, message: Message },
    SendSession { group: GroupId, connection: Connection, message: SessionMessage },
    Path { group: GroupId, view: PathView },
    Log { group: GroupId, epoch: u64, text: String },
    Outcome { group: GroupId, ticket: u64, result: Result<(), crate::group::Refused> },
    SendGroupState { group: GroupId },
    Policy { group: GroupId, policy: Policy },
    Removed { group: GroupId },
}

/// The volumes of one group under their locks, one after the other.
struct Locked<'a>(&'a [Volume]);

impl Members for Locked<'_> {
    fn each(&mut self, f: &mut dyn FnMut(VolumeId, &mut mirror::Volume, &mut Vec<VolumeAction>)) {
        for volume in self.0 {
            volume.with(|core, _, out| f(volume.id(), core, out));
        }
    }
}

impl GroupEntry {
    /// Takes over a control whose volumes are enrolled, and begins.
    pub fn begin(group: GroupId, control: Control, members: Vec<Volume>, wishes: &mut Vec<Wish>) -> Self {
        let mut entry = Self { control, members, volumes_due: None };
        let mut actions = Vec::new();
        entry.control.begin(clock::now(), &mut Locked(&entry.members), &mut actions);
        entry.after(group, actions, wishes);
        entry
    }

    pub fn handle(&mut self, group: GroupId, event: Event, wishes: &mut Vec<Wish>) {
        if event == Event::Poke {
            for volume in &self.members {
                volume.poke_taken();
            }
        }
        let mut actions = Vec::new();
        self.control.handle(event, clock::now(), &mut Locked(&self.members), &mut actions);
        self.after(group, actions, wishes);
    }

    /// Volumes' and control's timers that are due at `now`.
    pub fn tick(&mut self, group: GroupId, now: Time, wishes: &mut Vec<Wish>) {
        if self.volumes_due.is_some_and(|due| due <= now) {
            for volume in &self.members {
                volume.with(|core, context, out| core.tick(context, out));
            }
            self.look_at_volumes();
        }
        if self.control.next_timeout().is_some_and(|due| due <= now) {
            self.handle(group, Event::Tick, wishes);
        }
    }

    /// When `tick` is due.
    pub fn next_timeout(&self) -> Option<Time> {
        [self.control.next_timeout(), self.volumes_due].into_iter().flatten().min()
    }

    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Asks the volumes when they want their tick; data threads may have set timers since.
    pub fn look_at_volumes(&mut self) {
        self.volumes_due =
            self.members.iter().filter_map(|volume| volume.with(|core, _, _| core.next_timeout())).min();
    }

    fn after(&mut self, group: GroupId, actions: Vec<Action>, wishes: &mut Vec<Wish>) {
        self.look_at_volumes();
        wishes.extend(actions.into_iter().map(|action| match action {
            Action::Persist { sequence, record } => Wish::Persist { group, sequence, record },
            Action::Send { to, connection, message } => Wish::Send { to, connection, message },
            Action::SendSession { connection, message } => Wish::SendSession { group, connection, message },
            Action::Path(view) => Wish::Path { group, view },
            Action::Log { epoch, entry } => {
                Wish::Log { group, epoch: epoch.0, text: super::events::say(&entry) }
            }
            Action::Outcome { ticket, result } => Wish::Outcome { group, ticket, result },
            Action::SendGroupState => Wish::SendGroupState { group },
            Action::Policy(policy) => Wish::Policy { group, policy },
            Action::Removed => Wish::Removed { group },
        }));
    }
}
