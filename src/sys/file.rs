//! One open file or block device and the blocking calls on it, whole transfers only.
//!
//! This is the plain engine's hand, the metadata thread's tool, and what the ring engine uses for
//! calls that are done at once. In test builds a file may be *volatile* (`super::volatile`): what
//! was not flushed is lost, in part, when the process dies.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, PosixFadviseAdvice, fallocate, fcntl, posix_fadvise};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};

#[cfg(feature = "testing")]
use super::volatile::Volatile;

/// What a file lies on decides how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A regular file on a disk's file system.
    Disk,
    /// A regular file of tmpfs or ramfs: every call is a copy in memory, so it is done in line.
    Memory,
    /// A block device.
    Device,
}

/// O_DIRECT's demands, in bytes (powers of two).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectIo {
    /// Of the memory's address.
    pub memory: usize,
    /// Of offset and length.
    pub offset: usize,
}

/// How to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The file must not exist and is made (mode 0600).
    pub create_new: bool,
    /// O_DIRECT, where file system and device have it; no effect elsewhere.
    pub direct: bool,
    /// Every write is stable when it returns (O_DSYNC), whatever it asks for.
    pub dsync: bool,
    /// Block devices: refuse one that is mounted or otherwise claimed.
    pub exclusive: bool,
    /// Test builds: hold back what is not flushed. No effect in ordinary builds.
    pub volatile: bool,
}

impl Access {
    /// Volatile files exist in test builds only, and go through their own cache.
    const fn in_this_build(self) -> Self {
        let volatile = self.volatile && cfg!(feature = "testing");
        Self { volatile, direct: self.direct && !volatile, dsync: self.dsync && !volatile, ..self }
    }
}

/// An open file.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    access: Access,
    medium: Medium,
    direct: Option<DirectIo>,
    identity: (u64, u64),
    #[cfg(feature = "testing")]
    volatile: Option<std::sync::Arc<Volatile>>,
}

/// Locked by the one holder of a file, and by each of its handles. (Offsets of advisory locks; they
/// have nothing to do with the bytes there.)
const LOCK_HOLDER: libc::off_t = 0;
const LOCK_HANDLES: libc::off_t = LOCK_HOLDER + 1;

/// How long a holder that is about to end is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// `ramfs` (linux/magic.h).
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

nix::ioctl_read!(
    /// Size of a block device in bytes (linux/fs.h).
    blkgetsize64,
    0x12,
    114,
    u64
);

/// `struct file_clone_range` of linux/fs.h.
#[repr(C)]
#[derive(Debug)]
pub struct CloneRange {
    from: i64,
    from_offset: u64,
    len: u64,
    offset: u64,
}

nix::ioctl_write_ptr!(
    /// FICLONERANGE: lets a range of another file of the same file system be a range of this one.
    ficlonerange,
    0x94,
    13,
    CloneRange
);

impl RawFile {
    /// Opens (or makes) `path` for reading and writing.
    ///
    /// # Errors
    /// The system's; O_DIRECT that is not to be had is none.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let access = access.in_this_build();
        let mut flags = 0;
        if access.dsync {
            flags |= libc::O_DSYNC;
        }
        if access.exclusive {
            flags |= libc::O_EXCL;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        #[cfg(feature = "testing")]
        if access.volatile {
            let file = super::volatile_names::open(path, &mut options, access.create_new)?;
            return Self::from_file(file, path, access);
        }
        let file = options.create_new(access.create_new).mode(0o600).open(path)?;
        Self::from_file(file, path, access)
    }

    /// The same file once more, as its own open file description (another thread's, or with other
    /// flags), even if the name has gone or means another file by now.
    ///
    /// # Errors
    /// The system's; `NotFound` when the name means another file and /proc is not there.
    pub fn reopen(&self, access: Access) -> io::Result<Self> {
        let access = Access { create_new: false, exclusive: false, volatile: self.access.volatile, ..access };
        let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let mut again = match Self::open(&by_descriptor, access) {
            Ok(file) => file,
            Err(_) => Self::open(&self.path, access)?,
        };
        if again.identity != self.identity {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced by another"));
        }
        again.path.clone_from(&self.path);
        Ok(again)
    }

