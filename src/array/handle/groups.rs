//! Remote copy groups: made, filled, started and turned, on both arrays.

use uuid::Uuid;

use crate::arbitration::{Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, VoterRecord};
use crate::array::rpc::{AdmitVolume, NewGroup, PeerRefusal, PeerRequest};
use crate::group::{Command, Event, Life, PathView, Policy, Refused, Role};
use crate::mirror::{VolumeId, WritePromise};
use crate::store::objects::{
    Group, Kind, Member, ObjectError, Objects, Policies, Provisioning, VirtualVolume,
};
use crate::volume::Volume;

use super::{CommandError, Handle, missing, now_seconds};

impl Handle {
    /// `creatercopygroup GROUP TARGET:sync`, on the array that is to be the natural primary.
    ///
    /// # Errors
    /// The other array or the witness is not reached, or refuses.
    pub async fn create_group(&self, name: &str, target: &str) -> Result<Group, CommandError> {
        if self.peer_name.as_deref() != Some(target) {
            return Err(CommandError::NoSuchTarget(target.to_owned()));
        }
        let links = self.links().await?;
        let peer = links.peer.ok_or(CommandError::PeerUnreachable)?;
        let uuid = Uuid::new_v4();
        let chosen = self.genesis(links.witness)?;
        let group = Group {
            id: 0,
            uuid,
            name: name.to_owned(),
            target: peer.name,
            natural: self.side,
            members: Vec::new(),
            policies: Policies {
                auto_failover: true,
                path_management: true,
                auto_recover: true,
                auto_synchronize: true,
                over_period_alert: false,
            },
            started: false,
            sequence: 1,
            created: now_seconds(),
            absent: None,
        };
        // The name is tried here first, so that nothing is made there in vain.
        self.snapshot().as_ref().clone().add_group(group.clone())?;
        let theirs =
            Group { name: format!("{name}.r{}", self.system_id), target: self.name.clone(), ..group.clone() };
        self.ask_peer(PeerRequest::CreateGroup(NewGroup::new(&theirs, &chosen))).await?;
        match self.add_group(group, chosen).await {
            Ok(group) => Ok(group),
            Err(error) => {
                // Nothing mirrors yet; the other array forgets it again.
                let _ = self.ask_peer(PeerRequest::RemoveGroup(uuid)).await;
                Err(error)
            }
        }
    }

    /// Epoch 1 of a new group (ARBITRATION, genesis).
    fn genesis(&self, witness: Option<Incarnation>) -> Result<Config, CommandError> {
        if self.has_witness && witness.is_none() {
            return Err(CommandError::WitnessUnreachable);
        }
        Ok(Config {
            lineage: Lineage { counter: 1, id: Uuid::new_v4().as_u64_pair().0 },
            epoch: Epoch(1),
            tenure_epoch: Epoch(1),
            primary: self.side,
            in_sync: InSync::Primary,
            quorum: if witness.is_some() { Quorum::Majority } else { Quorum::PrimaryAlone },
            witness,
            natural: self.side,
        })
    }

    /// Makes a group here, durably: its first vote, then the object, then its control.
    pub(super) async fn add_group(&self, group: Group, chosen: Config) -> Result<Group, CommandError> {
        let record = VoterRecord::new(chosen);
        let id = group.group_id();
        let written = self.control(move |controller| controller.write_vote(id, record)).await?;
        written.await.map_err(|_| CommandError::ShuttingDown)?;
        let group = self.update(move |objects| objects.add_group(group).cloned()).await?;
        let made = group.clone();
        self.control(move |controller| {
            controller.add_group(&made, record, Life::Created, Vec::new(), false);
        })
        .await?;
        Ok(group)
    }

    /// `admitrcopyvv VV GROUP TARGET:VV`; the remote volume is made if it is not there.
    ///
    /// # Errors
    /// The group is in sync or not this array's, the volumes differ, the other array refuses.
    pub async fn admit(&self, volume: &str, group: &str, remote: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let vv = snapshot.volume_named(volume).cloned().ok_or_else(|| missing(Kind::Volume, volume))?;
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        self.must_be_stopped_primary(&entry)?;
        let member = Member { volume: vv.uuid, remote_name: remote.to_owned() };
        snapshot.as_ref().clone().admit(group, member.clone())?;
        let there = AdmitVolume {
            group: entry.uuid,
            uuid: vv.uuid,
            naa: vv.naa,
            size_bytes: vv.size_bytes,
            name: remote.to_owned(),
            remote_name: vv.name.clone(),
            full: vv.provisioning == Provisioning::Full,
            memory: vv.promise == WritePromise::Memory,
        };
        self.ask_peer(PeerRequest::AdmitVolume(there)).await?;
        let name = group.to_owned();
        self.update(move |objects| objects.admit(&name, member)).await?;
        self.enrol(&entry, vv.volume_id(), true).await?;
        self.share_group_state(entry.uuid).await
    }

