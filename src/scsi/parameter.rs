//! Building parameter data: big endian fields, lengths filled in at the end.

/// Appends to the caller's buffer.
#[derive(Debug)]
pub(super) struct Parameter<'a>(pub &'a mut Vec<u8>);

impl Parameter<'_> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn zeroes(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    /// Writes how many bytes follow the `N`-byte length field at `at` into it.
    pub fn length<const N: usize>(&mut self, at: usize) {
        let following = (self.0.len().saturating_sub(at + N)) as u64;
        let bytes = following.to_be_bytes();
        if let (Some(place), Some(value)) = (self.0.get_mut(at..at + N), bytes.get(8 - N..)) {
            place.copy_from_slice(value);
        }
    }

    /// Cuts the data at the allocation length (SPC-5 4.2.5.6); lengths inside stay as they are.
    pub fn allocate(&mut self, allocation: u32) {
        self.0.truncate(usize::try_from(allocation).unwrap_or(usize::MAX));
    }
}
