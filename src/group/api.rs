//! The words between a [`Control`](super::Control) and its shell.

use crate::arbitration::{
    Connection, Epoch, GroupId, InSync, Incarnation, MemoryId, Message, Quorum, Side, Tenure, Timers, Voter,
    VoterRecord,
};
use crate::mirror::{LaneId, RegionRun, SessionId, Volume, VolumeAction, VolumeId};
use crate::time::Duration;

use super::probe::{Probed, Trouble};

/// Every volume of the group, one after the other, each under its lock. The closure's vector takes
/// the volume's actions; the shell carries them out once `each` returned (the lock is not held).
/// The order is the same at every call.
pub trait Members {
    fn each(&mut self, f: &mut dyn FnMut(VolumeId, &mut Volume, &mut Vec<VolumeAction>));
}

/// Identity of one life of an array's process, random at each start (rule 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNonce(pub [u8; 16]);

/// What the operator set for the group; kept by the shell with its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// `startrcopygroup` was given and not taken back: the group is to be mirrored.
    pub started: bool,
    /// ATF: an in-sync secondary is promoted without an operator.
    pub auto_failover: bool,
    /// After a loss of the mirror under unchanged roles the group is mirrored again by itself; else
    /// it is stopped until an operator starts it.
    pub auto_recover: bool,
    /// The same after a failover: the former primary is mirrored to by itself; else `recover` does it.
    pub auto_synchronize: bool,
}

/// How this life of the control began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// The group was just made here (genesis) or taken over from its creator: nothing is forgotten.
    Created,
    /// Read from disk after a restart of the process.
    Restarted,
}

/// What a [`Control`](super::Control) is made of.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub me: Side,
    pub group: GroupId,
    pub record: VoterRecord,
    pub life: Life,
    pub policy: Policy,
    pub timers: Timers,
    /// Boot counter of this array: durable, raised before the first hello of this life.
    pub boot: u64,
    /// Own boot nonce, as in the hello of the pair.
    pub nonce: BootNonce,
    /// What holds unflushed writes in this life: the same as in a former life only if nothing of what that
    /// one had written was lost, and all of it is flushed by now (T13).
    pub memory: MemoryId,
    /// Seed of the retries' random delays.
    pub seed: u64,
}

/// Everything that can happen to a group. Handing one in twice, late, or for a connection that is
/// gone is harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `next_timeout` has come (or any other moment).
    Tick,
    /// The control connection to the peer is up, its hello read. A later `LinkUp` replaces it.
    LinkUp {
        connection: Connection,
        peer: BootNonce,
    },
    /// The control connection is gone, or `Liveness` no longer counts it as alive.
    LinkDown,
    WitnessUp {
        connection: Connection,
    },
    WitnessDown,
    /// A lane can carry frames.
    LaneUp(LaneId),
    /// A lane was given up (closed, or silent for `lane_timeout`).
    LaneLost(LaneId),
    /// From the peer or the witness, on a connection that is or was up.
    Message {
        from: Voter,
        connection: Connection,
        message: Message,
    },
    /// From the peer's control of this group.
    Session {
        connection: Connection,
        message: SessionMessage,
    },
    /// Every `Persist` up to this sequence is on stable storage.
    Persisted {
        sequence: u64,
    },
    /// A volume asks to be looked at (`VolumeAction::Poke`).
    Poke,
    /// Volumes were enrolled or withdrawn (by the shell, under their locks, before this).
    MembersChanged,
    /// What [`Command::HoldMembers`] was for is over.
    MembersSettled,
    /// A write to `data_dir` is outstanding longer than `disk_timeout`, or no longer.
    DataDir {
        stalled: bool,
    },
    /// What the probes say of the disks of the group's volumes, after each of them.
    Disk(Probed),
    /// This array's objects of the group have this number, by its own count.
    GroupState {
        sequence: u64,
    },
    /// They are what the primary of this term of office (counter of its lineage, epoch) told, with its number.
    StateTold {
        lineage: u32,
        epoch: Epoch,
        sequence: u64,
    },
    /// The operator set it, here or through the peer.
    Policy(Policy),
    /// The outcome comes as `Action::Outcome` with this ticket, perhaps much later.
    Command {
        ticket: u64,
        command: Command,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Switch roles, nothing lost, nothing failed. On the secondary it is passed on to the primary.
    SwitchOver,
    /// `setrcopygroup failover`, on the secondary: see DESIGN §3.2.
    FailOver,
    /// An operator's new lineage, with his word that the other array is off (ARBITRATION *override*).
    /// `stale`: even if this copy lacks what the other array acknowledged alone (`setrcopygroup
    /// override`); else it must be in sync (`setrcopygroup failover -f`).
    Override {
        stale: bool,
    },
    /// What this array wrote alone before an override ended its history may be overwritten.
    Discard,
    /// Leave office (SIGTERM), and leave nothing in memory. On the secondary done when everything is flushed.
    HandOver,
    /// `stoprcopygroup` / `startrcopygroup`; `Action::Policy` follows.
    Stop,
    Start,
    /// `removercopygroup`: a tombstone here and, as they are reached, with peer and witness.
    Remove,
    /// Members are about to be changed, or the group removed, on both arrays: nothing is mirrored until
    /// [`Event::MembersSettled`].
    HoldMembers,
}

