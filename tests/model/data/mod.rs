//! The data path: the daemon's own volume cores (`mirror::Volume`, of two arrays) with lanes and disks,
//! explored state by state. What control and the voters decide is decided by fiat, whenever ARBITRATION's
//! guards allow it.

mod canonical;
mod checks;
mod control;
mod heal;
mod hosts;
mod judge;
mod scenario;
mod scenarios;
mod search;
mod shell;
mod world;

use twinlun::mutation;

use scenario::Scenario;
use scenarios::{FINDS, SCENARIOS, SOUGHT};
use search::explore;

/// More than any scenario has.
const STATES_MAX: usize = 600_000;

pub fn names() -> impl Iterator<Item = &'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name)
}

fn by_name(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

/// Explores one; `None`: no such scenario.
pub fn run_named(name: &str, states: Option<usize>) -> Option<bool> {
    by_name(name).map(|scenario| run(scenario, states.unwrap_or(STATES_MAX)))
}

/// Explores them all, or all but the large ones. True: all states within the bounds, and no violation.
pub fn run_all(large: bool) -> bool {
    SCENARIOS
        .iter()
        .filter(|scenario| large || !scenario.large)
        .map(|scenario| run(scenario, STATES_MAX))
        .fold(true, |a, b| a & b)
}

fn run(scenario: &'static Scenario, states_max: usize) -> bool {
    let found = explore(scenario, states_max);
    println!(
        "data: {:<26} {:>9} states {:>10} transitions  depth {:>3}  healed {:>5} {:>7.1} s{}",
        scenario.name,
        found.states,
        found.transitions,
        found.depth,
        found.healed,
        found.took.as_secs_f64(),
        if found.unfinished { "  UNDECIDED" } else { "" },
    );
    if let Some((what, trace)) = &found.violation {
        println!("{}: {what} after {} steps", scenario.name, trace.len());
        trace.iter().for_each(|step| println!("  {step:?}"));
    }
    !found.unfinished && found.violation.is_none()
}

/// Each broken rule is found where the table says.
pub fn mutations_are_found(large: bool) -> bool {
    let is_small = |name| by_name(name).is_some_and(|scenario| !scenario.large);
    let table: Vec<_> = FINDS.iter().copied().filter(|(_, name)| large || is_small(name)).collect();
    seek(&table)
}

pub fn sought() -> bool {
    seek(SOUGHT)
}

fn seek(table: &[(mutation::Mutation, &str)]) -> bool {
    let mut all = true;
    for &(broken, name) in table {
        let Some(scenario) = by_name(name) else {
            println!("{broken:?}: no scenario is called {name}");
            all = false;
            continue;
        };
        mutation::set(Some(broken));
        let found = explore(scenario, STATES_MAX);
        mutation::set(None);
        match &found.violation {
            Some((what, trace)) => println!(
                "data: {:<28} {:<24} {:>3} steps {:>8} states {:>6.1} s  {what:.60}",
                format!("{broken:?}"),
                name,
                trace.len(),
                found.states,
                found.took.as_secs_f64(),
            ),
            None => {
                println!("data: {broken:?} NOT FOUND in {name}: {} states", found.states);
                all = false;
            }
        }
    }
    all
}

/// The judge and the search are looked at first: a test that cannot fail shows nothing.
pub fn judge_is_sound() -> bool {
    judge::knows_a_register() && judge::knows_a_comparison()
}
