//! A leg with distance: what a node sends and gets on a plane goes through this program, frame by
//! frame, and comes out late, out of order or not at all. Two taps stand where the leg was plugged
//! in; a kernel without netem needs no more.

use crate::network::{Leg, attach_tap, in_namespace};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest frame: no tap here has a larger MTU than 1,500 bytes.
const FRAME_MAX: usize = 2048;
/// How often a thread that waits for a frame looks whether it is to end, in ms.
const LOOK_MS: u8 = 50;

/// What happens to the frames, each way.
#[derive(Clone, Copy, Debug)]
pub struct Distance {
    /// Half of the round trip.
    pub one_way: Duration,
    /// Of a million frames, so many are lost,
    pub lost: u64,
    /// and so many come late enough for those behind them to pass.
    pub reordered: u64,
}

/// How much later one that is passed comes.
const PASSED: Duration = Duration::from_millis(3);

/// Lives as long as the leg is long.
#[derive(Debug)]
pub struct Wire {
    leg: Leg,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Puts itself between the leg and its switch.
    pub fn insert(leg: Leg, distance: Distance) -> io::Result<Self> {
        leg.open_up()?;
        let taps = leg.taps();
        let namespace = leg.switch_namespace().to_owned();
        let [near, far] =
            in_namespace(&namespace, move || Ok([attach_tap(&taps[0])?, attach_tap(&taps[1])?]))?;
        let end = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (seed, from, to) in [(1, near.try_clone()?, far.try_clone()?), (2, far, near)] {
            let (sender, receiver) = channel();
            let over = Arc::clone(&end);
            threads.push(std::thread::spawn(move || read(from, distance, seed, &sender, &over)));
            threads.push(std::thread::spawn(move || write(to, &receiver)));
        }
        Ok(Self { leg, end, threads })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has said so.
            let _ = thread.join();
        }
        if let Err(error) = self.leg.close_up() {
            eprintln!("a leg is not put back: {error}");
        }
    }
}

/// A frame and when it comes out.
type Late = (Instant, Vec<u8>);

fn read(mut tap: File, distance: Distance, seed: u64, out: &Sender<Late>, end: &AtomicBool) {
    use std::os::fd::AsFd;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut of_a_million = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % 1_000_000
    };
    let mut frame = vec![0; FRAME_MAX];
    while !end.load(Ordering::Relaxed) {
        let mut waiting = [nix::poll::PollFd::new(tap.as_fd(), nix::poll::PollFlags::POLLIN)];
        if !matches!(nix::poll::poll(&mut waiting, LOOK_MS), Ok(ready) if ready > 0) {
            continue;
        }
        let Ok(len) = tap.read(&mut frame) else { return };
        if of_a_million() < distance.lost {
            continue;
        }
        let passed = of_a_million() < distance.reordered;
        let due = Instant::now() + distance.one_way + if passed { PASSED } else { Duration::ZERO };
        if out.send((due, frame[..len].to_vec())).is_err() {
            return;
        }
    }
}

/// Ends when the reader has ended and everything is out.
fn write(mut tap: File, frames: &Receiver<Late>) {
    let mut late: Vec<Late> = Vec::new();
    loop {
        let next = late.iter().map(|(due, _)| *due).min();
        let wait =
            next.map_or(Duration::from_secs(3600), |due| due.saturating_duration_since(Instant::now()));
        match frames.recv_timeout(wait) {
            Ok(frame) => late.push(frame),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
        late.extend(frames.try_iter());
        let now = Instant::now();
        // In the order they are due: equal ones in the order they came.
        late.sort_by_key(|(due, _)| *due);
        let ready = late.partition_point(|(due, _)| *due <= now);
        for (_, frame) in late.drain(..ready) {
            // A frame that the kernel does not take is lost, as on any wire.
            let _ = tap.write_all(&frame);
        }
    }
}
