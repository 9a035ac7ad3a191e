//! Who may speak: sites that were paired, each for itself alone, and nobody else.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::site::{Array, BINARY, Daemon, LIMIT, Pair, Place, port, refused, request, until, write_and_read};

fn tls(directory: &str) -> String {
    format!("[tls]\ndirectory = \"{directory}\"\n")
}

fn pairs(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("pair").arg(config).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The code that a site which listens prints.
fn listening(config: &Path, arguments: &[&str]) -> (Child, String) {
    let address = format!("127.0.0.1:{}", port());
    let mut child = pairs(config, &[&["--listen", address.as_str()], arguments].concat()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

/// A site that joins with a code.
fn joins(config: &Path, code: &str, arguments: &[&str]) -> Child {
    let mut child = pairs(config, &[&["--join"], arguments].concat()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{code}\n").as_bytes()).unwrap();
    child
}

#[track_caller]
fn ends_badly(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

#[track_caller]
fn ends_well(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

/// A pair and a witness that were paired over the network; the witness listens for the others.
fn secured() -> Pair {
    let mut pair = Pair::new();
    let directory = pair.directory.path().to_owned();
    for place in [&mut pair.a, &mut pair.b] {
        place.extra = tls(&format!("{}.tls", place.name));
        fs::write(place.config_path(), place.config()).unwrap();
    }
    let text = fs::read_to_string(&pair.witness_config).unwrap() + &tls("witness.tls");
    fs::write(&pair.witness_config, text).unwrap();
    let (host, code) = listening(&pair.witness_config, &["--sites", "array-b,array-a"]);
    let both = [&pair.a, &pair.b].map(|place| joins(&place.config_path(), &code, &[]));
    for join in both {
        let said = ends_well(join);
        assert!(said.contains("witness witness is believed: SHA-256"), "{said}");
    }
    ends_well(host);
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
fn paired_sites_mirror_and_fail_over() {
    let mut pair = secured();
    let (a, b) = pair.in_sync();
    pair.witness.says("an array is connected array=\"array-a\"");
    pair.witness.says("an array is connected array=\"array-b\"");
    write_and_read(&a.place, &a.place, 0x51);
    a.daemon.kill();
    until("B serves alone", LIMIT, || (b.group()["serves"] == true).then_some(()));
    write_and_read(&b.place, &b.place, 0x52);
    // Back, it is copied over lanes that were made anew.
    let _a = pair.a.start();
    b.until_in_sync();
}

/// An array without a peer that asks the pair's witness, with `keys` as its directory.
fn caller(pair: &Pair, name: &str, keys: Option<&str>) -> Place {
    let mut place = Place::new(pair.directory.path(), name, "a");
    place.peer = Some(("nobody".into(), port()));
    place.witness = Some(pair.witness_port);
    if let Some(keys) = keys {
        place.extra = tls(keys);
        // What the witness believes is its own business; this caller believes the pair's sites.
        fs::write(place.config_path(), place.config()).unwrap();
        assert!(pairs(&place.config_path(), &[]).status().unwrap().success());
        for known in ["witness.witness.pem", "array-b.array.pem"] {
            let from = pair.directory.path().join("array-a.tls").join(known);
            fs::copy(from, pair.directory.path().join(keys).join(known)).unwrap();
        }
        let nobody = fs::read_to_string(pair.directory.path().join("array-a.tls/array-b.array.pem")).unwrap();
        let nobody = nobody.replace("twinlun array array-b", "twinlun array nobody");
        fs::write(pair.directory.path().join(keys).join("nobody.array.pem"), nobody).unwrap();
    }
    place
}

/// `keys` with the key of another site, under a false title.
fn impostor(pair: &Pair, keys: &str, of: &str, claims: &str) {
    let own = fs::read_to_string(pair.directory.path().join(of).join("own.key")).unwrap();
    let title = own.lines().find(|line| line.starts_with("twinlun ")).unwrap().to_owned();
    let path = pair.directory.path().join(keys).join("own.key");
    fs::write(path, own.replace(&title, &format!("twinlun array {claims}"))).unwrap();
}

/// Silence, more often than there are places: ended in time.
fn silence(port: u16, daemon: &mut Daemon) {
    let silent: Vec<_> = (0..80).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    daemon.says("too many at their hello");
    daemon.says("no handshake in time");
    // Of the first one; the others came a moment later.
    std::thread::sleep(Duration::from_millis(500));
    for mut stream in silent {
        let _ = stream.write_all(b"late");
        assert!(!matches!(stream.read(&mut [0; 16]), Ok(read) if read > 0));
    }
}

#[test]
fn strangers_at_the_witness_are_refused_and_named() {
    let mut pair = secured();
    let wrong = caller(&pair, "wrong", Some("wrong.tls")).start();
    pair.witness.says("none of those believed here");
    drop(wrong);
    let plain = caller(&pair, "plain", None).start();
    pair.witness.says("the other end speaks no TLS");
    drop(plain);
    // A certificate that is believed, for another array than the one it is of.
    let false_b = caller(&pair, "false-b", Some("false.tls"));
    impostor(&pair, "false.tls", "array-a.tls", "false-b");
    let false_b = false_b.start();
    pair.witness
        .says("the certificate is that of array array-a, and the other end calls itself array false-b");
    drop(false_b);
    silence(pair.witness_port, &mut pair.witness);
    assert!(!pair.witness.log().contains("an array is connected"), "{}", pair.witness.log());
    let _a = pair.a.start();
    pair.witness.says("an array is connected array=\"array-a\"");
}

/// An array that takes A's place towards B, with the keys `keys`.
fn false_a(pair: &Pair, keys: Option<&str>) -> Place {
    let mut place = pair.a.clone();
    place.data_dir = pair.directory.path().join("false-a.data");
    place.extra = keys.map(tls).unwrap_or_default();
    place
}

#[test]
fn strangers_at_the_replication_address_are_refused_and_named() {
    let pair = secured();
    let mut b = pair.b.start();
    let plain = false_a(&pair, None).start();
    b.daemon.says("the other end speaks no TLS");
    drop(plain);
    // A site that B knows, and not as the other array: the witness's key under A's name.
    fs::create_dir(pair.directory.path().join("stolen.tls")).unwrap();
    for known in ["array-b.array.pem", "witness.witness.pem"] {
        let from = pair.directory.path().join("array-a.tls").join(known);
        fs::copy(from, pair.directory.path().join("stolen.tls").join(known)).unwrap();
    }
    impostor(&pair, "stolen.tls", "witness.tls", "array-a");
    use std::os::unix::fs::PermissionsExt;
    let key = pair.directory.path().join("stolen.tls/own.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let stolen = false_a(&pair, Some("stolen.tls")).start();
    b.daemon.says("none of those believed here");
    drop(stolen);
    silence(pair.b.replication, &mut b.daemon);
    assert!(!b.daemon.log().contains("peer is up"), "{}", b.daemon.log());
    drop(b);
    // Both of the pair are as they were.
    let (a, _b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x53);
}

/// Sockets from an address that is nobody's, which say nothing and come back as soon as they are closed.
fn flood(ports: [u16; 2]) {
    let silent = move |n: usize| async move {
        let to = SocketAddr::from(([127, 0, 0, 1], ports[n % 2]));
        loop {
            let from = SocketAddr::from(([127, 0, 0, 2], 0));
            if let Ok(mut stream) = twinlun::link::dial::dial(to, Some(from)).await {
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // It ends with the tests.
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            for n in 0..200 {
                tokio::spawn(silent(n));
            }
            std::future::pending::<()>().await;
        });
    });
}

#[test]
fn strangers_who_take_every_place_keep_nobody_out() {
    let mut pair = secured();
    flood([pair.witness_port, pair.b.replication]);
    pair.witness.says("too many at their hello");
    let (a, b) = pair.in_sync();
    pair.witness.says("an array is connected array=\"array-a\"");
    pair.witness.says("an array is connected array=\"array-b\"");
    for array in [&a, &b] {
        let picture = array.get("/api/twinlun/rcopy");
        assert_eq!((&picture["targetUp"], &picture["witnessUp"]), (&true.into(), &true.into()), "{picture}");
    }
    write_and_read(&a.place, &a.place, 0x54);
    // An array that comes back finds its places too.
    b.daemon.kill();
    until("A goes on alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    let b = pair.b.start();
    b.until_in_sync();
    let lines = pair.witness.log().matches("too many at their hello").count();
    assert!(lines <= 4, "{lines} lines");
}

#[test]
fn a_certificate_that_is_taken_back_ends_the_connections_of_its_site() {
    let mut pair = secured();
    let (a, mut b) = pair.in_sync();
    let at = pair.directory.path().to_owned();
    for keys in ["array-b.tls", "witness.tls"] {
        fs::rename(at.join(keys).join("array-a.array.pem"), at.join(format!("{keys}.kept"))).unwrap();
    }
    let over = "the certificate of array array-a is believed here no more";
    b.daemon.says(over);
    pair.witness.says(over);
    until("the links are gone", LIMIT, || {
        let picture = a.get("/api/twinlun/rcopy");
        (picture["targetUp"] == false && picture["witnessUp"] == false).then_some(())
    });
    for keys in ["array-b.tls", "witness.tls"] {
        fs::rename(at.join(format!("{keys}.kept")), at.join(keys).join("array-a.array.pem")).unwrap();
    }
    b.until_in_sync();
    a.until_in_sync();
}

/// The status that a client gets, or why it gets none.
fn curl(array: &Array, scheme: &str, trust: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(BINARY);
    command.arg("showsys").stdin(Stdio::null());
    command.env("TWINLUN_ARRAY", format!("{scheme}127.0.0.1:{}", array.place.management));
    if let Some(trust) = trust {
        command.env("TWINLUN_TRUST", trust);
    }
    let output = command.output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_management_api_is_encrypted_and_known_by_its_certificate() {
    let pair = secured();
    let mut a = pair.a.start();
    // An array on this machine needs no more than before.
    curl(&a, "", None).unwrap();
    curl(&a, "https://", None).unwrap();
    let own = pair.directory.path().join("witness.tls/array-a.array.pem");
    curl(&a, "https://", Some(&own)).unwrap();
    // Another site's certificate is not this array's.
    let other = pair.directory.path().join("witness.tls/array-b.array.pem");
    let said = curl(&a, "https://", Some(&other)).unwrap_err();
    assert!(said.contains("does not answer"), "{said}");
    curl(&a, "http://", None).unwrap_err();
    a.daemon.says("a client of the management API is refused");
    let answer = request(a.place.management, "GET", "/api", None, "");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_key_that_others_can_read_or_that_is_another_sites_is_refused_with_advice() {
    use std::os::unix::fs::PermissionsExt;
    let mut pair = secured();
    let key = pair.directory.path().join("array-a.tls/own.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = pair.a.start_refused();
    assert!(said.contains("chmod 600") && said.contains("own.key"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    pair.b.extra = tls("array-a.tls");
    let said = pair.b.start_refused();
    assert!(said.contains("the key of array array-a"), "{said}");
    pair.a.extra = tls("nothing.tls");
    let said = pair.a.start_refused();
    assert!(said.contains("twinlun pair"), "{said}");
    let none = pair.directory.path().join("none.toml");
    pair.a.extra = String::new();
    fs::write(&none, pair.a.config()).unwrap();
    let said = refused(Command::new(BINARY).arg("pair").arg(&none));
    assert!(said.contains("[tls]\ndirectory = "), "{said}");
}

#[test]
fn sites_are_paired_by_hand() {
    let pair = Pair::new();
    let mut cards = Vec::new();
    let mut places = [pair.a.clone(), pair.b.clone()];
    for place in &mut places {
        place.extra = tls(&format!("{}.tls", place.name));
        fs::write(place.config_path(), place.config()).unwrap();
        let output = pairs(&place.config_path(), &[]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let card = pair.directory.path().join(format!("{}.card", place.name));
        fs::write(&card, output.stdout).unwrap();
        cards.push(card.to_str().unwrap().to_owned());
    }
    let [a, b] = &places;
    ends_well(pairs(&a.config_path(), &["--add", &cards[1]]).spawn().unwrap());
    let said = refused(pairs(&b.config_path(), &["--add", &cards[1]]).stdout(Stdio::null()));
    assert!(said.contains("is this site itself"), "{said}");
    let key = pair.directory.path().join("array-b.tls/own.key");
    let said = refused(
        pairs(&b.config_path(), &["--add", pair.witness_config.to_str().unwrap()]).stdout(Stdio::null()),
    );
    assert!(said.contains("no certificate of a site"), "{said}");
    assert!(key.exists());
    // The code of nobody.
    let code = format!("127.0.0.1:{}/{}", port(), "0".repeat(64));
    let said = ends_badly(joins(&b.config_path(), &code, &[]));
    assert!(said.contains("does not answer"), "{said}");
}

/// Configurations of sites that are to be paired, by the names of their arrays.
fn unpaired(pair: &Pair, names: &[(&str, &str)]) -> Vec<std::path::PathBuf> {
    let made = names.iter().map(|(name, keys)| {
        let mut place = Place::new(pair.directory.path(), name, "a");
        place.extra = tls(keys);
        fs::write(place.config_path(), place.config()).unwrap();
        place.config_path()
    });
    made.collect()
}

#[test]
fn another_pair_s_array_of_the_same_name_takes_nobody_s_place() {
    let pair = secured();
    let known = pair.directory.path().join("witness.tls/array-a.array.pem");
    let before = fs::read_to_string(&known).unwrap();
    let configs = unpaired(&pair, &[("array-a", "second.tls"), ("array-c", "third.tls")]);
    let (mut host, code) = listening(&pair.witness_config, &["--sites", "array-a,array-c"]);
    let said = ends_badly(joins(&configs[0], &code, &[]));
    assert!(said.contains("--replace-site array-a"), "{said}");
    // Nobody who is not expected either.
    let stranger = unpaired(&pair, &[("array-d", "fourth.tls")]);
    let said = ends_badly(joins(&stranger[0], &code, &[]));
    assert!(said.contains("array array-d is not expected"), "{said}");
    host.kill().unwrap();
    assert_eq!(fs::read_to_string(&known).unwrap(), before);
    // A joiner keeps what it knows too, all of it.
    let a = pair.a.config_path();
    let (mut host, code) = listening(&configs[0], &["--sites", "array-a"]);
    let said = ends_badly(joins(&a, &code, &[]));
    assert!(said.contains("both sites are array array-a"), "{said}");
    host.kill().unwrap();
    // The operator says so.
    let (host, code) = listening(&pair.witness_config, &["--sites", "array-a", "--replace-site", "array-a"]);
    ends_well(joins(&configs[0], &code, &[]));
    ends_well(host);
    assert_ne!(fs::read_to_string(&known).unwrap(), before);
}

#[test]
fn a_pairing_code_is_no_argument_and_a_second_guest_of_one_site_is_refused() {
    let pair = Pair::new();
    let configs = unpaired(&pair, &[("array-w", "w.tls"), ("array-x", "x.tls"), ("array-x", "y.tls")]);
    let (mut host, code) = listening(&configs[0], &[]);
    let mut first = joins(&configs[1], &code, &[]);
    let mut said = BufReader::new(host.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("array array-x has joined") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "ended");
    }
    let secret = code.split_once('/').unwrap().1;
    for child in [&host, &first] {
        let arguments = fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap();
        assert!(arguments.contains("pair") && !arguments.contains(secret), "{arguments}");
    }
    let second = ends_badly(joins(&configs[2], &code, &[]));
    assert!(second.contains("array array-x has joined already"), "{second}");
    assert!(first.try_wait().unwrap().is_none(), "the first one still waits");
    for child in [&mut host, &mut first] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
