//! The shape of the design, checked: which module may use which, and what a pure core may not
//! touch. Reads the sources as text; a line that points the wrong way is named.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules without I/O, clocks, threads, async, logging or hash order.
const PURE: &[&str] = &["arbitration", "block", "format", "group", "iscsi", "mirror", "scsi", "time", "wire"];

/// What a pure core may not name. `core::time::Duration` is fine, clocks are not.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::thread",
    "std::sync",
    "std::time",
    "Instant::now",
    "SystemTime",
    "HashMap",
    "HashSet",
    "tokio",
    "tracing::",
    "async fn",
    "println!",
    "rand::",
    "getrandom",
];

/// For each module, the modules of this crate that it may use. Dependencies point one way:
/// transports -> command sets -> volume and mirror -> store; arbitration knows none of them.
const ARROWS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("mutation", &[]),
    ("block", &[]),
    ("format", &["mutation"]),
    ("arbitration", &["time", "mutation", "format"]),
    ("mirror", &["block", "arbitration", "time", "mutation", "format"]),
    ("group", &["block", "arbitration", "mirror", "time", "mutation", "wire", "format"]),
    ("wire", &["arbitration", "mirror", "time", "group", "format", "block"]),
    ("scsi", &["block", "time"]),
    // The transport's write data goes straight into aligned buffers.
    ("iscsi", &["block", "time", "sys"]),
    ("sys", &["time", "mutation"]),
    ("store", &["sys", "block", "format", "mirror", "arbitration", "time", "mutation"]),
    ("volume", &["sys", "store", "block", "mirror", "arbitration", "group", "time", "mutation"]),
    ("portal", &["iscsi", "scsi", "volume", "block", "sys", "time"]),
    ("link", &["wire", "mirror", "arbitration", "group", "sys", "block", "volume", "time", "store", "tls"]),
    ("tls", &["mutation"]),
    ("config", &["arbitration"]),
    ("witness", &["group", "wire", "arbitration", "sys", "store", "config", "time", "format", "link", "tls"]),
];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let file = root.join(format!("{module}.rs"));
    let mut found = Vec::new();
    if file.exists() {
        found.push(file);
    } else {
        sources(&root.join(module), &mut found);
    }
    assert!(!found.is_empty(), "no sources for module {module}");
    found.sort();
    found
}

/// Files that are tests as a whole: named so (`tests.rs`, `*_tests.rs`, or in a folder of such a
/// name), or in a module that its parent declares under `#[cfg(test)]`.
fn is_test_file(path: &Path) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let Ok(below) = path.strip_prefix(&root) else { return false };
    let mut module = root.clone();
    below.components().any(|component| {
        let name = component.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let declared = fs::read_to_string(module.join("mod.rs")).unwrap_or_default();
        module.push(&name);
        let lines: Vec<_> = declared.lines().map(str::trim).collect();
        let gated = lines
            .windows(2)
            .any(|pair| pair[0].starts_with("#[cfg(test)]") && pair[1].ends_with(&format!("mod {name};")));
        name == "tests" || name.ends_with("_tests") || gated
    })
}

/// Code lines up to the unit tests at the end of a file, without comments.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    if is_test_file(path) {
        return Vec::new();
    }
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(n, line)| (n + 1, line.to_owned()))
        .collect()
}

#[test]
fn pure_cores_touch_nothing_outside() {
    let mut wrong = Vec::new();
    for module in PURE {
        for path in files_of(module) {
            for (n, line) in code_lines(&path) {
                for word in IMPURE {
                    if line.contains(word) {
                        wrong.push(format!(
                            "{}:{n}: `{word}` in a pure core: {}",
                            path.display(),
                            line.trim()
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for (module, allowed) in ARROWS {
        for path in files_of(module) {
            for (n, line) in code_lines(&path) {
                let mut rest = line.as_str();
                while let Some(at) = rest.find("crate::") {
                    rest = &rest[at + "crate::".len()..];
                    let used: String =
                        rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if !used.is_empty() && used != *module && !allowed.contains(&used.as_str()) {
                        wrong.push(format!("{}:{n}: {module} must not use {used}", path.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_lives_in_sys_alone() {
    let mut all = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join("sys");
    let mut wrong = Vec::new();
    for path in all.iter().filter(|path| !path.starts_with(&root)) {
        for (n, line) in code_lines(path) {
            if ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{n}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
