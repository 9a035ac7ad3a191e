//! redb's storage on a file of ours, so that the object store is written through the same calls,
//! and loses the same things at a power failure in test builds, as everything else.

use std::io;

use redb::StorageBackend;

use crate::mutation::{self, Mutation};
use crate::sys::file::RawFile;

#[derive(Debug)]
pub(super) struct Backend(pub(super) RawFile);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if mutation::on(Mutation::ObjectFlushSkipped) {
            return Ok(());
        }
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset, false)
    }
}
