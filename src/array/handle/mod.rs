//! What operators can do with an array: objects and groups, checked, durable, on both arrays where
//! they belong to both. The management API is a face on this.

mod absent;
mod groups;
mod hosts;
mod members;
mod overriding;
mod peer;
mod verify;
mod volumes;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::arbitration::{GroupId, Incarnation, Side};
use crate::group::{PathView, Refused, Role};
use crate::mirror::LaneId;
use crate::portal::Sessions;
use crate::store::data_dir::DataDir;
use crate::store::objects::{Group, Kind, ObjectError, ObjectStore, Objects, StoreError};
use crate::volume::RollBackError;

use super::control::{Controller, Input, PEER_REQUEST};
use super::events::EventLog;
use super::exports::ExportTable;
use super::groups::Views;
use super::rpc::{PeerAnswer, PeerRefusal, PeerRequest};
use super::volumes::{OpenError, VolumeSet};

pub use absent::{AbsentCopies, AbsentCopy};
pub use volumes::{MIB, NewVolume, VOLUME_MAX};

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
    #[error(transparent)]
    Verify(#[from] crate::mirror::VerifyRefused),
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
    #[error("group {0} is in sync; stop it first")]
    InSync(String),
    #[error("this array does not serve group {0} now; showrcopy says why, try again when it does")]
    NotServing(String),
    #[error("this array is not the primary of group {0}; give the command there")]
    NotPrimary(String),
    #[error(
        "this array is the secondary of group {0} and does not reach the primary, whose word counts; \
         repair the replication links (showrcopy), or give the command on the primary"
    )]
    PrimaryUnreachable(String),
    #[error("the two arrays held different states of group {0}; try again")]
    StaleGroupState(String),
    #[error("volume {name} is already there on the other array with {found} bytes, here it has {expected}")]
    SizeMismatch { name: String, found: u64, expected: u64 },
    #[error("volume {name} is there with another write promise; both copies need the same one")]
    PromiseMismatch { name: String },
    #[error(
        "volume {volume} is mirrored: both copies grow together, so give growvv on the primary of group {group} while it is in sync (showrcopy)"
    )]
    GrowsInSync { volume: String, group: String },
    #[error("volume {volume}: {error}")]
    RollBack { volume: String, error: RollBackError },
    #[error(
        "this array's data_dir does not take what its copies held before (showeventlog): nothing was put back; \
         check that disk, then override again"
    )]
    CutNotWritten,
    #[error(
        "this array's copy of group {0} counts for nothing here, but may hold what the other array never had; \
         give it up by setrcopygroup discard on this array, or look at its volumes first"
    )]
    MayHoldMore(String),
    #[error("this array takes no part in group {group} until the primary has enrolled it: {why}")]
    Absent { group: String, why: String },
    #[error("dirty map: {0}")]
    Disown(std::io::Error),
    #[error(transparent)]
    DataDir(#[from] crate::store::DataDirError),
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
    pub absent: AbsentCopies,
    pub inputs: mpsc::UnboundedSender<Input>,
}

impl std::ops::Deref for Handle {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
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

    /// Changes hosts and exports. Where they belong to a group whose secondary this array is, the
    /// primary takes the change first: it gives its own state to this array at the next join, and
    /// what it had not heard of would be undone then.
    ///
    /// # Errors
    /// `change`'s own; a primary that is not reached or refuses. Nothing is changed.
    async fn update_shared<T: Send + 'static>(
        &self,
        change: impl Fn(&mut Objects) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let before = self.snapshot();
        let mut after = before.as_ref().clone();
        change(&mut after)?;
        let touched: Vec<_> = after
            .groups()
            .filter(|group| before.group(group.uuid).is_some_and(|old| old.sequence != group.sequence))
            .cloned()
            .collect();
        let mut taken = Vec::new();
        for group in touched.iter().filter(|group| !self.is_primary(group)) {
            // The next one to what the primary has told.
            let state = after.group_state(group.uuid, group.told)?;
            self.tell_primary(group, PeerRequest::GroupState(state)).await?;
            taken.push((group.uuid, group.sequence));
        }
        let value = self.update(move |objects| objects.change_as_taken(&taken, change)).await?;
        for group in touched {
            self.share_group_state(group.uuid).await?;
        }
        Ok(value)
    }

    /// Does this array serve a group right now?
    pub fn serves_any(&self) -> bool {
        self.views.load().values().any(|view| view.reason.is_none())
    }

    fn is_primary(&self, group: &Group) -> bool {
        self.view(group.group_id()).is_some_and(|view| view.role == Role::Primary)
    }

    /// Asks the primary of a group whose secondary this array is.
    async fn tell_primary(&self, group: &Group, request: PeerRequest) -> Result<(), CommandError> {
        match self.ask_peer(request).await {
            Err(CommandError::PeerUnreachable) => Err(CommandError::PrimaryUnreachable(group.name.clone())),
            other => other,
        }
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
}

fn missing(kind: Kind, name: &str) -> CommandError {
    ObjectError::Missing { kind, name: name.to_owned() }.into()
}
