//! The model check: the daemon's own arbitration cores (`Arbiter`, `WitnessCore`), explored state by state
//! within bounds, and by long random walks whose violations are made short. See docs/MODEL.md.
//!
//! As a test it explores every scenario, and looks for each broken rule; `scripts/model` gives it
//! arguments.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a model's numbers are small")]
#![allow(clippy::needless_range_loop, reason = "a connection is named by its number")]
#![allow(
    clippy::large_enum_variant,
    clippy::result_large_err,
    reason = "most members run; a walk fails once"
)]

mod data;
mod explore;
mod heal;
mod scenario;
mod scenarios;
mod walk;
mod world;

use std::process::ExitCode;
use std::time::Instant;

use twinlun::mutation::{self, Mutation};

use crate::explore::{Explored, explore, tell};
use crate::scenario::Scenario;

const USAGE: &str =
    "usage: model [--scenario NAME] [--passes N] [--wishes N] [--cuts N] [--rounds N] [--states N]
             [--mutations] [--sought] [--walks N] [--deep] [--data]
The rule that TWINLUN_MUTATION names is broken.";

#[derive(Debug, Default)]
struct Arguments {
    scenario: Option<String>,
    passes: Option<u8>,
    wishes: Option<u8>,
    cuts: Option<u8>,
    rounds: Option<u64>,
    states: Option<usize>,
    mutations: bool,
    sought: bool,
    walks: Option<u64>,
    deep: bool,
    data: bool,
}

