//! Remote copy groups: made, filled, started and turned, on both arrays.

use std::time::Duration;

use uuid::Uuid;

use crate::arbitration::{Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, VoterRecord};
use crate::array::dying;
use crate::array::rpc::{AdmitVolume, NewGroup, PeerRefusal, PeerRequest};
use crate::group::membership::{self, At, Step};
use crate::group::{Command, Event, Life, PathView, Policy, Reason, Refused, Role};
use crate::mirror::{VolumeId, WritePromise};
use crate::mutation::{self, Mutation};
use crate::store::objects::{
    Group, Kind, KnownTenure, Member, ObjectError, Objects, Policies, Provisioning, Unexported,
    VirtualVolume, Vlun,
};
use crate::volume::Volume;

use super::{CommandError, Handle, missing, now_seconds};

/// The register's write is awaited so long before images are put back.
const CUT_WAIT: Duration = Duration::from_secs(10);
const CUT_LOOK: Duration = Duration::from_millis(20);

/// What a copy holds that is about to be served although it is not in sync.
#[derive(Debug)]
enum Older {
    /// What it held at one moment, all volumes the same.
    Whole,
    /// So it does, but for these volumes, which had never held anything whole.
    Without(Vec<String>),
    /// Old and new.
    Mixture,
}

/// A volume enters or leaves a group.
#[derive(Debug)]
pub(super) struct MemberChange {
    pub group: Group,
    pub volume: VirtualVolume,
    /// As it is to be entered.
    pub member: Option<Member>,
    /// What the other array is asked; `None`: it asks this one.
    pub request: Option<PeerRequest>,
    /// All of it is to be copied from here.
    pub full: bool,
    /// This array goes on exporting it.
    pub serves: bool,
}

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

    /// `admitrcopyvv VV GROUP TARGET:VV`; the remote volume is made if it is not there.
    ///
    /// # Errors
    /// The group is in sync or not this array's, the volumes differ, the other array refuses.
    pub async fn admit(&self, volume: &str, group: &str, remote: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let vv = snapshot.volume_named(volume).cloned().ok_or_else(|| missing(Kind::Volume, volume))?;
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        self.may_change_members(&entry)?;
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
        let change = MemberChange {
            volume: vv,
            member: Some(member),
            request: Some(PeerRequest::AdmitVolume(there)),
            full: true,
            serves: true,
            group: entry,
        };
        self.change_members(change, membership::entry(At::Here)).await
    }

    pub(super) fn volume(&self, volume: VolumeId) -> Result<Volume, CommandError> {
        let name = Uuid::from_bytes(volume.0).to_string();
        self.volumes.get(volume).ok_or_else(|| missing(Kind::Volume, &name))
    }

    /// `dismissrcopyvv`: takes a volume out of a stopped group, on both arrays. The primary goes on exporting it; the
    /// other array's copy stays there, exported to nobody.
    ///
    /// # Errors
    /// The group is in sync, or not served by this array; the other array is not reached.
    pub async fn dismiss(&self, volume: &str, group: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        let vv = snapshot.volume_named(volume).cloned().ok_or_else(|| missing(Kind::Volume, volume))?;
        self.may_change_members(&entry)?;
        if !self.serves(&entry) {
            return Err(CommandError::NotServing(entry.name));
        }
        if entry.started {
            // Before the other array, which may not have heard of it, lets go of its copy.
            return Err(ObjectError::GroupStarted { group: entry.name }.into());
        }
        let request = PeerRequest::Dismiss { group: entry.uuid, volume: vv.uuid };
        let change = MemberChange {
            volume: vv,
            member: None,
            request: Some(request),
            full: false,
            serves: true,
            group: entry,
        };
        self.change_members(change, membership::leaving(At::Here)).await
    }

    /// A change on both arrays, begun on this one. The group does not come in sync meanwhile.
    async fn change_members(&self, change: MemberChange, steps: &'static [Step]) -> Result<(), CommandError> {
        let id = change.group.group_id();
        self.command(id, Command::HoldMembers).await?;
        let changed = self.take_steps(&change, steps).await;
        self.control(move |controller| controller.event(id, Event::MembersSettled)).await?;
        changed
    }

    /// One step after the other, each durable before the next.
    pub(super) async fn take_steps(
        &self,
        change: &MemberChange,
        steps: &'static [Step],
    ) -> Result<(), CommandError> {
        for step in steps {
            self.take_step(change, *step).await?;
        }
        Ok(())
    }

    async fn take_step(&self, change: &MemberChange, step: Step) -> Result<(), CommandError> {
        let MemberChange { group, volume, member, request, full, serves } = change;
        let (id, uuid, member_id) = (group.group_id(), volume.uuid, volume.volume_id());
        match step {
            Step::Ask => match request.clone() {
                Some(request) => self.ask_peer(request).await,
                None => Ok(()),
            },
            Step::Copy => {
                // What was kept of it in another group is not of this one.
                let open = self.volume(member_id)?;
                self.blocking(move |_| open.drop_image().map_err(CommandError::Disown)).await
            }
            Step::Mark => {
                self.blocking(move |this| this.volumes.disown(member_id).map_err(CommandError::Disown)).await
            }
            Step::Join => {
                let Some(member) = member.clone() else { return Ok(()) };
                let (name, here) = (group.name.clone(), request.is_some());
                let join = move |objects: &mut Objects| {
                    if here { objects.admit(&name, member) } else { objects.admit_by_peer(&name, member) }
                };
                self.update(join).await?;
                dying::at("admitted");
                Ok(())
            }
            Step::Enrol => {
                let (open, full) = (self.volume(member_id)?, *full);
                self.control(move |controller| controller.admit(id, open, full)).await
            }
            Step::Leave => {
                let (of, name, serves) = (group.name.clone(), volume.name.clone(), *serves);
                let here = request.is_some();
                let leave = move |objects: &mut Objects| {
                    if here {
                        objects.dismiss(&of, &name)?
                    } else {
                        objects.dismiss_by_peer(&of, &name)?
                    };
                    Ok(if serves { Vec::new() } else { objects.unexport_volume(uuid) })
                };
                let taken = self.update(leave).await?;
                self.tell_unexported(group, &taken);
                Ok(())
            }
            Step::Withdraw => self.control(move |controller| controller.dismiss(id, member_id)).await,
            Step::Share => self.share_group_state(group.uuid).await,
        }
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

    fn may_change_members(&self, group: &Group) -> Result<(), CommandError> {
        PathView::may_change_members(self.view(group.group_id()).as_ref()).map_err(|refused| match refused {
            Refused::InSync => CommandError::InSync(group.name.clone()),
            _ => CommandError::NotPrimary(group.name.clone()),
        })
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

    /// `setrcopygroup override`, or `failover -f` without `stale`: the operator's word that the other
    /// array is off is given. What it means for the data, in words.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn override_group(&self, group: &str, stale: bool) -> Result<String, CommandError> {
        let id = self.group_id(group)?;
        let in_sync = self.view(id).is_some_and(|view| view.in_sync == InSync::Both);
        // While the other array is reached the override is refused anyway.
        let linked = self.view(id).is_some_and(|view| view.link_up);
        let older = if stale && !in_sync && !linked { self.put_back(id).await? } else { Older::Whole };
        self.command(id, Command::Override { stale }).await?;
        let witnessed = self.view(id).is_some_and(|view| view.witness.is_some());
        // Only `failover -f` asks the witness whether this copy was dropped.
        let kept = match (in_sync, witnessed) {
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
        };
        Ok(match older {
            Older::Whole => kept.to_owned(),
            Older::Mixture => format!(
                "its volumes are a mixture of old and new, for not everything that they held before the resync \
                 could be kept: nothing was put back; check them before hosts use them. {kept}"
            ),
            Older::Without(blank) => format!(
                "not for use: {}, which had never been in sync and holds a part of the other array's data; {kept}",
                blank.join(", ")
            ),
        })
    }

    /// A copy that was being brought up to date is a mixture of old and new (F14): what it held before
    /// comes back, where that was kept: on all volumes of the group, or on none.
    async fn put_back(&self, group: GroupId) -> Result<Older, CommandError> {
        let snapshot = self.snapshot();
        let Some(entry) = snapshot.group(Uuid::from_bytes(group.0)) else { return Ok(Older::Whole) };
        let members: Vec<_> = entry
            .members
            .iter()
            .filter_map(|member| snapshot.volume(member.volume))
            .filter_map(|named| Some((named, self.volumes.get(named.volume_id())?)))
            .collect();
        if !members.iter().any(|(_, volume)| volume.with(|core, _, _| core.is_behind())) {
            return Ok(Older::Whole);
        }
        let failed =
            |named: &VirtualVolume, error| CommandError::RollBack { volume: named.name.clone(), error };
        let mut held = Vec::new();
        for (named, volume) in &members {
            let copy = volume.hold_for_roll_back().await.map_err(|error| failed(named, error))?;
            held.push((named, volume, copy));
        }
        // What is being written about their images is awaited: it is told to all volumes together.
        let told = async {
            let changes =
                |view: PathView| view.cut_changes && !mutation::on(Mutation::CutChangesUnderRollBack);
            while self.view(group).is_some_and(changes) {
                tokio::time::sleep(CUT_LOOK).await;
            }
        };
        if tokio::time::timeout(CUT_WAIT, told).await.is_err() {
            return Err(CommandError::CutNotWritten);
        }
        if members.iter().any(|(_, volume)| volume.with(|core, _, _| core.is_mixture())) {
            let text = "its volumes are a mixture of old and new: nothing is put back".to_owned();
            self.log.add(Some(entry.name.clone()), None, text);
            return Ok(Older::Mixture);
        }
        let mut blank = Vec::new();
        for (named, volume, copy) in held {
            if volume.was_blank() {
                blank.push(named.name.clone());
            }
            let Some(kept) = copy.roll_back().await.map_err(|error| failed(named, error))? else { continue };
            let as_of = kept.as_of.map_or_else(
                || "before this array was started last".to_owned(),
                |as_of| format!("{} minutes ago", now_seconds().saturating_sub(as_of) / 60),
            );
            let name = &named.name;
            let text =
                format!("volume {name} holds again what it held {as_of}: {} MiB put back", kept.regions);
            self.log.add(Some(entry.name.clone()), None, text);
        }
        Ok(if blank.is_empty() { Older::Whole } else { Older::Without(blank) })
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

    fn group_id(&self, group: &str) -> Result<GroupId, CommandError> {
        let snapshot = self.snapshot();
        snapshot.group_named(group).map(Group::group_id).ok_or_else(|| missing(Kind::Group, group))
    }

    async fn command(&self, group: GroupId, command: Command) -> Result<(), CommandError> {
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
