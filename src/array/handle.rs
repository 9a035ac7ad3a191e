//! What operators can do with an array: objects and groups, checked, durable, on both arrays where
//! they belong to both. The management API is a face on this.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::arbitration::{
    Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, Side, Tenure, VoterRecord,
};
use crate::group::{Command, Event, Life, PathView, Policy, Refused, Role};
use crate::iscsi::TargetRecord;
use crate::mirror::{LaneId, VolumeId};
use crate::portal::Sessions;
use crate::store::data_dir::DataDir;
use crate::store::objects::{
    Group, Host, Kind, Member, ObjectError, ObjectStore, Objects, Policies, Provisioning, StoreError,
    VirtualVolume, Vlun,
};
use crate::volume::Volume;

use super::control::{Controller, Input, PEER_REQUEST};
use super::events::EventLog;
use super::exports::{ExportTable, PORTAL_GROUP_TAG};
use super::groups::Views;
use super::rpc::{AdmitVolume, NewGroup, PeerAnswer, PeerRefusal, PeerRequest};
use super::volumes::{OpenError, VolumeSet};

/// Smallest volume, and the unit sizes are rounded to by callers: WSAPI counts in MiB.
pub const MIB: u64 = 1 << 20;
/// Largest volume (DESIGN: 64 TiB).
pub const VOLUME_MAX: u64 = 64 << 40;

/// Why a request was not carried out; nothing was changed.
#[derive(Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Group(#[from] Refused),
    #[error("the size of a volume is between 1 MiB and 64 TiB, a multiple of 1 MiB; {0} bytes is not")]
    BadSize(u64),
    #[error("remote copy target {0} is not configured here ([peer] name)")]
    NoSuchTarget(String),
    #[error("the other array is not reached; check the replication links (showrcopy)")]
    PeerUnreachable,
    #[error("the witness is not reached; a group is made with its consent, check the witness")]
    WitnessUnreachable,
    #[error("the other array refuses: {message}")]
    Peer { code: PeerRefusal, message: String },
    #[error("group {0} is in sync; stop it before its members change")]
    InSync(String),
    #[error("this array is not the primary of group {0}; give the command there")]
    NotPrimary(String),
    #[error("volume {name} is already there on the other array with {found} bytes, here it has {expected}")]
    SizeMismatch { name: String, found: u64, expected: u64 },
    #[error("the array is shutting down")]
    ShuttingDown,
}

/// Access to a running array from any thread; clones are the same.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// Everything behind a [`Handle`].
#[derive(Debug)]
pub struct Shared {
    pub name: String,
    pub system_id: u32,
    pub side: Side,
    pub target_name: String,
    pub portals: Vec<std::net::SocketAddr>,
    pub peer_name: Option<String>,
    /// Where the other array listens for replication.
    pub peer_address: Option<std::net::SocketAddr>,
    /// Data lanes this array wants; the smaller number of the two arrays counts.
    pub lanes: u16,
    pub has_witness: bool,
    pub witness_address: Option<std::net::SocketAddr>,
    pub data_dir: Arc<DataDir>,
    pub objects: Arc<ObjectStore>,
    pub volumes: VolumeSet,
    pub views: Views,
    pub log: EventLog,
    pub sessions: Sessions,
    pub exports: ExportTable,
    pub inputs: mpsc::UnboundedSender<Input>,
}

impl std::ops::Deref for Handle {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// A volume to be made.
#[derive(Clone, Debug)]
pub struct NewVolume {
    pub name: String,
    pub size_bytes: u64,
    /// Data file or device; default: a file of `data_dir`.
    pub path: Option<std::path::PathBuf>,
    pub full: bool,
    pub comment: String,
}

/// The links and the witness, as of now.
#[derive(Clone, Debug, Default)]
pub struct Links {
    pub peer: Option<crate::wire::Hello>,
    pub lanes: Vec<LaneId>,
    pub witness: Option<Incarnation>,
}

/// Seconds since 1970.
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A new NAA type 6 designator (SPC-5 7.7.3.6.5). The OUI is from the locally administered space;
/// the rest is the volume's UUID.
fn naa(uuid: Uuid) -> [u8; 16] {
    let mut naa = uuid.into_bytes();
    naa[0] = 0x60;
    naa[1] = 0x2a;
    naa
}

impl Handle {
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub fn snapshot(&self) -> Arc<Objects> {
        self.objects.snapshot()
    }

