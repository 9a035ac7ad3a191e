//! A copy that counts for nothing, and its enrolment (rule 18).
//!
//! An array that lost its `data_dir`, or one volume of a group, or that was restored from a backup, has
//! nothing to say in that group: its votes and its data may lack what was acknowledged. It has no control
//! for the group, so that it votes for nothing, grants nothing and answers no session; to everybody it is
//! as if it were dead. The primary, once it is alone in the configuration, offers it the group anew: then
//! no vote that was lost can matter (phase 1 of the next epoch is the primary by itself), and the copy is
//! brought up to date as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use uuid::Uuid;

use crate::arbitration::{Config, VoterRecord};
use crate::array::rpc::{AdmitVolume, NewGroup, Offer, PeerRequest};
use crate::group::{Enrolment, Life, Role, enrolment, may_hold_more};
use crate::link::said::Said;
use crate::mirror::VolumeId;
use crate::mirror::WritePromise;
use crate::store::objects::{Absent, Group, Kind, Member, ObjectError, Provisioning};

use super::{CommandError, Handle, NewVolume, missing, now_seconds};

/// How often the primary looks whether the other array has its groups.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without a session before the group is offered: a session takes less to come up.
const LOOKS: u32 = 3;
/// Looks between two offers of one group.
const OFFER_EVERY: u32 = 10;

/// A group that this array takes no part in.
#[derive(Clone, Debug)]
pub struct AbsentCopy {
    /// In words.
    pub why: String,
    /// The last configuration this array knew, if it still knows.
    pub chosen: Option<Config>,
}

/// The groups that this array takes no part in, and the one enrolment that may run.
#[derive(Clone, Debug, Default)]
pub struct AbsentCopies {
    groups: Arc<Mutex<BTreeMap<Uuid, AbsentCopy>>>,
    enrolling: Arc<tokio::sync::Mutex<()>>,
}

impl AbsentCopies {
    pub fn new(groups: BTreeMap<Uuid, AbsentCopy>) -> Self {
        Self { groups: Arc::new(Mutex::new(groups)), enrolling: Arc::default() }
    }

    /// Why this array takes no part in a group; `None`: it does.
    pub fn get(&self, group: Uuid) -> Option<AbsentCopy> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    fn insert(&self, group: Uuid, copy: AbsentCopy) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).insert(group, copy);
    }

    pub(super) fn remove(&self, group: Uuid) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }
}

impl Handle {
    /// Offers the groups in which this array is alone to the other one, when that is linked and does not
    /// answer for them. Never ends.
    pub async fn keep_enrolling(self) {
        let mut silent: BTreeMap<Uuid, u32> = BTreeMap::new();
        // Each reason once.
        let said = Said::default();
        loop {
            tokio::time::sleep(LOOK).await;
            let objects = self.snapshot();
            silent.retain(|group, _| objects.group(*group).is_some());
            for group in objects.groups() {
                let looks = silent.entry(group.uuid).or_default();
                if !self.misses_its_copy(group) {
                    *looks = 0;
                    continue;
                }
                *looks += 1;
                if *looks % OFFER_EVERY != LOOKS {
                    continue;
                }
                if let Err(error) = self.offer(group).await
                    && said.is_new(&error.to_string())
                {
                    tracing::warn!(group = group.name, %error, "the other array was not enrolled");
                }
            }
        }
    }

    /// There is something to offer; asked of what everybody may read.
    fn misses_its_copy(&self, group: &Group) -> bool {
        group.started
            && self.view(group.group_id()).is_some_and(|view| {
                view.role == Role::Primary && view.reason.is_none() && view.link_up && !view.session_up
            })
    }

    async fn offer(&self, group: &Group) -> Result<(), CommandError> {
        let Some(peer) = self.links().await?.peer else { return Ok(()) };
        let id = group.group_id();
        let Some(chosen) = self.control(move |controller| controller.offer(id)).await? else {
            return Ok(());
        };
        let written = self.control(|controller| controller.written()).await?;
        written.await.map_err(|_| CommandError::ShuttingDown)?;
        let snapshot = self.snapshot();
        // NAME on the natural primary, NAME.rID on the other one.
        let theirs = match group.name.rsplit_once(".r") {
            Some((name, _)) if group.natural != self.side => name.to_owned(),
            _ => format!("{}.r{}", group.name, self.system_id),
        };
        debug_assert_ne!(peer.system, self.system_id);
        let volumes = group.members.iter().filter_map(|member| {
            let volume = snapshot.volume(member.volume)?;
            Some(AdmitVolume {
                group: group.uuid,
                uuid: volume.uuid,
                naa: volume.naa,
                size_bytes: volume.size_bytes,
                name: member.remote_name.clone(),
                remote_name: volume.name.clone(),
                full: volume.provisioning == Provisioning::Full,
                memory: volume.promise == WritePromise::Memory,
            })
        });
        let offer = Offer {
            volumes: volumes.collect(),
            group: NewGroup::new(
                &Group {
                    name: theirs,
                    target: self.name.clone(),
                    members: Vec::new(),
                    sequence: 0,
                    told: None,
                    absent: Some(Absent::Lost),
                    ..group.clone()
                },
                &chosen,
            ),
        };
        self.ask_peer(PeerRequest::Offer(offer)).await
    }

