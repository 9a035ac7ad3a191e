//! The rules among the objects: no name twice, nothing dangling, nothing removed that is in use. No
//! I/O here: [`ObjectStore`](super::ObjectStore) makes it durable.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::mutation::{self, Mutation};

use super::group_state::change_counts;
use super::types::{
    Absent, Group, HOST_NAMES_MAX, Host, ISCSI_NAME_MAX, Kind, LUN_MAX, MEMBERS_MAX, Member, NAME_MAX,
    OBJECTS_MAX, ObjectError, Tombstone, VirtualVolume, Vlun,
};

/// All objects of one array. Changed only through its methods, which keep the rules; a method
/// that fails has changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub(super) volumes: BTreeMap<Uuid, VirtualVolume>,
    pub(super) hosts: BTreeMap<Uuid, Host>,
    pub(super) vluns: BTreeMap<(Uuid, Uuid), Vlun>,
    pub(super) groups: BTreeMap<Uuid, Group>,
    pub(super) tombstones: BTreeMap<Uuid, Tombstone>,
}

fn missing(kind: Kind, name: impl Into<String>) -> ObjectError {
    ObjectError::Missing { kind, name: name.into() }
}

/// Names: 1 to 31 letters, digits, `.`, `_`, `-`, beginning with a letter or digit.
///
/// # Errors
/// `BadName`, with what is wrong.
pub fn check_name(kind: Kind, name: &str) -> Result<(), ObjectError> {
    let bad = |why| Err(ObjectError::BadName { kind, name: name.to_owned(), why });
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > NAME_MAX {
        return bad("it is longer than 31 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return bad("only letters, digits, '.', '_' and '-' are allowed");
    }
    if !name.as_bytes()[0].is_ascii_alphanumeric() {
        return bad("it must begin with a letter or a digit");
    }
    Ok(())
}

fn check_iscsi_name(name: &str) -> Result<(), ObjectError> {
    let bad = |why| Err(ObjectError::BadName { kind: Kind::Host, name: name.to_owned(), why });
    if name.len() > ISCSI_NAME_MAX {
        return bad("an iSCSI name has at most 223 characters");
    }
    if !["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix)) {
        return bad("an iSCSI name begins with iqn., eui. or naa.");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b':'))
    {
        return bad("an iSCSI name has lower-case letters, digits, '.', '-' and ':' only");
    }
    Ok(())
}

fn next_id(ids: impl Iterator<Item = u32>) -> u32 {
    ids.max().map_or(1, |highest| highest.saturating_add(1))
}

fn bounded(what: &'static str, len: usize, limit: usize) -> Result<(), ObjectError> {
    if len >= limit { Err(ObjectError::TooMany { what, limit }) } else { Ok(()) }
}

/// May a copy be made anew from the other array's, as one enters a group by that array's word? Never one that hosts
/// may write to: it is the one that counts, and it is to enter by this array's word.
pub fn may_be_overwritten(exported: bool) -> bool {
    !exported || mutation::on(Mutation::ExportedCopyOverwritten)
}

impl Objects {
    pub fn volumes(&self) -> impl Iterator<Item = &VirtualVolume> {
        self.volumes.values()
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    pub fn vluns(&self) -> impl Iterator<Item = &Vlun> {
        self.vluns.values()
    }

    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.values()
    }

    pub fn volume(&self, uuid: Uuid) -> Option<&VirtualVolume> {
        self.volumes.get(&uuid)
    }

    pub fn host(&self, uuid: Uuid) -> Option<&Host> {
        self.hosts.get(&uuid)
    }

    pub fn group(&self, uuid: Uuid) -> Option<&Group> {
        self.groups.get(&uuid)
    }

    pub fn volume_named(&self, name: &str) -> Option<&VirtualVolume> {
        self.volumes.values().find(|v| v.name == name)
    }

    pub fn host_named(&self, name: &str) -> Option<&Host> {
        self.hosts.values().find(|h| h.name == name)
    }

    pub fn group_named(&self, name: &str) -> Option<&Group> {
        self.groups.values().find(|g| g.name == name)
    }

    pub fn host_of_initiator(&self, iscsi_name: &str) -> Option<&Host> {
        self.hosts.values().find(|h| h.iqns.iter().any(|iqn| iqn == iscsi_name))
    }

    pub fn group_of_volume(&self, volume: Uuid) -> Option<&Group> {
        self.groups.values().find(|g| g.members.iter().any(|m| m.volume == volume))
    }