    pub fn view(&self, group: GroupId) -> Option<PathView> {
        self.views.load().get(&group).copied()
    }

    /// Runs `call` on the control thread.
    pub async fn control<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut Controller) -> R + Send + 'static,
    ) -> Result<R, CommandError> {
        let (result, wait) = oneshot::channel();
        let run = move |controller: &mut Controller| {
            let _ = result.send(call(controller));
        };
        self.inputs.send(Input::Call(Box::new(run))).map_err(|_| CommandError::ShuttingDown)?;
        wait.await.map_err(|_| CommandError::ShuttingDown)
    }

    /// Changes objects, durably, off the control thread; exports follow.
    async fn update<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Objects) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let this = self.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let value = this.objects.update(change)??;
            this.exports.rebuild(&this);
            Ok(value)
        });
        changed.await.map_err(|_| CommandError::ShuttingDown)?
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this)).await.map_err(|_| CommandError::ShuttingDown)?
    }

    /// The links and the witness, as of now.
    pub async fn links(&self) -> Result<Links, CommandError> {
        self.control(|controller| Links {
            peer: controller.peer().cloned(),
            lanes: controller.lanes(),
            witness: controller.witness(),
        })
        .await
    }

    /// Asks the other array.
    async fn ask_peer(&self, request: PeerRequest) -> Result<(), CommandError> {
        let body = request.encode();
        let wait = self.control(move |controller| controller.request(body)).await?;
        let answer = tokio::time::timeout(PEER_REQUEST, wait).await;
        let Ok(Ok(Some(body))) = answer else { return Err(CommandError::PeerUnreachable) };
        match PeerAnswer::decode(&body) {
            Some(PeerAnswer::Done) => Ok(()),
            Some(PeerAnswer::Refused { code, message }) => Err(CommandError::Peer { code, message }),
            None => Err(CommandError::PeerUnreachable),
        }
    }

    // Volumes.

    /// `createvv`.
    ///
    /// # Errors
    /// A bad or taken name, a size the file system cannot hold (with its limit), a full disk.
    pub async fn create_volume(&self, new: NewVolume) -> Result<VirtualVolume, CommandError> {
        let uuid = Uuid::new_v4();
        self.make_volume(new, uuid, naa(uuid)).await
    }

    async fn make_volume(
        &self,
        new: NewVolume,
        uuid: Uuid,
        naa: [u8; 16],
    ) -> Result<VirtualVolume, CommandError> {
        if new.size_bytes == 0 || !new.size_bytes.is_multiple_of(MIB) || new.size_bytes > VOLUME_MAX {
            return Err(CommandError::BadSize(new.size_bytes));
        }
        self.blocking(move |this| {
            let volume = VirtualVolume {
                id: 0,
                path: new.path.unwrap_or_else(|| this.data_dir.volume(&new.name)),
                name: new.name,
                uuid,
                naa,
                size_bytes: new.size_bytes,
                provisioning: if new.full { Provisioning::Full } else { Provisioning::Thin },
                comment: new.comment,
                created: now_seconds(),
            };
            // Names are checked before a file is made under one.
            this.objects.snapshot().as_ref().clone().add_volume(volume.clone())?;
            this.volumes.create(&volume)?;
            let wanted = volume.clone();
            let added = this.objects.update(|objects| objects.add_volume(wanted).cloned());
            match added {
                Ok(Ok(volume)) => Ok(volume),
                refused => {
                    if let Err(error) = this.volumes.remove(&volume) {
                        tracing::warn!(%error, "files of a volume that could not be made are left behind");
                    }
                    Ok(refused??)
                }
            }
        })
        .await
    }

    /// `removevv`.
    ///
    /// # Errors
    /// The volume is exported or in a group.
    pub async fn remove_volume(&self, name: &str) -> Result<(), CommandError> {
        let name = name.to_owned();
        self.blocking(move |this| {
            let volume = this.objects.update(|objects| objects.remove_volume(&name))??;
            this.exports.rebuild(this);
            Ok(this.volumes.remove(&volume)?)
        })
        .await
    }

    // Hosts and VLUNs.

    /// `createhost`.
    ///
    /// # Errors
    /// A bad or taken name, an initiator that belongs to another host.
    pub async fn create_host(
        &self,
        name: &str,
        iqns: Vec<String>,
        persona: u8,
    ) -> Result<Host, CommandError> {
        let (id, created) = (0, now_seconds());
        let host = Host {
            id,
            name: name.to_owned(),
            uuid: Uuid::new_v4(),
            iqns,
            persona,
            comment: String::new(),
            created,
        };
        self.update(move |objects| objects.add_host(host).cloned()).await
    }

    /// Replaces the initiators of a host; groups whose volumes it sees tell the other array.
    ///
    /// # Errors
    /// An initiator that belongs to another host.
    pub async fn set_host(&self, name: &str, iqns: Vec<String>, persona: u8) -> Result<(), CommandError> {
        let owned = name.to_owned();
        let host = self.update(move |objects| objects.set_host(&owned, iqns, persona).cloned()).await?;
        let snapshot = self.snapshot();
        for vlun in snapshot.vluns_of_host(host.uuid) {
            if let Some(group) = snapshot.group_of_volume(vlun.volume) {
                self.share_group_state(group.uuid).await?;
            }
        }
        Ok(())
    }

    /// `removehost`.
    ///
    /// # Errors
    /// The host still sees a volume.
    pub async fn remove_host(&self, name: &str) -> Result<(), CommandError> {
        let name = name.to_owned();
        self.update(move |objects| objects.remove_host(&name).map(drop)).await
    }

    /// `createvlun`. `lun`: `None` takes the lowest free one. The same export again is answered as
    /// done. For a mirrored volume both arrays export it before this returns, if they are linked.
    ///
    /// # Errors
    /// No such volume or host, a LUN that is taken.
    pub async fn create_vlun(
        &self,
        volume: &str,
        host: &str,
        lun: Option<u16>,
    ) -> Result<Vlun, CommandError> {
        let (volume, host) = (volume.to_owned(), host.to_owned());
        let vlun = self
            .update(move |objects| {
                if let (Some(v), Some(h)) = (objects.volume_named(&volume), objects.host_named(&host))
                    && let Some(known) = objects.vluns_of_host(h.uuid).find(|known| known.volume == v.uuid)
                    && lun.is_none_or(|lun| lun == known.lun)
                {
                    return Ok(known.clone());
                }
                objects.add_vlun(&volume, &host, lun)
            })
            .await?;
        self.share_exports_of(vlun.volume).await?;
        Ok(vlun)
    }

    /// `removevlun`.
    ///
    /// # Errors
    /// No such export.
    pub async fn remove_vlun(&self, volume: &str, host: &str, lun: u16) -> Result<(), CommandError> {
        let (volume, host) = (volume.to_owned(), host.to_owned());
        let removed = self
            .update(move |objects| {
                let known = objects.volume_named(&volume).zip(objects.host_named(&host));
                let known =
                    known.and_then(|(v, h)| objects.vluns_of_host(h.uuid).find(|l| l.volume == v.uuid));
                if known.is_some_and(|known| known.lun != lun) {
                    let name = format!("of volume {volume} to host {host} with LUN {lun}");
                    return Err(ObjectError::Missing { kind: Kind::Vlun, name });
                }
                objects.remove_vlun(&volume, &host)
            })
            .await?;
        self.share_exports_of(removed.volume).await
    }

    async fn share_exports_of(&self, volume: Uuid) -> Result<(), CommandError> {
        match self.snapshot().group_of_volume(volume) {
            Some(group) => self.share_group_state(group.uuid).await,
            None => Ok(()),
        }
    }

    /// Tells the own control and, if it is linked, the other array of the group's objects.
    async fn share_group_state(&self, group: Uuid) -> Result<(), CommandError> {
        let state = self.snapshot().group_state(group)?;
        let sequence = state.sequence;
        let id = GroupId(group.into_bytes());
        self.control(move |controller| controller.event(id, Event::GroupState { sequence })).await?;
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

    // Groups.

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
                over_period_alert: false,
            },
            started: false,
            sequence: 1,
            created: now_seconds(),
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
    async fn add_group(&self, group: Group, chosen: Config) -> Result<Group, CommandError> {
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
        };
        self.ask_peer(PeerRequest::AdmitVolume(there)).await?;
        let name = group.to_owned();
        self.update(move |objects| objects.admit(&name, member)).await?;
        self.enrol(&entry, vv.volume_id(), true).await?;
        self.share_group_state(entry.uuid).await
    }

    async fn enrol(&self, group: &Group, volume: VolumeId, full: bool) -> Result<(), CommandError> {
        let id = group.group_id();
        let volume = self.volume(volume)?;
        self.control(move |controller| controller.admit(id, volume, full)).await
    }

    fn volume(&self, volume: VolumeId) -> Result<Volume, CommandError> {
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

    async fn dismiss_here(&self, group: &Group, volume: &VirtualVolume) -> Result<(), CommandError> {
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
    /// No such group.
    pub async fn set_policies(&self, group: &str, policies: Policies) -> Result<(), CommandError> {
        let name = group.to_owned();
        let group =
            self.update(move |objects| objects.set_group(&name, |g| g.policies = policies).cloned()).await?;
        let changed = group.clone();
        self.control(move |controller| controller.policy_changed(&changed)).await?;
        self.share_policies(&group).await
    }

    /// Tells the other array a group's policies; one that is not reached hears of them when it is.
    async fn share_policies(&self, group: &Group) -> Result<(), CommandError> {
        let Group { uuid, started, policies, .. } = *group;
        match self.ask_peer(PeerRequest::SetPolicies { group: uuid, started, policies }).await {
            Ok(()) | Err(CommandError::PeerUnreachable) => Ok(()),
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

    /// `removercopygroup`: a stopped group, on both arrays.
    ///
    /// # Errors
    /// The group is started.
    pub async fn remove_group(&self, group: &str) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let entry = snapshot.group_named(group).cloned().ok_or_else(|| missing(Kind::Group, group))?;
        snapshot.as_ref().clone().remove_group(group, 0)?;
        match self.ask_peer(PeerRequest::RemoveGroup(entry.uuid)).await {
            // It hears of the tombstone when it is back.
            Ok(()) | Err(CommandError::PeerUnreachable) => {}
            Err(error) => return Err(error),
        }
        self.remove_group_here(&entry).await
    }

    async fn remove_group_here(&self, group: &Group) -> Result<(), CommandError> {
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
            return Err(missing(Kind::Group, &Uuid::from_bytes(group.0).to_string()));
        };
        Ok(wait.await.map_err(|_| CommandError::ShuttingDown)??)
    }

    // What the other array asks for.

    /// Carries out a request of the other array.
    pub async fn serve_peer(&self, body: &[u8]) -> PeerAnswer {
        let Some(request) = PeerRequest::decode(body) else {
            return PeerAnswer::refused(
                PeerRefusal::Other,
                "a request of no known shape; upgrade this array",
            );
        };
        match self.carry_out_for_peer(request).await {
            Ok(()) => PeerAnswer::Done,
            Err(error) => PeerAnswer::refused(PeerRefusal::of(&error), &error.to_string()),
        }
    }

    async fn carry_out_for_peer(&self, request: PeerRequest) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let named =
            |uuid: Uuid| snapshot.group(uuid).cloned().ok_or_else(|| missing(Kind::Group, &uuid.to_string()));
        match request {
            PeerRequest::Introduce { target, portals } => {
                let portals = portals.into_iter().map(|portal| (portal, PORTAL_GROUP_TAG)).collect();
                self.exports.set_peer(TargetRecord { name: target, portals });
                Ok(())
            }
            PeerRequest::CreateGroup(new) => {
                let (group, chosen) = new.into_parts();
                if snapshot.group(group.uuid).is_some() {
                    return Ok(());
                }
                self.add_group(group, chosen).await.map(drop)
            }
            PeerRequest::RemoveGroup(group) => match snapshot.group(group).cloned() {
                Some(group) => self.remove_group_here(&group).await,
                None => Ok(()),
            },
            PeerRequest::AdmitVolume(volume) => {
                let group = named(volume.group)?;
                self.admit_for_peer(&group, volume).await
            }
            PeerRequest::Dismiss { group, volume } => {
                let group = named(group)?;
                match snapshot.volume(volume).cloned() {
                    Some(volume) if group.members.iter().any(|m| m.volume == volume.uuid) => {
                        self.dismiss_here(&group, &volume).await
                    }
                    _ => Ok(()),
                }
            }
            PeerRequest::GroupState(state) => {
                let (group, sequence) = (GroupId(state.group.into_bytes()), state.sequence);
                self.update(move |objects| objects.adopt_group_state(&state)).await?;
                self.control(move |controller| controller.event(group, Event::GroupState { sequence })).await
            }
            PeerRequest::SetPolicies { group, started, policies } => {
                let group = named(group)?;
                let group = self
                    .update(move |objects| {
                        let set = |g: &mut Group| (g.started, g.policies) = (started, policies);
                        objects.set_group_by_peer(&group.name, set).cloned()
                    })
                    .await?;
                self.control(move |controller| controller.policy_changed(&group)).await
            }
        }
    }

    /// The other array admits a volume: it is here with the same identity and size, or is made.
    async fn admit_for_peer(&self, group: &Group, volume: AdmitVolume) -> Result<(), CommandError> {
        if group.members.iter().any(|member| member.volume == volume.uuid) {
            return Ok(());
        }
        let snapshot = self.snapshot();
        match snapshot.volume_named(&volume.name) {
            Some(known) if known.size_bytes != volume.size_bytes => {
                let (found, expected) = (known.size_bytes, volume.size_bytes);
                return Err(CommandError::SizeMismatch { name: volume.name, found, expected });
            }
            Some(known) if known.uuid != volume.uuid => {
                let (kind, name) = (Kind::Volume, volume.name);
                return Err(ObjectError::Exists { kind, name }.into());
            }
            Some(_) => {}
            None => {
                let new = NewVolume {
                    name: volume.name.clone(),
                    size_bytes: volume.size_bytes,
                    path: None,
                    full: volume.full,
                    comment: String::new(),
                };
                self.make_volume(new, volume.uuid, volume.naa).await?;
            }
        }
        let member = Member { volume: volume.uuid, remote_name: volume.remote_name };
        let name = group.name.clone();
        self.update(move |objects| objects.admit(&name, member)).await?;
        self.enrol(group, VolumeId(volume.uuid.into_bytes()), false).await
    }
}

fn missing(kind: Kind, name: &str) -> CommandError {
    ObjectError::Missing { kind, name: name.to_owned() }.into()
}

/// Used by views of tenure in logs.
#[must_use]
pub fn tenure_text(tenure: Tenure) -> String {
    format!("{}.{}", tenure.lineage.counter, tenure.epoch.0)
}
