//! What the other array asks of this one.

use uuid::Uuid;

use crate::arbitration::Epoch;
use crate::array::exports::PORTAL_GROUP_TAG;
use crate::array::rpc::{AdmitVolume, PeerAnswer, PeerRefusal, PeerRequest};
use crate::group::membership::{self, At};
use crate::group::{Event, Role};
use crate::iscsi::TargetRecord;
use crate::store::objects::{Adopted, Group, GroupState, Kind, KnownTenure, Member, ObjectError, Objects};

use super::members::MemberChange;
use super::{CommandError, Handle, NewVolume, missing};

impl Handle {
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
                Some(group) => self.remove_group_here(&group, self.serves(&group)).await,
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
                        let serves = self.serves(&group);
                        let change =
                            MemberChange { group, volume, member: None, request: None, full: false, serves };
                        self.take_steps(&change, membership::leaving(At::There)).await
                    }
                    _ => Ok(()),
                }
            }
            PeerRequest::GroupState(state) => self.hear_group_state(&named(state.group)?, state).await,
            PeerRequest::Offer(offer) => self.enrol_for_peer(offer).await,
            PeerRequest::GrowVolume { volume, size_bytes } => self.grow_local(volume, size_bytes).await,
            PeerRequest::SetPolicies { group, started, policies, tenure } => {
                let group = named(group)?;
                let view = self.view(group.group_id());
                let primary = view.filter(|view| view.role == Role::Primary);
                if primary
                    .is_some_and(|view| tenure.is_some_and(|told| told < KnownTenure::from(view.tenure)))
                {
                    return Ok(()); // of a former primary that does not know yet; it is told this array's
                }
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

    /// The other array tells its state of a group; or its operator wants this array, the primary, to take the next one.
    async fn hear_group_state(&self, known: &Group, state: GroupState) -> Result<(), CommandError> {
        let Some(view) = self.view(known.group_id()) else {
            return Ok(()); // absent: it is told anew when this array takes part
        };
        let present = KnownTenure::from(view.tenure);
        let tenure = state.tenure.unwrap_or(present);
        // A term of office that is newer than the one known here is another array's.
        let asked = view.role == Role::Primary && tenure <= present;
        if asked && tenure < present {
            return Err(self.tell_instead(known).await);
        }
        // The other array's copies grew, and this one's was not reached or was cut off.
        for shared in &state.volumes {
            self.grow_local(shared.uuid, shared.size_bytes).await?;
        }
        let (id, sequence) = (known.group_id(), state.sequence);
        let state = GroupState { tenure: Some(tenure), ..state };
        let adopt = move |objects: &mut Objects| {
            if asked { objects.take_change(&state) } else { objects.adopt_group_state(&state) }
        };
        let event = match (self.update(adopt).await?, asked) {
            (Adopted::Older, true) => return Err(self.tell_instead(known).await),
            (Adopted::Older, false) => return Ok(()),
            (_, true) => Event::GroupState { sequence },
            (_, false) => Event::StateTold { lineage: tenure.lineage, epoch: Epoch(tenure.epoch), sequence },
        };
        self.control(move |controller| controller.event(id, event)).await
    }

    /// The other array wanted to change a state that is not this one's: it is told this one's.
    async fn tell_instead(&self, group: &Group) -> CommandError {
        match self.share_group_state(group.uuid).await {
            Ok(()) => CommandError::StaleGroupState(group.name.clone()),
            Err(error) => error,
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
            Some(known) if known.promise != volume.promise() => {
                return Err(CommandError::PromiseMismatch { name: volume.name });
            }
            Some(_) => {}
            None => {
                let new = NewVolume {
                    name: volume.name.clone(),
                    size_bytes: volume.size_bytes,
                    path: None,
                    full: volume.full,
                    comment: String::new(),
                    promise: volume.promise(),
                };
                self.make_volume(new, volume.uuid, volume.naa).await?;
            }
        }
        let member = Member { volume: volume.uuid, remote_name: volume.remote_name };
        self.snapshot().as_ref().clone().admit_by_peer(&group.name, member.clone())?;
        let known = self.snapshot().volume(volume.uuid).cloned();
        let change = MemberChange {
            volume: known.ok_or_else(|| missing(Kind::Volume, &volume.name))?,
            member: Some(member),
            request: None,
            full: false,
            serves: false,
            group: group.clone(),
        };
        self.take_steps(&change, membership::entry(At::There)).await
    }
}
