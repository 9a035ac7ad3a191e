//! `checkrcopygroup`: both copies of a group's volumes are compared on line.

use crate::mirror::VolumeId;
use crate::store::objects::{Group, Kind};

use super::{CommandError, Handle, missing};

impl Handle {
    /// Begins to compare both copies of a group's volumes, or of one of them; with `repair` what differs is
    /// written anew on the other array. How it goes is told by each volume (`Volume::verified`).
    ///
    /// # Errors
    /// See [`crate::mirror::VerifyRefused`]; nothing is begun.
    pub async fn verify(&self, group: &str, volume: Option<&str>, repair: bool) -> Result<(), CommandError> {
        let entry = self.group(group)?;
        let members = self.members_named(&entry);
        let members = match volume {
            None => members,
            Some(name) => {
                let one: Vec<_> = members.into_iter().filter(|(_, known)| known == name).collect();
                if one.is_empty() {
                    return Err(missing(Kind::Member, name));
                }
                one
            }
        };
        let id = entry.group_id();
        let begun = self.control(move |controller| controller.verify(id, &members, repair)).await?;
        Ok(begun.ok_or_else(|| self.takes_no_part(id))??)
    }

    /// Gives up the verifies of a group that are under way; none is no error.
    ///
    /// # Errors
    /// No such group here.
    pub async fn cancel_verify(&self, group: &str) -> Result<(), CommandError> {
        let id = self.group(group)?.group_id();
        let given_up = self.control(move |controller| controller.cancel_verify(id)).await?;
        given_up.ok_or_else(|| self.takes_no_part(id))
    }

    fn group(&self, name: &str) -> Result<Group, CommandError> {
        self.snapshot().group_named(name).cloned().ok_or_else(|| missing(Kind::Group, name))
    }

    fn members_named(&self, group: &Group) -> Vec<(VolumeId, String)> {
        let objects = self.snapshot();
        let named = |volume| objects.volume(volume).map(|known| (known.volume_id(), known.name.clone()));
        group.members.iter().filter_map(|member| named(member.volume)).collect()
    }
}