/// What the shell must do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the record durably, then `Event::Persisted`. Records may be skipped for newer ones.
    Persist { sequence: u64, record: VoterRecord },
    /// Drop it when that connection is no longer up.
    Send { to: Voter, connection: Connection, message: Message },
    /// To the peer's control of this group; drop it when that connection is no longer up.
    SendSession { connection: Connection, message: SessionMessage },
    /// The host-visible state changed.
    Path(PathView),
    /// For the event log.
    Log { epoch: Epoch, entry: LogEntry },
    /// The end of a command.
    Outcome { ticket: u64, result: Result<(), Refused> },
    /// Tell the secondary the group's state (an RPC of the shell); its control is told by `Event::StateTold`.
    SendGroupState,
    /// `Policy::started` changed by a command here or at the peer: keep it with the objects.
    Policy(Policy),
    /// A tombstone is durable here; the shell forgets the group.
    Removed,
}

/// Longest list of runs in one `SessionMessage::Answer`.
pub const RUNS_MAX: usize = 1024;

/// Most volumes in one group.
pub const MEMBERS_MAX: usize = 256;

/// What the controls of one group on both arrays say to each other beside votes and leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionMessage {
    /// Primary: asks for this session. The members, with their capacity in blocks.
    Hello {
        tenure: Tenure,
        epoch: Epoch,
        session: SessionId,
        members: Vec<(VolumeId, u64)>,
    },
    /// Secondary: its dirty regions of one volume, in chunks. `last`: of the whole answer.
    Answer {
        session: SessionId,
        volume: Option<VolumeId>,
        runs: Vec<RegionRun>,
        last: bool,
    },
    /// Secondary: not this session.
    Decline {
        session: SessionId,
        why: Decline,
    },
    /// Primary: everything is copied; is the secondary ready to be joined?
    JoinQuery {
        session: SessionId,
        group_state: u64,
    },
    /// Secondary: it holds flushed data, map, and of the group states that this primary has told `group_state`.
    JoinReady {
        session: SessionId,
        group_state: u64,
    },
    /// The new primary of this tenure serves.
    Serving {
        tenure: Tenure,
    },
    /// The sender has heard the enrolled witness lately, or not (T17).
    WitnessLost(bool),
    /// The sender's disks are bad, or good (again): it cannot keep what is mirrored to it (F23).
    DiskBad(bool),
    /// The sender was in the {A,B} of this epoch and may have lost what its memory held, or not any more (T13).
    Tainted {
        epoch: Epoch,
        tainted: bool,
    },
    /// An operator at the sender asks the primary to do this; the answer names `number`.
    Request {
        number: u64,
        request: Request,
    },
    Reply {
        number: u64,
        result: Result<(), Refused>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    SwitchOver,
    FailOver,
    /// `Policy::started` was set at the sender.
    SetStarted(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Decline {
    /// The sender is not the chosen primary of that tenure here.
    #[error("it knows another primary")]
    NotPrimary,
    /// A newer session was seen.
    #[error("it has seen a newer session")]
    Old,
    /// The volumes differ in number, identity or size.
    #[error("its volumes differ in number, identity or size")]
    Members,
    #[error(
        "it holds writes that this array lacks, made before an override; give `setrcopygroup discard` there \
         to lose them"
    )]
    /// This copy holds writes of a history that an override ended; an operator must discard them.
    Diverged,
    #[error("its disk fails or does not finish its I/O; check that disk")]
    DiskBad,
    /// It restarted in sync, and may lack what its memory held: it is to be dropped first.
    #[error("it lost what its memory held; it is dropped and caught up")]
    Tainted,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    #[error("the group is not in sync; wait until it is (showrcopy)")]
    NotInSync,
    #[error("the primary serves; use switchover")]
    PeerServes,
    #[error("this copy is stale; only override can serve its old data")]
    Stale,
    #[error("the other array is not reached; check the replication links")]
    PeerUnreachable,
    #[error("this array is not the group's primary; give the command there")]
    NotPrimary,
    #[error("this array is the group's primary already")]
    AlreadyPrimary,
    #[error("regions are still being made equal after a restart or an error; try again later")]
    Recovering,
    #[error("another change of the group is under way; try again")]
    Busy,
    #[error("commands in flight did not end in time; the group goes on as before")]
    TimedOut,
    #[error("too few voters answered; it will be finished when they are reached")]
    Undecided,
    #[error("this array's disk fails or does not finish its I/O; check that disk")]
    DiskBad,
    #[error("the other array's disk fails or does not finish its I/O; check that disk")]
    PeerDiskBad,
    #[error("a promise to the primary still runs; try again in a few seconds")]
    PromiseRuns,
    #[error("the group is started; stop it first")]
    Started,
    #[error("the group is in sync, or about to be; stop it first")]
    InSync,
    #[error("the other array is linked; an override is for one that is off (use failover, or switchover)")]
    PeerLinked,
    #[error(
        "the primary may go on alone (agreed beforehand, or a pair without a witness), so nobody can tell \
         whether it does; if it is off, give your word for that: failover -f"
    )]
    PrimaryAlone,
    #[error("the group has its natural roles; there is nothing to recover or restore")]
    NotReversed,
    #[error("this array serves; there is nothing to override")]
    Serves,
    #[error(
        "this copy is not in sync, or may not be: what the other array acknowledged alone would be lost; \
         if that one is gone for good, use override"
    )]
    MayBeStale,
    #[error("this copy holds no writes of a history that an override ended; there is nothing to discard")]
    NotDiverged,
    #[error(
        "a promise to the other array did not end in time: it, or the witness, still hears that array; \
         switch it off"
    )]
    PromiseHolds,
}

