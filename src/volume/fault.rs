//! Test builds only: an array that does wrong on purpose, so that the lab can show that its judge
//! notices. Set by `TWINLUN_FAULT`, one of:
//!
//! - `drop_write:N`: the Nth stamped write is answered GOOD and carried out nowhere.
//! - `stale_read:N`: after N stamped reads, one read is answered with what its block held before
//!   its latest write.
//! - `copy_stops:N`: after N regions were copied by a resync, the next one never ends.
//! - `slow_restore:MS`: writing an image back takes MS milliseconds longer.
//! - `images_fail:N`: from the Nth on, no image of a copy as it was can be made.
//! - `bad_blocks:N`: every Nth physical block cannot be read until it is written (`store::fault`).
//! - `dies_enrolled:1`: the array dies when it has been enrolled, before anything is copied to it.
//! - `stall:MS`: every MS milliseconds all data threads stand still for one second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::block::{BLOCKS_PER_PHYSICAL, Op, Outcome, Request};
use crate::mirror::VolumeId;
use crate::sys::buffer::Buffer;

/// First bytes of a block written by the lab's hosts; nothing else is tampered with, so that a
/// file system's own blocks stay whole.
const STAMP: &[u8; 8] = b"TWLSTAMP";
/// A write that old has been acknowledged, so that the value before it is stale.
const SETTLED: Duration = Duration::from_secs(1);
pub const STALL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Armed {
    kind: Kind,
    /// Stamped requests of the kind left until the fault strikes; zero after it has.
    left: u64,
    history: HashMap<(VolumeId, u64), History>,
}

#[derive(Debug)]
struct History {
    before: Option<Buffer>,
    now: Buffer,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    DropWrite,
    StaleRead,
}

/// The setting, read once. An unknown one ends the process: a test that asks for a fault and gets
/// none would pass for the wrong reason.
fn setting() -> Option<&'static (String, u64)> {
    static SETTING: OnceLock<Option<(String, u64)>> = OnceLock::new();
    SETTING
        .get_or_init(|| {
            let text = std::env::var("TWINLUN_FAULT").ok()?;
            let known = [
                "drop_write",
                "stale_read",
                "stall",
                "copy_stops",
                "slow_restore",
                "bad_blocks",
                "dies_enrolled",
                "images_fail",
            ];
            let parsed = text.split_once(':').and_then(|(kind, n)| Some((kind.to_owned(), n.parse().ok()?)));
            match parsed {
                Some((kind, n)) if known.contains(&kind.as_str()) && n > 0 => {
                    tracing::warn!(fault = text, "this array does wrong on purpose");
                    Some((kind, n))
                }
                _ => {
                    panic!(
                        "TWINLUN_FAULT={text}: one of drop_write:N, stale_read:N, stall:MS, copy_stops:N, \
                         slow_restore:MS, bad_blocks:N, dies_enrolled:1, images_fail:N is understood"
                    )
                }
            }
        })
        .as_ref()
}

fn armed() -> Option<&'static Mutex<Armed>> {
    static ARMED: OnceLock<Option<Mutex<Armed>>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let (kind, left) = setting()?;
            let kind = match kind.as_str() {
                "drop_write" => Kind::DropWrite,
                "stale_read" => Kind::StaleRead,
                _ => return None,
            };
            Some(Mutex::new(Armed { kind, left: *left, history: HashMap::new() }))
        })
        .as_ref()
}

/// How often the data threads are to stand still.
pub fn stall_every() -> Option<Duration> {
    setting().filter(|(kind, _)| kind == "stall").map(|(_, ms)| Duration::from_millis(*ms))
}

/// The array is to die now: it has been enrolled.
pub fn dies_enrolled() {
    if setting().is_some_and(|(kind, _)| kind == "dies_enrolled") {
        tracing::warn!("this array dies on purpose");
        std::process::abort();
    }
}

/// Before an image is written back.
pub async fn slow_restore() {
    if let Some((_, ms)) = setting().filter(|(kind, _)| kind == "slow_restore") {
        tokio::time::sleep(Duration::from_millis(*ms)).await;
    }
}

