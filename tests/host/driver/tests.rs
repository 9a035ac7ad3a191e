//! The driver against two scripted targets: what it may do with a block whose write one path
//! swallowed.

use super::{Driver, Event, Options};
use crate::stamp::Stream;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What a scripted target does with commands on media.
#[derive(Debug, Default)]
struct Script {
    /// Takes writes and says nothing, to them and to aborts.
    swallow: AtomicBool,
    /// Refuses media commands with 02/04/0B.
    standby: AtomicBool,
    /// LBA and first stamp word of each write taken, with the moment.
    writes: Mutex<Vec<(Instant, u64, [u8; 32])>>,
}

/// A target of one LUN, as far as the host needs it.
fn target(group: u16, script: Arc<Script>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let script = Arc::clone(&script);
            thread::spawn(move || serve(stream, address, group, &script));
        }
    });
    address
}

fn serve(mut stream: TcpStream, address: SocketAddr, group: u16, script: &Script) -> Option<()> {
    let mut store: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut stat_sn = 1u32;
    loop {
        let mut header = [0u8; 48];
        stream.read_exact(&mut header).ok()?;
        let length = usize::from(header[6]) << 8 | usize::from(header[7]);
        let mut data = vec![0; length.next_multiple_of(4)];
        stream.read_exact(&mut data).ok()?;
        let mut answer = [0u8; 48];
        answer[1] = 0x80;
        answer[16..20].copy_from_slice(&header[16..20]);
        answer[28..32].copy_from_slice(&1u32.to_be_bytes());
        answer[32..36].copy_from_slice(&u32::MAX.wrapping_div(4).to_be_bytes());
        let mut body = Vec::new();
        match header[0] & 0x3f {
            0x03 => {
                answer[0] = 0x23;
                answer[1] = header[1];
                answer[8..14].copy_from_slice(&header[8..14]);
                body = b"MaxRecvDataSegmentLength=65536\0".to_vec();
            }
            0x04 => {
                answer[0] = 0x24;
                body = format!("TargetName=iqn.2026-11.test:t\0TargetAddress={address},1\0").into_bytes();
            }
            0x02 => {
                if script.swallow.load(Ordering::SeqCst) {
                    continue;
                }
                answer[0] = 0x22;
            }
            0x01 => {
                answer[0] = 0x21;
                let lba = u64::from_be_bytes(header[34..42].try_into().ok()?);
                let media = matches!(header[32], 0x88 | 0x8a);
                if header[32] == 0x8a {
                    script.writes.lock().ok()?.push((Instant::now(), lba, data.get(..32)?.try_into().ok()?));
                }
                if media && script.swallow.load(Ordering::SeqCst) {
                    continue;
                }
                if media && script.standby.load(Ordering::SeqCst) {
                    answer[3] = 2;
                    body = vec![0, 18, 0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 4, 0x0b, 0, 0, 0, 0];
                } else {
                    body = match (header[32], header[33]) {
                        (0x12, _) => {
                            let mut page = vec![0, 0x83, 0, 28, 0x01, 0x03, 0, 16];
                            page.extend([0x60; 16]);
                            page.extend([0x51, 0x15, 0, 4, 0, 0, 0, 0]);
                            page[30..32].copy_from_slice(&group.to_be_bytes());
                            page
                        }
                        (0x9e, _) => {
                            [(1u64 << 20).to_be_bytes().to_vec(), 512u32.to_be_bytes().to_vec(), vec![0; 20]]
                                .concat()
                        }
                        (0xa3, _) => {
                            let state = if script.standby.load(Ordering::SeqCst) { 2 } else { 0 };
                            let [high, low] = group.to_be_bytes();
                            vec![0, 0, 0, 8, state, 5, high, low, 0, 0, 0, 0]
                        }
                        (0x88, _) => store.get(&lba).cloned().unwrap_or_else(|| vec![0; 4096]),
                        (0x8a, _) => {
                            store.insert(lba, data.clone());
                            Vec::new()
                        }
                        _ => Vec::new(),
                    };
                    if !body.is_empty() {
                        // Data-In with status.
                        answer[0] = 0x25;
                        answer[1] = 0x81;
                    }
                }
            }
            _ => continue,
        }
        answer[24..28].copy_from_slice(&stat_sn.to_be_bytes());
        stat_sn = stat_sn.wrapping_add(1);
        let [_, a, b, c] = u32::try_from(body.len()).ok()?.to_be_bytes();
        answer[5..8].copy_from_slice(&[a, b, c]);
        body.resize(body.len().next_multiple_of(4), 0);
        stream.write_all(&[&answer[..], &body].concat()).ok()?;
    }
}

/// Writes only, a few blocks, so that each is wanted again soon.
fn options(portals: Vec<SocketAddr>) -> Options {
    Options {
        portals,
        initiator: String::from("iqn.2026-11.test:h"),
        lun: 0,
        depth: 4,
        span_blocks: 16,
        timeout: Duration::from_millis(100),
        read_percent: 0,
        rate: 0,
        stream: Stream { run: 99, id: 1 },
        verbose: false,
    }
}

#[test]
fn a_block_whose_write_one_path_swallowed_is_not_written_anew() {
    let (first, second) = (Arc::new(Script::default()), Arc::new(Script::default()));
    second.standby.store(true, Ordering::SeqCst);
    let portals = vec![target(1, Arc::clone(&first)), target(256, Arc::clone(&second))];
    let (sender, receiver) = channel();
    let orders = sender.clone();
    let play = {
        let (first, second) = (Arc::clone(&first), Arc::clone(&second));
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            orders.send(Event::Order(String::from("run"))).expect("the driver runs");
            thread::sleep(Duration::from_millis(200));
            first.swallow.store(true, Ordering::SeqCst);
            second.standby.store(false, Ordering::SeqCst);
            // Less than the abort timeout: the swallowed writes stay alive all the while.
            thread::sleep(Duration::from_millis(1500));
            orders.send(Event::Order(String::from("quit"))).expect("the driver runs");
        })
    };
    let mut driver = Driver::new(options(portals), sender);
    assert!(driver.run(&receiver), "nothing was lost");
    play.join().expect("the play ends");

    let seq = |stamp: &[u8; 32]| u64::from_le_bytes(stamp[24..].try_into().expect("eight bytes"));
    let (taken, later) = (first.writes.lock().expect("no panic"), second.writes.lock().expect("no panic"));
    let last: HashMap<u64, u64> = taken.iter().map(|(_, lba, stamp)| (*lba, seq(stamp))).collect();
    // Swallowed ones came again, the same, on the other path.
    let swallowed: HashMap<u64, u64> = last
        .into_iter()
        .filter(|(lba, alive)| later.iter().any(|(_, l, stamp)| l == lba && seq(stamp) == *alive))
        .collect();
    assert!(!swallowed.is_empty(), "some writes were swallowed and repeated");
    for (_, lba, stamp) in later.iter() {
        if let Some(alive) = swallowed.get(lba) {
            assert!(seq(stamp) <= *alive, "block {lba} was written anew while an older write was alive");
        }
    }
    // No rate is judged: a loaded machine does few.
    assert!(later.len() > 5, "the other blocks went on: {} writes", later.len());
}
