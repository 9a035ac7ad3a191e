//! Payload buffers: aligned for O_DIRECT, pooled per thread, shared without copying.
//!
//! A [`Buffer`] is a view (offset and length) of a block of memory that starts on a 4 KiB
//! boundary. Clones and slices share the block by a reference count that lives with it, so a
//! payload goes from the socket to the disk and to the peer without being copied. A block whose
//! last view is dropped goes to the free list of the thread that dropped it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio_uring::buf::{IoBuf, IoBufMut};

/// Every block starts on such a boundary and is a multiple of it long: what O_DIRECT asks for on
/// any device.
pub const ALIGNMENT: usize = 4096;

/// Sizes that are pooled: 4 KiB, 8 KiB, ... 1 MiB. Larger blocks are rare (a WRITE SAME pattern, a
/// map file) and go back to the allocator.
const CLASSES: usize = 9;

/// What one thread keeps of one size, in bytes: enough for a deep queue of small commands and for
/// one full copy window of 1 MiB regions, and little enough that an idle array stays small.
const POOL_BYTES_PER_CLASS: usize = 2 << 20;

/// The bookkeeping of one block, outside the payload's memory so that this stays aligned.
struct Block {
    refs: AtomicUsize,
    /// Index of the free list; `CLASSES` for blocks that are not pooled.
    class: usize,
    capacity: usize,
    data: NonNull<u8>,
}

/// Blocks of each size that this thread may reuse.
#[derive(Default)]
struct Pool {
    free: [Vec<NonNull<Block>>; CLASSES],
}

impl Drop for Pool {
    fn drop(&mut self) {
        for block in self.free.iter_mut().flat_map(|list| list.drain(..)) {
            Block::free(block);
        }
    }
}

thread_local! { static POOL: RefCell<Pool> = RefCell::default(); }

const fn class_size(class: usize) -> usize {
    ALIGNMENT << class
}

impl Block {
    /// A block of at least `len` bytes with one reference, from this thread's pool when it has one.
    fn take(len: usize) -> NonNull<Self> {
        let class = (0..CLASSES).find(|&class| class_size(class) >= len).unwrap_or(CLASSES);
        if class < CLASSES {
            // The pool is gone only while the thread ends; then the allocator serves.
            let pooled = POOL.try_with(|pool| pool.borrow_mut().free[class].pop()).ok().flatten();
            if let Some(block) = pooled {
                // SAFETY: blocks in a free list are alive and owned by the list alone.
                unsafe { block.as_ref() }.refs.store(1, Ordering::Relaxed);
                return block;
            }
        }
        let capacity = if class < CLASSES { class_size(class) } else { len.next_multiple_of(ALIGNMENT) };
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero (at least ALIGNMENT).
        let Some(data) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let block = Box::new(Self { refs: AtomicUsize::new(1), class, capacity, data });
        NonNull::from(Box::leak(block))
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT)
            .unwrap_or_else(|_| panic!("a buffer of {capacity} bytes"))
    }

    /// The last reference is gone: into this thread's pool, or back to the allocator.
    fn put_back(block: NonNull<Self>) {
        // SAFETY: the caller dropped the last reference, so nobody else touches the block.
        let class = unsafe { block.as_ref() }.class;
        if class < CLASSES {
            let kept = POOL.try_with(|pool| {
                let list = &mut pool.borrow_mut().free[class];
                let room = list.len() < POOL_BYTES_PER_CLASS / class_size(class);
                if room {
                    list.push(block);
                }
                room
            });
            if kept == Ok(true) {
                return;
            }
        }
        Self::free(block);
    }

    fn free(block: NonNull<Self>) {
        // SAFETY: the caller owns the block alone; it was leaked from a Box in `take`.
        let block = unsafe { Box::from_raw(block.as_ptr()) };
        // SAFETY: `data` came from `alloc_zeroed` with this very layout.
        unsafe { dealloc(block.data.as_ptr(), Self::layout(block.capacity)) };
    }
}

/// A payload: a view of shared memory. Clones and slices share the bytes; while more than one
/// view of a block lives, its bytes are read only.
#[derive(Default)]
pub struct Buffer {
    block: Option<NonNull<Block>>,
    offset: usize,
    len: usize,
}

