use super::*;
use std::io::Write;
use std::time::Duration;

const GOOD: &str = r#"
[array]
name = "array-a"
side = "a"
data_dir = "state/a"
[portal]
listen = ["127.0.0.1:3260"]
[peer]
name = "array-b"
listen = "127.0.0.1:5001"
address = "127.0.0.1:5002"
[witness]
address = "127.0.0.1:5000"
[timers]
lease = "3s"
"#;

fn load(text: &str) -> Result<ArrayConfig, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    ArrayConfig::load(file.path()).map_err(|error| error.to_string())
}

#[test]
fn a_good_file_is_read() {
    let config = load(GOOD).unwrap();
    assert_eq!(config.target_name(), "iqn.2026-11.io.twinlun:array-a");
    assert_eq!(config.timers.timers().unwrap().lease, Duration::from_secs(3));
    assert!(config.array.data_dir.is_absolute(), "relative paths are relative to the file");
    assert_eq!(config.management.listen.port(), 8008);
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_advice() {
    let cases = [
        ("data_dir = \"state/a\"", "data_dri = \"state/a\"", &["data_dri", "line 5", "data_dir"][..]),
        ("side = \"a\"", "side = \"c\"", &["line 4", "`a` or `b`"]),
        ("lease = \"3s\"", "lease = \"3\"", &["line 15", "250ms"]),
        ("lease = \"3s\"", "lease = 3", &["line 15", "250ms"]),
        ("lease = \"3s\"", "lease = \"11s\"", &["line 15: [timers]", "lease <= 10 s", "shorten lease"]),
        (
            "lease = \"3s\"",
            "\n\nlink_timeout = \"3s\"",
            &["line 17: [timers]", "link_timeout", "shorten link_timeout"],
        ),
        ("lease = \"3s\"", "rejoin = \"3s\"", &["unknown field `rejoin`", "rejoin_delay"]),
        ("\"127.0.0.1:3260\"", "\"localhost\"", &["line 7", "IP:PORT", "192.0.2.1:3260"]),
        ("\"127.0.0.1:5002\"", "\"127.0.0.1\"", &["line 11", "lacks a port", "\"127.0.0.1:5801\""]),
        ("\"127.0.0.1:5002\"", "5002", &["line 11", "an address in quotes"]),
        ("[\"127.0.0.1:3260\"]", "[]", &["line 7: portal.listen", "at least one"]),
        ("[\"127.0.0.1:3260\"]", "[\"0.0.0.0:3260\"]", &["line 7: portal.listen", "list each address"]),
        (
            "[\"127.0.0.1:3260\"]",
            "[\"127.0.0.1\", \"127.0.0.1:3260\"]",
            &["line 7: portal.listen", "127.0.0.1:3260 is listed twice"],
        ),
        ("\"127.0.0.1:5002\"", "\"10.1.1.1:5002\"", &["line 11: peer.address", "allow_plaintext = true"]),
        ("\"127.0.0.1:5002\"", "\"127.0.0.1:5001\"", &["line 11: peer.address", "the other array listens"]),
        ("\"127.0.0.1:5000\"", "\"10.1.1.1:5000\"", &["line 13: witness.address", "allow_plaintext = true"]),
        ("name = \"array-b\"", "name = \"array-a\"", &["line 9: peer.name", "its own name"]),
        ("name = \"array-a\"", "name = \"Array A\"", &["line 3: array.name", "lower-case"]),
        (
            "side = \"a\"",
            "side = \"a\"\ndata_threads = 0",
            &["line 5: array.data_threads", "between 1 and 64"],
        ),
        ("side = \"a\"", "side = \"a\"\ndata_threads = \"2\"", &["line 5", "a whole number"]),
        ("side = \"a\"", "side = \"a\"\nengine = \"fast\"", &["line 5", "`auto`", "`plain`"]),
        ("[witness]", "[portal]\n[witness]", &["duplicate key", "line 12"]),
        (
            "[timers]",
            "[management]\nlisten = \"10.1.1.1:8008\"\n[timers]",
            &["line 15: management.listen", "allow_plaintext = true"],
        ),
        ("[array]", "[array", &["line 2"]),
    ];
    for (right, wrong, words) in cases {
        assert!(GOOD.contains(right), "{right}");
        let error = load(&GOOD.replacen(right, wrong, 1)).expect_err(wrong);
        for word in words {
            assert!(error.contains(word), "{wrong}: {word:?} is missing in: {error}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = ArrayConfig::load(std::path::Path::new("/nonexistent/x.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x.toml"), "{error}");
}

#[test]
fn durations_are_read() {
    assert_eq!(Milliseconds::parse("250ms"), Ok(Milliseconds(Duration::from_millis(250))));
    assert_eq!(Milliseconds::parse("2m"), Ok(Milliseconds(Duration::from_secs(120))));
    for bad in ["", "s", "3", "3h", "-3s", "99999999999999999999s", "2000m"] {
        assert!(Milliseconds::parse(bad).is_err(), "{bad}");
    }
}

#[cfg(not(feature = "testing"))]
#[test]
fn the_volatile_engine_is_refused() {
    let error = load(&GOOD.replace("side = \"a\"", "side = \"a\"\nengine = \"volatile\"")).unwrap_err();
    assert!(error.contains("line 5: array.engine") && error.contains("\"auto\""), "{error}");
}

#[test]
fn a_portal_without_port_takes_that_of_iscsi() {
    let config = load(&GOOD.replace("\"127.0.0.1:3260\"", "\"127.0.0.1\", \"::1\"")).unwrap();
    let ports: Vec<_> = config.portal.listen.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, [3260, 3260]);
}

/// The shipped files are read as they are, and fit together as a pair with its witness.
#[test]
fn the_shipped_files_make_a_pair() {
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target-config");
    let a = ArrayConfig::load(&shipped.join("array-a.toml")).unwrap();
    let b = ArrayConfig::load(&shipped.join("array-b.toml")).unwrap();
    let witness = WitnessConfig::load(&shipped.join("witness.toml")).unwrap();
    assert_ne!(a.side(), b.side());
    assert_ne!(a.system_id(), b.system_id());
    assert_ne!(a.array.data_dir, b.array.data_dir);
    let (to_b, to_a) = (a.peer.unwrap(), b.peer.unwrap());
    assert_eq!((&to_b.name, to_b.address), (&b.array.name, to_a.listen));
    assert_eq!((&to_a.name, to_a.address), (&a.array.name, to_b.listen));
    assert_eq!(a.witness.unwrap().address, witness.witness.listen);
    assert_eq!(b.witness.unwrap().address, witness.witness.listen);
}

/// Keys that the files show commented out exist, and what they show is the default or valid.
#[test]
fn the_commented_keys_of_the_shipped_files_exist() {
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target-config");
    for name in ["array-a.toml", "array-b.toml"] {
        let text = std::fs::read_to_string(shipped.join(name)).unwrap();
        let uncommented: Vec<_> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => key,
                _ => line,
            })
            .collect();
        let config = load(&uncommented.join("\n")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.timers.timers().unwrap(), crate::arbitration::Timers::default(), "{name}");
    }
}
