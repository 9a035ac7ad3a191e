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
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
volume = [{ name = "conformance", size = "1G" }]
host = [{ name = "tool", iqns = [
  "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test",
  "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test-2",
] }]
vlun = [{ volume = "conformance", host = "tool", lun = 1 }]
"#;
const GROUP: &str = r#"group = [{ name = "bench", target = "array-b", volumes = ["conformance"] }]"#;

/// A real array, or the one that serves of a real pair, with all that lies behind its portal.
fn array(pair: bool) {
    let directory = tempfile::tempdir().unwrap();
    let plan = site::bench_plan(Path::new(env!("CARGO_BIN_EXE_twinlun")), directory.path(), pair).unwrap();
    let objects = if pair { format!("{OBJECTS}{GROUP}\n") } else { OBJECTS.to_owned() };
    std::fs::write(&plan.objects, objects).unwrap();
    let mut site = site::Site::start(plan).unwrap();
    if pair {
        // Otherwise it would be the tests of one array again.
        let limit = std::time::Duration::from_secs(60);
        let in_sync = site.wait("in sync", limit, |site| Ok(site.status(site::Node::A)?.in_sync));
        in_sync.unwrap_or_else(|error| panic!("{error}\n{}", site.last_words()));
    }
    let (portal, iqn) = site.serving().unwrap();
    let url = format!("iscsi://{portal}/{iqn}/1");
    let checked = std::panic::catch_unwind(|| check(&[url.clone(), url]));
    if checked.is_err() {
        panic!("{}", site.last_words());
    }
    if pair {
        drop(site);
        let [a, b] = ["a", "b"].map(|node| volume_file(&directory.path().join(node)));
        assert!(std::fs::metadata(&b).unwrap().blocks() > 0, "nothing came to the other array");
        assert_eq!(first_difference(&a, &b), None, "the copies differ");
    }
}

/// The only file as large as a volume below `directory`.
fn volume_file(directory: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.len() >= 1 << 30 {
                found.push(entry.path());
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?} below {}", directory.display());
    found.remove(0)
}

/// Offset of the MiB in which two files differ.
fn first_difference(a: &Path, b: &Path) -> Option<usize> {
    const MIB: usize = 1 << 20;
    let [mut a, mut b] = [a, b].map(|path| std::fs::File::open(path).unwrap());
    let (mut left, mut right) = (vec![0; MIB], vec![0; MIB]);
    (0..1024).map(|index| index * MIB).find(|_| {
        a.read_exact(&mut left).unwrap();
        b.read_exact(&mut right).unwrap();
        left != right
    })
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
