//! Bad TOML and bad usage: status, key, line, advice.

use std::fs;
use std::process::Command;

use super::site::{BINARY, Place, refused};

/// Starts an array of `text`; it must refuse with all of `words`.
#[track_caller]
fn array_refuses(text: &str, words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, text).unwrap();
    let said = refused(Command::new(BINARY).arg("array").arg("--config").arg(&path));
    for word in words.iter().chain(&["bad.toml"]) {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something was made all the same");
}

fn good() -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut place = Place::new(directory.path(), "array-a", "a");
    place.peer = Some(("array-b".into(), 5802));
    place.data_dir = "data".into();
    place.config()
}

#[test]
fn bad_configurations_are_refused_with_key_line_and_advice() {
    array_refuses(&good().replace("side", "sight"), &["line 3", "sight", "side"]);
    array_refuses(&good().replace("\"a\"", "\"c\""), &["line 3", "`c`", "a", "b"]);
    array_refuses(&good().replace("[portal]\n", "[portal\n"), &["line 7"]);
    array_refuses(
        &good().replace("data_threads = 1", "data_threads = 0"),
        &["data_threads", "between 1 and"],
    );
    array_refuses(&good().replace("\"100ms\"", "\"soon\""), &["line 6", "soon"]);
    array_refuses(&good().replace("name = \"array-a\"", "name = \"Array A\""), &["array.name", "lower-case"]);
    array_refuses(&good().replace("\"array-b\"", "\"array-a\""), &["peer.name", "its own name"]);
    array_refuses(
        &good().replace("[management]\nlisten = \"127.0.0.1", "[management]\nlisten = \"0.0.0.0"),
        &["management.listen", "allow_plaintext = true"],
    );
    array_refuses(&format!("{}[timers]\nlease = \"60s\"\n", good()), &["[timers]", "lease"]);
    array_refuses("", &["array"]);
}

#[test]
fn a_missing_configuration_is_named() {
    let said = refused(Command::new(BINARY).args(["witness", "--config", "/nonexistent/witness.toml"]));
    assert!(said.contains("/nonexistent/witness.toml"), "{said}");
}

#[test]
fn wrong_usage_has_status_2_and_an_array_that_is_not_there_status_1() {
    for usage in [&["frobnicate"][..], &["createvv", "v"], &["array"], &["showvv", "--frob"], &[]] {
        let status = Command::new(BINARY).args(usage).output().unwrap().status;
        assert_eq!(status.code(), Some(2), "{usage:?}");
    }
    let port = super::site::port();
    let said = refused(Command::new(BINARY).args(["--array", &format!("127.0.0.1:{port}"), "showvv"]));
    assert!(said.contains(&port.to_string()) && said.contains("--array"), "{said}");
    // One that was killed leaves its token.
    let directory = tempfile::tempdir().unwrap();
    let array = Place::new(directory.path(), "array-a", "a").start();
    let port = array.place.management;
    array.daemon.kill();
    let said = refused(Command::new(BINARY).args(["--array", &format!("127.0.0.1:{port}"), "showvv"]));
    assert!(said.contains("does not answer") && said.contains("--array"), "{said}");
}

#[test]
fn bad_objects_are_refused_with_the_line_and_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let array = Place::new(directory.path(), "array-a", "a").start();
    let objects = directory.path().join("objects.toml");
    for (text, words) in [
        ("[[volume]]\nname = \"v\"\nsighs = \"1G\"\n", &["line 3", "sighs"][..]),
        ("[[volume]]\nname = \"v\"\nsize = 5\n", &["line 3", "string"]),
        ("[[volume]]\nname = \"v\"\nsize = \"5\"\n", &["volume v", "`5`", "512M"]),
        ("[[volume]]\nname = \"../../etc/v\"\nsize = \"1M\"\n", &["../../etc/v", "not a valid name"]),
        ("[[vlun]]\nvolume = \"v\"\nhost = \"h\"\nlun = 70000\n", &["line 4", "70000"]),
        ("[[volume]\n", &["line 1"]),
    ] {
        fs::write(&objects, text).unwrap();
        let said = array.cli_refused(&["apply", objects.to_str().unwrap()]);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    assert_eq!(array.get("/api/v1/volumes")["total"], 0);
    let said = array.cli_refused(&["apply", "/nonexistent/objects.toml"]);
    assert!(said.contains("/nonexistent/objects.toml"), "{said}");
}
