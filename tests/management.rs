//! The management API and the command line, as an operator and a client of the real array meet
//! them: the real program, a real array (and pair with its witness) on loopback, the verbs one
//! after the other, tables and JSON compared with what they must be.

#[path = "management/rig.rs"]
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rig::{Rig, said};
use serde_json::{Value, json};

#[test]
fn objects_are_made_shown_and_removed() {
    let rig = Rig::array();
    let a = rig.cli("a");
    assert_eq!(a.ok(&["createvv", "-tpvv", "vmfs.0", "64M"]), "");
    a.ok(&["createvv", "raw-1", "1G", "--comment", "scratch"]);
    assert_eq!(
        a.ok(&["showvv"]),
        said(&[
            "Id  Name    Prov  Type  State   Promise  Usr_Used_MiB  VSize_MiB  RcopyGroup",
            " 1  vmfs.0  tpvv  base  normal  stable              0         64  -",
            " 2  raw-1   tpvv  base  normal  stable              0       1024  -",
            "2 total",
        ])
    );
    a.ok(&["createhost", "-iscsi", "-persona", "8", "esx1", "iqn.1998-01.com.vmware:esx1"]);
    assert_eq!(
        a.ok(&["showhost"]),
        said(&[
            "Id  Name  Persona  iSCSI_Name                   Port  IP_addr",
            " 1  esx1  8        iqn.1998-01.com.vmware:esx1  ---   0.0.0.0",
            "1 total",
        ])
    );
    a.ok(&["createvlun", "vmfs.0", "7", "esx1"]);
    a.ok(&["createvlun", "raw-1", "auto", "esx1"]);
    assert_eq!(
        a.ok(&["showvlun"]),
        said(&[
            "Active VLUNs",
            "Lun  VVName  HostName  Host_iSCSI_Name  Type",
            "0 total",
            "VLUN Templates",
            "Lun  VVName  HostName  Host_iSCSI_Name  Type",
            "  1  raw-1   esx1      ---              host",
            "  7  vmfs.0  esx1      ---              host",
            "2 total",
        ])
    );
    let ports = a.json(&["showport"]);
    assert_eq!(ports["members"][0]["iSCSIName"], "iqn.2026-11.io.twinlun:array-a");
    let system = a.json(&["showsys"]);
    assert_eq!((&system["name"], &system["id"]), (&json!("array-a"), &json!(1)));
    assert!(a.ok(&["showrcopy"]).contains("Status: Not started"), "no other array is configured");
    assert!(a.ok(&["showeventlog"]).contains("array array-a starts"));

    // Refusals: the reason in words; with --json as an object; nothing changes.
    for (arguments, words) in [
        (&["removevv", "vmfs.0"][..], "in use by its VLUN 7 to host esx1"),
        (&["removehost", "esx1"], "esx1"),
        (&["createvv", "vmfs.0", "1G"], "vmfs.0"),
        (&["createvv", "x/y", "1G"], "only letters, digits"),
        (&["createvv", "v", "99999T"], "between 1 MiB and 64 TiB"),
        (&["createvv", "v", "10"], "write e.g. 512M, 10G or 2T"),
        (&["createvlun", "raw-1", "7", "esx1"], "raw-1 to host esx1 (LUN 1) exists already"),
        (&["createvlun", "nothing", "8", "esx1"], "nothing"),
        (&["createhost", "esx2", "iqn.1998-01.com.vmware:esx1"], "esx1"),
        (&["createhost", "esx2", "esx2"], "begins with iqn."),
        (&["creatercopygroup", "g", "array-b:sync"], "array-b is not configured"),
        (&["creatercopygroup", "g", "array-b:periodic"], "array-b:sync"),
        (&["startrcopygroup", "g"], "no remote copy group g"),
        (&["setrcopygroup", "pol", "auto_faliover", "g"], "auto_failover"),
        // A name that would end its path segment names nothing, not another volume.
        (&["removevv", "raw-1?x"], "raw-1?x"),
        (&["removevlun", "raw-1,1,esx1", "5", "x"], "no commas"),
    ] {
        let refusal = a.refused(arguments);
        assert!(refusal.starts_with("twinlun: ") && refusal.contains(words), "{arguments:?}: {refusal}");
    }
    let refusal: Value = serde_json::from_str(&a.refused(&["--json", "removevv", "vmfs.0"])).unwrap();
    assert_eq!((&refusal["status"], &refusal["code"]), (&json!(409), &json!(26)), "{refusal}");
    assert_eq!(a.json(&["showvv"])["total"], 2);

    a.ok(&["removevlun", "-f", "vmfs.0", "7", "esx1"]);
    a.ok(&["removevlun", "raw-1", "1", "esx1"]);
    a.ok(&["removehost", "esx1"]);
    a.ok(&["removevv", "-f", "vmfs.0"]);
    a.ok(&["removevv", "raw-1"]);
    assert_eq!(a.json(&["showvv"]), json!({"total": 0, "members": []}));
    assert_eq!(a.json(&["showvlun"]), json!({"total": 0, "members": []}));
}