    fn from_file(file: File, path: &Path, access: Access) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        let medium = if kind.is_block_device() {
            Medium::Device
        } else if kind.is_file() {
            match fstatfs(&file)?.filesystem_type() {
                TMPFS_MAGIC | RAMFS_MAGIC => Medium::Memory,
                _ => Medium::Disk,
            }
        } else {
            let what = "is neither a regular file nor a block device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        // A device is one and the same under each of its nodes.
        let identity =
            if kind.is_block_device() { (metadata.rdev(), 0) } else { (metadata.dev(), metadata.ino()) };
        let direct = if access.direct && medium != Medium::Memory { set_direct(&file)? } else { None };
        Ok(Self {
            #[cfg(feature = "testing")]
            volatile: if access.volatile { Some(Volatile::of(&file, identity)?) } else { None },
            file,
            path: path.to_owned(),
            access,
            medium,
            direct,
            identity,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub const fn access(&self) -> Access {
        self.access
    }

    pub const fn medium(&self) -> Medium {
        self.medium
    }

    /// O_DIRECT is on, and asks for this.
    pub const fn direct(&self) -> Option<DirectIo> {
        self.direct
    }

    /// Device and inode: which file this is, whatever its name.
    pub const fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The device the file's content lies on, to tell whether two files share it.
    ///
    /// # Errors
    /// The system's.
    pub fn device(&self) -> io::Result<u64> {
        let metadata = self.file.metadata()?;
        Ok(if self.medium == Medium::Device { metadata.rdev() } else { metadata.dev() })
    }

    /// A descriptor of the same open file description, for a ring.
    ///
    /// # Errors
    /// The system's (too many open files).
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Size in bytes, of a file or a device.
    ///
    /// # Errors
    /// The system's.
    pub fn size(&self) -> io::Result<u64> {
        if self.medium == Medium::Device {
            let mut bytes = 0;
            // SAFETY: the descriptor is open, and the kernel writes one u64.
            unsafe { blkgetsize64(self.file.as_raw_fd(), &raw mut bytes) }?;
            return Ok(bytes);
        }
        Ok(self.file.metadata()?.len())
    }

    /// Bytes that are allocated (sparse files take less than their length).
    ///
    /// # Errors
    /// The system's.
    pub fn allocated(&self) -> io::Result<u64> {
        if self.medium == Medium::Device { self.size() } else { Ok(self.file.metadata()?.blocks() * 512) }
    }

    /// Sets the size of a regular file.
    ///
    /// # Errors
    /// The system's; EFBIG when the file system cannot hold a file that long.
    pub fn set_len(&self, bytes: u64) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.set_len(bytes);
        }
        self.file.set_len(bytes)
    }

    /// Takes the lock that says "in use": one holder over all processes, and nobody while a handle
    /// of a former holder lives ([`RawFile::share`]). Waits a little for a holder that is about to
    /// end. False: somebody else holds it. Freed when this file is closed.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(&self) -> io::Result<bool> {
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            if self.set_lock(libc::F_WRLCK, LOCK_HOLDER, 2)? {
                self.set_lock(libc::F_UNLCK, LOCK_HANDLES, 1)?;
                return Ok(true);
            }
            if Instant::now() >= patience {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Marks this open file as a handle of the lock's holder. A ring's last writes may outlive the
    /// process that was killed; they keep their file open, and so the next holder out, until they
    /// are over.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when another process is just taking the lock.
    pub fn share(&self) -> io::Result<()> {
        if self.set_lock(libc::F_RDLCK, LOCK_HANDLES, 1)? {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "in use by another process"))
        }
    }