    /// The primary offers this array a group: if this array takes no part in it, it is enrolled, and
    /// nothing it held counts.
    pub(super) async fn enrol_for_peer(&self, offer: Offer) -> Result<(), CommandError> {
        let _one = self.absent.enrolling.lock().await;
        let (mut group, chosen) = offer.group.into_parts();
        match self.snapshot().group(group.uuid).cloned() {
            Some(known) => {
                let Some(copy) = self.absent.get(known.uuid) else { return Ok(()) };
                if known.absent != Some(Absent::Discarded) && may_hold_more(copy.chosen, &chosen) {
                    return Err(CommandError::MayHoldMore(known.name));
                }
                self.must_be_renewable(&known).await?;
                group = known;
            }
            None => {
                let copy = AbsentCopy { why: "it is being enrolled".into(), chosen: None };
                self.absent.insert(group.uuid, copy);
                let new = Group { target: self.peer_name.clone().unwrap_or_default(), ..group.clone() };
                group = self.update(move |objects| objects.add_group(new).cloned()).await?;
            }
        }
        // From here on, until all of it is durable, a crash leaves a group that counts for nothing.
        for step in enrolment() {
            self.take_enrolment_step(*step, &mut group, &offer.volumes, chosen).await?;
        }
        Ok(())
    }

    async fn take_enrolment_step(
        &self,
        step: Enrolment,
        group: &mut Group,
        volumes: &[AdmitVolume],
        chosen: Config,
    ) -> Result<(), CommandError> {
        let (uuid, id, record) = (group.uuid, group.group_id(), VoterRecord::new(chosen));
        match step {
            Enrolment::Absent => {
                let absent = group.absent.unwrap_or(Absent::Lost);
                self.update(move |objects| objects.set_absent(uuid, Some(absent)).map(drop)).await?;
            }
            Enrolment::Others => self.dismiss_others(group, volumes).await?,
            Enrolment::Copies => {
                for volume in volumes {
                    self.begin_anew(group, volume).await?;
                }
            }
            Enrolment::Vote => {
                let written = self.control(move |controller| controller.write_vote(id, record)).await?;
                written.await.map_err(|_| CommandError::ShuttingDown)?;
            }
            Enrolment::Present => {
                let (name, policies) = (group.name.clone(), group.policies);
                *group = self
                    .update(move |objects| {
                        objects.set_absent(uuid, None)?;
                        objects
                            .set_group_by_peer(&name, |group| {
                                (group.started, group.policies) = (true, policies)
                            })
                            .cloned()
                    })
                    .await?;
                #[cfg(feature = "testing")]
                crate::volume::fault::dies_enrolled();
            }
            Enrolment::Begin => {
                let members =
                    group.members.iter().filter_map(|m| self.volumes.get(VolumeId(m.volume.into_bytes())));
                let (members, entry) = (members.collect(), group.clone());
                self.control(move |controller| {
                    controller.add_group(&entry, record, Life::Restarted, members, true);
                })
                .await?;
                self.absent.remove(uuid);
                self.exports.rebuild(self);
                let text = "this array's copy counts for nothing: it is enrolled anew, and copied as a whole";
                self.log.add(Some(group.name.clone()), Some(chosen.epoch.0), text.into());
            }
        }
        Ok(())
    }

    /// Nothing stands in the way of the volumes that do not open: until that is so nothing is changed, and the right
    /// disk, put back, is taken as it is.
    async fn must_be_renewable(&self, group: &Group) -> Result<(), CommandError> {
        let snapshot = self.snapshot();
        let lost: Vec<_> = group
            .members
            .iter()
            .filter_map(|member| snapshot.volume(member.volume).cloned())
            .filter(|volume| self.volumes.get(volume.volume_id()).is_none())
            .collect();
        self.blocking(move |this| {
            lost.iter().try_for_each(|volume| this.volumes.is_renewable(volume)).map_err(CommandError::from)
        })
        .await
    }

