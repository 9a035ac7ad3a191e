//! Group state: what both arrays of a pair hold alike of one group's objects, given out by the
//! primary and taken over by the secondary.
//!
//! The primary alone counts its changes, and its number means something in its term of office only: an array that
//! was primary before, or took a step of the other one's verb, has numbers and exports of its own. So a state is
//! known by term of office and number, and what is in it counts, not whether its number is news.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::model::Objects;
use super::types::{GroupState, Host, Kind, KnownTenure, ObjectError, SharedVolume, Unexported, Vlun};
use crate::mutation::{self, Mutation};

/// What became of a state of the other array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// This array's objects are different now.
    Changed,
    /// They were so already.
    Same,
    /// What is held here is newer, or another one than the change was made to: nothing is changed.
    Older,
}

/// Is a state that the primary tells older than the one that is held? Each with the term of office in which it was
/// told, and its number.
pub fn is_older<T: Ord>(told: (Option<T>, u64), held: (Option<T>, u64)) -> bool {
    if mutation::on(Mutation::StateByNumberAlone) { told.1 <= held.1 } else { told < held }
}

/// Does the number of the group's state grow with a change of its members? The array that is asked by the other one
/// leaves the counting to that one: the two would count apart if the other one did not come to it.
pub fn change_counts(asked: bool) -> bool {
    !asked || mutation::on(Mutation::AskedArrayCounts)
}

fn unknown(kind: Kind, uuid: Uuid) -> ObjectError {
    ObjectError::Missing { kind, name: uuid.to_string() }
}

impl Objects {
    /// The state of a group as this array holds it, for the other one.
    ///
    /// # Errors
    /// `Missing`: the group, or one of its volumes.
    pub fn group_state(&self, group: Uuid, tenure: Option<KnownTenure>) -> Result<GroupState, ObjectError> {
        let group = self.group(group).ok_or_else(|| unknown(Kind::Group, group))?;
        let mut state = GroupState {
            group: group.uuid,
            sequence: group.sequence,
            tenure,
            volumes: Vec::new(),
            hosts: Vec::new(),
            vluns: Vec::new(),
        };
        let mut hosts = BTreeMap::new();
        for member in &group.members {
            let volume = self.volume(member.volume).ok_or_else(|| unknown(Kind::Volume, member.volume))?;
            state.volumes.push(SharedVolume {
                uuid: volume.uuid,
                naa: volume.naa,
                size_bytes: volume.size_bytes,
            });
            for vlun in self.vluns_of_volume(member.volume) {
                let host = self.host(vlun.host).ok_or_else(|| unknown(Kind::Host, vlun.host))?;
                hosts.insert(host.uuid, host.clone());
                state.vluns.push(vlun.clone());
            }
        }
        state.hosts = hosts.into_values().collect();
        Ok(state)
    }

    /// Takes over what the primary tells of a group: hosts that are not known here are added
    /// (known ones, by UUID, name or initiator, get the initiators they lack), and the exports of
    /// the member volumes become those of `state`.
    ///
    /// # Errors
    /// `Missing`: the group or a member is not here. `Exists`: a volume differs in size or NAA.
    /// `LunTaken`, `InitiatorTaken`: something of this array's own is in the way. Nothing changed.
    pub fn adopt_group_state(&mut self, state: &GroupState) -> Result<Adopted, ObjectError> {
        let known = self.group(state.group).ok_or_else(|| unknown(Kind::Group, state.group))?;
        if is_older((state.tenure, state.sequence), (known.told, known.sequence)) {
            return Ok(Adopted::Older);
        }
        self.take_over(state, state.tenure)
    }

    /// As the group's primary: the secondary's operator wants the next change, to the state that this array told.
    ///
    /// # Errors
    /// As [`Self::adopt_group_state`].
    pub fn take_change(&mut self, state: &GroupState) -> Result<Adopted, ObjectError> {
        let known = self.group(state.group).ok_or_else(|| unknown(Kind::Group, state.group))?;
        if state.sequence != known.sequence + 1 {
            return Ok(Adopted::Older);
        }
        self.take_over(state, known.told)
    }

    /// Carries out here a change that the primary of these groups has taken as the states of these numbers. What it has
    /// told since holds the change already, and keeps its number.
    ///
    /// # Errors
    /// `change`'s own.
    pub fn change_as_taken<T>(
        &mut self,
        taken: &[(Uuid, u64)],
        change: impl FnOnce(&mut Self) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let later = taken.iter().filter_map(|(uuid, number)| {
            let present = self.group(*uuid)?.sequence;
            (present >= *number && !mutation::on(Mutation::TakenChangeCountsAgain))
                .then_some((*uuid, present))
        });
        let later: Vec<_> = later.collect();
        let value = change(self)?;
        for (uuid, number) in later {
            if let Some(group) = self.groups.get_mut(&uuid) {
                group.sequence = number;
            }
        }
        Ok(value)
    }