/// The state of one target port group (SPC-5 5.17.2), for the group's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathState {
    Optimized,
    /// Commands are held until roles are clear, or the hold ends.
    NonOptimized,
    Standby,
    Transitioning,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Primary,
    Secondary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GroupState {
    Stopped,
    /// Started, not (yet) mirrored by itself.
    Started,
    /// Was primary, cannot prove it still is: serves nothing.
    Failsafe,
    SwitchingOver,
    /// In-sync secondary that waits for the promise to the lost primary to run out.
    PromotionPending,
    /// Two overrides met: nothing is overwritten by itself.
    SplitBrain,
    /// An override ended the history in which this array wrote alone: nothing is overwritten by itself.
    Diverged,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncStatus {
    Synced,
    /// Regions left to copy, over all volumes (known at the primary only).
    Syncing {
        left: u64,
    },
    NotSynced,
}

/// Why this array does not serve, or does so with less than it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    #[error("the other array is primary")]
    Secondary,
    #[error("the other array is primary, and this copy is not in sync with it")]
    StaleSecondary,
    #[error("no lease: neither the other array nor the witness has granted one")]
    NoLease,
    #[error("its data_dir does not finish a write, so that no lease is asked for; check that disk")]
    DataDirHangs,
    #[error("this copy's disk does not finish its I/O; check it, the copy is caught up once it does")]
    DiskHangs,
    #[error("this copy's disk fails its I/O; check it, the copy is caught up once it works")]
    DiskFails,
    #[error("restarted: waits for one answer of the other array or of the enrolled witness")]
    NoContact,
    #[error("writes of older terms of office are not finished on this array's disks")]
    Draining,
    #[error("roles are changing")]
    Switching,
    #[error("a vote for the other array is undecided")]
    VotedAway,
    #[error("the other array is lost; its lease must run out first")]
    PromiseRuns,
    #[error("the other array is lost, and automatic failover is off")]
    ManualFailover,
    #[error("the other array is lost; after a restart it is waited for")]
    StartWait,
    #[error("the other array is lost, and so is the witness: no majority")]
    NoMajority,
    #[error(
        "the other array is lost, and it may go on alone: that was agreed while the witness was lost \
         (or there is none)"
    )]
    PrimaryAlone,
    #[error("a vote is being written")]
    Persisting,
    #[error(
        "two histories met (override on both sides), and neither is served; give `setrcopygroup override` \
         on the side to keep, then `setrcopygroup discard` on the other"
    )]
    SplitBrain,
    #[error(
        "this array wrote alone what the other one, put in office by an override, does not hold; either \
         give `setrcopygroup discard` here, and those writes are lost, or switch the other array off and \
         give `setrcopygroup override` here, and its writes are"
    )]
    Diverged,
    #[error(
        "it was stopped without order and may have lost what its memory held of acknowledged writes (write \
         promise memory); the other array has them, and takes over or says that it lost them too"
    )]
    Tainted,
    #[error("what it holds in memory is being flushed")]
    Flushing,
    #[error("an override is under way; promises to the other array must end first")]
    Overriding,
    #[error("the group was removed")]
    Removed,
    #[error(
        "the other array or the witness says that the group was removed while this array was away; its \
         volumes stay closed until `removercopygroup` is given here, which also takes back their exports"
    )]
    RemovedElsewhere,
}

