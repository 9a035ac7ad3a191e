//! Group state: what both arrays of a pair hold alike of one group's objects, given out by the
//! primary and taken over by the secondary.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::model::Objects;
use super::types::{GroupState, Host, Kind, ObjectError, SharedVolume, Unexported, Vlun};

impl Objects {
    /// The state of a group as this array holds it.
    ///
    /// # Errors
    /// `Missing`: the group, or one of its volumes.
    pub fn group_state(&self, group: Uuid) -> Result<GroupState, ObjectError> {
        let unknown = |kind, uuid: Uuid| ObjectError::Missing { kind, name: uuid.to_string() };
        let group = self.group(group).ok_or_else(|| unknown(Kind::Group, group))?;
        let mut state = GroupState {
            group: group.uuid,
            sequence: group.sequence,
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

    /// Takes over the other array's state of a group: hosts that are not known here are added
    /// (known ones, by UUID, name or initiator, get the initiators they lack), and the exports of
    /// the member volumes become those of `state`. A state with the number held already, or an
    /// older one, changes nothing and answers false.
    ///
    /// # Errors
    /// `Missing`: the group or a member is not here. `Exists`: a volume differs in size or NAA.
    /// `LunTaken`, `InitiatorTaken`: something of this array's own is in the way. Nothing changed.
    pub fn adopt_group_state(&mut self, state: &GroupState) -> Result<bool, ObjectError> {
        let mut next = self.clone();
        let changed = next.adopt(state)?;
        *self = next;
        Ok(changed)
    }

    fn adopt(&mut self, state: &GroupState) -> Result<bool, ObjectError> {
        let unknown = |kind, uuid: Uuid| ObjectError::Missing { kind, name: uuid.to_string() };
        let group = self.group(state.group).ok_or_else(|| unknown(Kind::Group, state.group))?;
        if state.sequence <= group.sequence {
            return Ok(false);
        }
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
        group.sequence = state.sequence;
        Ok(true)
    }

    /// Takes the exports of a group's members back on this array alone: it is about to hold them as its own, and
    /// the other array serves the same LUNs. Whatever becomes of that, the next state of the group that is heard
    /// brings them again.
    ///
    /// # Errors
    /// `Missing`.
    pub fn unexport(&mut self, group: Uuid) -> Result<Unexported, ObjectError> {
        let unknown = || ObjectError::Missing { kind: Kind::Group, name: group.to_string() };
        let entry = self.groups.get_mut(&group).ok_or_else(unknown)?;
        let members: Vec<Uuid> = entry.members.iter().map(|member| member.volume).collect();
        let mut taken = Unexported { group, sequence: entry.sequence, vluns: Vec::new() };
        self.vluns.retain(|(volume, _), vlun| {
            let goes = members.contains(volume);
            if goes {
                taken.vluns.push(vlun.clone());
            }
            !goes
        });
        if !taken.vluns.is_empty() {
            entry.sequence = 0;
        }
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
        let Some(group) = self.groups.get_mut(&taken.group) else { return };
        if group.sequence == 0 {
            group.sequence = taken.sequence;
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