    pub fn vluns_of_host(&self, host: Uuid) -> impl Iterator<Item = &Vlun> {
        self.vluns.values().filter(move |v| v.host == host)
    }

    pub fn vluns_of_volume(&self, volume: Uuid) -> impl Iterator<Item = &Vlun> {
        self.vluns.range((volume, Uuid::nil())..=(volume, Uuid::max())).map(|(_, v)| v)
    }

    /// Adds a volume; its `id` is given here (any value passed in is replaced).
    ///
    /// # Errors
    /// A bad or taken name, a known UUID, a data path another volume has.
    pub fn add_volume(&mut self, volume: VirtualVolume) -> Result<&VirtualVolume, ObjectError> {
        check_name(Kind::Volume, &volume.name)?;
        bounded("virtual volumes", self.volumes.len(), OBJECTS_MAX)?;
        if self.volumes.contains_key(&volume.uuid) || self.volume_named(&volume.name).is_some() {
            return Err(ObjectError::Exists { kind: Kind::Volume, name: volume.name });
        }
        if let Some(other) = self.volumes.values().find(|v| v.path == volume.path) {
            let name = volume.path.display().to_string();
            return Err(ObjectError::InUse {
                kind: Kind::Volume,
                name,
                by: format!("volume {}", other.name),
            });
        }
        let id = next_id(self.volumes.values().map(|v| v.id));
        Ok(self.volumes.entry(volume.uuid).or_insert(VirtualVolume { id, ..volume }))
    }

    /// The volume's data is another copy than before: its disk was exchanged.
    ///
    /// # Errors
    /// `Missing`.
    pub fn renew_copy(&mut self, uuid: Uuid) -> Result<&VirtualVolume, ObjectError> {
        let missing = || ObjectError::Missing { kind: Kind::Volume, name: uuid.to_string() };
        let volume = self.volumes.get_mut(&uuid).ok_or_else(missing)?;
        volume.copy += 1;
        Ok(volume)
    }

    /// This array's copy of a group counts for nothing (or again).
    ///
    /// # Errors
    /// `Missing`.
    pub fn set_absent(&mut self, group: Uuid, absent: Option<Absent>) -> Result<&Group, ObjectError> {
        let missing = || ObjectError::Missing { kind: Kind::Group, name: group.to_string() };
        let group = self.groups.get_mut(&group).ok_or_else(missing)?;
        group.absent = absent;
        // The primary's objects count, whatever was changed here before.
        if absent.is_some() {
            (group.sequence, group.told) = (0, None);
        }
        Ok(group)
    }

    /// A volume leaves a group of which this array has no part, with its exports: it holds nothing that counts.
    ///
    /// # Errors
    /// `Missing`.
    pub fn drop_member(&mut self, group: Uuid, volume: Uuid) -> Result<(), ObjectError> {
        let missing = || ObjectError::Missing { kind: Kind::Group, name: group.to_string() };
        self.groups.get_mut(&group).ok_or_else(missing)?.members.retain(|member| member.volume != volume);
        self.vluns.retain(|(exported, _), _| *exported != volume);
        Ok(())
    }

    /// Every group's copy here counts for nothing: the `data_dir` is older than what was acknowledged.
    pub fn set_all_absent(&mut self) {
        for group in self.groups.values_mut().filter(|group| group.absent.is_none()) {
            (group.absent, group.sequence, group.told) = (Some(Absent::Lost), 0, None);
        }
    }

    /// The volume has grown; a size below what it has changes nothing.
    ///
    /// # Errors
    /// `Missing`.
    pub fn grow_volume(&mut self, uuid: Uuid, size_bytes: u64) -> Result<&VirtualVolume, ObjectError> {
        let missing = || ObjectError::Missing { kind: Kind::Volume, name: uuid.to_string() };
        let volume = self.volumes.get_mut(&uuid).ok_or_else(missing)?;
        volume.size_bytes = volume.size_bytes.max(size_bytes);
        Ok(volume)
    }

    /// Removes a volume that is neither exported nor in a group; gives it back.
    ///
    /// # Errors
    /// `Missing`, `InUse`.
    pub fn remove_volume(&mut self, name: &str) -> Result<VirtualVolume, ObjectError> {
        let uuid = self.volume_named(name).ok_or_else(|| missing(Kind::Volume, name))?.uuid;
        let in_use = |by| Err(ObjectError::InUse { kind: Kind::Volume, name: name.to_owned(), by });
        if let Some(vlun) = self.vluns_of_volume(uuid).next() {
            let host = self.host(vlun.host).map_or("?", |h| &h.name);
            return in_use(format!("its VLUN {} to host {host}", vlun.lun));
        }
        if let Some(group) = self.group_of_volume(uuid) {
            return in_use(format!("remote copy group {}", group.name));
        }
        self.volumes.remove(&uuid).ok_or_else(|| missing(Kind::Volume, name))
    }