    pub(super) async fn enrol(
        &self,
        group: &Group,
        volume: VolumeId,
        full: bool,
    ) -> Result<(), CommandError> {
        let id = group.group_id();
        let volume = self.volume(volume)?;
        self.control(move |controller| controller.admit(id, volume, full)).await
    }

    pub(super) fn volume(&self, volume: VolumeId) -> Result<Volume, CommandError> {
        let name = Uuid::from_bytes(volume.0).to_string();
        self.volumes.get(volume).ok_or_else(|| missing(Kind::Volume, &name))
    }

    /// `dismissrcopyvv`: takes a volume out of a stopped group, on both arrays if they are linked.
    ///
    /// # Errors
    /// The group is started.
    pub async fn dismiss(&self, volume: &str, group: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        let vv = snapshot.volume_named(volume).cloned().ok_or_else(|| missing(Kind::Volume, volume))?;
        self.must_be_stopped_primary(&entry)?;
        self.ask_peer(PeerRequest::Dismiss { group: entry.uuid, volume: vv.uuid }).await?;
        self.dismiss_here(&entry, &vv).await
    }

    pub(super) async fn dismiss_here(
        &self,
        group: &Group,
        volume: &VirtualVolume,
    ) -> Result<(), CommandError> {
        let (id, member) = (group.group_id(), volume.volume_id());
        let (group, volume) = (group.name.clone(), volume.name.clone());
        self.update(move |objects| objects.dismiss(&group, &volume)).await?;
        self.control(move |controller| controller.dismiss(id, member)).await
    }

    fn must_be_stopped_primary(&self, group: &Group) -> Result<(), CommandError> {
        match self.view(group.group_id()) {
            Some(view) if view.in_sync == InSync::Both => Err(CommandError::InSync(group.name.clone())),
            Some(view) if view.role == Role::Primary => Ok(()),
            _ => Err(CommandError::NotPrimary(group.name.clone())),
        }
    }

