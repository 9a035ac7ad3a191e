//! What hosts saw, and whether each block can have been a register.

use std::collections::BTreeMap;

use super::world::Image;

/// Response time of a write whose effect may come at any time, or never.
const OPEN: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read these blocks.
    Read,
    /// Wrote its stamp to the blocks.
    Write,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub effect: Effect,
    pub stamp: u64,
    pub blocks: Vec<u64>,
    pub invoked: u64,
    /// `None`: not answered, or not with a certain outcome.
    pub done: Option<u64>,
    /// Aborted or refused before it began: its stamp is never seen.
    pub killed: bool,
    /// What a read, or a comparison, found.
    pub found: Option<Image>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub records: Vec<Record>,
}

#[derive(Clone, Copy)]
struct Zone {
    /// First completed operation on the value, and last one begun.
    first_done: u64,
    last_begun: u64,
    write_begun: u64,
}

impl History {
    /// Each block on its own: a linearizable register with unique values (Gibbons and Korach: no
    /// two forward zones overlap, no backward zone lies inside a forward one).
    pub fn check(&self, blocks: &[u64]) -> Result<(), String> {
        for &block in blocks {
            self.check_block(block).map_err(|what| format!("block {block}: {what}"))?;
        }
        Ok(())
    }

    fn check_block(&self, block: u64) -> Result<(), String> {
        let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
        zones.insert(0, Zone { first_done: 0, last_begun: 0, write_begun: 0 });
        let mut read: BTreeMap<u64, ()> = BTreeMap::new();
        for record in self.records.iter().filter(|record| record.blocks.contains(&block)) {
            if record.effect == Effect::Write && !record.killed {
                let first_done = record.done.unwrap_or(OPEN);
                zones.insert(
                    record.stamp,
                    Zone { first_done, last_begun: record.invoked, write_begun: record.invoked },
                );
            }
        }
        for record in self.records.iter().filter(|record| record.blocks.contains(&block)) {
            let (Some(found), Some(done)) = (&record.found, record.done) else { continue };
            let value = found.get(&block).copied().unwrap_or(0);
            let Some(zone) = zones.get_mut(&value) else {
                return Err(format!("{value} was read at {done}, though its write was killed"));
            };
            if done < zone.write_begun {
                return Err(format!("{value} was read at {done}, before it was written"));
            }
            zone.first_done = zone.first_done.min(done);
            zone.last_begun = zone.last_begun.max(record.invoked);
            read.insert(value, ());
        }
        zones.retain(|value, zone| zone.first_done != OPEN || read.contains_key(value));
        let zones: Vec<(u64, Zone)> = zones.into_iter().collect();
        for (value, zone) in &zones {
            if zone.first_done >= zone.last_begun {
                continue; // backward
            }
            for (other, inner) in &zones {
                if value == other {
                    continue;
                }
                let (low, high) =
                    (inner.first_done.min(inner.last_begun), inner.first_done.max(inner.last_begun));
                let forward = inner.first_done < inner.last_begun;
                let overlap = low < zone.last_begun && zone.first_done < high;
                let inside = zone.first_done < low && high < zone.last_begun;
                if (forward && overlap) || (!forward && inside) {
                    return Err(format!(
                        "{value} (known from {} to {}) and {other} (from {low} to {high}) went back and forth",
                        zone.first_done, zone.last_begun
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(stamp: u64, invoked: u64, done: Option<u64>) -> Record {
        Record { effect: Effect::Write, stamp, blocks: vec![1], invoked, done, killed: false, found: None }
    }

    fn read(value: u64, invoked: u64, done: u64) -> Record {
        let found = Some(Image::from([(1, value)]));
        Record {
            effect: Effect::Read,
            stamp: 0,
            blocks: vec![1],
            invoked,
            done: Some(done),
            killed: false,
            found,
        }
    }

    fn verdict(records: Vec<Record>) -> bool {
        History { records }.check(&[1]).is_ok()
    }

    #[test]
    fn knows_a_register() {
        assert!(verdict(vec![write(1, 1, Some(5)), read(0, 2, 3), read(1, 6, 7)]));
        assert!(!verdict(vec![write(1, 1, Some(5)), read(0, 6, 7)]), "stale read");
        assert!(!verdict(vec![write(1, 1, None), read(1, 2, 3), read(0, 4, 5)]), "a read went back");
        assert!(verdict(vec![write(1, 1, None), read(0, 2, 3), read(1, 4, 5)]), "late effect");
        assert!(!verdict(vec![write(1, 1, Some(2)), write(2, 3, Some(4)), read(1, 5, 6)]), "lost write");
        assert!(!verdict(vec![Record { killed: true, ..write(1, 1, Some(2)) }, read(1, 5, 6)]));
    }
}