    /// Adds a host; its `id` is given here.
    ///
    /// # Errors
    /// A bad or taken name, an initiator that belongs to another host.
    pub fn add_host(&mut self, host: Host) -> Result<&Host, ObjectError> {
        check_name(Kind::Host, &host.name)?;
        bounded("hosts", self.hosts.len(), OBJECTS_MAX)?;
        if self.hosts.contains_key(&host.uuid) || self.host_named(&host.name).is_some() {
            return Err(ObjectError::Exists { kind: Kind::Host, name: host.name });
        }
        self.check_initiators(&host.iqns, None)?;
        let id = next_id(self.hosts.values().map(|h| h.id));
        Ok(self.hosts.entry(host.uuid).or_insert(Host { id, ..host }))
    }

    pub(super) fn check_initiators(&self, iqns: &[String], own: Option<Uuid>) -> Result<(), ObjectError> {
        bounded("iSCSI names of a host", iqns.len(), HOST_NAMES_MAX + 1)?;
        for (n, iqn) in iqns.iter().enumerate() {
            check_iscsi_name(iqn)?;
            if let Some(other) = self.host_of_initiator(iqn).filter(|h| Some(h.uuid) != own) {
                return Err(ObjectError::InitiatorTaken { name: iqn.clone(), host: other.name.clone() });
            }
            if iqns[..n].contains(iqn) {
                return Err(ObjectError::Exists { kind: Kind::Host, name: iqn.clone() });
            }
        }
        Ok(())
    }

    /// Replaces a host's initiators and persona.
    ///
    /// # Errors
    /// `Missing`, a bad name, an initiator that belongs to another host.
    pub fn set_host(&mut self, name: &str, iqns: Vec<String>, persona: u8) -> Result<&Host, ObjectError> {
        let uuid = self.host_named(name).ok_or_else(|| missing(Kind::Host, name))?.uuid;
        self.check_initiators(&iqns, Some(uuid))?;
        let host = self.hosts.get_mut(&uuid).ok_or_else(|| missing(Kind::Host, name))?;
        host.iqns = iqns;
        host.persona = persona;
        self.exports_changed(uuid);
        self.host(uuid).ok_or_else(|| missing(Kind::Host, name))
    }

    /// Removes a host that sees no volume; gives it back.
    ///
    /// # Errors
    /// `Missing`, `InUse`.
    pub fn remove_host(&mut self, name: &str) -> Result<Host, ObjectError> {
        let uuid = self.host_named(name).ok_or_else(|| missing(Kind::Host, name))?.uuid;
        if let Some(vlun) = self.vluns_of_host(uuid).next() {
            let volume = self.volume(vlun.volume).map_or("?", |v| &v.name);
            let by = format!("VLUN {} of volume {volume}", vlun.lun);
            return Err(ObjectError::InUse { kind: Kind::Host, name: name.to_owned(), by });
        }
        self.hosts.remove(&uuid).ok_or_else(|| missing(Kind::Host, name))
    }

    /// The lowest LUN number that `host` does not use, from `from` on.
    pub fn free_lun(&self, host: Uuid, from: u16) -> Option<u16> {
        (from..=LUN_MAX).find(|lun| self.vluns_of_host(host).all(|v| v.lun != *lun))
    }

    /// Exports a volume to a host; without a number the lowest free one from 1 is taken.
    ///
    /// # Errors
    /// `Missing`; `Exists` (the host sees the volume already); `LunTaken`.
    pub fn add_vlun(&mut self, volume: &str, host: &str, lun: Option<u16>) -> Result<Vlun, ObjectError> {
        let volume = self.volume_named(volume).ok_or_else(|| missing(Kind::Volume, volume))?;
        let host = self.host_named(host).ok_or_else(|| missing(Kind::Host, host))?;
        let (volume_uuid, host_uuid) = (volume.uuid, host.uuid);
        bounded("VLUNs", self.vluns.len(), OBJECTS_MAX)?;
        if let Some(vlun) = self.vluns.get(&(volume_uuid, host_uuid)) {
            let name = format!("of volume {} to host {} (LUN {})", volume.name, host.name, vlun.lun);
            return Err(ObjectError::Exists { kind: Kind::Vlun, name });
        }
        let lun = match lun {
            None => self
                .free_lun(host_uuid, 1)
                .ok_or_else(|| ObjectError::NoLunFree { host: host.name.clone() })?,
            Some(lun) if lun > LUN_MAX => return Err(ObjectError::BadLun(lun)),
            Some(lun) => {
                if let Some(taken) = self.vluns_of_host(host_uuid).find(|v| v.lun == lun) {
                    let volume = self.volume(taken.volume).map_or("?", |v| &v.name).to_owned();
                    return Err(ObjectError::LunTaken { host: host.name.clone(), lun, volume });
                }
                lun
            }
        };
        let vlun = Vlun { volume: volume_uuid, host: host_uuid, lun };
        self.vluns.insert((volume_uuid, host_uuid), vlun.clone());
        self.group_changed(volume_uuid);
        Ok(vlun)
    }

