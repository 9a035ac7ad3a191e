//! Groups and their volumes come and go.

use std::collections::BTreeMap;

use crate::arbitration::{Config, GroupId, VoterRecord};
use crate::group::{Control, Event, Life, Settings};
use crate::mirror::VolumeId;
use crate::store::objects::Group;
use crate::volume::Volume;

use super::super::groups::GroupEntry;
use super::{Controller, policy};

impl Controller {
    /// Takes a group in: its volumes are open. `full`: every region is to be copied first.
    pub fn add_group(
        &mut self,
        group: &Group,
        record: VoterRecord,
        life: Life,
        members: Vec<Volume>,
        full: bool,
    ) {
        let id = group.group_id();
        self.names.insert(id, group.name.clone());
        let settings = Settings {
            me: self.parts.me,
            group: id,
            record,
            life,
            policy: policy(group),
            timers: self.parts.timers,
            boot: self.parts.boot,
            nonce: self.parts.nonce,
            memory: self.parts.memory,
            seed: seed(),
        };
        let Some(chosen) = record.chosen else { return };
        for volume in &members {
            self.group_of.insert(volume.id(), id);
            volume.set_group(Some(id));
            volume.with(|core, context, out| core.enrol(self.parts.me, &chosen, full, context, out));
        }
        let mut entry = GroupEntry::begin(id, Control::new(settings), members, &mut self.wishes);
        if let Some(up) = &self.peer {
            let event = Event::LinkUp { connection: up.connection, peer: up.hello.nonce };
            entry.handle(id, event, &mut self.wishes);
        }
        if let Some(up) = &self.witness {
            entry.handle(id, Event::WitnessUp { connection: up.connection }, &mut self.wishes);
        }
        for lane in self.lanes.keys() {
            entry.handle(id, Event::LaneUp(*lane), &mut self.wishes);
        }
        entry.handle(id, Event::GroupState { sequence: group.sequence }, &mut self.wishes);
        self.groups.insert(id, entry);
    }

    /// A volume enters a group that is there; all of it is to be copied first.
    pub fn admit(&mut self, group: GroupId, volume: Volume, full: bool) {
        let Some(entry) = self.groups.get_mut(&group) else { return };
        let chosen = entry.control().chosen();
        self.group_of.insert(volume.id(), group);
        volume.set_group(Some(group));
        volume.with(|core, context, out| core.enrol(self.parts.me, &chosen, full, context, out));
        entry.members.push(volume);
        entry.handle(group, Event::MembersChanged, &mut self.wishes);
    }

    /// See [`Control::offer`].
    pub fn offer(&self, group: GroupId) -> Option<Config> {
        self.groups.get(&group)?.control().offer()
    }

    /// A volume leaves its group.
    pub fn dismiss(&mut self, group: GroupId, volume: VolumeId) {
        let Some(entry) = self.groups.get_mut(&group) else { return };
        if let Some(at) = entry.members.iter().position(|member| member.id() == volume) {
            let volume = entry.members.remove(at);
            volume.set_group(None);
            volume.with(|core, context, out| core.withdraw(context, out));
        }
        self.group_of.remove(&volume);
        entry.handle(group, Event::MembersChanged, &mut self.wishes);
    }

    pub(super) fn forget_group(&mut self, group: GroupId) {
        self.probes.forget(group);
        if let Some(entry) = self.groups.remove(&group) {
            for volume in entry.members {
                self.group_of.remove(&volume.id());
                volume.set_group(None);
                volume.with(|core, context, out| core.withdraw(context, out));
            }
        }
        self.names.remove(&group);
        self.parts.views.rcu(|views| {
            let mut views = BTreeMap::clone(views);
            views.remove(&group);
            views
        });
    }
}

fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Only spreads retries; without it both arrays may retry in step for a while.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
