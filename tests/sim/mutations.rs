//! The judge is judged: with one rule broken, the simulator must notice. For each mutation the
//! table names a start (a seed, or a script with a seed) that finds it; with the rule in force the
//! same start is clean.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Instant;

use twinlun::mutation::{self, Mutation};

use crate::memory_scripts;
use crate::scripts::{self, Script};
use crate::world;

/// One broken rule and the start that shows it.
#[derive(Clone, Copy)]
pub struct Entry {
    pub mutation: Mutation,
    /// Found from this seed...
    pub seed: u64,
    /// ...of plain chance, or with this script in front.
    pub script: Option<&'static Script>,
}

const fn by_chance(mutation: Mutation, seed: u64) -> Entry {
    Entry { mutation, seed, script: None }
}

const fn scripted(mutation: Mutation, seed: u64, script: &'static Script) -> Entry {
    Entry { mutation, seed, script: Some(script) }
}

/// Found by `--mutation NAME --find`, which tries seeds upwards from 1.
pub const TABLE: &[Entry] = &[
    by_chance(Mutation::T2GrantAfterVote, 210),
    by_chance(Mutation::R2AnswerWithoutMirror, 1),
    by_chance(Mutation::R3AnswerAloneBeforeDrop, 1),
    by_chance(Mutation::T4JoinNotNeeded, 5),
    by_chance(Mutation::T5AnsweredAloneUnmarked, 25),
    by_chance(Mutation::T9NotDrained, 65),
    by_chance(Mutation::R6NoCheckAtStart, 1),
    by_chance(Mutation::R6NoCheckAtAnswer, 13),
    by_chance(Mutation::R8WritesOverlap, 1),
    by_chance(Mutation::R8LogicalOverlap, 1),
    by_chance(Mutation::R9AbortConfirmedEarly, 12),
    by_chance(Mutation::R10ActivityNotDurable, 1),
    by_chance(Mutation::T12DropForgetsActivity, 13),
    by_chance(Mutation::T12PeerDirtyIgnored, 16),
    by_chance(Mutation::T12ActivityClearedEarly, 1),
    by_chance(Mutation::R10SourceClearsEarly, 16),
    by_chance(Mutation::T11OldSessionTaken, 251),
    by_chance(Mutation::R14NotSentAgain, 7),
    by_chance(Mutation::R14BootCounterStays, 1),
    by_chance(Mutation::T8NoRecovery, 52),
    by_chance(Mutation::CopyDoesNotExclude, 5),
    by_chance(Mutation::R1LeaseFromReceipt, 169),
    by_chance(Mutation::R4StaleCopyPromoted, 6),
    by_chance(Mutation::R16BootNonceIgnored, 10),
    by_chance(Mutation::T1ValueDecidesQuorum, 2),
    scripted(Mutation::T1PreElectDecidesItself, 18, &scripts::LOST_ACCEPT),
    scripted(Mutation::T15OverrideIgnoresPromises, 1, &scripts::WRONG_WORD),
    scripted(Mutation::T12OverrideOverwrites, 1, &scripts::TWO_HISTORIES),
    scripted(Mutation::T16NoContactNeeded, 1, &scripts::NO_CONTACT),
    scripted(Mutation::OverrideLeftOut, 1, &scripts::FORCED),
    scripted(Mutation::T17PreElectByOneView, 1, &scripts::ONE_VIEW),
    scripted(Mutation::PreElectLeftOut, 1, &scripts::PRE_ELECTED),
    by_chance(Mutation::T3ServesAfterVote, 243),
    by_chance(Mutation::T9GateBeforeDrain, 48),
    scripted(Mutation::T14NoHandOver, 1, &scripts::FAILING_DISK_A),
    scripted(Mutation::T14NoHandOver, 1, &scripts::HANGING_DISK_A),
    scripted(Mutation::T14SilenceIsNoLoss, 1, &scripts::HANGING_DATA_DIR_A),
    by_chance(Mutation::T18OwnVoteRefused, 5),
    scripted(Mutation::T21ReEnrolWaitsForWitness, 159, &scripts::TWICE_REPLACED),
    by_chance(Mutation::R7ReadsDoNotWait, 114),
    by_chance(Mutation::R15ReadsInDoubt, 1),
    scripted(Mutation::R17ErrorAtOnce, 1, &scripts::FAILING_DISK_A),
    by_chance(Mutation::R12BlankWitnessVotes, 113),
    by_chance(Mutation::R5TenureNotFenced, 75),
    scripted(Mutation::T2OwnVoteIgnoresPromise, 1, &scripts::OWN_PROMISE),
    scripted(Mutation::T6RestoredKeepsIncarnation, 3, &scripts::RESTORED_WITNESS),
    scripted(Mutation::T7ReEnrolNeedsBoth, 1, &scripts::LONE_PRIMARY),
    scripted(Mutation::T12HelloWithoutActivity, 6, &scripts::DIVERGED),
    by_chance(Mutation::T12TargetClearsEarly, 16),
    scripted(Mutation::T10CommandOutlivesTenure, 218, &scripts::THERE_AND_BACK),
    by_chance(Mutation::T20PromoteVotesFirst, 5),
    by_chance(Mutation::JoinWhileDirty, 1),
    scripted(Mutation::R6ParkedOutlivesTenure, 5, &scripts::LEFT_BEHIND),
    by_chance(Mutation::R11VolumesStopApart, 426),
    by_chance(Mutation::R13WitnessNeeded, 36),
    scripted(Mutation::T12AnswerForgotten, 190, &scripts::ANSWER_IN_PARTS),
    by_chance(Mutation::MendFromStaleCopy, 30),
    by_chance(Mutation::MendWithoutHold, 186),
    by_chance(Mutation::R18LostVotesCount, 10),
    by_chance(Mutation::R18EnrolsBoth, 9081),
    by_chance(Mutation::R18CopyCounts, 16),
    scripted(Mutation::T16NoContactNeeded, 1, &scripts::SECOND_REPLACEMENT),
    scripted(Mutation::R12ReEnrolByOneArray, 2, &scripts::TWO_WITNESSES),
    scripted(Mutation::BeforeContentNotFlushed, 217, &scripts::LOST_IN_RESYNC),
    scripted(Mutation::BeforeEntryNotFlushed, 22, &scripts::LOST_IN_RESYNC),
    scripted(Mutation::BeforeCutIgnored, 553, &scripts::IMAGE_OUTLIVES),
    scripted(Mutation::CutChangesUnderRollBack, 51, &scripts::CUT_ENDS_LATE),
    by_chance(Mutation::T13TaintIgnored, 53),
    scripted(Mutation::T13TaintedSecondaryPromoted, 1, &memory_scripts::TAINTED),
    by_chance(Mutation::T13ActivityClearedUnflushed, 87),
    scripted(Mutation::T13DropUnflushed, 137, &memory_scripts::DROPPED),
    scripted(Mutation::T13PromoteUnflushed, 13, &memory_scripts::PROMOTED),
    by_chance(Mutation::T13AloneNotStable, 218),
    scripted(Mutation::T13SwitchUnflushed, 4, &memory_scripts::SWITCHED),
    scripted(Mutation::T13HandOverUnflushed, 1, &memory_scripts::HANDED_OVER),
    by_chance(Mutation::T13FuaHereOnly, 7),
    scripted(Mutation::T13LossCountsAsEqual, 4, &memory_scripts::VOID),
    scripted(Mutation::T13StoppedNotRelieved, 2, &memory_scripts::STOPPED),
    by_chance(Mutation::R18PresentBeforeMarks, 16),
    by_chance(Mutation::R18PresentBeforeVote, 2),
    by_chance(Mutation::R10AdmittedUnmarked, 3),
    by_chance(Mutation::R10MarkedAfterEntry, 9650),
    by_chance(Mutation::MembersNotHeld, 104),
    scripted(Mutation::AskedArrayCounts, 404, &scripts::ENTERED_BY_HALF),
    by_chance(Mutation::ExportedCopyOverwritten, 8),
    by_chance(Mutation::LeftCopyExported, 3),
    scripted(Mutation::GrowsHereFirst, 38, &scripts::LOST_IN_GROWTH),
    scripted(Mutation::GrowthToldFirst, 127, &scripts::RESTARTS_IN_GROWTH),
    scripted(Mutation::SmallerCopyStays, 8, &scripts::LOST_IN_GROWTH),
    scripted(Mutation::T19PromiseForgotten, 2, &scripts::FORGETFUL_WITNESS),
];

