//! What a written block looks like: every 512-byte sector names its run, stream, block and
//! sequence number, so that a reader can tell whose write it sees and how old it is.

/// Bytes of one stamped block: the physical block of the array.
pub const BLOCK: usize = 4096;
/// Bytes of one sector, the unit that may be torn by a crash while a write is in flight.
const SECTOR: usize = 512;
const MAGIC: u64 = 0x504d_4154_534c_5754; // "TWLSTAMP"
/// Bytes of the stamp proper at the start of each sector; the rest is derived from it.
const HEAD: usize = 40;

/// Which history a block belongs to. Blocks of another run or stream read as foreign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    pub run: u64,
    pub id: u64,
}

/// What was found in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Lowest and highest sequence number of its sectors (equal, unless a write was torn).
    Stamp { oldest: u64, newest: u64 },
    /// All zeroes: never written.
    Blank,
    /// Not a stamp of this stream at this place.
    Foreign,
}

fn words(stream: Stream, block: u64, seq: u64) -> [u64; 5] {
    let mixed = stream.run
        ^ stream.id.rotate_left(17)
        ^ block.rotate_left(31)
        ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [MAGIC, stream.run, stream.id ^ (block << 16), seq, mixed]
}

/// Fills `buffer` (one [`BLOCK`]) with the stamp of write `seq` to `block`.
pub fn write(buffer: &mut [u8], stream: Stream, block: u64, seq: u64) {
    let head = words(stream, block, seq);
    let filler = head[4].to_le_bytes();
    for sector in buffer.chunks_exact_mut(SECTOR) {
        for (place, word) in sector.chunks_exact_mut(8).zip(head) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        for place in sector[HEAD..].chunks_exact_mut(8) {
            place.copy_from_slice(&filler);
        }
    }
}

/// Reads back what [`write`] left, sector by sector.
pub fn read(buffer: &[u8], stream: Stream, block: u64) -> Found {
    if buffer.iter().all(|&byte| byte == 0) {
        return Found::Blank;
    }
    let (mut oldest, mut newest) = (u64::MAX, 0);
    for sector in buffer.chunks_exact(SECTOR) {
        // Sectors never written beside written ones: as old as can be.
        if sector.iter().all(|&byte| byte == 0) {
            oldest = 0;
            continue;
        }
        let word = |n: usize| -> u64 {
            let mut raw = [0; 8];
            raw.copy_from_slice(&sector[n * 8..n * 8 + 8]);
            u64::from_le_bytes(raw)
        };
        let seq = word(3);
        let expected = words(stream, block, seq);
        let head_fits = (0..5).all(|n| word(n) == expected[n]);
        let body_fits = sector[HEAD..].chunks_exact(8).all(|piece| piece == expected[4].to_le_bytes());
        if !head_fits || !body_fits {
            return Found::Foreign;
        }
        oldest = oldest.min(seq);
        newest = newest.max(seq);
    }
    Found::Stamp { oldest, newest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream { run: 7, id: 2 };

    #[test]
    fn a_stamp_reads_back() {
        let mut block = vec![0; BLOCK];
        write(&mut block, STREAM, 12, 99);
        assert_eq!(read(&block, STREAM, 12), Found::Stamp { oldest: 99, newest: 99 });
    }

    #[test]
    fn a_block_of_another_place_or_run_is_foreign() {
        let mut block = vec![0; BLOCK];
        write(&mut block, STREAM, 12, 99);
        assert_eq!(read(&block, STREAM, 13), Found::Foreign);
        assert_eq!(read(&block, Stream { run: 8, id: 2 }, 12), Found::Foreign);
        block[600] ^= 1;
        assert_eq!(read(&block, STREAM, 12), Found::Foreign);
    }

    #[test]
    fn a_torn_block_shows_both_ages() {
        let mut block = vec![0; BLOCK];
        let mut newer = vec![0; BLOCK];
        write(&mut block, STREAM, 1, 5);
        write(&mut newer, STREAM, 1, 6);
        block[..1024].copy_from_slice(&newer[..1024]);
        assert_eq!(read(&block, STREAM, 1), Found::Stamp { oldest: 5, newest: 6 });
    }

    #[test]
    fn zeroes_are_blank() {
        assert_eq!(read(&[0; BLOCK], STREAM, 1), Found::Blank);
    }
}