    /// Takes an export back.
    ///
    /// # Errors
    /// `Missing`.
    pub fn remove_vlun(&mut self, volume: &str, host: &str) -> Result<Vlun, ObjectError> {
        let volume_uuid = self.volume_named(volume).ok_or_else(|| missing(Kind::Volume, volume))?.uuid;
        let host_uuid = self.host_named(host).ok_or_else(|| missing(Kind::Host, host))?.uuid;
        let vlun = self
            .vluns
            .remove(&(volume_uuid, host_uuid))
            .ok_or_else(|| missing(Kind::Vlun, format!("of volume {volume} to host {host}")))?;
        self.group_changed(volume_uuid);
        Ok(vlun)
    }

    /// Adds a group; its `id` is given here. Its members must exist and be in no group.
    ///
    /// # Errors
    /// A bad or taken name, a UUID that is known or was removed, a member missing or in use.
    pub fn add_group(&mut self, group: Group) -> Result<&Group, ObjectError> {
        check_name(Kind::Group, &group.name)?;
        bounded("remote copy groups", self.groups.len(), OBJECTS_MAX)?;
        bounded("members of a group", group.members.len(), MEMBERS_MAX + 1)?;
        let known = self.groups.contains_key(&group.uuid) || self.tombstones.contains_key(&group.uuid);
        if known || self.group_named(&group.name).is_some() {
            return Err(ObjectError::Exists { kind: Kind::Group, name: group.name });
        }
        for (n, member) in group.members.iter().enumerate() {
            self.check_member(member, &group.members[..n])?;
        }
        let id = next_id(self.groups.values().map(|g| g.id));
        Ok(self.groups.entry(group.uuid).or_insert(Group { id, ..group }))
    }

    fn check_member(&self, member: &Member, before: &[Member]) -> Result<(), ObjectError> {
        let Some(volume) = self.volume(member.volume) else {
            return Err(missing(Kind::Volume, member.volume.to_string()));
        };
        if let Some(group) = self.group_of_volume(member.volume) {
            let by = format!("remote copy group {}", group.name);
            return Err(ObjectError::InUse { kind: Kind::Volume, name: volume.name.clone(), by });
        }
        if before.iter().any(|m| m.volume == member.volume) {
            return Err(ObjectError::Exists { kind: Kind::Member, name: volume.name.clone() });
        }
        Ok(())
    }

    /// Admits a volume to a group (`admitrcopyvv`).
    ///
    /// # Errors
    /// `Missing`, `InUse`, `Exists`, `TooMany`.
    pub fn admit(&mut self, group: &str, member: Member) -> Result<(), ObjectError> {
        let uuid = self.group_named(group).ok_or_else(|| missing(Kind::Group, group))?.uuid;
        self.check_member(&member, &[])?;
        let group = self.groups.get_mut(&uuid).ok_or_else(|| missing(Kind::Group, group))?;
        bounded("members of a group", group.members.len(), MEMBERS_MAX)?;
        group.members.push(member);
        group.sequence += 1;
        Ok(())
    }

    /// As [`Self::admit`], told by the other array, which counts the change and tells its exports after it: the
    /// sequence stays.
    ///
    /// # Errors
    /// As [`Self::admit`]. `InUse`: hosts may write to the copy here, and it would be overwritten.
    pub fn admit_by_peer(&mut self, group: &str, member: Member) -> Result<(), ObjectError> {
        let exported = self.vluns_of_volume(member.volume).next().is_some();
        if !may_be_overwritten(exported) {
            let name = self.volume(member.volume).map_or_else(String::new, |volume| volume.name.clone());
            let by =
                "hosts: its VLUNs there are to the very copy that would be overwritten by this one".into();
            return Err(ObjectError::InUse { kind: Kind::Volume, name, by });
        }
        self.asked(group, |objects| objects.admit(group, member))
    }

