//! Garbage, silence and halves on every port: everything lives on, in sync, and serves.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::site::{Pair, request, write_and_read};

/// Connections left open in the middle of something while the rest goes on.
const HALF_OPEN: usize = 24;

/// A small generator with a fixed seed: failures repeat.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Openings that a stranger may send: those of each protocol, cut or followed by noise.
fn openings() -> Vec<Vec<u8>> {
    // A login request that announces far more than it sends (RFC 7143 11.12).
    let mut login = vec![0; 48];
    login[..8].copy_from_slice(&[0x43, 0x87, 0, 0, 0, 0xff, 0xff, 0xff]);
    let mut all = vec![
        Vec::new(),
        vec![0],
        vec![0xff; 48],
        vec![0; 4096],
        login.clone(),
        login[..20].to_vec(),
        b"tLan".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"POST /api/v1/credentials HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n{".to_vec(),
        b"GET /api/v1/volumes HTTP/1.1\r\nX-HP3PAR-WSAPI-SessionKey: \xff\xfe\r\n\r\n".to_vec(),
        [b"tLan".to_vec(), noise(1, 512)].concat(),
        [login, noise(2, 100_000)].concat(),
    ];
    all.extend((3..12).map(|seed| noise(seed, 1 << seed)));
    all
}

/// One stranger: says `bytes`, listens a little, goes (or is thrown out, which is as good).
fn stranger(port: u16, bytes: &[u8], close: bool) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is still listened on");
    let _ = stream.set_read_timeout(Some(Duration::from_millis(30)));
    let _ = stream.set_write_timeout(Some(Duration::from_millis(500)));
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
    if close {
        let _ = stream.shutdown(Shutdown::Both);
        return None;
    }
    Some(stream)
}

#[test]
fn garbage_on_every_port_changes_nothing() {
    let mut pair = Pair::new();
    let (mut a, mut b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x77);
    let epoch = a.group()["epoch"].clone();
    let ports = [
        a.place.portal,
        a.place.replication,
        a.place.management,
        b.place.portal,
        b.place.replication,
        b.place.management,
        pair.witness_port,
    ];
    let mut open = Vec::new();
    for port in ports {
        for opening in openings() {
            stranger(port, &opening, true);
        }
        for index in 0..HALF_OPEN {
            let opening = &openings()[index % 8];
            open.extend(stranger(port, opening, false));
        }
        // Slow: a byte at a time, for longer than any hello may take.
        let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for byte in b"tLanGET " {
            let _ = slow.write_all(&[*byte]);
            std::thread::sleep(Duration::from_millis(40));
        }
        open.push(slow);
    }
    for array in [&a, &b] {
        let group = array.group();
        assert_eq!(group["inSync"], true, "{group}");
        assert_eq!(group["sync"], "Synced", "{group}");
        assert_eq!(group["epoch"], epoch, "the garbage was noticed: {group}");
        let picture = array.get("/api/twinlun/rcopy");
        assert_eq!((&picture["targetUp"], &picture["witnessUp"]), (&true.into(), &true.into()), "{picture}");
    }
    write_and_read(&a.place, &a.place, 0x78);
    drop(open);
    assert!(a.daemon.is_alive() && b.daemon.is_alive() && pair.witness.is_alive());
    for daemon in [&a.daemon, &b.daemon, &pair.witness] {
        assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    }
}

#[test]
fn a_returning_peer_gets_in_past_half_open_strangers() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    a.daemon.kill();
    let strangers: Vec<_> = (0..64).filter_map(|_| stranger(b.place.replication, b"tLa", false)).collect();
    let a = pair.a.start();
    a.until_in_sync();
    assert!(strangers.len() == 64);
}

#[test]
fn bad_requests_get_their_error_codes_from_a_living_api() {
    let directory = tempfile::tempdir().unwrap();
    let array = super::site::Place::new(directory.path(), "array-a", "a").start();
    let port = array.place.management;
    let bodies = ["", "{", "[]", "null", "{\"user\": 5, \"password\": {}}", "{\"user\": null}"];
    for body in bodies {
        let answer = request(port, "POST", "/api/v1/credentials", None, body);
        assert!((400..500).contains(&answer.status), "{body:.20}: {answer:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(request(port, "POST", "/api/v1/credentials", None, &deep).code(), (400, 60));
    assert_eq!(request(port, "GET", "/api/nowhere", None, "").code(), (404, 11));
    assert_eq!(array.get("/api/v1/volumes")["total"], 0);
}