/// This copy of a region is never to end.
pub fn copy_stops() -> bool {
    static BEGUN: AtomicU64 = AtomicU64::new(0);
    setting()
        .filter(|(kind, _)| kind == "copy_stops")
        .is_some_and(|(_, n)| BEGUN.fetch_add(1, Ordering::Relaxed) >= *n)
}

/// This image of a copy as it was is not to be made.
pub fn image_fails() -> bool {
    static BEGUN: AtomicU64 = AtomicU64::new(1);
    setting()
        .filter(|(kind, _)| kind == "images_fail")
        .is_some_and(|(_, n)| BEGUN.fetch_add(1, Ordering::Relaxed) >= *n)
}

/// The wrong answer to `request`, if this is the one that gets it.
pub fn strike(volume: VolumeId, request: Request, data: &Buffer) -> Option<(Outcome, Buffer)> {
    let mut armed = armed()?.lock().unwrap_or_else(PoisonError::into_inner);
    if request.extent.blocks != BLOCKS_PER_PHYSICAL {
        return None;
    }
    armed.strike((volume, request.extent.lba), request.op, data, Instant::now())
}

impl Armed {
    fn strike(
        &mut self,
        place: (VolumeId, u64),
        op: Op,
        data: &Buffer,
        now: Instant,
    ) -> Option<(Outcome, Buffer)> {
        if self.left == 0 {
            return None;
        }
        match (self.kind, op) {
            (Kind::DropWrite, Op::Write) if data.as_slice().starts_with(STAMP) => {
                self.left -= 1;
                if self.left > 0 {
                    return None;
                }
                tracing::warn!(lba = place.1, "a write is dropped on purpose");
                Some((Outcome::Good, Buffer::empty()))
            }
            (Kind::StaleRead, Op::Write) if data.as_slice().starts_with(STAMP) => {
                let before = self.history.remove(&place).map(|history| history.now);
                let copy = Buffer::copy_of(data.as_slice());
                self.history.insert(place, History { before, now: copy, since: now });
                None
            }
            (Kind::StaleRead, Op::Read) => {
                let history = self.history.get(&place)?;
                if self.left > 1 {
                    self.left -= 1;
                    return None;
                }
                let stale = history.before.clone().filter(|_| now.duration_since(history.since) > SETTLED)?;
                self.left = 0;
                self.history = HashMap::new();
                tracing::warn!(lba = place.1, "a stale read is served on purpose");
                Some((Outcome::Good, stale))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: (VolumeId, u64) = (VolumeId([7; 16]), 8);

    fn stamped(byte: u8) -> Buffer {
        let mut bytes = [byte; 4096];
        bytes[..8].copy_from_slice(STAMP);
        Buffer::copy_of(&bytes)
    }

    fn armed(kind: Kind, left: u64) -> Armed {
        Armed { kind, left, history: HashMap::new() }
    }

    #[test]
    fn exactly_the_nth_stamped_write_is_dropped() {
        let mut armed = armed(Kind::DropWrite, 2);
        let now = Instant::now();
        assert!(armed.strike(PLACE, Op::Write, &Buffer::copy_of(&[1; 4096]), now).is_none());
        assert!(armed.strike(PLACE, Op::Write, &stamped(1), now).is_none());
        assert!(armed.strike(PLACE, Op::Write, &stamped(2), now).is_some());
        assert!(armed.strike(PLACE, Op::Write, &stamped(3), now).is_none());
    }

    #[test]
    fn a_stale_read_gives_the_value_before_a_settled_write() {
        let mut armed = armed(Kind::StaleRead, 1);
        let start = Instant::now();
        armed.strike(PLACE, Op::Write, &stamped(1), start);
        assert!(armed.strike(PLACE, Op::Read, &Buffer::empty(), start + SETTLED * 2).is_none());
        armed.strike(PLACE, Op::Write, &stamped(2), start + SETTLED * 2);
        assert!(armed.strike(PLACE, Op::Read, &Buffer::empty(), start + SETTLED * 2).is_none());
        let (outcome, data) =
            armed.strike(PLACE, Op::Read, &Buffer::empty(), start + SETTLED * 4).expect("it strikes");
        assert_eq!((outcome, data.as_slice()), (Outcome::Good, stamped(1).as_slice()));
    }
}