fn arguments() -> Result<Arguments, String> {
    fn number<T: std::str::FromStr>(word: Option<String>, name: &str) -> Result<Option<T>, String> {
        let number = word.and_then(|word| word.parse().ok());
        number.map(Some).ok_or_else(|| format!("{name} wants a number\n{USAGE}"))
    }
    let mut parsed = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--scenario" => parsed.scenario = words.next(),
            "--passes" => parsed.passes = number(words.next(), "--passes")?,
            "--wishes" => parsed.wishes = number(words.next(), "--wishes")?,
            "--cuts" => parsed.cuts = number(words.next(), "--cuts")?,
            "--rounds" => parsed.rounds = number(words.next(), "--rounds")?,
            "--states" => parsed.states = number(words.next(), "--states")?,
            "--walks" => parsed.walks = number(words.next(), "--walks")?,
            "--mutations" => parsed.mutations = true,
            "--sought" => parsed.sought = true,
            "--deep" => parsed.deep = true,
            "--data" => parsed.data = true,
            // What the test harness would take; all runs here.
            "--nocapture" | "--quiet" | "-q" => {}
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if let Err(text) = mutation::set_from_environment() {
        eprintln!("{text}");
        return ExitCode::from(2);
    }
    let good = if let Some(name) = &arguments.scenario {
        match scenarios::by_name(name) {
            Some(scenario) => run(&bounded(scenario, &arguments)),
            None => match data::run_named(name, arguments.states) {
                Some(good) => good,
                None => {
                    eprintln!("no scenario is called {name}; there are: {}", names().join(", "));
                    return ExitCode::from(2);
                }
            },
        }
    } else if let Some(walks) = arguments.walks {
        walks_are_clean(walks)
    } else if arguments.mutations {
        mutations_are_found(scenarios::FINDS) & data::mutations_are_found(true)
    } else if arguments.sought {
        mutations_are_found(scenarios::SOUGHT) & data::sought()
    } else if arguments.data {
        data::judge_is_sound() & data::run_all(true) & data::mutations_are_found(true)
    } else if arguments.deep {
        // One step of time more for each.
        let deeper = |s: Scenario| {
            bounded(
                Scenario { left: scenario::Left { passes: s.left.passes + 1, ..s.left }, ..s },
                &arguments,
            )
        };
        let good = scenarios::all().into_iter().map(deeper).map(|s| run(&s)).fold(true, |a, b| a & b);
        good & walks_are_clean(400)
    } else {
        // Every part, whatever an earlier one says.
        let clean = scenarios::all().iter().map(run).fold(true, |a, b| a & b);
        let data = data::judge_is_sound() & data::run_all(false) & data::mutations_are_found(false);
        clean & data & mutations_are_found(scenarios::FINDS) & walks_are_clean(40) & walks_get_short()
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn names() -> Vec<&'static str> {
    scenarios::all().iter().map(|scenario| scenario.name).chain(data::names()).collect()
}

fn bounded(mut s: Scenario, arguments: &Arguments) -> Scenario {
    s.left.passes = arguments.passes.unwrap_or(s.left.passes);
    s.left.wishes = arguments.wishes.unwrap_or(s.left.wishes);
    s.left.cuts = arguments.cuts.unwrap_or(s.left.cuts);
    s.rounds_max = arguments.rounds.unwrap_or(s.rounds_max);
    s.states_max = arguments.states.unwrap_or(s.states_max);
    s
}

/// Explores, and says what came of it. True: all states within the bounds, and no violation.
fn run(s: &Scenario) -> bool {
    let explored = explore(s);
    let Explored { states, transitions, depth, healed, seconds, complete, .. } = explored;
    println!(
        "{:<28} {:>9} states {:>10} transitions  depth {:>3}  healed {:>5} {:>7.1} s{}  [{}]",
        s.name,
        states,
        transitions,
        depth,
        healed,
        seconds,
        if complete { "" } else { "  UNDECIDED" },
        bounds(s)
    );
    if let Some((violation, path)) = &explored.violation {
        println!("{}: {} after {} steps\n{}", s.name, violation.0, path.len(), tell(s, path));
    }
    complete && explored.violation.is_none()
}

/// The bounds in words.
fn bounds(s: &Scenario) -> String {
    let l = &s.left;
    let counts = [
        (l.passes, "steps of time"),
        (l.wishes, "wishes"),
        (l.cuts, "cuts"),
        (l.losses, "lost messages"),
        (l.crashes, "crashes"),
        (l.pauses, "pauses"),
        (l.witness_restarts, "witness restarts"),
        (l.witness_losses, "witnesses replaced"),
        (l.twins, "second witnesses"),
        (l.offs, "arrays switched off"),
        (l.overrides, "overrides"),
        (l.forgotten, "arrays without a past"),
    ];
    let mut words: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    words.push(format!("{} rounds, {} changes", s.rounds_max, s.changes_max));
    words.join(", ")
}

/// Each broken rule is found where the table says.
fn mutations_are_found(table: &[(Mutation, &str, u8)]) -> bool {
    let mut all = true;
    for &(broken, name, passes) in table {
        let Some(mut scenario) = scenarios::by_name(name) else {
            println!("{broken:?}: no scenario is called {name}");
            all = false;
            continue;
        };
        scenario.left.passes = passes;
        if broken == Mutation::T18OwnVoteRefused {
            scenario.heal_one_in = 1;
        }
        mutation::set(Some(broken));
        let explored = explore(&scenario);
        mutation::set(None);
        match &explored.violation {
            Some((violation, path)) => println!(
                "{:<28} {:<28} {:>3} steps {:>8} states {:>6.1} s  {:.60}",
                format!("{broken:?}"),
                name,
                path.len(),
                explored.states,
                explored.seconds,
                violation.0
            ),
            None => {
                println!("{broken:?} NOT FOUND in {name}: {} states", explored.states);
                all = false;
            }
        }
    }
    all
}

/// Walks of every kind are clean, and went somewhere.
fn walks_are_clean(walks: u64) -> bool {
    let mut clean = true;
    for kind in walk::Kind::ALL {
        let began = Instant::now();
        let (walked, found) = walk::walk(kind, 1..walks + 1, 10_000);
        let seconds = began.elapsed().as_secs_f64();
        println!("walks {kind:?}: {walked:?} {seconds:.1} s");
        if let Some(found) = found {
            println!(
                "seed {}: {} after {} actions, shortened to {}\n{}",
                found.seed,
                found.violation.0,
                found.steps,
                found.short.len(),
                tell(&found.scenario, &found.short)
            );
            clean = false;
        } else if walked.changes < walked.walks || walked.served < walked.steps / 8 {
            println!("these walks go nowhere");
            clean = false;
        }
    }
    clean
}

/// A walk that finds a broken rule is made short enough to be read.
fn walks_get_short() -> bool {
    const READABLE: usize = 60;
    mutation::set(Some(Mutation::T2GrantAfterVote));
    let (_, found) = walk::walk(walk::Kind::Plain, 1..400, 10_000);
    mutation::set(None);
    let Some(found) = found else {
        println!("walks do not find T2GrantAfterVote");
        return false;
    };
    println!(
        "walks find T2GrantAfterVote by seed {}: {} actions, shortened to {}",
        found.seed,
        found.steps,
        found.short.len()
    );
    found.short.len() <= READABLE
}