    /// Members that the primary's group has no more leave it here as well, with their exports.
    async fn dismiss_others(&self, group: &Group, offered: &[AdmitVolume]) -> Result<(), CommandError> {
        for member in &group.members {
            if offered.iter().any(|volume| volume.uuid == member.volume) {
                continue;
            }
            let (group, volume) = (group.uuid, member.volume);
            self.update(move |objects| objects.drop_member(group, volume)).await?;
        }
        Ok(())
    }

    /// The volume is here, with nothing in it that counts.
    async fn begin_anew(&self, group: &Group, wanted: &AdmitVolume) -> Result<(), CommandError> {
        let known = self.snapshot().volume(wanted.uuid).cloned();
        let is_member = group.members.iter().any(|member| member.volume == wanted.uuid);
        match &known {
            None => {
                let new = NewVolume {
                    name: wanted.name.clone(),
                    size_bytes: wanted.size_bytes,
                    path: None,
                    full: wanted.full,
                    comment: String::new(),
                    promise: wanted.promise(),
                };
                self.make_volume(new, wanted.uuid, wanted.naa).await?;
            }
            // Somebody's volume that was never, or is no more, of this group.
            Some(volume) if !is_member => {
                let name = volume.name.clone();
                return Err(ObjectError::Exists { kind: Kind::Volume, name }.into());
            }
            Some(volume) if volume.promise != wanted.promise() => {
                return Err(CommandError::PromiseMismatch { name: volume.name.clone() });
            }
            Some(volume) if volume.size_bytes > wanted.size_bytes => {
                let (found, expected) = (volume.size_bytes, wanted.size_bytes);
                return Err(CommandError::SizeMismatch { name: volume.name.clone(), found, expected });
            }
            Some(volume) => {
                let volume = volume.clone();
                self.blocking(move |this| {
                    if this.volumes.get(volume.volume_id()).is_none() {
                        // Never again is the old copy, wherever it turns up, taken for this one.
                        let next = this.objects.update(|o| o.renew_copy(volume.uuid).cloned())??;
                        this.volumes.renew(&next)?;
                        let text =
                            format!("volume {} begins anew, blank, at {}", next.name, next.path.display());
                        this.log.add(None, None, text);
                    }
                    Ok(())
                })
                .await?;
                self.grow_local(wanted.uuid, wanted.size_bytes).await?;
            }
        }
        if !is_member {
            let member = Member { volume: wanted.uuid, remote_name: wanted.remote_name.clone() };
            let name = group.name.clone();
            self.update(move |objects| objects.admit_by_peer(&name, member)).await?;
        }
        let id = VolumeId(wanted.uuid.into_bytes());
        self.blocking(move |this| this.volumes.disown(id).map_err(CommandError::Disown)).await
    }

    /// `setrcopygroup discard` where this array takes no part in the group: what its copy may hold alone is
    /// given up, and the primary may enrol it.
    pub(super) async fn discard_absent(&self, group: &Group) -> Result<(), CommandError> {
        if self.absent.get(group.uuid).is_none() {
            return Err(missing(Kind::Group, &group.name));
        }
        let uuid = group.uuid;
        self.update(move |objects| objects.set_absent(uuid, Some(Absent::Discarded)).map(drop)).await
    }

    /// `removercopygroup` where this array takes no part in the group: here alone, its volumes are this array's
    /// own from then on, as they are, and exported to nobody: hosts know them as the primary's.
    ///
    /// # Errors
    /// A volume that is not open.
    pub(super) async fn remove_absent_group(&self, group: &Group) -> Result<(), CommandError> {
        let (uuid, name, exported) = (group.uuid, group.name.clone(), self.serves(group));
        let taken = self
            .update(move |objects| {
                let taken = if exported { Vec::new() } else { objects.unexport(uuid)?.vluns };
                objects.set_group_by_peer(&name, |group| group.started = false)?;
                objects.remove_group(&name, now_seconds()).map(|_| taken)
            })
            .await?;
        self.tell_unexported(group, &taken);
        self.absent.remove(uuid);
        self.exports.rebuild(self);
        Ok(())
    }

    /// This array's `data_dir` is older than one that was heard before: from the next start on it is a new
    /// array, and takes no part in any group. Returns when that is durable.
    ///
    /// # Errors
    /// The disk's.
    pub async fn become_new(&self) -> Result<(), CommandError> {
        self.update(|objects| {
            objects.set_all_absent();
            Ok(())
        })
        .await?;
        self.blocking(|this| Ok(this.data_dir.become_new()?)).await
    }
}
