//! What iscsi-test-cu prints, and the list of what it should.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// It calls a test passed whose subject the target has not.
    Skipped,
    Failed,
}

/// What a test should come to, with the reason where that is not "passed".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    Pass,
    Skip(String),
    /// The test asks for something else than the standard, or depends on timing.
    Disputed(String),
}

impl Expected {
    pub fn allows(&self, verdict: Verdict) -> bool {
        match self {
            Self::Pass => verdict == Verdict::Passed,
            Self::Skip(_) => verdict == Verdict::Skipped,
            Self::Disputed(_) => true,
        }
    }
}

/// Reads the list: `pass NAME`, `skip NAME: REASON` or `disputed NAME: REASON` a line.
pub fn expectations(text: &str) -> Result<BTreeMap<String, Expected>, String> {
    let mut expected = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').ok_or_else(|| line.to_owned())?;
        let (name, reason) = rest.split_once(": ").unwrap_or((rest, ""));
        let expectation = match (word, reason) {
            ("pass", "") => Expected::Pass,
            ("skip", reason) if !reason.is_empty() => Expected::Skip(reason.into()),
            ("disputed", reason) if !reason.is_empty() => Expected::Disputed(reason.into()),
            _ => return Err(line.to_owned()),
        };
        if expected.insert(name.trim().to_owned(), expectation).is_some() {
            return Err(format!("{name} twice"));
        }
    }
    Ok(expected)
}

/// Verdicts by `Suite.Test`.
pub fn verdicts(text: &str) -> BTreeMap<String, Verdict> {
    let mut verdicts = BTreeMap::new();
    let mut suite = "";
    // The test that has begun, and whether it said that it skips something.
    let mut running: Option<(String, bool)> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Suite: ") {
            suite = name.trim();
            continue;
        }
        let mut rest = line;
        if let Some((name, said)) = line.strip_prefix("  Test: ").and_then(|test| test.split_once(" ...")) {
            running = Some((format!("{suite}.{name}"), false));
            rest = said;
        }
        let Some((name, skipped)) = &mut running else { continue };
        let verdict = if rest.starts_with("passed") {
            if *skipped { Verdict::Skipped } else { Verdict::Passed }
        } else if rest.starts_with("FAILED") {
            Verdict::Failed
        } else {
            *skipped |= rest.contains("[SKIPPED]");
            continue;
        };
        verdicts.insert(std::mem::take(name), verdict);
        // What the suite says after its last test belongs to none.
        running = None;
    }
    verdicts
}

#[test]
fn verdicts_are_read() {
    let text = "
Suite: WriteSame10
  Test: Simple ...passed
  Test: ZeroBlocks ...    [SKIPPED] does not support 0-blocks.
passed
  Test: Check ...    [FAILED] WRITE10 command failed
FAILED
    1. test_check.c:133  - CU_ASSERT_NOT_EQUAL(ret,0)    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
  Test: Last ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
    [SKIPPED] PERSISTENT RESERVE IN is not implemented.

Suite: NoMedia
  Test: NoMediaSBC ...FAILED
";
    let verdicts: Vec<_> = verdicts(text).into_iter().collect();
    let expected = [
        ("NoMedia.NoMediaSBC", Verdict::Failed),
        ("WriteSame10.Check", Verdict::Failed),
        ("WriteSame10.Last", Verdict::Passed),
        ("WriteSame10.Simple", Verdict::Passed),
        ("WriteSame10.ZeroBlocks", Verdict::Skipped),
    ];
    assert_eq!(verdicts, expected.map(|(name, verdict)| (name.to_owned(), verdict)));
}

#[test]
fn the_list_is_well_formed() {
    let expected = expectations(include_str!("expected.txt")).unwrap();
    // As many as Debian 12's iscsi-test-cu has.
    assert_eq!(expected.len(), 230);
    assert!(expectations("pass A.B\npass A.B").is_err());
    assert!(expectations("skip A.B").is_err(), "a reason is due");
    assert!(expectations("pass A.B: because").is_err());
}
