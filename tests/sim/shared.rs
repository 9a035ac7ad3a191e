//! What the primary tells the other array of a group's objects: members, exports and sizes (the group's state), and
//! whether it is started.

use twinlun::arbitration::{Connection, Epoch, Lineage};
use twinlun::group::{Event as Happened, Role};
use twinlun::store::objects::is_older;

use crate::control::{PeerText, side};
use crate::verbs::{Change, Copy, Shared};
use crate::world::{Message, World};

/// Counter of the lineage, then epoch: the order of terms of office.
pub type Term = (u32, u64);

/// By which number a state of a group is known.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// The primary's that told it.
    pub term: Term,
    pub sequence: u64,
}

impl World {
    pub fn send_group_state(&mut self, a: usize, g: usize) {
        let Some(connection) = self.arrays[a].control else { return };
        let Some(term) = self.term(a, g) else { return };
        let told = Told { term, sequence: self.arrays[a].objects[g].state };
        let volumes = (0..self.plan.volumes.len())
            .filter(|&v| self.plan.volumes[v].group == g && self.arrays[a].copies[v].member)
            .map(|volume| {
                let Copy { exported, size, .. } = self.arrays[a].copies[volume];
                Shared { volume, exported, size }
            })
            .collect();
        let text = PeerText::GroupState { group: g, told, volumes };
        // Nothing of the rest is to depend on it where nobody changes anything.
        if self.operator.on {
            return self.send(connection, a, Message::Peer(text));
        }
        self.network.send_at_once(connection, a, Message::Peer(text), self.now);
        self.drain_due();
    }

    pub fn group_state_arrived(&mut self, a: usize, group: usize, told: Told, volumes: Vec<Shared>) {
        let primary = self.arrays[a].chosen(group).is_some_and(|chosen| chosen.primary == side(a));
        let Some(term) = self.term(a, group) else { return };
        // A term of office that is newer than the one known here is another array's.
        if primary && told.term <= term {
            return;
        }
        if !self.operator.on {
            return self.hold_state(a, group, told);
        }
        self.begin_verb(a, Change::Adopt { group, told, volumes });
    }

    /// What is told is older than what is held.
    pub fn is_older_state(&self, a: usize, g: usize, told: Told) -> bool {
        let held = self.arrays[a].objects[g];
        is_older((Some(told.term), told.sequence), (held.told, held.state))
    }

    /// The objects are as they were told; the control hears of it.
    pub fn hold_state(&mut self, a: usize, g: usize, told: Told) {
        let (Told { sequence, term }, held) = (told, &mut self.arrays[a].objects[g]);
        (held.state, held.told) = (sequence, Some(term));
        let event = Happened::StateTold { lineage: term.0, epoch: Epoch(term.1), sequence };
        self.tell(a, g, event);
    }

    fn term(&self, a: usize, g: usize) -> Option<Term> {
        let chosen = self.arrays[a].chosen(g)?;
        Some((chosen.lineage.counter, chosen.tenure_epoch.0))
    }

    /// What is told of a group's policies, with the term of office in which that holds.
    pub fn share_policies(&mut self, a: usize, g: usize) {
        if !self.operator.on {
            return;
        }
        let started = self.arrays[a].objects[g].policy.started;
        let Some(tenure) = self.term(a, g) else { return };
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

    pub fn policies_arrived(&mut self, a: usize, g: usize, started: bool, tenure: Term) {
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
