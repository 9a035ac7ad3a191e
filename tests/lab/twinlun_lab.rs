//! The proof with a real host: two arrays and a witness in network namespaces, a Debian guest with
//! open-iscsi and dm-multipath on them, and the rows of FAILURES one after the other.

mod disk;
mod guest;
mod judge;
mod lab;
mod load;
mod network;
#[path = "../host/outside.rs"]
mod outside;
mod records;
mod rows;
#[allow(dead_code, unused_imports, reason = "lab, demo and benchmark each use a part of it")]
#[path = "../site/site.rs"]
mod site;
mod table;
mod wire;

use clap::Parser;
use lab::{Lab, Options, Outcome};
use rows::{ROWS, Row};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use table::Table;

/// Test machines are shared and slow; what a gap should be is judged apart.
const TEST_GAP_FACTOR: u64 = 3;

#[derive(Debug, Parser)]
#[command(name = "scripts/lab", about = "Rows of FAILURES with a real Linux host")]
struct Arguments {
    /// Rows to run, in this order; `ALL` for every row of the table.
    rows: Vec<String>,
    /// Every row of the table, and at the end one table of them all, as docs/FAILURES.md has it.
    #[arg(long)]
    all: bool,
    /// A table at the end of whatever was run.
    #[arg(long)]
    table: bool,
    /// Runs of each row, within one boot of the guest.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// One object a line for each run.
    #[arg(long)]
    json: bool,
    /// The rows there are.
    #[arg(long)]
    list: bool,
    /// Remove what runs that were killed have left behind, and nothing else.
    #[arg(long, hide = true)]
    sweep: bool,
    /// Gaps may be so many times the table's.
    #[arg(long, default_value_t = 1)]
    gap_factor: u64,
    /// As in scripts/test: gaps up to three times the table's pass, losses and errors never do.
    #[arg(long)]
    test: bool,
    /// TLS between the sites.
    #[arg(long)]
    tls: bool,
    /// Say what happens meanwhile.
    #[arg(long)]
    verbose: bool,
    /// Leave logs and volumes where they are.
    #[arg(long)]
    keep: bool,
    #[arg(long, hide = true, env = "TWINLUN_LAB_IMAGE")]
    image: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_LAB_REPOSITORY")]
    repository: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_LAB_BINARIES")]
    binaries: PathBuf,
    #[arg(long, hide = true, env = "TWINLUN_LAB_DIRECTORY")]
    directory: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for row in &ROWS {
            let limit = |gap: Option<u64>| gap.map_or(String::from("-"), |gap| format!("{gap} ms"));
            println!(
                "{:<12} {:<75} array {:>8}  host {:>8}",
                row.id,
                row.what,
                limit(row.array_gap_ms),
                limit(row.host_gap_ms)
            );
        }
        return ExitCode::SUCCESS;
    }
    if arguments.sweep {
        network::sweep();
        return ExitCode::SUCCESS;
    }
    let mut names = arguments.rows.clone();
    if arguments.all {
        names.push(String::from("ALL"));
    }
    match select(&names) {
        Ok(rows) => run(&arguments, &rows),
        Err(unknown) => {
            eprintln!("no row {unknown}; scripts/lab --list shows those there are");
            ExitCode::from(2)
        }
    }
}

/// `ALL` is the table; what tests the lab itself or takes long is named one by one.
fn select(names: &[String]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            rows.extend(ROWS.iter().filter(|row| row.id.starts_with('F')));
        } else {
            rows.push(ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(name)).ok_or_else(|| name.clone())?);
        }
    }
    if rows.is_empty() {
        return Err(String::from("given"));
    }
    Ok(rows.into_iter().copied().collect())
}

fn run(arguments: &Arguments, rows: &[Row]) -> ExitCode {
    let options = Options {
        image: arguments.image.clone(),
        repository: arguments.repository.clone(),
        binaries: arguments.binaries.clone(),
        directory: arguments.directory.clone(),
        verbose: arguments.verbose,
        tls: arguments.tls,
    };
    if !arguments.json {
        eprintln!("starting two arrays, the witness and the guest (half a minute or more)");
    }
    let mut lab = match Lab::up(options) {
        Ok(lab) => lab,
        Err(error) => {
            eprintln!("the lab does not come up: {error}");
            eprintln!("logs: {}", arguments.directory.display());
            return ExitCode::FAILURE;
        }
    };
    let factor =
        if arguments.test { arguments.gap_factor.max(TEST_GAP_FACTOR) } else { arguments.gap_factor };
    let (mut passed, mut failed) = (0u32, 0u32);
    let mut all = Table::default();
    let mut fresh = true;
    for row in rows {
        let mut row = *row;
        row.array_gap_ms = row.array_gap_ms.map(|gap| gap * factor);
        row.host_gap_ms = row.host_gap_ms.map(|gap| gap * factor);
        let saturating = row.id == "SATURATE";
        for number in 1..=arguments.runs {
            if !fresh || saturating {
                let pause = saturating.then_some(0);
                if let Err(error) = lab.renew(pause) {
                    eprintln!("the lab does not come up again: {error}\n{}", lab.last_words());
                    return ExitCode::FAILURE;
                }
            }
            let outcome = lab
                .execute(&row)
                .unwrap_or_else(|error| Outcome { why: vec![error.to_string()], ..Outcome::default() });
            report(&row, number, &outcome, arguments.json);
            all.add(&row, &outcome);
            if arguments.keep || !outcome.pass {
                lab.look_into_guest(&format!("{}-{number}", row.id));
            }
            if outcome.pass {
                passed += 1;
            } else {
                failed += 1;
                eprintln!("{}", lab.last_words());
            }
            // A row that failed, or that damages data on purpose, is followed by new arrays.
            fresh = outcome.pass && row.expects == rows::Expects::NothingLost && !saturating;
        }
    }
    if fresh && let Err(error) = lab.finish() {
        eprintln!("after the last row: {error}");
        failed += 1;
    }
    if arguments.all || arguments.table {
        println!("\n{all}");
    }
    if !arguments.json {
        println!("{passed} passed, {failed} failed");
    }
    if failed > 0 {
        eprintln!("logs: {} (kept)", lab.directory().parent().unwrap_or_else(|| lab.directory()).display());
    }
    drop(lab);
    if failed == 0 {
        if !arguments.keep {
            // What cannot be removed is only litter.
            let _ = std::fs::remove_dir_all(&arguments.directory);
        }
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn report(row: &Row, number: u32, outcome: &Outcome, as_json: bool) {
    if as_json {
        let mut object = json!({
            "row": row.id, "run": number, "array_gap_ms": outcome.array_gap_ms, "host_gap_ms": outcome.host_gap_ms,
            "acknowledged": outcome.acknowledged, "lost": outcome.lost, "stale": outcome.stale, "io_errors": outcome.io_errors,
            "pass": outcome.pass, "why": outcome.why,
        });
        if let Some(fields) = object.as_object_mut() {
            fields.extend(outcome.notes.clone());
        }
        println!("{object}");
        return;
    }
    let verdict = if outcome.pass { "pass" } else { "FAIL" };
    println!(
        "{:<12} run {number}  {verdict}  array gap {:>6} ms  host gap {:>6} ms  acknowledged {:>7}  lost {}  stale {}  I/O errors {}",
        row.id,
        outcome.array_gap_ms,
        outcome.host_gap_ms,
        outcome.acknowledged,
        outcome.lost,
        outcome.stale,
        outcome.io_errors
    );
    for line in &outcome.why {
        println!("             {line}");
    }
}