#[test]
fn wsapi_clients_find_statuses_locations_and_error_bodies() {
    let rig = Rig::array();
    let http = rig.http("a");
    assert_eq!(http.bare("GET", "/api", None, None).0, 200, "the version needs no session");
    let (status, _, body) = http.bare("GET", "/api/v1/volumes", None, None);
    assert_eq!((status, &body["code"]), (403, &json!(6)));
    assert!(body["desc"].as_str().unwrap().contains("invalid session key"));
    let (status, _, body) = http.bare("GET", "/api/v1/volumes", Some("0123"), None);
    assert_eq!((status, &body["code"]), (403, &json!(6)));
    let wrong = json!({"user": "admin", "password": "guess"});
    let (status, _, body) = http.bare("POST", "/api/v1/credentials", None, Some(&wrong));
    assert_eq!((status, &body["code"]), (403, &json!(5)));

    let right = json!({"user": "admin", "password": "secret"});
    let (status, location, body) = http.bare("POST", "/api/v1/credentials", None, Some(&right));
    let key = body["key"].as_str().unwrap().to_owned();
    assert_eq!((status, location), (201, Some(format!("/api/v1/credentials/{key}"))));
    let ask =
        |method: &str, path: &str, body: Option<Value>| http.bare(method, path, Some(&key), body.as_ref());

    let (status, location, _) = ask(
        "POST",
        "/api/v1/volumes",
        Some(json!({"name": "v", "sizeMiB": 64, "comment": null, "cpg": "c"})),
    );
    assert_eq!((status, location.as_deref()), (201, Some("/api/v1/volumes/v")));
    let host =
        json!({"name": "h", "iSCSINames": ["iqn.2000-01.com.example:h"], "persona": 2, "domain": null});
    let (status, location, _) = ask("POST", "/api/v1/hosts", Some(host));
    assert_eq!((status, location.as_deref()), (201, Some("/api/v1/hosts/h")));
    let vlun = json!({"volumeName": "v", "hostname": "h", "autoLun": true, "maxAutoLun": 0, "lun": 0});
    let (status, location, _) = ask("POST", "/api/v1/vluns", Some(vlun));
    assert_eq!((status, location.as_deref()), (201, Some("/api/v1/vluns/v,1,h")));
    let (status, _, volume) = ask("GET", "/api/v1/volumes/v", None);
    assert_eq!((status, &volume["sizeMiB"], &volume["provisioningType"]), (200, &json!(64), &json!(2)));
    let wwn = volume["wwn"].as_str().unwrap();
    assert!(wwn.len() == 32 && wwn.starts_with('6') && wwn.bytes().all(|b| !b.is_ascii_lowercase()), "{wwn}");

    // Queries; the quotes are part of the value.
    let iqn = "%22iSCSIPaths%5Bname%3D%3Diqn.2000-01.com.example%3Ah%5D%22";
    assert_eq!(ask("GET", &format!("/api/v1/hosts?query={iqn}"), None).2["members"][0]["name"], "h");
    let other = "%22iSCSIPaths%5Bname%3D%3Diqn.2000-01.com.example%3Ax%5D%22";
    assert_eq!(
        ask("GET", &format!("/api/v1/hosts?query={other}"), None).2,
        json!({"total": 0, "members": []})
    );
    assert_eq!(ask("GET", "/api/v1/vluns?query=%22hostname%20EQ%20h%22", None).2["total"], 1);
    assert_eq!(ask("GET", "/api/v1/vluns?query=%22volumeName%20EQ%20x%22", None).2["total"], 0);

    let long = "n".repeat(32);
    for (method, path, body, status, code) in [
        ("POST", "/api/v1/volumes", Some(json!({"name": "v", "sizeMiB": 64})), 409, 22),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w"})), 400, 40),
        ("POST", "/api/v1/volumes", Some(json!({"name": null, "sizeMiB": 64})), 400, 40),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w", "sizeMiB": "64"})), 400, 39),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w", "sizeMiB": -1})), 400, 39),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w", "sizeMiB": 0})), 400, 43),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w", "sizeMiB": u64::MAX})), 400, 28),
        ("POST", "/api/v1/volumes", Some(json!({"name": "w!", "sizeMiB": 64})), 400, 69),
        ("POST", "/api/v1/volumes", Some(json!({"name": "", "sizeMiB": 64})), 400, 45),
        ("POST", "/api/v1/volumes", Some(json!({"name": long, "sizeMiB": 64})), 400, 57),
        ("POST", "/api/v1/volumes", Some(json!([1])), 400, 12),
        ("GET", "/api/v1/volumes/w", None, 404, 23),
        ("DELETE", "/api/v1/volumes/v", None, 409, 26),
        ("POST", "/api/v1/hosts", Some(json!({"name": "h"})), 409, 16),
        (
            "POST",
            "/api/v1/hosts",
            Some(json!({"name": "i", "iSCSINames": ["iqn.2000-01.com.example:h"]})),
            409,
            73,
        ),
        ("POST", "/api/v1/hosts", Some(json!({"name": "i", "persona": 99})), 400, 46),
        ("GET", "/api/v1/hosts/i", None, 404, 17),
        ("DELETE", "/api/v1/hosts/h", None, 409, 26),
        ("GET", "/api/v1/vluns/v,2,h", None, 404, 19),
        ("POST", "/api/v1/vluns", Some(json!({"volumeName": "v", "hostname": "h", "lun": 99999})), 400, 28),
        ("POST", "/api/v1/vluns", Some(json!({"volumeName": "w", "hostname": "h", "lun": 2})), 404, 23),
        ("GET", "/api/v1/remotecopygroups/g", None, 404, 187),
        ("PUT", "/api/v1/remotecopygroups/g", Some(json!({"action": 3})), 404, 187),
        ("GET", "/api/v1/nothing", None, 404, 11),
        ("PUT", "/api/v1/ports", Some(json!({})), 501, 9),
    ] {
        let (got, _, answer) = ask(method, path, body.clone());
        let what = format!("{method} {path} {body:?}: {answer}");
        assert_eq!((got, &answer["code"]), (status, &json!(code)), "{what}");
        assert!(answer["desc"].as_str().is_some_and(|desc| !desc.is_empty()), "{what}");
    }
    assert_eq!(ask("GET", "/api/v1/volumes", None).2["total"], 1, "refusals change nothing");
    assert_eq!(ask("DELETE", "/api/v1/vluns/v,1,h", None).0, 200);
    assert_eq!(ask("DELETE", "/api/v1/hosts/h", None).0, 200);
    assert_eq!(ask("DELETE", "/api/v1/volumes/v", None).0, 200);
    assert_eq!(http.bare("DELETE", &format!("/api/v1/credentials/{key}"), None, None).0, 200);
    assert_eq!(ask("GET", "/api/v1/volumes", None).0, 403, "the session is over");
}