pub fn by_name(name: &str) -> Option<Entry> {
    TABLE.iter().find(|entry| format!("{:?}", entry.mutation) == name).copied()
}

thread_local! { static BROKEN: Cell<Option<Mutation>> = const { Cell::new(None) }; }

/// Breaks one rule on this thread, or none.
pub fn break_rule(mutation: Option<Mutation>) {
    BROKEN.set(mutation);
    mutation::set(mutation);
}

/// What the observer asks the cores is answered by whole ones.
pub fn whole<R>(ask: impl FnOnce() -> R) -> R {
    mutation::set(None);
    let answer = ask();
    mutation::set(BROKEN.get());
    answer
}

/// Runs with one rule broken.
fn broken(mutation: Mutation, seed: u64, script: Option<&'static Script>) -> world::Report {
    break_rule(Some(mutation));
    let report = world::run(seed, script, false);
    break_rule(None);
    report
}

/// Seeds within which a broken rule must show.
const SEEDS_MAX: u64 = 5000;

/// Seeds upwards from `from`, until the broken rule shows.
pub fn find(entry: Entry, from: u64, seeds: u64) -> ExitCode {
    let begin = Instant::now();
    let mut events = 0;
    for seed in from..from + seeds {
        let report = broken(entry.mutation, seed, entry.script);
        events += report.events;
        if let Some(reason) = report.violation {
            if world::run(seed, entry.script, false).violation.is_some() {
                continue; // no proof: the seed fails by itself
            }
            let reason: String = reason.chars().take(160).collect();
            println!(
                "{:?}: seed {seed} after {:.1} s, {events} events: {reason}",
                entry.mutation,
                begin.elapsed().as_secs_f64()
            );
            return ExitCode::SUCCESS;
        }
    }
    println!(
        "{:?}: NOT FOUND in {seeds} seeds, {:.1} s, {events} events",
        entry.mutation,
        begin.elapsed().as_secs_f64()
    );
    ExitCode::FAILURE
}