impl Reason {
    /// Not over in a moment, whatever happens.
    pub const fn lasts(self) -> bool {
        !matches!(self, Self::Persisting | Self::Switching)
    }
}

/// All that hosts and operators see of a group on this array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathView {
    pub own: PathState,
    /// The other array's target port group; `None`: must not be listed now (DESIGN §5).
    pub peer: Option<PathState>,
    pub role: Role,
    /// The roles are not those the group was created with (`-Rev`).
    pub reversed: bool,
    pub state: GroupState,
    pub sync: SyncStatus,
    /// `None`: this array serves.
    pub reason: Option<Reason>,
    pub tenure: Tenure,
    pub epoch: Epoch,
    pub in_sync: InSync,
    pub quorum: Quorum,
    pub witness: Option<Incarnation>,
    /// The witness answered within a lease: automatic failover can work.
    pub witness_heard: bool,
    pub link_up: bool,
    pub session_up: bool,
    /// As primary: why the other array takes no session.
    pub declined: Option<Decline>,
    /// As primary and alone: the other array's disk failed or hung; it must work for this long before it is
    /// mirrored to again.
    pub kept_out: Option<Duration>,
    /// Which image of the copy counts is being written to this array's disk.
    pub cut_changes: bool,
    /// Both arrays had lost what their memories held when this one, the former primary, went on serving:
    /// acknowledged writes of volumes with the promise *memory* may be gone (T13). Until the next start.
    pub promise_void: bool,
}

/// Entries of the event log; each comes with the epoch it happened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEntry {
    /// A configuration was learned or decided.
    Chosen {
        config: crate::arbitration::Config,
    },
    /// A transition is proposed (again); `None`: an undecided vote is being finished.
    Proposed {
        transition: Option<crate::arbitration::Transition>,
        round: u64,
    },
    /// This array starts or stops serving.
    Serving(bool),
    /// Why this array does not serve, when that has changed.
    NotServing {
        reason: Reason,
    },
    /// A voter refuses what this array proposes, because of a promise to another or of a higher ballot.
    Refused {
        by: crate::arbitration::Voter,
        promise: Option<crate::arbitration::Promise>,
        /// It has promised a higher ballot.
        higher: bool,
    },
    LeaseLost,
    Link(bool),
    Witness(bool),
    PeerRestarted,
    SessionOpened {
        session: SessionId,
    },
    SessionClosed {
        session: SessionId,
        why: SessionEnd,
    },
    SessionDeclined {
        why: Decline,
    },
    SwitchOverGivenUp,
    /// An operator gave his word that the other array is off; `stale`: whatever this copy lacks.
    Override {
        stale: bool,
    },
    OverrideGivenUp {
        why: Refused,
    },
    /// An operator gave up what this array wrote alone before an override.
    Discarded,
    /// So many physical blocks, in doubt since a restart or a failed write, can be read on neither array; zero: no more.
    BlocksLost(u64),
    /// A volume's disk fails or takes longer than `disk_timeout`, or works again.
    VolumeDisk(Option<Trouble>),
    /// The other array says so of its own; once it works again it is kept out for another `delay`.
    PeerDisk {
        bad: bool,
        delay: Duration,
    },
    /// What this copy held before it is brought up to date cannot be kept.
    Mixture,
    /// This array was stopped without order, in sync: what its memory held may be gone.
    Tainted,
    /// So was the other one: acknowledged writes of volumes with the promise *memory* may be gone.
    PromiseVoid,
    /// A write to `data_dir` takes longer than `disk_timeout`, or no longer.
    DataDirHangs(bool),
    SplitBrain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    LinkLost,
    LaneLost,
    PeerRefused,
    PeerFailed,
    /// The other array said that its disk is bad.
    PeerDisk,
    MirrorTimeout,
    PeerRestarted,
    /// It may lack what its memory held.
    PeerTainted,
    Stopped,
    ConfigurationChanged,
    MembersChanged,
}
