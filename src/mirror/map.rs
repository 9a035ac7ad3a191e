//! The dirty map: one activity bit and one out-of-sync bit for each region, in pages of 4 KiB.

use super::api::Geometry;

/// The dirty map of one volume.
#[derive(Clone, Debug)]
pub struct DirtyMap {}

/// Why a map file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error("page {page} of the dirty map is torn or damaged in both of its slots")]
    Torn { page: u32 },
}

/// One page of the dirty map to be written: `bytes` at `offset` of the volume's map file. Pages of
/// a snapshot may be written in any order; each has two slots, written in turn.
#[derive(Clone, Debug)]
pub struct MapPage {
    /// Byte offset in the map file; a multiple of 4096.
    pub offset: u64,
    /// 4096 bytes.
    pub bytes: Box<[u8; 4096]>,
}

impl DirtyMap {
    /// A map without a bit set.
    pub fn new(_geometry: Geometry) -> Self {
        unimplemented!()
    }

    /// What the map file of a new volume begins with (at offset 0); written once, durably, before
    /// the volume is used. The rest of the file may be a hole.
    pub fn file_header(_geometry: Geometry) -> Box<[u8; 4096]> {
        unimplemented!()
    }

    /// Length of the map file in bytes.
    pub fn file_len(_geometry: Geometry) -> u64 {
        unimplemented!()
    }

    /// Reads a map file (its whole content; short is as if followed by zeroes).
    ///
    /// # Errors
    /// A file or page that is not this volume's, or both slots of a page torn.
    pub fn decode(_geometry: Geometry, _file: &[u8]) -> Result<Self, MapError> {
        unimplemented!()
    }
}
