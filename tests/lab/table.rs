//! One table of everything that was run, in the shape in which docs/FAILURES.md keeps it.

use crate::lab::Outcome;
use crate::rows::Row;
use std::fmt;

#[derive(Debug)]
struct Line {
    id: &'static str,
    limits: [Option<u64>; 2],
    /// Array and host gap of each run, in ms.
    gaps: [Vec<u64>; 2],
    acknowledged: u64,
    wrong: u64,
    passed: usize,
}

#[derive(Debug, Default)]
pub struct Table(Vec<Line>);

impl Table {
    pub fn add(&mut self, row: &Row, outcome: &Outcome) {
        if self.0.last().is_none_or(|line| line.id != row.id) {
            self.0.push(Line {
                id: row.id,
                limits: [row.array_gap_ms, row.host_gap_ms],
                gaps: [Vec::new(), Vec::new()],
                acknowledged: 0,
                wrong: 0,
                passed: 0,
            });
        }
        let Some(line) = self.0.last_mut() else { return };
        line.gaps[0].push(outcome.array_gap_ms);
        line.gaps[1].push(outcome.host_gap_ms);
        line.acknowledged += outcome.acknowledged;
        line.wrong += outcome.lost + outcome.stale + outcome.io_errors;
        line.passed += usize::from(outcome.pass);
    }
}

fn seconds(ms: u64) -> String {
    // A tenth is as much as such a machine can tell.
    let tenths = (ms + 50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Median and longest, or the only one.
fn gaps(runs: &[u64]) -> String {
    let mut sorted = runs.to_vec();
    sorted.sort_unstable();
    match sorted[..] {
        [] => String::from("-"),
        [only] => seconds(only),
        [.., longest] => format!("{} / {}", seconds(sorted[sorted.len() / 2]), seconds(longest)),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| row | runs | passed | array gap | host gap | within | acknowledged | wrong |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for line in &self.0 {
            let within = |index: usize| {
                let limit = line.limits[index]?;
                Some(line.gaps[index].iter().filter(|gap| **gap <= limit).count())
            };
            let within = match (within(0), within(1)) {
                (Some(array), Some(host)) => format!("{array} / {host}"),
                _ => String::from("-"),
            };
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {within} | {} | {} |",
                line.id,
                line.gaps[0].len(),
                line.passed,
                gaps(&line.gaps[0]),
                gaps(&line.gaps[1]),
                line.acknowledged,
                line.wrong
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{gaps, seconds};

    #[test]
    fn gaps_are_told_in_tenths() {
        assert_eq!((seconds(49), seconds(50), seconds(12_949)), ("0.0".into(), "0.1".into(), "12.9".into()));
        assert_eq!(
            (gaps(&[]), gaps(&[300]), gaps(&[3000, 100, 200])),
            ("-".into(), "0.3".into(), "0.2 / 3.0".into())
        );
    }
}
