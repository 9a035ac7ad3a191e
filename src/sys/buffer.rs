//! Payload buffers: aligned for O_DIRECT, pooled, shared without copying.
//!
//! (Interface; the pooled, aligned body replaces this one.)

use std::sync::Arc;

/// A payload. Clones share the bytes; while more than one clone lives, the bytes are read only.
/// Its memory starts on a 4 KiB boundary and its capacity is a multiple of 4 KiB.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    bytes: Arc<Vec<u8>>,
}

impl Buffer {
    /// An empty buffer; no memory is taken.
    pub fn empty() -> Self {
        Self::default()
    }

    /// `len` bytes of unspecified (but initialised) content.
    pub fn with_len(len: usize) -> Self {
        Self { bytes: Arc::new(vec![0; len]) }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes for writing; `None` while another clone lives.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        Arc::get_mut(&mut self.bytes).map(Vec::as_mut_slice)
    }

    /// Shortens to `len` bytes (no effect when already shorter).
    pub fn truncate(&mut self, len: usize) {
        if let Some(bytes) = Arc::get_mut(&mut self.bytes) {
            bytes.truncate(len);
        }
    }
}
