//! Volumes enter and leave remote copy groups, on both arrays.

use crate::array::dying;
use crate::array::rpc::{AdmitVolume, PeerRequest};
use crate::group::membership::{self, At, Step};
use crate::group::{Command, Event, PathView, Refused};
use crate::mirror::WritePromise;
use crate::store::objects::{Group, Kind, Member, ObjectError, Objects, Provisioning, VirtualVolume};

use super::{CommandError, Handle, missing};

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

    fn may_change_members(&self, group: &Group) -> Result<(), CommandError> {
        PathView::may_change_members(self.view(group.group_id()).as_ref()).map_err(|refused| match refused {
            Refused::InSync => CommandError::InSync(group.name.clone()),
            _ => CommandError::NotPrimary(group.name.clone()),
        })
    }
}
