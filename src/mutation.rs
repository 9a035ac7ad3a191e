//! Test builds only: switches that break exactly one rule, so that a test can show that the
//! simulator notices. In an ordinary build [`on`] is the constant `false` and costs nothing.
//!
//! A mutation is named for the rule or trace it breaks; its place in a core reads
//! `if !mutation::on(Mutation::T2GrantAfterVote) && …`.

/// The enum, and its members by name.
macro_rules! mutations {
    ($(#[$meta:meta])* pub enum Mutation { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$meta])*
        pub enum Mutation { $($(#[$doc])* $name,)* }

        /// Every mutation, in the order of their numbers.
        #[cfg(feature = "testing")]
        const ALL: &[(&str, Mutation)] = &[$((stringify!($name), Mutation::$name),)*];
    };
}

mutations! {
/// One broken rule. Grows with the cores; keep the numbers of ARBITRATION's traces in the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mutation {
    /// T2: a voter grants a lease although its vote names another primary.
    T2GrantAfterVote,
    /// Rules 2 and 3: an answer does not wait for the mirror although both copies are needed.
    R2AnswerWithoutMirror,
    /// Rule 3: once the session is gone a write is answered alone, without *drop peer*.
    R3AnswerAloneBeforeDrop,
    /// T4: between the vote for a join and its outcome answers need this copy alone.
    T4JoinNotNeeded,
    /// Rule 10: a volume is a member, durably, before its map says that nothing is equal.
    R10AdmittedUnmarked,
    /// Rule 10: a volume is a member, durably, before it is marked.
    R10MarkedAfterEntry,
    /// A copy that hosts write to is overwritten by another one that enters a group.
    ExportedCopyOverwritten,
    /// Rule 10: the group may come in sync while its members are being changed.
    MembersNotHeld,
    /// A state of the group's objects is taken over if its number is news, whoever counted it.
    StateByNumberAlone,
    /// An array that is asked by the other one to let a volume in, or go, counts the change as well.
    AskedArrayCounts,
    /// The secondary is ready for the join with objects that are not the ones of this primary.
    JoinByOwnNumber,
    /// A change of a secondary that its primary has taken, and told since in a later state, is counted once more there.
    TakenChangeCountsAgain,
    /// The array that is asked to grow a volume does so before the other one.
    GrowsHereFirst,
    /// Hosts know that a volume has grown before the objects do.
    GrowthToldFirst,
    /// T5: an answer decided without the mirror's ack leaves the region clean.
    T5AnsweredAloneUnmarked,
    /// Rule 5: the secondary takes frames of another tenure.
    R5TenureNotFenced,
    /// Rule 5, T9: what older tenures and sessions have on its way to the disk counts as drained.
    T9NotDrained,
    /// Rule 6: the gate is not looked at when a command starts.
    R6NoCheckAtStart,
    /// Rule 6: the gate is not looked at right before the answer.
    R6NoCheckAtAnswer,
    /// Rule 6: a write that was held while the array took office starts in the new tenure.
    R6ParkedOutlivesTenure,
    /// T10: a queued command outlives its tenure and starts in a later one.
    T10CommandOutlivesTenure,
    /// Rule 7: reads do not wait for writes in flight.
    R7ReadsDoNotWait,
    /// Rule 8: overlapping writes run at the same time.
    R8WritesOverlap,
    /// Rule 8: overlap is computed on logical blocks.
    R8LogicalOverlap,
    /// Rule 8: the secondary applies overlapping frames in any order. The simulator cannot notice: a
    /// primary never has two overlapping frames under way. Its ledger holds a write's range until
    /// the write is over, acknowledged in this session or given up with it, a copy excludes writers,
    /// and a new session is taken only after the frames of the older one (rule 14). The order on the
    /// secondary is a second defence; its own unit test notices this.
    R8AppliesOverlap,
    /// Rule 9: an abort is confirmed while the write still runs.
    R9AbortConfirmedEarly,
    /// Rule 10: a write starts before its activity bit is durable.
    R10ActivityNotDurable,
    /// Rule 10, T12: *drop* leaves active regions clean.
    T12DropForgetsActivity,
    /// T12: the hello is answered without the activity bits.
    T12HelloWithoutActivity,
    /// T12: the primary copies only what it knows dirty itself.
    T12PeerDirtyIgnored,
    /// T12: the target clears its maps when the session opens, not when the join is chosen.
    T12TargetClearsEarly,
    /// T12: the activity bit goes while writes of the region are still in flight.
    T12ActivityClearedEarly,
    /// Rule 10: the source clears a region when it is sent, not when it is acknowledged.
    R10SourceClearsEarly,
    /// T11, rule 14: the secondary takes frames of older sessions.
    T11OldSessionTaken,
    /// Rule 14: unacknowledged writes are not sent again in a new session.
    R14NotSentAgain,
    /// Rule 14: the boot counter in the session number is not raised at a start.
    R14BootCounterStays,
    /// T8, rule 15: a restarted primary's active regions count as equal.
    T8NoRecovery,
    /// Rule 15: reads pass a region in doubt.
    R15ReadsInDoubt,
    /// F38: blocks are taken from a peer that is not in sync.
    MendFromStaleCopy,
    /// F38: what the peer cannot give as a whole is not asked for in pieces.
    MendWholeOrNot,
    /// F38, rule 15: a block in doubt that neither array can read counts as equal.
    LostCountsAsEqual,
    /// F38, rule 15: reads go on to a block in doubt that neither array could read.
    LostIsRead,
    /// F38: what follows the frames of a copy that could not be read on goes over any lane.
    PiecesOnAnyLane,
    /// F38: what is mended is held against no writer.
    MendWithoutHold,
    /// Rule 17: a write that failed here is answered before both copies are equal.
    R17ErrorAtOnce,
    /// T12: a hello that is said again forgets what of its first answer has come.
    T12AnswerForgotten,
    /// Rule 18: an array that lost its votes and data begins with the group as it was made.
    R18LostVotesCount,
    /// Rule 18: the other array is enrolled while both are needed.
    R18EnrolsBoth,
    /// Rule 18: an array that is enrolled takes part before its copies say that they hold nothing.
    R18PresentBeforeMarks,
    /// Rule 18: an array that is enrolled takes part before it has the vote that was offered.
    R18PresentBeforeVote,
    /// Rule 18: what the copy of an array that is enrolled holds counts.
    R18CopyCounts,
    /// The witness listens to anybody about any group.
    WitnessOwnersIgnored,
    /// A group is over here because the witness or the other array says so.
    ToldRemovedRemoves,
    /// Whoever shows an identity may say which of its lives is the newest.
    LivesOfAnyName,
    /// Join: nothing checks that the copies are equal.
    JoinWhileDirty,
    /// Resync: writers do not wait for the copy of their region.
    CopyDoesNotExclude,
    /// Verify: writers do not wait for the check of their region.
    VerifyWithoutHold,
    /// Rule 2: the store reports a stable write done while it is not.
    StoreWriteNotStable,
    /// Rule 2: the store reports a flush done without one.
    StoreFlushSkipped,
    /// A data file's own record is reported durable while it is not.
    VolumeRecordNotStable,
    /// F14: what a region held counts as kept before it is on stable storage.
    BeforeContentNotFlushed,
    /// F14: a region is overwritten before the image's entry for it is on stable storage.
    BeforeEntryNotFlushed,
    /// F14: the secondary is ready for the join before the content that it had counts no more, durably.
    BeforeOutlivesJoin,
    /// F14: an image counts as begun before its header, which may say that there is none, is on stable storage.
    BeforeHeaderNotFlushed,
    /// The space of a fully provisioned volume is reported taken without a flush.
    ReservationNotFlushed,
    /// A volume has grown before what it has grown by reads as zeroes for good.
    GrowthNotFlushed,
    /// The key or certificate of a site is reported kept without a flush.
    CardNotFlushed,
    /// The name of a key or certificate, or of their directory, is not made durable.
    CardNameNotSynced,
    /// A user's password is reported kept without a flush.
    UsersNotFlushed,
    /// The name of the users file is not made durable.
    UsersNameNotSynced,
    /// F14: a session is accepted while it is being noted down that the content of the one before counts no more.
    BeforeCutNotAwaited,
    /// F14: an image counts whichever content it is of.
    BeforeCutIgnored,
    /// F14: a copy of which not everything is kept counts as one whose older content is whole.
    BeforeMixtureForgotten,
    /// The name of a new data file is not made durable.
    VolumeNameNotSynced,
    /// The removal of a data file is not made durable.
    VolumeRemovalNotSynced,
    /// The wiping of a removed volume's record on a block device is reported durable while it is not.
    VolumeWipeNotStable,
    /// Pages of a dirty map are reported durable without a flush.
    MapFlushSkipped,
    /// A new dirty map's header is reported durable without a flush.
    MapHeaderFlushSkipped,
    /// The name of a new dirty map is not made durable.
    MapNameNotSynced,
    /// A vote is reported durable without a flush.
    VoteFlushSkipped,
    /// A record in a file of its own (an array's identity, a witness's state) is reported durable
    /// while it is not.
    RecordNotStable,
    /// A change of the objects is reported durable without a flush.
    ObjectFlushSkipped,
    /// The names of the files of `data_dir` are not made durable.
    DataDirNamesNotSynced,
    /// Rule 1: a lease counts from the receipt of its grant, not from the send of its question.
    R1LeaseFromReceipt,
    /// Rule 4: an array that is not in sync may be promoted.
    R4StaleCopyPromoted,
    /// Rule 11: at *drop* only one volume stops mirroring.
    R11VolumesStopApart,
    /// Rule 11: the session ends volume by volume, each with its lone answers.
    R11SessionEndsByVolume,
    /// Rule 13: leases by the other array do not count.
    R13WitnessNeeded,
    /// F33: the age of a `data_dir` rises with its starts alone.
    AgeStays,
    /// Rule 12: a blank or foreign witness votes and grants.
    R12BlankWitnessVotes,
    /// Rule 12: one array and a new witness enrol that one although both copies are in sync.
    R12ReEnrolByOneArray,
    /// Rule 16: a secondary whose boot nonce changed stays in sync.
    R16BootNonceIgnored,
    /// T1: the quorum is read from the value that it decides.
    T1ValueDecidesQuorum,
    /// T1, as first seen: the primary's own vote for *pre-elect* decides it.
    T1PreElectDecidesItself,
    /// DESIGN §3.5: nothing is agreed beforehand when the witness is lost.
    PreElectLeftOut,
    /// T17: *pre-elect* by the view of one array alone.
    T17PreElectByOneView,
    /// T2: a proposer's own vote passes by its own lease promise.
    T2OwnVoteIgnoresPromise,
    /// T3: a primary serves on after its own vote named the other array.
    T3ServesAfterVote,
    /// T6: a witness restored from an older state keeps its incarnation.
    T6RestoredKeepsIncarnation,
    /// T7: re-enrol needs both arrays although one is alone (nobody serves for ever).
    T7ReEnrolNeedsBoth,
    /// T9: a new primary opens its gate before what it took as secondary is on its disk.
    T9GateBeforeDrain,
    /// T13: a restarted array of {A,B} counts as whole, whatever its memory held.
    T13TaintIgnored,
    /// T13: a tainted secondary is promoted.
    T13TaintedSecondaryPromoted,
    /// T13: an activity bit goes when the writes of its region are over, on disk or not.
    T13ActivityClearedUnflushed,
    /// T13: *drop* is proposed with acknowledged writes in memory.
    T13DropUnflushed,
    /// T13: *promote* is proposed with acknowledged writes in memory.
    T13PromoteUnflushed,
    /// T13: an array alone in sync answers from its memory.
    T13AloneNotStable,
    /// T13: *switch over* with regions that one disk does not hold.
    T13SwitchUnflushed,
    /// T13: *hand over* to an array whose disk does not hold everything.
    T13HandOverUnflushed,
    /// T13: a hand over that has lost its session opens none, and never knows what the peer has flushed.
    T13HandOverKeepsNoSession,
    /// T13: a flush is answered when this disk alone is flushed.
    T13FuaHereOnly,
    /// T13: what a failed flush could not write is read on after the loss was accepted.
    T13PhantomsShown,
    /// T13: where the promise is void the copies are taken for equal.
    T13LossCountsAsEqual,
    /// T13: a primary that lost its memory while its group was being stopped is left to an operator.
    T13StoppedNotRelieved,
    /// T13: a switchover waits for a copy that a failed flush has left behind.
    T13SwitchKeepsCopy,
    /// T13: a copy is brought up to date before what it held in memory is on its disk.
    T13CopyUnflushed,
    /// T14: a primary that stops or whose disk fails can only switch over.
    T14NoHandOver,
    /// F22, F23: what the probes of the disks say is not heard.
    ProbeIgnored,
    /// F22: a probe that missed its deadline counts as a good one when it ends after all.
    LateProbeCounts,
    /// F23: an array is promoted although its disk is known to be bad.
    BadDiskPromoted,
    /// F22, F23: an array whose disk keeps failing is caught up as soon as at the first time.
    NoHysteresis,
    /// F24: an array that keeps being dropped is caught up as soon as at the first time.
    RejoinDelayStays,
    /// T14: a secondary waits for a linked primary that asks for no lease any more.
    T14SilenceIsNoLoss,
    /// T12: what was written alone in a history that an override ended is overwritten unasked.
    T12OverrideOverwrites,
    /// DESIGN §3.2: an override comes to nothing.
    OverrideLeftOut,
    /// T15: an override does not wait for promises to end.
    T15OverrideIgnoresPromises,
    /// T16, T22: a restarted primary that needs no lease serves without contact, or enrols a witness.
    T16NoContactNeeded,
    /// T18: the refusal for a running lease hits the primary's own vote.
    T18OwnVoteRefused,
    /// T19: a restarted voter forgets its promise.
    T19PromiseForgotten,
    /// T20: the own vote for *promote* comes first.
    T20PromoteVotesFirst,
    /// Rule 1: a promise lasts as long as its lease, whatever the rates of the clocks.
    R1PromiseNoLonger,
    /// Rule 1: a copy that leaves its group stays exported on an array that did not serve it.
    LeftCopyExported,
    /// Rule 6: what waited at a copy that did not serve is carried out when it leaves its group.
    LeftCopyServesParked,
    /// A verb ends with the connection of the client that gave it.
    VerbEndsWithClient,
    /// F14: an image is written back twice at the same time.
    RollBackRunsTwice,
    /// F14: images are written back while it is being written which of them count.
    CutChangesUnderRollBack,
    /// A secondary that declines because its copy is smaller is not told to grow.
    SmallerCopyStays,
    /// T21: a re-enrol vote is proposed again only through the witness it names.
    T21ReEnrolWaitsForWitness,
}
}

#[cfg(feature = "testing")]
mod switch {
    use std::cell::Cell;
    use std::sync::OnceLock;

    use super::{ALL, Mutation};

    /// Names the mutation of a whole daemon.
    pub const VARIABLE: &str = "TWINLUN_MUTATION";

    thread_local! { static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) }; }
    static EVERYWHERE: OnceLock<Mutation> = OnceLock::new();

    /// Breaks one rule on this thread until called again with `None`.
    pub fn set(mutation: Option<Mutation>) {
        ACTIVE.with(|active| active.set(mutation));
    }

    /// Does `test` fail where the rule is broken? On a thread of its own, which ends with it.
    #[cfg(test)]
    pub fn breaks(mutation: Mutation, test: impl FnOnce() + Send + 'static) -> bool {
        let broken = move || {
            set(Some(mutation));
            test();
        };
        std::thread::spawn(broken).join().is_err()
    }

    /// Breaks the rule that `TWINLUN_MUTATION` names, on every thread and for good; for daemons.
    ///
    /// # Errors
    /// The variable names none: a test that asks for a mutation and gets none would pass for the
    /// wrong reason.
    pub fn set_from_environment() -> Result<Option<Mutation>, String> {
        let Some(name) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let known = ALL.iter().find(|(known, _)| name == *known).map(|(_, mutation)| *mutation);
        let mutation = known.ok_or_else(|| format!("{VARIABLE}: no mutation {}", name.display()))?;
        Ok(Some(*EVERYWHERE.get_or_init(|| mutation)))
    }

    #[inline]
    pub fn on(mutation: Mutation) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutation)) || EVERYWHERE.get() == Some(&mutation)
    }
}

#[cfg(all(test, feature = "testing"))]
pub use switch::breaks;
#[cfg(feature = "testing")]
pub use switch::{on, set, set_from_environment};

#[cfg(not(feature = "testing"))]
#[inline]
pub const fn on(_mutation: Mutation) -> bool {
    false
}