    /// Open file description locks (fcntl(2)): they belong to the open file, not to the process.
    fn set_lock(&self, kind: libc::c_int, start: libc::off_t, len: libc::off_t) -> io::Result<bool> {
        let lock = libc::flock {
            l_type: libc::c_short::try_from(kind).map_err(|_| Errno::EINVAL)?,
            l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?,
            l_start: start,
            l_len: len,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Fills `into` from `offset`.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof` past the end.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.read_at(into, offset);
        }
        self.file.read_exact_at(into, offset)
    }

    /// Fills `into` from `offset` if that needs no waiting. False: read it the other way; what
    /// `into` holds is unspecified then.
    pub fn try_read_now(&self, into: &mut [u8], offset: u64) -> bool {
        if self.direct.is_some() {
            return false; // A direct read always goes to the device.
        }
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.read_at(into, offset).is_ok();
        }
        let Ok(at) = libc::off_t::try_from(offset) else { return false };
        let part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        // A file in memory waits for nothing but memory, and older kernels refuse it the flag.
        let flags = if self.medium == Medium::Memory { 0 } else { libc::RWF_NOWAIT };
        // SAFETY: one iovec over `into`, which is borrowed mutably during the call.
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &raw const part, 1, at, flags) };
        usize::try_from(read) == Ok(into.len())
    }

    /// Writes all of `bytes` at `offset`; `stable`: on stable storage when it returns.
    ///
    /// # Errors
    /// The system's; a part may have been written.
    pub fn write_at(&self, bytes: &[u8], offset: u64, stable: bool) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.write_at(bytes, offset, stable);
        }
        if !stable || self.access.dsync {
            return self.file.write_all_at(bytes, offset);
        }
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let at = u64::try_from(done).ok().and_then(|done| offset.checked_add(done));
            let at = at.and_then(|at| libc::off_t::try_from(at).ok()).ok_or(Errno::EFBIG)?;
            let part = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            // SAFETY: one iovec over `rest`, which the kernel only reads and which outlives the call.
            let wrote =
                unsafe { libc::pwritev2(self.file.as_raw_fd(), &raw const part, 1, at, libc::RWF_DSYNC) };
            match usize::try_from(wrote) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => done += wrote,
                Err(_) => match Errno::last() {
                    Errno::EINTR => {}
                    error => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// Makes the range read as zeroes and gives its space back. False: this file system or device
    /// cannot; write zeroes instead. Not yet stable.
    ///
    /// # Errors
    /// The system's.
    pub fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.zero(offset, len).map(|()| true);
        }
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
            return Err(Errno::EFBIG.into());
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, flags, offset, len) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The range at `offset` becomes what `from` holds at `from_offset`, without its blocks being copied
    /// (reflink): both files share them until one is written to. Not yet stable. False: refused, by this file
    /// system, for these two files or this alignment, or for want of space; copy instead. May take long, and
    /// holds writes of both files meanwhile.
    ///
    /// # Errors
    /// The system's.
    pub fn clone_from(&self, offset: u64, from: &Self, from_offset: u64, len: u64) -> io::Result<bool> {
        #[cfg(feature = "testing")]
        if self.volatile.is_some() || from.volatile.is_some() {
            return Ok(false); // what is held back is not in the file
        }
        let range = CloneRange { from: from.file.as_raw_fd().into(), from_offset, len, offset };
        // SAFETY: both descriptors are open, and the kernel only reads `range`.
        match unsafe { ficlonerange(self.file.as_raw_fd(), &raw const range) } {
            Ok(_) => Ok(true),
            Err(
                Errno::EOPNOTSUPP
                | Errno::ENOTTY
                | Errno::ENOSYS
                | Errno::EXDEV
                | Errno::EINVAL
                | Errno::ETXTBSY
                | Errno::ENOSPC
                | Errno::EDQUOT,
            ) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the space for the range (a fully provisioned volume).
    ///
    /// # Errors
    /// The system's; ENOSPC.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
            return Err(Errno::EFBIG.into());
        };
        Ok(fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len)?)
    }

    /// Everything written before is on stable storage, with what is needed to read it back.
    ///
    /// # Errors
    /// The system's. What was not yet stable may be lost for good then, even if a later call
    /// succeeds.
    pub fn sync_data(&self) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.sync();
        }
        self.file.sync_data()
    }

    /// Drops clean pages from the page cache. After a flush that failed, the pages it could not write are clean,
    /// and would be read until memory is short.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_cache(&self) -> io::Result<()> {
        #[cfg(feature = "testing")]
        if self.volatile.is_some() {
            return Ok(()); // its flushes do not fail
        }
        Ok(posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    /// The first data at or after `offset`, up to `end`, as `(start, end)`; `None`: only holes.
    /// Where the file system cannot tell, everything is data.
    ///
    /// # Errors
    /// The system's.
    pub fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        if offset >= end {
            return Ok(None);
        }
        #[cfg(feature = "testing")]
        if let Some(volatile) = &self.volatile {
            return volatile.next_data(offset, end);
        }
        seek_data(&self.file, offset, end)
    }

    /// The power goes for this volatile file; see `Volatile::crash`.
    #[cfg(feature = "testing")]
    pub fn cut_power(&self) {
        if let Some(volatile) = &self.volatile {
            volatile.crash();
        }
    }
}

/// SEEK_DATA, then SEEK_HOLE; see [`RawFile::next_data`].
pub(super) fn seek_data(file: &File, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence| {
        let from = libc::off_t::try_from(from).map_err(|_| Errno::EFBIG)?;
        lseek(file, from, whence).map(|at| u64::try_from(at).unwrap_or(0)) // lseek gives no negative offset
    };
    let start = match seek(offset, Whence::SeekData) {
        Ok(start) if start >= end => return Ok(None),
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ESPIPE) => return Ok(Some((offset, end))),
        Err(error) => return Err(error.into()),
    };
    match seek(start, Whence::SeekHole) {
        Ok(hole) => Ok(Some((start, hole.min(end)))),
        Err(error) => Err(error.into()),
    }
}

/// Turns O_DIRECT on if it is to be had, and says what it asks for.
fn set_direct(file: &File) -> io::Result<Option<DirectIo>> {
    // SAFETY: all-zero bytes are a valid `statx` (plain integers).
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH asks about the open descriptor; `stat` is written.
    let asked = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, &raw mut stat)
    };
    // Kernels before 6.1 do not say: what every device and file system takes.
    let mut wants = DirectIo { memory: 4096, offset: 4096 };
    if asked == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 {
        if stat.stx_dio_offset_align == 0 {
            return Ok(None);
        }
        let bytes = |align: u32| usize::try_from(align).unwrap_or(4096).max(1);
        wants = DirectIo { memory: bytes(stat.stx_dio_mem_align), offset: bytes(stat.stx_dio_offset_align) };
    }
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    match fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)) {
        Ok(_) => Ok(Some(wants)),
        Err(Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
