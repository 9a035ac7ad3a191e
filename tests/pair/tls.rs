//! Who may speak to the witness: the arrays whose certificates it lists, and nobody else.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::site::{BINARY, Daemon, LIMIT, Pair, Place, port, until, write_and_read};

/// Makes the key `NAME.key` and its certificate `NAME.pem`.
fn certificate(directory: &Path, name: &str) {
    let made =
        Command::new(BINARY).arg("certificate").arg(directory.join(format!("{name}.key"))).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::write(directory.join(format!("{name}.pem")), made.stdout).unwrap();
}

fn tls(own: &str, trust: &str) -> String {
    format!("tls = {{ key = \"{own}.key\", trust = [{trust}] }}\n")
}

/// A pair whose witness believes both arrays only.
fn secured() -> Pair {
    let mut pair = Pair::new();
    let directory = pair.directory.path().to_owned();
    for name in ["array-a", "array-b", "witness", "stranger"] {
        certificate(&directory, name);
    }
    pair.a.extra = tls("array-a", "\"witness.pem\"");
    pair.b.extra = tls("array-b", "\"witness.pem\"");
    let text = fs::read_to_string(&pair.witness_config).unwrap()
        + &tls("witness", "\"array-a.pem\", \"array-b.pem\"");
    fs::write(&pair.witness_config, text).unwrap();
    let log = directory.join("secured.log");
    // The first one ends before its port and directory are taken again.
    let plain = Daemon::start("witness", Path::new("/nonexistent"), &log);
    std::mem::replace(&mut pair.witness, plain).terminate();
    fs::remove_file(&log).unwrap();
    pair.witness = Daemon::start("witness", &pair.witness_config, &log);
    pair.witness.says("witness ready");
    pair
}

#[test]
fn arrays_with_certificates_fail_over() {
    let mut pair = secured();
    let (a, b) = pair.in_sync();
    pair.witness.says("an array is connected array=\"array-a\"");
    pair.witness.says("an array is connected array=\"array-b\"");
    write_and_read(&a.place, &a.place, 0x51);
    a.daemon.kill();
    until("B serves alone", LIMIT, || (b.group()["serves"] == true).then_some(()));
}

/// An array without a peer that asks the pair's witness with `extra` as its credentials.
fn caller(pair: &Pair, name: &str, extra: String) -> Place {
    let mut place = Place::new(pair.directory.path(), name, "a");
    place.peer = Some(("nobody".into(), port()));
    place.witness = Some(pair.witness_port);
    place.extra = extra;
    place
}

#[test]
fn strangers_at_the_witness_are_refused_and_named() {
    let mut pair = secured();
    let wrong = caller(&pair, "wrong", tls("stranger", "\"witness.pem\"")).start();
    pair.witness.says("not listed in tls.trust");
    drop(wrong);
    let plain = caller(&pair, "plain", String::new()).start();
    pair.witness.says("corrupt message");
    drop(plain);
    // Silence, more often than there are places: ended in time, and arrays are let in afterwards.
    let silent: Vec<_> =
        (0..80).map(|_| TcpStream::connect(("127.0.0.1", pair.witness_port)).unwrap()).collect();
    pair.witness.says("too many at their hello");
    pair.witness.says("no handshake in time");
    for mut stream in silent {
        let _ = stream.write_all(b"late");
        assert!(!matches!(stream.read(&mut [0; 16]), Ok(read) if read > 0));
    }
    assert!(!pair.witness.log().contains("an array is connected"), "{}", pair.witness.log());
    let _a = pair.a.start();
    pair.witness.says("an array is connected array=\"array-a\"");
}

#[test]
fn a_key_that_others_can_read_is_refused_with_advice() {
    use std::os::unix::fs::PermissionsExt;
    let pair = secured();
    fs::set_permissions(pair.directory.path().join("array-a.key"), fs::Permissions::from_mode(0o644))
        .unwrap();
    let said = pair.a.start_refused();
    assert!(said.contains("chmod 600") && said.contains("array-a.key"), "{said}");
}