    /// `startrcopygroup` and `stoprcopygroup`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn set_started(&self, group: &str, started: bool) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        let command = if started { Command::Start } else { Command::Stop };
        self.command(entry.group_id(), command).await?;
        let name = entry.name;
        let set = move |objects: &mut Objects| {
            objects.set_group_by_peer(&name, |group| group.started = started).cloned()
        };
        let group = self.update(set).await?;
        self.share_policies(&group).await
    }

    /// A command here or at the other array started or stopped the group.
    pub async fn keep_policy(&self, group: GroupId, policy: Policy) {
        let started = policy.started;
        let Some(name) = self.snapshot().group(Uuid::from_bytes(group.0)).map(|g| g.name.clone()) else {
            return;
        };
        let kept = self
            .update(move |objects| objects.set_group_by_peer(&name, |g| g.started = started).cloned())
            .await;
        let shared = match kept {
            Ok(group) => self.share_policies(&group).await,
            Err(error) => Err(error),
        };
        if let Err(error) = shared {
            tracing::error!(%error, "the policies of a group were not kept on both arrays");
        }
    }

    /// Changes the policies of a group, on both arrays.
    ///
    /// # Errors
    /// No such group; a primary that is not reached.
    pub async fn set_policies(&self, group: &str, policies: Policies) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        if !self.is_primary(&entry) {
            let (group, started) = (entry.uuid, entry.started);
            self.tell_primary(&entry, PeerRequest::SetPolicies { group, started, policies }).await?;
        }
        let name = entry.name;
        // Policies are no part of the group state: its number stays alike on both arrays.
        let set = move |objects: &mut Objects| {
            objects.set_group_by_peer(&name, |group| group.policies = policies).cloned()
        };
        let group = self.update(set).await?;
        let changed = group.clone();
        self.control(move |controller| controller.policy_changed(&changed)).await?;
        self.share_policies(&group).await
    }

    /// Tells the other array a group's policies; one that is not reached hears of them when it is.
    async fn share_policies(&self, group: &Group) -> Result<(), CommandError> {
        let Group { uuid, started, policies, .. } = *group;
        match self.ask_peer(PeerRequest::SetPolicies { group: uuid, started, policies }).await {
            Ok(()) | Err(CommandError::PeerUnreachable) => Ok(()),
            // An array that came back empty; a stopped group need not be there.
            Err(CommandError::Peer { code: PeerRefusal::Missing, .. }) if !started => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `setrcopygroup switchover`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn switch_over(&self, group: &str) -> Result<(), CommandError> {
        self.command(self.group_id(group)?, Command::SwitchOver).await
    }

    /// `setrcopygroup failover`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn fail_over(&self, group: &str) -> Result<(), CommandError> {
        self.command(self.group_id(group)?, Command::FailOver).await
    }

    /// `setrcopygroup override`, or `failover -f` without `stale`: the operator's word that the other
    /// array is off is given. What it means for the data, in words.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn override_group(&self, group: &str, stale: bool) -> Result<&'static str, CommandError> {
        let id = self.group_id(group)?;
        let in_sync = self.view(id).is_some_and(|view| view.in_sync == InSync::Both);
        // While the other array is reached the override is refused anyway.
        let linked = self.view(id).is_some_and(|view| view.link_up);
        if stale && !in_sync && !linked {
            self.put_back(id).await?;
        }
        self.command(id, Command::Override { stale }).await?;
        let witnessed = self.view(id).is_some_and(|view| view.witness.is_some());
        // Only `failover -f` asks the witness whether this copy was dropped.
        Ok(match (in_sync, witnessed) {
            (true, true) if stale => {
                "nothing is lost unless the other array went on alone; what it wrote alone is kept there until \
                 it is discarded (setrcopygroup discard)"
            }
            (true, true) => {
                "nothing is lost: this copy was in sync, and the witness knows of no later change; the other \
                 array is told by either of them when it returns"
            }
            (true, false) => {
                "nothing is lost unless the other array went on alone by the witness, which was not reached: \
                 keep that array off until it is linked with this one"
            }
            (false, true) => {
                "this array serves its own, older data; what the other one wrote alone is kept there until \
                 it is discarded (setrcopygroup discard)"
            }
            (false, false) => {
                "this array serves its own, older data; what the other one wrote alone is kept there until \
                 it is discarded (setrcopygroup discard); no witness was reached: keep that array off until \
                 it is linked with this one"
            }
        })
    }

    /// A copy that was being brought up to date is a mixture of old and new (F14): what it held before
    /// comes back, where that was kept.
    async fn put_back(&self, group: GroupId) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.group(Uuid::from_bytes(group.0)) else { return Ok(()) };
        for member in &entry.members {
            let Some(named) = snapshot.volume(member.volume) else { continue };
            let Some(volume) = self.volumes.get(named.volume_id()) else { continue };
            let failed = |error| CommandError::RollBack { volume: named.name.clone(), error };
            let Some(kept) = volume.roll_back().await.map_err(failed)? else { continue };
            let as_of = kept.as_of.map_or_else(
                || "before this array was started last".to_owned(),
                |as_of| format!("{} minutes ago", now_seconds().saturating_sub(as_of) / 60),
            );
            let name = &named.name;
            let text =
                format!("volume {name} holds again what it held {as_of}: {} MiB put back", kept.regions);
            self.log.add(Some(entry.name.clone()), None, text);
        }
        Ok(())
    }

    /// `setrcopygroup discard`: what this array wrote alone before an override is given up.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn discard(&self, group: &str) -> Result<(), CommandError> {
        let entry = self.snapshot().group_named(group).cloned();
        if let Some(entry) = entry.filter(|entry| self.absent.get(entry.uuid).is_some()) {
            return self.discard_absent(&entry).await;
        }
        self.command(self.group_id(group)?, Command::Discard).await
    }

    fn reversed_primary(&self, group: &str) -> Result<PathView, CommandError> {
        let view = self.view(self.group_id(group)?).ok_or(Refused::NotPrimary)?;
        if view.role != Role::Primary {
            return Err(Refused::NotPrimary.into());
        }
        if !view.reversed {
            return Err(Refused::NotReversed.into());
        }
        Ok(view)
    }

    /// `setrcopygroup recover`, on the array that took over (`Primary-Rev`): the former primary is
    /// mirrored to.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn recover(&self, group: &str) -> Result<(), CommandError> {
        self.reversed_primary(group)?;
        self.set_started(group, true).await
    }

    /// `setrcopygroup restore`, on the array that took over, in sync again: natural roles.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn restore(&self, group: &str) -> Result<(), CommandError> {
        self.reversed_primary(group)?;
        self.switch_over(group).await
    }

    /// `removercopygroup`: a stopped group, on both arrays.
    ///
    /// # Errors
    /// The group is started.
    pub async fn remove_group(&self, group: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        if self.absent.get(entry.uuid).is_some() {
            // Nobody mirrors to this copy; its volumes become this array's own.
            return self.remove_absent_group(&entry).await;
        }
        snapshot.as_ref().clone().remove_group(group, 0)?;
        match self.ask_peer(PeerRequest::RemoveGroup(entry.uuid)).await {
            // It hears of the tombstone when it is back.
            Ok(()) | Err(CommandError::PeerUnreachable) => {}
            // An array that came back empty has nothing to remove.
            Err(CommandError::Peer { code: PeerRefusal::Missing, .. }) => {}
            Err(error) => return Err(error),
        }
        self.remove_group_here(&entry).await
    }

    pub(super) async fn remove_group_here(&self, group: &Group) -> Result<(), CommandError> {
        self.absent.remove(group.uuid);
        match self.command(group.group_id(), Command::Remove).await {
            // The other array's tombstone may have come first: the control is gone already.
            Ok(()) | Err(CommandError::Object(ObjectError::Missing { .. })) => {}
            Err(error) => return Err(error),
        }
        let name = group.name.clone();
        self.update(move |objects| objects.remove_group(&name, now_seconds()).map(drop)).await
    }

    fn group_id(&self, group: &str) -> Result<GroupId, CommandError> {
        let snapshot = self.snapshot();
        snapshot.group_named(group).map(Group::group_id).ok_or_else(|| missing(Kind::Group, group))
    }

    async fn command(&self, group: GroupId, command: Command) -> Result<(), CommandError> {
        let wait = self.control(move |controller| controller.command(group, command)).await?;
        let Some(wait) = wait else {
            let uuid = Uuid::from_bytes(group.0);
            let name = self.snapshot().group(uuid).map(|group| group.name.clone());
            if let (Some(group), Some(copy)) = (name, self.absent.get(uuid)) {
                return Err(CommandError::Absent { group, why: copy.why });
            }
            return Err(missing(Kind::Group, &uuid.to_string()));
        };
        Ok(wait.await.map_err(|_| CommandError::ShuttingDown)??)
    }

    /// Tells the own control and, if it is linked, the other array of the group's objects.
    pub(super) async fn share_group_state(&self, group: Uuid) -> Result<(), CommandError> {
        let state = self.snapshot().group_state(group)?;
        let sequence = state.sequence;
        let id = GroupId(group.into_bytes());
        self.control(move |controller| controller.event(id, Event::GroupState { sequence })).await?;
        if !self.snapshot().group(group).is_some_and(|group| self.is_primary(group)) {
            // The primary has it already, or gave it.
            return Ok(());
        }
        match self.ask_peer(PeerRequest::GroupState(state)).await {
            // It is told when it joins.
            Err(CommandError::PeerUnreachable) => Ok(()),
            other => other,
        }
    }

    /// Tells the other array, which just came into reach, this one's target.
    pub async fn introduce(&self) {
        let portals = self.portals.iter().map(ToString::to_string).collect();
        let request = PeerRequest::Introduce { target: self.target_name.clone(), portals };
        if let Err(error) = self.ask_peer(request).await {
            tracing::debug!(%error, "the other array was not told of this one's target");
        }
        // What was changed while the link was down; the primary's word counts.
        let objects = self.snapshot();
        for group in objects.groups() {
            let primary = self.view(group.group_id()).is_some_and(|view| view.role == Role::Primary);
            if primary && let Err(error) = self.share_policies(group).await {
                tracing::warn!(%error, group = group.name, "the other array does not take the policies");
            }
        }
    }

    /// As [`Self::share_group_state`], on the control's wish.
    pub async fn send_group_state(&self, group: GroupId) {
        if let Err(error) = self.share_group_state(Uuid::from_bytes(group.0)).await {
            tracing::warn!(%error, "the other array does not take the group's objects");
        }
    }
}