#[test]
fn whatever_comes_to_the_port_is_answered_and_bounded() {
    let rig = Rig::array();
    let address = rig.management("a");
    let talk = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The server may close before it has taken everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let garbage: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let answer = talk(&garbage);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = talk(b"GARBAGE\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let endless = [b"GET /api HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 2 << 20]].concat();
    let answer = talk(&endless);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "a head without end");
    let fields = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    let answer = talk(format!("GET /api HTTP/1.1\r\n{fields}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");

    let http = rig.http("a");
    let long = json!({"user": "x".repeat(300 << 10), "password": "y"});
    let (status, _, body) = http.bare("POST", "/api/v1/credentials", None, Some(&long));
    assert_eq!((status, &body["code"]), (413, &json!(4)), "{body}");
    let answer = talk(
        b"POST /api/v1/credentials HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n{\"user\": ",
    );
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"code\":60"), "{answer}");
    // Clients spell the header in several ways.
    let key = http.login();
    for header in ["X-Hp3Par-Wsapi-Sessionkey", "X-HP3PAR-WSAPI-SessionKey", "x-hp3par-wsapi-sessionkey"] {
        let request =
            format!("GET /api/v1/system HTTP/1.1\r\nHost: x\r\n{header}: {key}\r\nConnection: close\r\n\r\n");
        assert!(talk(request.as_bytes()).starts_with("HTTP/1.1 200"), "{header}");
    }
    let metrics = rig.cli("a").ok(&["metrics"]);
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(name.starts_with("twinlun_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(metrics.contains("# TYPE twinlun_volumes gauge\ntwinlun_volumes 0\n"), "{metrics}");
}

#[test]
fn the_program_says_what_is_wrong_with_a_configuration() {
    let rig = Rig::array();
    let file = rig.path().join("bad.toml");
    std::fs::write(&file, "[array]\nname = \"array-a\"\nside = \"a\"\ndata_dri = \"x\"\n").unwrap();
    let said = rig.cli("a").refused(&["array", "--config", file.to_str().unwrap()]);
    assert!(said.contains("bad.toml") && said.contains("line 4") && said.contains("data_dri"), "{said}");
    assert!(said.contains("`data_dir`"), "what would be right: {said}");
    // A second daemon on one data_dir.
    let config = rig.path().join("a.toml");
    let said = rig.cli("a").refused(&["array", "--config", config.to_str().unwrap()]);
    assert!(said.contains("a.data"), "{said}");
}

#[test]
fn a_pair_is_made_by_apply_and_run_by_the_verbs() {
    let rig = Rig::pair();
    let (a, b) = (rig.cli("a"), rig.cli("b"));
    let objects = rig.path().join("objects.toml");
    std::fs::write(
        &objects,
        "[[volume]]\nname = \"vmfs.0\"\nsize = \"64M\"\n[[host]]\nname = \"esx1\"\niqns = [\"iqn.1998-01.com.vmware:esx1\"]\n\
         [[group]]\nname = \"vmfs\"\ntarget = \"array-b\"\nvolumes = [\"vmfs.0\"]\n\
         [[vlun]]\nvolume = \"vmfs.0\"\nhost = \"esx1\"\nlun = 7\n",
    )
    .unwrap();
    let apply = ["apply", objects.to_str().unwrap(), "--wait"];
    assert_eq!(
        a.ok(&apply),
        said(&[
            "made volume vmfs.0",
            "made host esx1",
            "made remote copy group vmfs",
            "made mirror of volume vmfs.0 in group vmfs",
            "made VLUN 7 of vmfs.0 for esx1",
            "made start of group vmfs",
            "in sync",
        ])
    );
    assert_eq!(a.ok(&apply), said(&["everything is there already", "in sync"]), "idempotent");
    let [link, witness] = [rig.replication_ip(), rig.witness()];
    let epoch = a.json(&["showrcopy"])["groups"][0]["epoch"].clone();
    assert_eq!(
        a.ok(&["showrcopy"]),
        said(&[
            "Remote Copy System Information",
            "Status: Started, Normal",
            "",
            "Target Information",
            "Name     ID  Type  Status  Options  Policy",
            "array-b   2  IP    ready   -        mirror_config",
            "",
            "Link Information",
            &format!("Target   Node   Address{:1$}  Status  Options", "", witness.len() - 7),
            &format!("array-b  lane0  {link}{:1$}  Up      -", "", witness.len() - link.len()),
            &format!("witness  -      {witness}  Up      -"),
            "",
            "Group Information",
            "Name  Target   Status   Role     Mode  Options",
            "vmfs  array-b  Started  Primary  Sync  auto_failover,path_management",
            "  LocalVV  ID  RemoteVV  ID  SyncStatus  LastSyncTime",
            "  vmfs.0   1   vmfs.0    -   Synced      NA",
            &format!("  Epoch {epoch}, quorum majority"),
        ])
    );
    let there = b.ok(&["showrcopy"]);
    assert!(there.contains("array-a   1  IP"), "the other array's own number: {there}");
    assert!(there.contains("vmfs.r1  array-a  Started  Secondary"), "{there}");
    assert!(there.contains("This array does not serve: the other array is primary"), "{there}");
    // Host and export of a mirrored volume appear on both; the same request there is done.
    assert!(b.ok(&["showvlun"]).contains("7  vmfs.0  esx1"));
    b.ok(&["createvlun", "vmfs.0", "7", "esx1"]);
    let wwn = |value: &Value| value["members"][0]["wwn"].clone();
    assert_eq!(wwn(&a.json(&["showvv"])), wwn(&b.json(&["showvv"])), "one identity");

    for (cli, arguments, words) in [
        (&a, &["startrcopygroup", "vmfs"][..], "started already"),
        (&a, &["removercopygroup", "vmfs"], "stop it first"),
        (&a, &["removevv", "vmfs.0"], "vmfs.0"),
        (&a, &["setrcopygroup", "failover", "vmfs"], "primary already"),
        (&b, &["setrcopygroup", "failover", "vmfs.r1"], "the primary serves; use switchover"),
        (&b, &["setrcopygroup", "failover", "-f", "vmfs.r1"], "the other array is linked"),
        (&b, &["setrcopygroup", "override", "vmfs.r1"], "give your word"),
        (&b, &["setrcopygroup", "override", "-f", "vmfs.r1"], "the other array is linked"),
        (&a, &["setrcopygroup", "discard", "-f", "vmfs"], "nothing to discard"),
        (&a, &["setrcopygroup", "recover", "vmfs"], "natural roles"),
        (&b, &["setrcopygroup", "restore", "vmfs.r1"], "not the group's primary"),
    ] {
        let refusal = cli.refused(arguments);
        assert!(refusal.contains(words), "{arguments:?}: {refusal}");
    }
    a.ok(&["setrcopygroup", "switchover", "vmfs"]);
    rig.until("the roles are reversed", || {
        let (a, b) = (a.json(&["showrcopy"]), b.json(&["showrcopy"]));
        a["groups"][0]["role"] == "Secondary-Rev" && b["groups"][0]["role"] == "Primary-Rev"
    });
    let http = rig.http("b");
    let key = http.login();
    let group = http.bare("GET", "/api/v1/remotecopygroups/vmfs.r1", Some(&key), None).2;
    assert_eq!((&group["role"], &group["remoteGroupName"]), (&json!(1), &json!("vmfs")));
    let target = &group["targets"][0];
    assert_eq!((&target["state"], &target["roleReversed"]), (&json!(3), &json!(true)));
    assert_eq!(group["volumes"][0]["remoteVolumes"][0]["syncStatus"], 3);
    let target = http.bare("GET", "/api/v1/remotecopytargets/array-a", Some(&key), None).2;
    assert_eq!((&target["id"], &target["status"]), (&json!(1), &json!(3)));
    assert_eq!(target["quorumIpAddress"], "127.0.0.1");

    let unsaid =
        http.bare("POST", "/api/v1/remotecopygroups/vmfs.r1", Some(&key), Some(&json!({"action": 11})));
    assert_eq!(unsaid.2["ref"], "force", "an override takes the operator's word");
    b.ok(&["setrcopygroup", "recover", "vmfs.r1"]);
    b.ok(&["setrcopygroup", "restore", "vmfs.r1"]);
    rig.until("the roles are natural", || a.json(&["showrcopy"])["groups"][0]["role"] == "Primary");
    a.ok(&["setrcopygroup", "pol", "no_auto_failover,no_path_management", "vmfs"]);
    rig.until("policies are alike on both", || {
        let policies = &b.json(&["showrcopy"])["groups"][0]["policies"];
        policies["auto_failover"] == false && policies["path_management"] == false
    });
    a.ok(&["stoprcopygroup", "-f", "vmfs"]);
    rig.until("stopped", || a.json(&["showrcopy"])["groups"][0]["status"] == "Stopped");
    a.ok(&["removevlun", "vmfs.0", "7", "esx1"]);
    a.ok(&["removercopygroup", "vmfs"]);
    rig.until("the group is gone on both", || {
        [&a, &b].iter().all(|cli| cli.json(&["showrcopy"])["groups"] == json!([]))
    });
    a.ok(&["removevv", "vmfs.0"]);
}
