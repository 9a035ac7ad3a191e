//! What the primary tells the other array of a group's objects: members, exports and sizes (the group's state), and
//! whether it is started.

use twinlun::arbitration::{Connection, Lineage};
use twinlun::group::{Event as Happened, Role};

use crate::control::PeerText;
use crate::verbs::{Change, Copy, Shared};
use crate::world::World;

impl World {
    pub fn send_group_state(&mut self, a: usize, g: usize) {
        let Some(connection) = self.arrays[a].control else { return };
        let sequence = self.arrays[a].objects[g].state;
        let volumes = (0..self.plan.volumes.len())
            .filter(|&v| self.plan.volumes[v].group == g && self.arrays[a].copies[v].member)
            .map(|volume| {
                let Copy { exported, size, .. } = self.arrays[a].copies[volume];
                Shared { volume, exported, size }
            })
            .collect();
        let text = PeerText::GroupState { group: g, sequence, volumes };
        self.send(connection, a, crate::world::Message::Peer(text));
    }

    pub fn group_state_arrived(&mut self, a: usize, group: usize, sequence: u64, volumes: Vec<Shared>) {
        if !self.operator.on {
            self.arrays[a].objects[group].state = self.arrays[a].objects[group].state.max(sequence);
            return self.tell(a, group, Happened::GroupState { sequence });
        }
        self.begin_verb(a, Change::Adopt { group, sequence, volumes });
    }

    /// What is told of a group's policies, with the term of office in which that holds.
    pub fn share_policies(&mut self, a: usize, g: usize) {
        if !self.operator.on {
            return;
        }
        let started = self.arrays[a].objects[g].policy.started;
        let Some(chosen) = self.arrays[a].chosen(g) else { return };
        let tenure = (chosen.lineage.counter, chosen.tenure_epoch.0);
        let Some(connection) = self.arrays[a].control else { return };
        let text = PeerText::Policies { group: g, started, tenure };
        self.say_to_peer(a, Connection(u64::from(connection)), text);
    }

    /// What the primary changed while the link was down.
    pub fn share_all_policies(&mut self, a: usize) {
        for g in 0..self.plan.groups {
            let view = self.arrays[a].group(g).and_then(|group| group.control.view());
            if view.is_some_and(|view| view.role == Role::Primary) {
                self.share_policies(a, g);
            }
        }
    }

    pub fn policies_arrived(&mut self, a: usize, g: usize, started: bool, tenure: (u32, u64)) {
        let view = self.arrays[a].group(g).and_then(|group| group.control.view());
        let own = view.filter(|view| view.role == Role::Primary).map(|view| {
            let Lineage { counter, .. } = view.tenure.lineage;
            (counter, view.tenure.epoch.0)
        });
        if own.is_some_and(|own| tenure < own) {
            return; // of a former primary that does not know yet
        }
        self.arrays[a].objects[g].policy.started = started;
        let policy = self.arrays[a].objects[g].policy;
        self.tell(a, g, Happened::Policy(policy));
    }
}