/// Every mutation of the table, afresh.
pub fn find_all(from: u64, seeds: u64) -> ExitCode {
    let missed = TABLE.iter().filter(|entry| find(**entry, from, seeds) != ExitCode::SUCCESS).count();
    println!("{} mutations, {missed} not found", TABLE.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The recorded starts: broken, a violation is found; in force, the same start is clean.
pub fn table() -> ExitCode {
    let begin = Instant::now();
    let mut wrong = 0;
    for entry in TABLE {
        let found = broken(entry.mutation, entry.seed, entry.script).violation;
        let clean = world::run(entry.seed, entry.script, false).violation;
        if found.is_none() {
            // Any change of a core moves every history: look for a new seed, and say so.
            println!("{:?}: seed {} no longer finds it; record this one:", entry.mutation, entry.seed);
            if find(*entry, 1, SEEDS_MAX) != ExitCode::SUCCESS {
                wrong += 1;
            }
        }
        if let Some(reason) = clean {
            println!("seed {} (of {:?}) with the rule in force: {reason}", entry.seed, entry.mutation);
            wrong += 1;
        }
    }
    println!(
        "mutations: {} of {} as recorded, {:.1} s",
        TABLE.len().saturating_sub(wrong),
        TABLE.len(),
        begin.elapsed().as_secs_f64()
    );
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The script of a name, for `--script`.
pub fn script(name: &str) -> Option<&'static Script> {
    scripts::ALL.iter().chain(memory_scripts::ALL).copied().find(|script| script.name == name)
}