    fn take_over(&mut self, state: &GroupState, told: Option<KnownTenure>) -> Result<Adopted, ObjectError> {
        let mut next = self.clone();
        next.adopt(state, told)?;
        if next == *self {
            return Ok(Adopted::Same);
        }
        *self = next;
        Ok(Adopted::Changed)
    }

    fn adopt(&mut self, state: &GroupState, told: Option<KnownTenure>) -> Result<(), ObjectError> {
        let group = self.group(state.group).ok_or_else(|| unknown(Kind::Group, state.group))?;
        let members: Vec<Uuid> = group.members.iter().map(|m| m.volume).collect();
        for shared in &state.volumes {
            let own = self.volume(shared.uuid).ok_or_else(|| unknown(Kind::Volume, shared.uuid))?;
            // A larger copy has grown already, and waits for the primary's.
            if own.size_bytes < shared.size_bytes || own.naa != shared.naa {
                let name = format!(
                    "{} with another size or identity ({} bytes here, {} bytes on the other array)",
                    own.name, own.size_bytes, shared.size_bytes
                );
                return Err(ObjectError::Exists { kind: Kind::Volume, name });
            }
        }
        let mut known_as = BTreeMap::new();
        for host in &state.hosts {
            known_as.insert(host.uuid, self.adopt_host(host)?);
        }
        self.vluns.retain(|(volume, _), _| !members.contains(volume));
        for vlun in &state.vluns {
            let host = *known_as.get(&vlun.host).ok_or_else(|| unknown(Kind::Host, vlun.host))?;
            if !members.contains(&vlun.volume) {
                return Err(unknown(Kind::Member, vlun.volume));
            }
            if let Some(taken) = self.vluns_of_host(host).find(|v| v.lun == vlun.lun) {
                return Err(ObjectError::LunTaken {
                    host: self.host(host).map_or_else(String::new, |h| h.name.clone()),
                    lun: vlun.lun,
                    volume: self.volume(taken.volume).map_or_else(String::new, |v| v.name.clone()),
                });
            }
            self.vluns.insert((vlun.volume, host), Vlun { host, ..vlun.clone() });
        }
        let group = self.groups.get_mut(&state.group).ok_or_else(|| unknown(Kind::Group, state.group))?;
        (group.sequence, group.told) = (state.sequence, told);
        Ok(())
    }

    /// Takes the exports of a group's members back on this array alone: it is about to hold them as its own, and
    /// the other array serves the same LUNs. Whatever becomes of that, the next state of the group that is heard
    /// brings them again.
    ///
    /// # Errors
    /// `Missing`.
    pub fn unexport(&mut self, group: Uuid) -> Result<Unexported, ObjectError> {
        let entry = self.groups.get(&group).ok_or_else(|| unknown(Kind::Group, group))?;
        let members: Vec<Uuid> = entry.members.iter().map(|member| member.volume).collect();
        let mut taken = Unexported { group, vluns: Vec::new() };
        self.vluns.retain(|(volume, _), vlun| {
            let goes = members.contains(volume);
            if goes {
                taken.vluns.push(vlun.clone());
            }
            !goes
        });
        Ok(taken)
    }

    /// Takes back the exports of one volume, as [`Self::unexport`], which leaves its group at the same time.
    pub fn unexport_volume(&mut self, volume: Uuid) -> Vec<Vlun> {
        let taken: Vec<Vlun> = self.vluns_of_volume(volume).cloned().collect();
        self.vluns.retain(|(exported, _), _| *exported != volume);
        taken
    }

    /// The group stays after all: its exports are there again, unless something took their place.
    pub fn export_again(&mut self, taken: Unexported) {
        if !self.groups.contains_key(&taken.group) {
            return;
        }
        for vlun in taken.vluns {
            let is_free = self.vluns_of_host(vlun.host).all(|other| other.lun != vlun.lun);
            if is_free && self.volumes.contains_key(&vlun.volume) && self.hosts.contains_key(&vlun.host) {
                self.vluns.insert((vlun.volume, vlun.host), vlun);
            }
        }
    }

    /// The UUID under which `host` of the other array is known here from now on.
    fn adopt_host(&mut self, host: &Host) -> Result<Uuid, ObjectError> {
        let own = self
            .host(host.uuid)
            .or_else(|| self.host_named(&host.name))
            .or_else(|| host.iqns.iter().find_map(|iqn| self.host_of_initiator(iqn)));
        let Some(own) = own else {
            return Ok(self.add_host(host.clone())?.uuid);
        };
        let (uuid, mut iqns) = (own.uuid, own.iqns.clone());
        for iqn in &host.iqns {
            if !iqns.contains(iqn) {
                iqns.push(iqn.clone());
            }
        }
        self.check_initiators(&iqns, Some(uuid))?;
        // No group's number moves: the change comes from the other array, which has it already.
        if let Some(own) = self.hosts.get_mut(&uuid) {
            own.iqns = iqns;
        }
        Ok(uuid)
    }
}
