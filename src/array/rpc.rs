//! What the management sides of two arrays ask each other, as JSON in a control frame.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::arbitration::{Config, Reader, Writer};
use crate::mirror::WritePromise;
use crate::store::objects::{Group, GroupState, KnownTenure, ObjectError, Policies};

use super::handle::CommandError;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerRequest {
    /// The asking array's target, for SendTargets here.
    Introduce {
        target: String,
        portals: Vec<String>,
    },
    CreateGroup(NewGroup),
    RemoveGroup(Uuid),
    AdmitVolume(AdmitVolume),
    Dismiss {
        group: Uuid,
        volume: Uuid,
    },
    /// What the primary tells; or the next state, by the word of the secondary's operator.
    GroupState(GroupState),
    /// The copy grows to this size, before the asking array's does.
    GrowVolume {
        volume: Uuid,
        size_bytes: u64,
    },
    /// The asking array is alone in this group and offers it anew, to an array that has lost it.
    Offer(Offer),
    /// The word of the asking array's operator, kept alike on both.
    SetPolicies {
        group: Uuid,
        started: bool,
        policies: Policies,
        /// The asking array's term of office of the group's primary, as it knows it: a primary that is newer
        /// does not take the word of its predecessor, who may not know yet. Absent: an older version.
        #[serde(default)]
        tenure: Option<KnownTenure>,
    },
}

/// A group as its creator hands it over, with epoch 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewGroup {
    group: Group,
    /// The configuration as votes carry it.
    chosen: Vec<u8>,
}

impl NewGroup {
    pub fn new(group: &Group, chosen: &Config) -> Self {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes).config(chosen);
        Self { group: group.clone(), chosen: bytes }
    }

    /// # Panics
    /// Never after [`PeerRequest::decode`], which has read the configuration once.
    pub fn into_parts(self) -> (Group, Config) {
        let chosen = Reader::new(&self.chosen).config().expect("read once by decode");
        (self.group, chosen)
    }
}

/// A group as its primary offers it: the configuration is the present one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offer {
    pub group: NewGroup,
    pub volumes: Vec<AdmitVolume>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdmitVolume {
    pub group: Uuid,
    pub uuid: Uuid,
    pub naa: [u8; 16],
    pub size_bytes: u64,
    /// Its name on the array that is asked.
    pub name: String,
    /// Its name on the array that asks.
    pub remote_name: String,
    /// Fully provisioned: the copy must be as well.
    pub full: bool,
    /// Its write promise is *memory*; so must the copy's be.
    #[serde(default)]
    pub memory: bool,
}

impl AdmitVolume {
    pub const fn promise(&self) -> WritePromise {
        if self.memory { WritePromise::Memory } else { WritePromise::Stable }
    }
}

/// Kinds of refusal that the asking side tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRefusal {
    Exists,
    Missing,
    InUse,
    SizeMismatch,
    NoSpace,
    Other,
}

impl PeerRefusal {
    pub fn of(error: &CommandError) -> Self {
        match error {
            CommandError::Object(ObjectError::Exists { .. }) => Self::Exists,
            CommandError::Object(ObjectError::Missing { .. }) => Self::Missing,
            CommandError::Object(ObjectError::InUse { .. }) => Self::InUse,
            CommandError::SizeMismatch { .. } | CommandError::PromiseMismatch { .. } => Self::SizeMismatch,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum PeerAnswer {
    Done,
    Refused { code: PeerRefusal, message: String },
}

impl PeerRequest {
    pub fn encode(&self) -> Vec<u8> {
        // Plain data without maps of odd keys: cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        let request: Self = serde_json::from_slice(body).ok()?;
        match &request {
            Self::CreateGroup(new) | Self::Offer(Offer { group: new, .. })
                if Reader::new(&new.chosen).config().is_none() =>
            {
                None
            }
            _ => Some(request),
        }
    }
}

impl PeerAnswer {
    pub fn refused(code: PeerRefusal, message: &str) -> Self {
        Self::Refused { code, message: message.to_owned() }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, Lineage, Tenure};

    #[test]
    fn terms_of_office_are_ordered_by_lineage_then_epoch_and_older_versions_tell_none() {
        let known = |counter, epoch| {
            let lineage = Lineage { counter, id: 9 };
            KnownTenure::from(Tenure { lineage, epoch: Epoch(epoch) })
        };
        assert!(known(1, 5) < known(1, 6) && known(1, 6) < known(2, 3));
        let policies = Policies::default();
        let told = PeerRequest::SetPolicies { group: Uuid::nil(), started: true, policies, tenure: None };
        let mut old: serde_json::Value = serde_json::from_slice(&told.encode()).unwrap();
        old["SetPolicies"].as_object_mut().unwrap().remove("tenure");
        let read = PeerRequest::decode(old.to_string().as_bytes()).unwrap();
        assert!(matches!(read, PeerRequest::SetPolicies { started: true, tenure: None, .. }));
    }
}
