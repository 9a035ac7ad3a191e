//! What the host knows of each block: the newest write issued, the newest acknowledged, the
//! newest ever read, and who still holds it. Decides what a read may return.

use crate::stamp::Found;

/// Why a block that was read is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Older than a write acknowledged (or a value read) before the read began.
    Older,
    /// Newer than anything issued, or not ours at all.
    Foreign,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    issued: u64,
    acknowledged: u64,
    /// Newest value a read returned: a value once read never goes back.
    seen: u64,
    /// Commands on this block whose fate is open. A write is started only on a block with none:
    /// an older write that lands late would otherwise hide a newer one.
    open: u32,
}

#[derive(Debug)]
pub struct Ledger {
    blocks: Vec<Block>,
    next_seq: u64,
    pub acknowledged: u64,
}

impl Ledger {
    pub fn new(blocks: usize) -> Self {
        Self { blocks: vec![Block::default(); blocks], next_seq: 1, acknowledged: 0 }
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_free(&self, block: usize) -> bool {
        self.blocks[block].open == 0
    }

    pub fn was_written(&self, block: usize) -> bool {
        self.blocks[block].issued != 0
    }

    pub fn hold(&mut self, block: usize) {
        self.blocks[block].open += 1;
    }

    pub fn release(&mut self, block: usize) {
        self.blocks[block].open = self.blocks[block].open.saturating_sub(1);
    }

    /// A new write to `block`: its sequence number.
    pub fn issue(&mut self, block: usize) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.blocks[block].issued = seq;
        seq
    }

    pub fn acknowledge(&mut self, block: usize, seq: u64) {
        let entry = &mut self.blocks[block];
        entry.acknowledged = entry.acknowledged.max(seq);
        self.acknowledged += 1;
    }

    /// The oldest value a read that begins now may return.
    pub fn floor(&self, block: usize) -> u64 {
        self.blocks[block].acknowledged.max(self.blocks[block].seen)
    }

    /// Judges what a read returned whose [`floor`](Self::floor) was taken when it was sent.
    pub fn judge(&mut self, block: usize, floor: u64, found: Found) -> Result<(), Wrong> {
        let entry = &mut self.blocks[block];
        match found {
            Found::Stamp { newest, .. } if newest > entry.issued => Err(Wrong::Foreign),
            Found::Stamp { oldest, .. } if oldest < floor => Err(Wrong::Older),
            Found::Stamp { oldest, .. } => {
                entry.seen = entry.seen.max(oldest);
                Ok(())
            }
            // Never written by this run: whatever an earlier one left is as good as zeroes.
            Found::Blank | Found::Foreign if floor == 0 => Ok(()),
            Found::Blank => Err(Wrong::Older),
            Found::Foreign => Err(Wrong::Foreign),
        }
    }

    /// After a wrong block was reported: what is there now is the new truth, so that one loss is
    /// counted once.
    pub fn forgive(&mut self, block: usize) {
        let entry = &mut self.blocks[block];
        entry.acknowledged = 0;
        entry.seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seq: u64) -> Found {
        Found::Stamp { oldest: seq, newest: seq }
    }

    #[test]
    fn an_acknowledged_write_may_not_vanish() {
        let mut ledger = Ledger::new(4);
        let first = ledger.issue(1);
        ledger.acknowledge(1, first);
        let second = ledger.issue(1);
        ledger.acknowledge(1, second);
        let floor = ledger.floor(1);
        assert_eq!(ledger.judge(1, floor, stamp(first)), Err(Wrong::Older));
        assert_eq!(ledger.judge(1, floor, Found::Blank), Err(Wrong::Older));
        assert_eq!(ledger.judge(1, floor, stamp(second)), Ok(()));
    }

    #[test]
    fn an_unacknowledged_write_may_show_or_not_but_never_go_back() {
        let mut ledger = Ledger::new(4);
        let first = ledger.issue(0);
        ledger.acknowledge(0, first);
        let second = ledger.issue(0);
        assert_eq!(ledger.judge(0, ledger.floor(0), stamp(first)), Ok(()));
        assert_eq!(ledger.judge(0, ledger.floor(0), stamp(second)), Ok(()));
        assert_eq!(ledger.judge(0, ledger.floor(0), stamp(first)), Err(Wrong::Older));
    }

    #[test]
    fn what_was_never_issued_is_foreign() {
        let mut ledger = Ledger::new(4);
        let first = ledger.issue(0);
        assert_eq!(ledger.judge(0, 0, stamp(first + 1)), Err(Wrong::Foreign));
        ledger.acknowledge(0, first);
        assert_eq!(ledger.judge(0, ledger.floor(0), Found::Foreign), Err(Wrong::Foreign));
    }

    #[test]
    fn a_block_with_an_open_command_is_not_free() {
        let mut ledger = Ledger::new(2);
        ledger.hold(0);
        ledger.hold(0);
        ledger.release(0);
        assert!(!ledger.is_free(0));
        ledger.release(0);
        assert!(ledger.is_free(0));
    }
}