// SAFETY: the count is atomic; bytes are written only through `&mut` of the only view of a block.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared reference gives nothing but reads and clones.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// An empty buffer; no memory is taken.
    pub const fn empty() -> Self {
        Self { block: None, offset: 0, len: 0 }
    }

    /// `len` bytes of unspecified (but initialised) content: write all of it before it is shown to
    /// anybody. Starts on a 4 KiB boundary.
    pub fn with_len(len: usize) -> Self {
        if len == 0 {
            return Self::empty();
        }
        Self { block: Some(Block::take(len)), offset: 0, len }
    }

    /// `len` zeroes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::with_len(len);
        if let Some(bytes) = buffer.as_mut_slice() {
            bytes.fill(0);
        }
        buffer
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::with_len(bytes.len());
        if let Some(own) = buffer.as_mut_slice() {
            own.copy_from_slice(bytes);
        }
        buffer
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn as_slice(&self) -> &[u8] {
        match self.block {
            None => &[],
            // SAFETY: offset + len lies inside the block (kept by every constructor), its bytes are
            // initialised, and nobody writes them while this view lives without being the only one.
            Some(_) => unsafe { std::slice::from_raw_parts(self.start(), self.len) },
        }
    }

    /// The bytes for writing; `None` while another view of the block lives.
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.is_unique() {
            return None;
        }
        if self.block.is_none() {
            return Some(&mut []);
        }
        // SAFETY: as in `as_slice`; this is the only view and it is borrowed mutably.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) })
    }

    /// Shortens to `len` bytes (no effect when already shorter).
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Another view of a part of these bytes.
    ///
    /// # Panics
    /// When the range is not inside this view.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "slice {range:?} of {} bytes", self.len);
        let mut part = self.clone();
        part.offset += range.start;
        part.len = range.end - range.start;
        part
    }

    /// Where the bytes start in memory: a multiple of this many bytes (up to 4096).
    pub fn alignment(&self) -> usize {
        if self.offset == 0 { ALIGNMENT } else { ALIGNMENT.min(1 << self.offset.trailing_zeros()) }
    }

    fn is_unique(&self) -> bool {
        match self.block {
            None => true,
            Some(block) => {
                // SAFETY: this view keeps the block alive. Acquire pairs with the Release in `drop`:
                // what other views read was read before.
                unsafe { block.as_ref() }.refs.load(Ordering::Acquire) == 1
            }
        }
    }

    fn start(&self) -> *mut u8 {
        match self.block {
            None => NonNull::dangling().as_ptr(),
            // SAFETY: this view keeps the block alive, and `offset` lies inside it.
            Some(block) => unsafe { block.as_ref().data.as_ptr().add(self.offset) },
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        if let Some(block) = self.block {
            // SAFETY: this view keeps the block alive. A count cannot overflow: each view takes
            // memory of its own.
            unsafe { block.as_ref() }.refs.fetch_add(1, Ordering::Relaxed);
        }
        Self { block: self.block, offset: self.offset, len: self.len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(block) = self.block else { return };
        // SAFETY: this view keeps the block alive until its count is taken back here.
        if unsafe { block.as_ref() }.refs.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            Block::put_back(block);
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

// SAFETY: the bytes stay where they are as long as a view lives, however the view is moved, and
// nobody writes them while the operation holds its view (only the only view is writable).
unsafe impl IoBuf for Buffer {
    fn stable_ptr(&self) -> *const u8 {
        self.start()
    }

    fn bytes_init(&self) -> usize {
        self.len
    }

    fn bytes_total(&self) -> usize {
        self.len
    }
}

/// A buffer of which no other view lives: the kernel may write into it.
#[derive(Debug)]
pub struct Exclusive(Buffer);

impl Exclusive {
    /// `None` while another view of the block lives.
    pub fn new(buffer: Buffer) -> Option<Self> {
        buffer.is_unique().then_some(Self(buffer))
    }

    pub fn into_inner(self) -> Buffer {
        self.0
    }
}

// SAFETY: as for `Buffer`.
unsafe impl IoBuf for Exclusive {
    fn stable_ptr(&self) -> *const u8 {
        self.0.start()
    }

    fn bytes_init(&self) -> usize {
        self.0.len
    }

    fn bytes_total(&self) -> usize {
        self.0.len
    }
}

// SAFETY: the only view is inside, and this type neither clones nor lends it.
unsafe impl IoBufMut for Exclusive {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.start()
    }

    unsafe fn set_init(&mut self, _len: usize) {
        // All bytes of a block are initialised from the start.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_aligned_and_slices_share() {
        for len in [1, 512, 4096, 4097, 65536, (1 << 20) + 1] {
            let mut buffer = Buffer::with_len(len);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(buffer.len(), len);
            buffer.as_mut_slice().unwrap().fill(7);
            let part = buffer.slice(len / 2..len);
            assert_eq!(part.as_slice(), &vec![7; len - len / 2][..]);
            assert!(buffer.as_mut_slice().is_none(), "writable while shared");
            drop(part);
            assert!(buffer.as_mut_slice().is_some());
        }
    }

    #[test]
    fn tells_the_alignment_of_a_view() {
        let buffer = Buffer::with_len(8192);
        assert_eq!(buffer.alignment(), 4096);
        assert_eq!(buffer.slice(512..1024).alignment(), 512);
        assert_eq!(buffer.slice(4096..8192).alignment(), 4096);
        assert_eq!(buffer.slice(48..100).alignment(), 16);
    }

    #[test]
    fn blocks_are_reused_by_the_thread_that_freed_them() {
        let buffer = Buffer::with_len(5000);
        let at = buffer.as_slice().as_ptr() as usize;
        drop(buffer);
        let again = Buffer::with_len(8000);
        assert_eq!(again.as_slice().as_ptr() as usize, at);
        let elsewhere = std::thread::spawn(move || {
            drop(again);
            Buffer::with_len(8192).as_slice().as_ptr() as usize
        });
        assert_eq!(elsewhere.join().unwrap(), at);
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_limit() {
        std::thread::spawn(|| {
            let many: Vec<_> = (0..1000).map(|_| Buffer::with_len(4096)).collect();
            drop(many);
            let kept = POOL.with(|pool| pool.borrow().free[0].len());
            assert_eq!(kept, POOL_BYTES_PER_CLASS / 4096);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn threads_share_and_drop_in_any_order() {
        let buffer = Buffer::copy_of(&[9; 4096]);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let mine = buffer.clone();
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        let part = mine.slice(512..1024);
                        assert_eq!(part.as_slice()[0], 9);
                    }
                })
            })
            .collect();
        drop(buffer);
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn an_empty_buffer_takes_no_memory() {
        let mut empty = Buffer::with_len(0);
        assert!(empty.block.is_none() && empty.is_empty());
        assert_eq!(empty.as_mut_slice().map(|b| b.len()), Some(0));
        assert_eq!(empty.slice(0..0).len(), 0);
        assert!(Exclusive::new(empty).is_some());
    }
}