    /// A change of a group's members that the other array asks for.
    fn asked<T>(
        &mut self,
        group: &str,
        change: impl FnOnce(&mut Self) -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let before = self.group_named(group).ok_or_else(|| missing(Kind::Group, group))?;
        let (uuid, sequence) = (before.uuid, before.sequence);
        let value = change(self)?;
        if !change_counts(true)
            && let Some(group) = self.groups.get_mut(&uuid)
        {
            group.sequence = sequence;
        }
        Ok(value)
    }

    /// Takes a volume out of a stopped group.
    ///
    /// # Errors
    /// `Missing`, `GroupStarted`.
    pub fn dismiss(&mut self, group: &str, volume: &str) -> Result<Member, ObjectError> {
        let volume_uuid = self.volume_named(volume).ok_or_else(|| missing(Kind::Volume, volume))?.uuid;
        let uuid = self.group_named(group).ok_or_else(|| missing(Kind::Group, group))?.uuid;
        let group = self.groups.get_mut(&uuid).ok_or_else(|| missing(Kind::Group, group))?;
        if group.started {
            return Err(ObjectError::GroupStarted { group: group.name.clone() });
        }
        let at = group
            .members
            .iter()
            .position(|m| m.volume == volume_uuid)
            .ok_or_else(|| missing(Kind::Member, volume))?;
        group.sequence += 1;
        Ok(group.members.remove(at))
    }

    /// As [`Self::dismiss`], told by the other array, which counts the change: the sequence stays.
    ///
    /// # Errors
    /// As [`Self::dismiss`].
    pub fn dismiss_by_peer(&mut self, group: &str, volume: &str) -> Result<Member, ObjectError> {
        self.asked(group, |objects| objects.dismiss(group, volume))
    }

    /// Changes what an operator may change of a group by itself (`started`, `policies`, `natural`,
    /// the remote names). Members, name, id and UUID stay; the sequence grows.
    ///
    /// # Errors
    /// `Missing`.
    pub fn set_group(&mut self, group: &str, change: impl FnOnce(&mut Group)) -> Result<&Group, ObjectError> {
        let uuid = self.group_named(group).ok_or_else(|| missing(Kind::Group, group))?.uuid;
        let group = self.groups.get_mut(&uuid).ok_or_else(|| missing(Kind::Group, group))?;
        let mut changed = group.clone();
        change(&mut changed);
        group.started = changed.started;
        group.policies = changed.policies;
        group.natural = changed.natural;
        for member in &mut group.members {
            if let Some(new) = changed.members.iter().find(|m| m.volume == member.volume) {
                member.remote_name.clone_from(&new.remote_name);
            }
        }
        group.sequence += 1;
        Ok(group)
    }

    /// As [`Self::set_group`], told by the other array, which counts the change: the sequence stays.
    ///
    /// # Errors
    /// `Missing`.
    pub fn set_group_by_peer(
        &mut self,
        group: &str,
        change: impl FnOnce(&mut Group),
    ) -> Result<&Group, ObjectError> {
        let uuid = self.group_named(group).ok_or_else(|| missing(Kind::Group, group))?.uuid;
        let sequence = self.group(uuid).map_or(0, |group| group.sequence);
        self.set_group(group, change)?;
        let group = self.groups.get_mut(&uuid).ok_or_else(|| missing(Kind::Group, group))?;
        group.sequence = sequence;
        Ok(group)
    }

    /// Removes a stopped group and leaves its tombstone.
    ///
    /// # Errors
    /// `Missing`, `GroupStarted`.
    pub fn remove_group(&mut self, name: &str, now: u64) -> Result<Group, ObjectError> {
        let group = self.group_named(name).ok_or_else(|| missing(Kind::Group, name))?;
        if group.started {
            return Err(ObjectError::GroupStarted { group: name.to_owned() });
        }
        let uuid = group.uuid;
        let group = self.groups.remove(&uuid).ok_or_else(|| missing(Kind::Group, name))?;
        self.tombstones.insert(uuid, Tombstone { uuid, name: name.to_owned(), removed: now });
        Ok(group)
    }

    fn group_changed(&mut self, volume: Uuid) {
        let group = self.groups.values_mut().find(|g| g.members.iter().any(|m| m.volume == volume));
        if let Some(group) = group {
            group.sequence += 1;
        }
    }

    fn exports_changed(&mut self, host: Uuid) {
        for volume in self.vluns_of_host(host).map(|v| v.volume).collect::<Vec<_>>() {
            self.group_changed(volume);
        }
    }
}
