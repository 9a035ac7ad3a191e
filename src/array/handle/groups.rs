//! Remote copy groups: made, filled, started and turned, on both arrays.

use uuid::Uuid;

use crate::arbitration::{Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, VoterRecord};
use crate::array::rpc::{NewGroup, PeerRefusal, PeerRequest};
use crate::group::{Command, Event, Life, PathView, Policy, Reason, Refused, Role};
use crate::mirror::VolumeId;
use crate::store::objects::{Group, Kind, KnownTenure, ObjectError, Objects, Policies, Unexported, Vlun};
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
            told: None,
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

    pub(super) fn volume(&self, volume: VolumeId) -> Result<Volume, CommandError> {
        let name = Uuid::from_bytes(volume.0).to_string();
        self.volumes.get(volume).ok_or_else(|| missing(Kind::Volume, &name))
    }

    pub(super) fn serves(&self, group: &Group) -> bool {
        PathView::goes_on_exporting(self.view(group.group_id()).as_ref())
    }

    /// For the event log: an operator wonders where the exports went.
    pub(super) fn tell_unexported(&self, group: &Group, taken: &[Vlun]) {
        if !taken.is_empty() {
            let count = taken.len();
            let text = format!(
                "{count} VLUNs were taken back here: the volumes leave the group, and this array did not serve it"
            );
            self.log.add(Some(group.name.clone()), None, text);
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
            // An operator's word, whatever this array knows of the present term of office.
            let request = PeerRequest::SetPolicies { group, started, policies, tenure: None };
            self.tell_primary(&entry, request).await?;
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

    fn known_tenure(&self, group: &Group) -> Option<KnownTenure> {
        self.view(group.group_id()).map(|view| view.tenure.into())
    }

    /// Tells the other array a group's policies; one that is not reached hears of them when it is.
    async fn share_policies(&self, group: &Group) -> Result<(), CommandError> {
        let Group { uuid, started, policies, .. } = *group;
        let tenure = self.known_tenure(group);
        match self.ask_peer(PeerRequest::SetPolicies { group: uuid, started, policies, tenure }).await {
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

    /// `removercopygroup`: a stopped group, on both arrays. The one that serves it goes on exporting the volumes; on
    /// the other one they stay, exported to nobody.
    ///
    /// # Errors
    /// The group is started, or still in sync.
    pub async fn remove_group(&self, group: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        if self.absent.get(entry.uuid).is_some() {
            // Nobody mirrors to this copy; its volumes become this array's own.
            return self.remove_absent_group(&entry).await;
        }
        let elsewhere = self.is_removed_elsewhere(&entry);
        if elsewhere {
            // This array may not have heard that it was stopped.
            self.forget_started(&entry).await?;
        } else {
            snapshot.as_ref().clone().remove_group(group, 0)?;
        }
        // In sync the other array may take office, however little it hears of this one.
        if !elsewhere && self.view(entry.group_id()).is_some_and(|view| view.in_sync == InSync::Both) {
            return Err(CommandError::InSync(entry.name));
        }
        let held = !elsewhere && self.is_primary(&entry);
        if held {
            // And it does not come in sync before the group is gone.
            self.command(entry.group_id(), Command::HoldMembers).await?;
        }
        let removed = self.remove_on_both(&entry).await;
        if held {
            let id = entry.group_id();
            self.control(move |controller| controller.event(id, Event::MembersSettled)).await?;
        }
        removed
    }

    async fn remove_on_both(&self, entry: &Group) -> Result<(), CommandError> {
        // Asked now: the other array's tombstone may end the control before this array removes the group itself.
        let serves = self.serves(entry);
        // Before the other array begins: its tombstone opens this one's volumes.
        let taken = if serves { None } else { Some(self.unexport(entry).await?) };
        match self.ask_peer(PeerRequest::RemoveGroup(entry.uuid)).await {
            // It hears of the tombstone when it is back.
            Ok(()) | Err(CommandError::PeerUnreachable) => {}
            // An array that came back empty has nothing to remove.
            Err(CommandError::Peer { code: PeerRefusal::Missing, .. }) => {}
            Err(error) => {
                if let Some(taken) = taken {
                    let again = move |objects: &mut Objects| -> Result<(), ObjectError> {
                        objects.export_again(taken);
                        Ok(())
                    };
                    self.update(again).await?;
                }
                return Err(error);
            }
        }
        if let Some(taken) = taken {
            self.tell_unexported(entry, &taken.vluns);
        }
        self.remove_group_here(entry, serves).await
    }

    fn is_removed_elsewhere(&self, group: &Group) -> bool {
        self.view(group.group_id()).is_some_and(|view| view.reason == Some(Reason::RemovedElsewhere))
    }

    async fn forget_started(&self, group: &Group) -> Result<(), CommandError> {
        let name = group.name.clone();
        let stop = move |objects: &mut Objects| {
            objects.set_group_by_peer(&name, |group| group.started = false).cloned()
        };
        let stopped = self.update(stop).await?;
        self.control(move |controller| controller.policy_changed(&stopped)).await
    }

    async fn unexport(&self, group: &Group) -> Result<Unexported, CommandError> {
        let uuid = group.uuid;
        self.update(move |objects| objects.unexport(uuid)).await
    }

    /// Ends a stopped group on this array. `serves`: its exports stay; elsewhere its volumes are exported to nobody from
    /// then on, as the other array goes on with the copies of the same identity.
    pub(super) async fn remove_group_here(&self, group: &Group, serves: bool) -> Result<(), CommandError> {
        if !serves {
            // Before anything opens the volumes.
            let taken = self.unexport(group).await?;
            self.tell_unexported(group, &taken.vluns);
        }
        self.absent.remove(group.uuid);
        match self.command(group.group_id(), Command::Remove).await {
            // An absent group has no control.
            Ok(()) | Err(CommandError::Object(ObjectError::Missing { .. })) => {}
            Err(error) => return Err(error),
        }
        let (name, uuid) = (group.name.clone(), group.uuid);
        self.update(move |objects| {
            if !serves {
                objects.unexport(uuid)?; // what came in between
            }
            objects.remove_group(&name, now_seconds()).map(drop)
        })
        .await
    }

    pub(super) fn group_id(&self, group: &str) -> Result<GroupId, CommandError> {
        let snapshot = self.snapshot();
        snapshot.group_named(group).map(Group::group_id).ok_or_else(|| missing(Kind::Group, group))
    }

    pub(super) async fn command(&self, group: GroupId, command: Command) -> Result<(), CommandError> {
        let wait = self.control(move |controller| controller.command(group, command)).await?;
        let Some(wait) = wait else { return Err(self.takes_no_part(group)) };
        Ok(wait.await.map_err(|_| CommandError::ShuttingDown)??)
    }

    /// Why there is no control for a group.
    pub(super) fn takes_no_part(&self, group: GroupId) -> CommandError {
        let uuid = Uuid::from_bytes(group.0);
        let name = self.snapshot().group(uuid).map(|group| group.name.clone());
        if let (Some(group), Some(copy)) = (name, self.absent.get(uuid)) {
            return CommandError::Absent { group, why: copy.why };
        }
        missing(Kind::Group, &uuid.to_string())
    }

    /// Tells the own control and, if it is linked, the other array of the group's objects.
    pub(super) async fn share_group_state(&self, group: Uuid) -> Result<(), CommandError> {
        let id = GroupId(group.into_bytes());
        // The term of office first: what is told in it is nothing that came after it.
        let tenure = self.view(id).filter(|view| view.role == Role::Primary).map(|view| view.tenure.into());
        let state = self.snapshot().group_state(group, tenure)?;
        let sequence = state.sequence;
        self.control(move |controller| controller.event(id, Event::GroupState { sequence })).await?;
        if tenure.is_none() {
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
