//! Proof that a witness that starts is the one that stopped (rule 12): a token on a file system
//! that a reboot empties, which must name the incarnation and the last durable change.
//!
//! A witness that was restored from a backup, copied, or rebooted has no such token and becomes a
//! new incarnation. A virtual machine reverted with its memory cannot be told apart; see
//! `docs/FAILURES.md`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::arbitration::{Incarnation, WitnessImage};

/// The token's file; named after the state it goes with, so that several witnesses can share a
/// directory.
#[derive(Debug)]
pub struct Token {
    path: PathBuf,
}

fn text(incarnation: Incarnation, sequence: u64) -> String {
    format!("twinlun witness {} {sequence}\n", uuid::Uuid::from_bytes(incarnation.0))
}

impl Token {
    /// `identity`: UUID of the witness's `data_dir`.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(directory: &Path, identity: uuid::Uuid) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { path: directory.join(format!("{identity}.token")) })
    }

    /// Whether the token proves that `image` is the last durable state.
    pub fn proves(&self, image: &WitnessImage) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == text(image.incarnation, image.sequence))
    }

    /// Writes the token for a state that is durable. Replaced by renaming: a torn one proves
    /// nothing, which is safe.
    ///
    /// # Errors
    /// The system's; the witness then has no proof at its next start.
    pub fn write(&self, incarnation: Incarnation, sequence: u64) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text(incarnation, sequence).as_bytes())?;
        drop(file);
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn only_the_last_durable_state_is_proved() {
        let directory = tempfile::tempdir().unwrap();
        let token = Token::new(directory.path(), uuid::Uuid::nil()).unwrap();
        let image = |sequence| WitnessImage {
            incarnation: Incarnation([3; 16]),
            sequence,
            groups: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        assert!(!token.proves(&image(4)), "no token yet");
        token.write(Incarnation([3; 16]), 4).unwrap();
        assert!(token.proves(&image(4)));
        assert!(!token.proves(&image(3)), "a state restored from a backup");
        assert!(!token.proves(&WitnessImage { incarnation: Incarnation([4; 16]), ..image(4) }));
    }
}
