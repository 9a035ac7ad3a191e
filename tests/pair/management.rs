//! The management API in WSAPI's shapes, and every verb of the command line.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::site::{Array, BINARY, INITIATOR, LIMIT, Pair, Place, request, until};

fn set_user(path: &std::path::Path, name: &str, password: &str) {
    let mut child = Command::new(BINARY)
        .args(["setuser", name, "--file"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn sessions_come_from_users_and_nothing_goes_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    let array = place.start();
    set_user(&place.data_dir.join("users"), "operator", "correct horse");
    let port = place.management;
    assert_eq!(request(port, "GET", "/api", None, "").body["major"], 1);
    for path in ["volumes", "hosts", "vluns", "ports", "system", "remotecopygroups", "remotecopy"] {
        assert_eq!(request(port, "GET", &format!("/api/v1/{path}"), None, "").code(), (403, 6), "{path}");
    }
    assert_eq!(request(port, "GET", "/api/v1/volumes", Some("nonsense"), "").code(), (403, 6));
    let login = |user: &str, password: &str| {
        let body = json!({"user": user, "password": password}).to_string();
        request(port, "POST", "/api/v1/credentials", None, &body)
    };
    assert_eq!(login("operator", "wrong").code(), (403, 5));
    assert_eq!(login("nobody", "correct horse").code(), (403, 5));
    let log = array.daemon.log();
    assert!(log.contains("a login to the management API failed") && log.contains("from=127.0.0.1"), "{log}");
    let answer = login("operator", "correct horse");
    assert_eq!(answer.status, 201);
    let key = answer.body["key"].as_str().unwrap();
    assert_eq!(answer.location.as_deref(), Some(format!("/api/v1/credentials/{key}").as_str()));
    assert_eq!(
        request(port, "GET", "/api/v1/volumes", Some(key), "").body,
        json!({"total": 0, "members": []})
    );
    let shown = Command::new(BINARY)
        .args(["--array", &format!("127.0.0.1:{port}"), "showsys"])
        .envs([("TWINLUN_USER", "operator"), ("TWINLUN_PASSWORD", "correct horse")])
        .output()
        .unwrap();
    assert!(shown.status.success(), "{shown:?}");
    request(port, "DELETE", &format!("/api/v1/credentials/{key}"), Some(key), "");
    assert_eq!(request(port, "GET", "/api/v1/volumes", Some(key), "").code(), (403, 6));
    // Whoever guesses waits ever longer, and fills no log.
    let guesses = (0..30).map(|_| login("operator", "guessed").body["desc"].as_str().unwrap().to_owned());
    let guesses: Vec<_> = guesses.collect();
    assert!(guesses.last().unwrap().contains("too many wrong passwords"), "{guesses:?}");
    assert!(array.daemon.log().matches("a login to the management API failed").count() <= 4);
    drop(array);
}

/// Connections that hold every place they can, from an address that is not this machine's command line.
#[test]
fn whoever_holds_connections_keeps_the_command_line_out_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let array = Place::new(directory.path(), "array-a", "a").start();
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], array.place.management));
    let holds = move |n: u8| async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let from = std::net::SocketAddr::from(([127, 0, 0, 2 + n % 4], 0));
        loop {
            if let Ok(mut stream) = twinlun::link::dial::dial(to, Some(from)).await {
                while stream.write_all(b"GET /api HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {
                    if !matches!(stream.read(&mut [0; 4096]).await, Ok(read) if read > 0) {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    // It ends with the tests.
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            for n in 0..64 {
                tokio::spawn(holds(n));
            }
            std::future::pending::<()>().await;
        });
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        array.cli(&["showsys"]);
        assert!(begin.elapsed() < std::time::Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[test]
fn no_password_is_sent_unencrypted_off_the_machine() {
    let said = Command::new(BINARY)
        .args(["--array", "192.0.2.1:8008", "showsys"])
        .envs([("TWINLUN_USER", "operator"), ("TWINLUN_PASSWORD", "secret")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        said.contains("would be sent to 192.0.2.1:8008 unencrypted") && said.contains("--trust"),
        "{said}"
    );
}

#[test]
fn volumes_hosts_and_vluns_answer_as_wsapi_does() {
    let directory = tempfile::tempdir().unwrap();
    let array = Place::new(directory.path(), "array-a", "a").start();
    let volumes = "/api/v1/volumes";
    let post = |path: &str, body: Value| array.api("POST", path, &body);
    let made =
        post(volumes, json!({"name": "v0", "sizeMiB": 16, "tpvv": true, "comment": null, "path": null}));
    assert_eq!((made.status, made.location.as_deref()), (201, Some("/api/v1/volumes/v0")), "{made:?}");
    assert_eq!(post(volumes, json!({"name": "v0", "sizeMiB": 16})).code(), (409, 22));
    assert_eq!(array.api("GET", "/api/v1/volumes/nix", &Value::Null).code(), (404, 23));
    assert_eq!(array.api("DELETE", "/api/v1/volumes/nix", &Value::Null).code(), (404, 23));
    assert_eq!(post(volumes, json!({"name": "v1", "sizeMiB": 0})).code(), (400, 43));
    assert_eq!(post(volumes, json!({"name": "v1", "sizeMiB": u64::MAX})).code(), (400, 28));
    let named = post(volumes, json!({"sizeMiB": 5}));
    assert_eq!((named.status, &named.body["ref"]), (400, &json!("name")), "{named:?}");
    let typed = post(volumes, json!({"name": "v1", "sizeMiB": "5"}));
    assert_eq!((typed.code(), &typed.body["ref"]), ((400, 39), &json!("sizeMiB")));
    assert_eq!(
        post(volumes, json!({"name": "v1", "sizeMiB": null})).body["ref"],
        "sizeMiB",
        "null is absent"
    );
    assert_eq!(post(volumes, json!({"name": "a/b", "sizeMiB": 5})).code(), (400, 69));
    assert_eq!(post(volumes, json!([])).status, 400);
    assert_eq!(array.api("PATCH", volumes, &Value::Null).code(), (501, 9));
    let list = array.get(volumes);
    assert_eq!((&list["total"], list["members"].as_array().map(Vec::len)), (&json!(1), Some(1)));
    let volume = array.get("/api/v1/volumes/v0");
    assert_eq!(
        (&volume["name"], &volume["sizeMiB"], &volume["provisioningType"]),
        (&json!("v0"), &json!(16), &json!(2))
    );
    assert_eq!(volume["wwn"].as_str().map(str::len), Some(32));

    let hosts = "/api/v1/hosts";
    let made = post(hosts, json!({"name": "h", "iSCSINames": [INITIATOR], "persona": null}));
    assert_eq!((made.status, made.location.as_deref()), (201, Some("/api/v1/hosts/h")));
    assert_eq!(post(hosts, json!({"name": "h", "iSCSINames": []})).code(), (409, 16));
    assert_eq!(post(hosts, json!({"name": "h2", "iSCSINames": [INITIATOR]})).code(), (409, 73));
    assert_eq!(array.api("GET", "/api/v1/hosts/nix", &Value::Null).code(), (404, 17));
    let more = json!({"pathOperation": 1, "iSCSINames": ["iqn.2026-11.test:more"]});
    assert_eq!(array.api("PUT", "/api/v1/hosts/h", &more).status, 200);
    assert_eq!(array.get("/api/v1/hosts/h")["iSCSIPaths"].as_array().map(Vec::len), Some(2));
    assert_eq!(array.get(hosts)["total"], 1);

    let vluns = "/api/v1/vluns";
    let made = post(vluns, json!({"volumeName": "v0", "hostname": "h", "lun": 7}));
    assert_eq!((made.status, made.location.as_deref()), (201, Some("/api/v1/vluns/v0,7,h")));
    assert_eq!(post(vluns, json!({"volumeName": "nix", "hostname": "h", "lun": 8})).code(), (404, 23));
    assert_eq!(post(vluns, json!({"volumeName": "v0", "hostname": "nix", "lun": 8})).code(), (404, 17));
    assert_eq!(post(vluns, json!({"volumeName": "v0", "hostname": "h", "lun": 70_000})).code(), (400, 28));
    assert_eq!(array.api("GET", "/api/v1/vluns/v0,8,h", &Value::Null).code(), (404, 19));
    assert_eq!(array.get("/api/v1/vluns/v0,7,h")["lun"], 7);
    assert_eq!(array.api("DELETE", "/api/v1/volumes/v0", &Value::Null).status, 409, "exported");
    assert_eq!(array.api("DELETE", "/api/v1/hosts/h", &Value::Null).status, 409, "sees a volume");
    for path in ["/api/v1/vluns/v0,7,h", "/api/v1/hosts/h", "/api/v1/volumes/v0"] {
        assert_eq!(array.api("DELETE", path, &Value::Null).status, 200, "{path}");
    }
    assert_eq!(array.get(volumes), json!({"total": 0, "members": []}));
    assert_eq!(array.get("/api/v1/ports")["total"], 1);
    let key = std::fs::read_to_string(twinlun::management::token_path(std::net::SocketAddr::from((
        [127, 0, 0, 1],
        array.place.management,
    ))))
    .unwrap();
    assert_eq!(request(array.place.management, "POST", volumes, Some(&key), "{\"name\": ").code(), (400, 60));
}

/// Runs a verb that prints a table with `words`, and again with --json, whose object it returns.
#[track_caller]
fn shows(array: &Array, verb: &[&str], words: &[&str]) -> Value {
    let shown = array.cli(verb);
    for word in words {
        assert!(shown.contains(word), "{verb:?}: `{word}` is not in:\n{shown}");
    }
    let text = array.cli(&[verb, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{verb:?}: {error}: {text}"))
}

#[test]
fn every_verb_does_its_part_with_tables_and_json() {
    let pair = Pair::new();
    let (a, b) = (pair.a.start(), pair.b.start());
    let done = |verb: &[&str]| assert_eq!(a.cli(&[verb, &["--json"]].concat()).trim(), "{}", "{verb:?}");
    done(&["createvv", "--tpvv", "v0", "16M"]);
    let volumes = shows(&a, &["showvv"], &["Name", "VSize", "v0", "tpvv", "16", "total"]);
    assert_eq!(volumes["members"][0]["name"], "v0");
    done(&["createhost", "--iscsi", "--persona", "2", "h", INITIATOR]);
    shows(&a, &["showhost"], &["iSCSI_Name", "h", INITIATOR]);
    done(&["createvlun", "v0", "auto", "h"]);
    let vluns = shows(&a, &["showvlun"], &["Active VLUNs", "VLUN Templates", "v0", "host"]);
    let lun = vluns["members"][0]["lun"].to_string();
    shows(&a, &["showport"], &["N:S:P", "ready", "127.0.0.1", &a.place.iqn()]);
    shows(&a, &["showsys"], &["array-a", "twinlun"]);
    until("linked", LIMIT, || {
        a.try_cli(&["creatercopygroup", "g", "array-b:sync"]).status.success().then_some(())
    });
    let twice = a.cli_refused(&["creatercopygroup", "g", "array-b:sync"]);
    assert!(twice.contains("exists already"), "{twice}");
    let none = a.api("POST", "/api/v1/remotecopygroups/nix", &json!({"action": 8}));
    assert_eq!(none.code(), (404, 187));
    done(&["admitrcopyvv", "v0", "g", "array-b:v0"]);
    done(&["startrcopygroup", "g"]);
    let twice = a.api("PUT", "/api/v1/remotecopygroups/g", &json!({"action": 3}));
    assert_eq!(twice.code(), (403, 215));
    a.until_in_sync();
    let words =
        ["Target Information", "array-b", "ready", "witness", "Primary", "Sync", "Synced", "v0", "Epoch"];
    let picture = shows(&a, &["showrcopy"], &words);
    assert_eq!(picture["groups"][0]["role"], "Primary");
    let group = a.get("/api/v1/remotecopygroups/g");
    assert_eq!((&group["role"], &group["targets"][0]["state"]), (&json!(1), &json!(3)));
    assert_eq!(group["volumes"][0]["remoteVolumes"][0]["syncStatus"], 3);
    assert_eq!(b.get("/api/v1/remotecopygroups/g")["role"], 2, "also by its name at the other array");
    done(&["setrcopygroup", "pol", "no_auto_failover", "g"]);
    until("the policy is kept alike", LIMIT, || {
        (b.group()["policies"]["auto_failover"] == false).then_some(())
    });
    done(&["setrcopygroup", "pol", "auto_failover", "g"]);
    a.cli_refused(&["setrcopygroup", "pol", "no_such_policy", "g"]);
    done(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    let wrong = a.cli_refused(&["dismissrcopyvv", "v0", "g"]);
    assert!(wrong.contains("in sync"), "{wrong}");
    until("the way back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    a.until_in_sync();
    let serving = a.cli_refused(&["setrcopygroup", "failover", "g"]);
    assert!(serving.contains("primary"), "{serving}");
    shows(&a, &["showeventlog"], &["Epoch", "Event", "array array-a starts"]);
    let metrics = a.cli(&["metrics"]);
    for line in ["# TYPE twinlun_volumes gauge", "twinlun_volumes 1", "twinlun_group_synced{group=\"g\"} 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert_eq!(request(a.place.management, "GET", "/metrics", None, "").status, 200, "loopback");
    until("stopped", LIMIT, || a.try_cli(&["stoprcopygroup", "g"]).status.success().then_some(()));
    done(&["dismissrcopyvv", "v0", "g"]);
    done(&["removercopygroup", "g"]);
    done(&["removevlun", "v0", &lun, "h"]);
    done(&["removehost", "h"]);
    done(&["removevv", "v0"]);
    assert_eq!(shows(&a, &["showvv"], &["total"])["total"], 0);
}

/// What a secondary changed by itself the primary would undo, or the two would differ for good.
#[test]
fn a_secondary_that_does_not_reach_its_primary_changes_nothing_that_is_shared() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    // Linked: the primary takes the change first, whichever array is asked.
    a.cli(&["createhost", "h2", "iqn.2026-11.test:second"]);
    b.cli(&["createhost", "h2", "iqn.2026-11.test:second"]);
    a.cli(&["setrcopygroup", "pol", "no_auto_recover", "g"]);
    a.cli(&["setrcopygroup", "pol", "auto_recover", "g"]);
    b.cli(&["createvlun", "v0", "9", "h2"]);
    for array in [&a, &b] {
        assert_eq!(array.get("/api/v1/vluns/v0,9,h2")["lun"], 9, "{}", array.place.name);
    }
    // Without the witness B has no majority, and stays secondary.
    drop(pair.witness);
    drop(a.daemon);
    let group = b.group()["name"].as_str().unwrap().to_owned();
    let shared: [&[&str]; 3] = [
        &["removevlun", "v0", "9", "h2"],
        &["createvlun", "v0", "10", "h3"],
        &["setrcopygroup", "pol", "no_auto_recover", &group],
    ];
    b.cli(&["createhost", "h3", "iqn.2026-11.test:third"]);
    for command in shared {
        let said = b.cli_refused(command);
        assert!(said.contains("does not reach the primary"), "{command:?}: {said}");
    }
    b.cli_refused(&["removevv", "v0"]);
    assert_eq!(b.get("/api/v1/vluns")["total"], 2, "nothing was changed");
    // What is B's own stays its own.
    b.cli(&["createvv", "own", "8M"]);
    b.cli(&["createvlun", "own", "11", "h3"]);
}
