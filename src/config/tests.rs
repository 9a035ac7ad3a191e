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
        ("lease = \"3s\"", "lease = \"11s\"", &["[timers]", "lease <= 10 s", "shorten lease"]),
        ("lease = \"3s\"", "rejoin = \"3s\"", &["unknown field `rejoin`", "rejoin_delay"]),
        ("\"127.0.0.1:3260\"", "\"localhost\"", &["line 7", "socket address"]),
        ("[\"127.0.0.1:3260\"]", "[]", &["portal.listen", "at least one"]),
        ("\"127.0.0.1:5002\"", "\"10.1.1.1:5002\"", &["peer.address", "allow_plaintext = true"]),
        ("\"127.0.0.1:5000\"", "\"10.1.1.1:5000\"", &["witness.address", "allow_plaintext = true"]),
        ("name = \"array-b\"", "name = \"array-a\"", &["peer.name", "its own name"]),
        ("name = \"array-a\"", "name = \"Array A\"", &["array.name", "lower-case"]),
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
