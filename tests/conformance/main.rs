//! libiscsi's `iscsi-test-cu` against a target, and what it is expected to say about each of its
//! tests: `expected.txt`. A test that does better than expected fails this one too, so that the
//! list stays true. `scripts/conformance` runs it (Debian's package is libiscsi-bin).

#[path = "../iscsi/disk.rs"]
mod disk;
#[path = "../iscsi/memory.rs"]
#[expect(dead_code, reason = "shared with the portal's own tests")]
mod memory;
mod report;
#[allow(dead_code, unused_imports, reason = "lab, demo and benchmark each use a part of it")]
#[path = "../site/site.rs"]
mod site;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use report::{Expected, Verdict, expectations, verdicts};

/// Every family, data loss allowed; two paths, for the tests over both.
fn run(urls: &[String]) -> BTreeMap<String, Verdict> {
    let output = Command::new("timeout")
        .args(["--kill-after=5", "600", "iscsi-test-cu", "--dataloss", "--test=ALL"])
        .args(urls)
        .output()
        .expect("iscsi-test-cu runs; apt-get install libiscsi-bin");
    let text = String::from_utf8_lossy(&output.stdout);
    // Its exit status only says whether a test failed; one that died has no summary.
    let last = text.lines().rev().take(30).collect::<Vec<_>>();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Run Summary:"), "{}: {complaint} {last:#?}", output.status);
    verdicts(&text)
}

fn check(urls: &[String]) {
    let expected = expectations(include_str!("expected.txt")).unwrap();
    let verdicts = run(urls);
    let mut wrong = Vec::new();
    let mut count = [0; 3];
    for (name, verdict) in &verdicts {
        count[*verdict as usize] += 1;
        match expected.get(name) {
            None => wrong.push(format!("{name}: {verdict:?}, but it is not in the list")),
            Some(expected) if !expected.allows(*verdict) => {
                wrong.push(format!("{name}: {verdict:?}, expected {expected:?}"));
            }
            Some(_) => {}
        }
    }
    for name in expected.keys().filter(|name| !verdicts.contains_key(*name)) {
        wrong.push(format!("{name}: did not run"));
    }
    let [passed, skipped, failed] = count;
    println!(
        "iscsi-test-cu: {passed} passed, {skipped} skipped, {failed} failed; {} unlike the list",
        wrong.len()
    );
    for name in expected.iter().filter(|(_, expected)| matches!(expected, Expected::Disputed(_))) {
        println!("  {}: {:?} ({:?})", name.0, verdicts.get(name.0), name.1);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs iscsi-test-cu; scripts/conformance runs it"]
fn command_set_and_portal() {
    let target = memory::Target::disk();
    let url = format!("iscsi://{}/{}/0", target.address, memory::TARGET);
    check(&[url.clone(), url]);
}

/// The tool's own initiator names, both of which see the unit.
const OBJECTS: &str = r#"
volume = [{ name = "conformance", mib = 1024 }]
host = [
  { name = "first", iqn = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test" },
  { name = "second", iqn = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test-2" },
]
vlun = [
  { volume = "conformance", host = "first", lun = 1 },
  { volume = "conformance", host = "second", lun = 1 },
]
"#;
const GROUP: &str = r#"group = [{ name = "bench", target = "array-b", volumes = ["conformance"] }]"#;

/// A real array, or the one that serves of a real pair, with all that lies behind its portal.
fn array(pair: bool) {
    let directory = tempfile::tempdir().unwrap();
    let plan = site::bench_plan(Path::new(env!("CARGO_BIN_EXE_twinlun")), directory.path(), pair).unwrap();
    let objects = if pair { format!("{OBJECTS}{GROUP}\n") } else { OBJECTS.to_owned() };
    std::fs::write(&plan.objects, objects).unwrap();
    let site = site::Site::start(plan).unwrap();
    let (portal, iqn) = site.serving().unwrap();
    let url = format!("iscsi://{portal}/{iqn}/1");
    let checked = std::panic::catch_unwind(|| check(&[url.clone(), url]));
    if checked.is_err() {
        panic!("{}", site.last_words());
    }
}

#[test]
#[ignore = "needs iscsi-test-cu; scripts/conformance runs it"]
fn one_array() {
    array(false);
}

#[test]
#[ignore = "needs iscsi-test-cu; scripts/conformance runs it"]
fn mirrored_pair() {
    array(true);
}

/// Against a target that is already there: its whole LUN is overwritten.
#[test]
#[ignore = "needs a target; scripts/conformance names one in TWINLUN_CONFORMANCE_URLS"]
fn given_target() {
    let Ok(urls) = std::env::var("TWINLUN_CONFORMANCE_URLS") else { return };
    let urls: Vec<_> = urls.split_whitespace().map(String::from).collect();
    check(&urls);
}
