//! A group ends by its operator's word on each array, and never leaves two copies of one identity that
//! hosts may write to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use twinlun::arbitration::{Body, Incarnation, Message};
use twinlun::group::BootNonce;
use twinlun::wire::{self, Frame, Hello, Role};

use super::site::{Array, LIMIT, Pair, qemu_io, until, write_and_read};

/// Hosts may not write through this array.
#[track_caller]
fn is_closed(array: &Array) {
    assert_ne!(array.group()["serves"], true, "{}", array.group());
    if let Some(written) = qemu_io(&array.place, "write -P 9 1M 64k") {
        written.unwrap_err();
    }
}

/// A witness that says of every group that it was removed; counts how often.
fn false_witness(port: u16, said: Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for stream in listener.incoming() {
        let (mut stream, said) = (stream.unwrap(), Arc::clone(&said));
        std::thread::spawn(move || answer(&mut stream, &said));
    }
}

fn answer(stream: &mut TcpStream, said: &AtomicUsize) -> Option<()> {
    let incarnation = Incarnation([7; 16]);
    let mut received = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
        received.extend_from_slice(&bytes[..read]);
        while let Some((frame, length)) = wire::decode(&received).unwrap() {
            received.drain(..length);
            let answer = match frame {
                Frame::Hello(_) => Frame::Hello(Hello {
                    role: Role::Witness(incarnation),
                    identity: [7; 16],
                    nonce: BootNonce([7; 16]),
                    life: 0,
                    name: "witness".into(),
                    system: 0,
                    lanes: 0,
                    peer: String::new(),
                }),
                Frame::Ping(number) => Frame::Pong(number),
                Frame::Batch(messages) => {
                    let removed = |message: Message| Message {
                        incarnation: Some(incarnation),
                        chosen: None,
                        body: Body::Removed,
                        ..message
                    };
                    said.fetch_add(messages.len(), Ordering::Relaxed);
                    Frame::Batch(messages.into_iter().map(removed).collect())
                }
                _ => continue,
            };
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            stream.write_all(&bytes).ok()?;
        }
    }
}

#[test]
fn a_witness_s_word_that_a_group_was_removed_opens_no_volume() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    pair.witness.kill();
    let (port, said) = (pair.witness_port, Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&said);
    std::thread::spawn(move || false_witness(port, counted));
    until("both were told", LIMIT, || (said.load(Ordering::Relaxed) > 1).then_some(()));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((&a.group()["serves"], &a.group()["inSync"]), (&true.into(), &true.into()), "{}", a.group());
    write_and_read(&a.place, &a.place, 0x22);
    is_closed(&b);
    // Nor does either go on alone: nobody has granted that.
    b.daemon.kill();
    until("A does not serve", LIMIT, || (a.group()["serves"] == false).then_some(()));
    is_closed(&a);
    let b = pair.b.start();
    until("A serves again", LIMIT, || (a.group()["serves"] == true).then_some(()));
    write_and_read(&a.place, &a.place, 0x33);
    is_closed(&b);
}

#[test]
fn an_array_that_was_away_when_its_group_was_removed_opens_nothing_by_itself() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    b.daemon.kill();
    until("A goes on alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    a.cli(&["stoprcopygroup", "g"]);
    a.cli(&["removercopygroup", "g"]);
    write_and_read(&a.place, &a.place, 0x22);
    let b = pair.b.start();
    let told =
        || b.group()["reason"].as_str().is_some_and(|why| why.contains("removercopygroup")).then_some(());
    until("B is told", LIMIT, told);
    std::thread::sleep(Duration::from_secs(2));
    is_closed(&b);
    write_and_read(&a.place, &a.place, 0x33);
    // The operator has the last word here too; what is exported then is exported anew.
    let group = b.group()["name"].as_str().unwrap().to_owned();
    b.cli(&["removercopygroup", &group]);
    assert_eq!(b.get("/api/v1/remotecopygroups")["total"], 0);
    assert_eq!(b.get("/api/v1/vluns")["total"], 0);
    assert_eq!(a.get("/api/v1/vluns")["total"], 1);
    write_and_read(&a.place, &a.place, 0x44);
    b.cli(&["createvlun", "v0", "1", "h"]);
    write_and_read(&b.place, &b.place, 0x55);
}

#[test]
fn a_group_that_is_removed_on_both_arrays_leaves_the_hosts_on_the_one_that_serves() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    until("stopped", LIMIT, || a.try_cli(&["stoprcopygroup", "g"]).status.success().then_some(()));
    a.cli(&["removercopygroup", "g"]);
    for array in [&a, &b] {
        assert_eq!(array.get("/api/v1/remotecopygroups")["total"], 0);
    }
    assert_eq!((&a.get("/api/v1/vluns")["total"], &b.get("/api/v1/vluns")["total"]), (&1.into(), &0.into()));
    assert_eq!(b.get("/api/v1/volumes")["total"], 1, "the copy stays");
    write_and_read(&a.place, &a.place, 0x22);
    is_closed(&b);
}
