//! Asynchronous block I/O for data threads, by io_uring or by blocking calls on other threads.
//!
//! A [`Handle`] belongs to the thread that made it. Files in memory are served in line by every
//! engine: a copy is cheaper than any hand-over.

use std::io;
use std::sync::Arc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File as RingFile;

use super::buffer::{Buffer, Exclusive};
use super::file::{Access, DirectIo, Medium, RawFile};
use super::pool;

/// How transfers are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring, on a `tokio_uring` runtime.
    Ring,
    /// pread and pwrite on a pool of threads, on any runtime: for machines where io_uring is
    /// forbidden, and the oracle of differential tests.
    Plain,
    /// Test builds: in line, through a cache that loses what was not flushed (`sys::volatile`).
    #[cfg(feature = "testing")]
    Volatile,
}

impl Engine {
    /// The ring where this process may have one, else the plain engine and the reason.
    pub fn best() -> (Self, Option<io::Error>) {
        match io_uring_probe() {
            Ok(()) => (Self::Ring, None),
            Err(error) => (Self::Plain, Some(error)),
        }
    }

    /// Whether files are to be opened with [`Access::volatile`].
    pub const fn is_volatile(self) -> bool {
        match self {
            Self::Ring | Self::Plain => false,
            #[cfg(feature = "testing")]
            Self::Volatile => true,
        }
    }
}

/// Sets up a small ring and drops it again: EPERM, ENOSYS and ENOMEM show up here.
fn io_uring_probe() -> io::Result<()> {
    tokio_uring::Runtime::new(tokio_uring::builder().entries(8)).map(drop)
}

/// Longest hole that a file in memory gets in line: longer ones would hold the thread up.
pub const PUNCH_INLINE_MAX: u64 = 4 << 20;

/// A data thread's own handle of a file.
#[derive(Debug)]
pub struct Handle {
    raw: Arc<RawFile>,
    way: Way,
}

enum Way {
    /// Calls that do not wait.
    Inline,
    Pool,
    Ring {
        /// Reads, writes that need not be stable, flushes.
        file: RingFile,
        /// The same file with O_DSYNC.
        stable: RingFile,
    },
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inline => "Inline",
            Self::Pool => "Pool",
            Self::Ring { .. } => "Ring",
        })
    }
}

#[cfg(feature = "testing")]
macro_rules! traced {
    ($self:ident, $kind:expr, $offset:expr, $len:expr, $work:expr) => {{
        let op = super::trace::submitted($kind, $self.raw.identity(), $offset, $len as u64);
        let result = $work;
        super::trace::completed(&op, result.is_ok());
        result
    }};
}

#[cfg(not(feature = "testing"))]
macro_rules! traced {
    ($self:ident, $kind:expr, $offset:expr, $len:expr, $work:expr) => {
        $work
    };
}

impl Handle {
    /// A handle of `file` for the calling thread, with its own open file description. `Ring` must
    /// be used on a `tokio_uring` runtime.
    ///
    /// # Errors
    /// The system's (too many open files); `WouldBlock` when another process is taking the file.
    pub fn new(file: &RawFile, engine: Engine) -> io::Result<Self> {
        let access = Access { direct: file.access().direct, ..Access::default() };
        let raw = file.reopen(access)?;
        raw.share()?;
        let way = match engine {
            #[cfg(feature = "testing")]
            Engine::Volatile => Way::Inline,
            _ if raw.medium() == Medium::Memory || raw.access().volatile => Way::Inline,
            Engine::Plain => Way::Pool,
            Engine::Ring => {
                let dsync = file.reopen(Access { dsync: true, ..access })?;
                dsync.share()?;
                let ring = |raw: &RawFile| io::Result::Ok(RingFile::from_std(raw.descriptor()?.into()));
                Way::Ring { file: ring(&raw)?, stable: ring(&dsync)? }
            }
        };
        Ok(Self { raw: Arc::new(raw), way })
    }

    /// O_DIRECT's demands, where it is on: offsets, lengths and memory must meet them.
    pub fn direct(&self) -> Option<DirectIo> {
        self.raw.direct()
    }

    /// Every call is done at once on the calling thread, but for `punch` of more than
    /// [`PUNCH_INLINE_MAX`].
    pub fn is_inline(&self) -> bool {
        matches!(self.way, Way::Inline)
    }

    /// See [`RawFile::try_read_now`].
    pub fn try_read_now(&self, into: &mut [u8], offset: u64) -> bool {
        self.raw.try_read_now(into, offset)
    }

    /// Fills `into` from `offset` and gives it back.
    ///
    /// # Errors
    /// The system's; `UnexpectedEof`; `InvalidInput` when `into` is shared.
    pub async fn read(&self, into: Buffer, offset: u64) -> io::Result<Buffer> {
        traced!(self, super::trace::Kind::Read, offset, into.len(), self.read_untraced(into, offset).await)
    }

    async fn read_untraced(&self, mut into: Buffer, offset: u64) -> io::Result<Buffer> {
        let shared = || io::Error::new(io::ErrorKind::InvalidInput, "a shared buffer cannot be read into");
        match &self.way {
            Way::Inline => {
                self.raw.read_at(into.as_mut_slice().ok_or_else(shared)?, offset)?;
                Ok(into)
            }
            Way::Pool => {
                let raw = Arc::clone(&self.raw);
                pool::run(move || {
                    raw.read_at(into.as_mut_slice().ok_or_else(shared)?, offset)?;
                    Ok(into)
                })
                .await?
            }
            Way::Ring { file, .. } => {
                let mut into = Exclusive::new(into).ok_or_else(shared)?;
                let (len, mut done) = (into.bytes_total(), 0);
                while done < len {
                    let (read, back) = file.read_at(into.slice(done..), offset + done as u64).await;
                    into = back.into_inner();
                    match read {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(read) => done += read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(into.into_inner())
            }
        }
    }

    /// Writes all of `bytes` at `offset`; `stable`: on stable storage when it returns.
    ///
    /// # Errors
    /// The system's; a part may have been written.
    pub async fn write(&self, bytes: Buffer, offset: u64, stable: bool) -> io::Result<()> {
        traced!(
            self,
            if stable { super::trace::Kind::StableWrite } else { super::trace::Kind::Write },
            offset,
            bytes.len(),
            self.write_untraced(bytes, offset, stable).await
        )
    }

    async fn write_untraced(&self, bytes: Buffer, offset: u64, stable: bool) -> io::Result<()> {
        match &self.way {
            Way::Inline => self.raw.write_at(bytes.as_slice(), offset, stable),
            Way::Pool => {
                let raw = Arc::clone(&self.raw);
                pool::run(move || raw.write_at(bytes.as_slice(), offset, stable)).await?
            }
            Way::Ring { file, stable: dsync } => {
                let file = if stable { dsync } else { file };
                let (len, mut done) = (bytes.len(), 0);
                while done < len {
                    let rest = Buffer::slice(&bytes, done..len);
                    match file.write_at(rest, offset + done as u64).submit().await.0 {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(wrote) => done += wrote,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    /// See [`RawFile::punch`].
    ///
    /// # Errors
    /// The system's.
    pub async fn punch(&self, offset: u64, len: u64) -> io::Result<bool> {
        traced!(self, super::trace::Kind::Punch, offset, len, self.punch_untraced(offset, len).await)
    }

    async fn punch_untraced(&self, offset: u64, len: u64) -> io::Result<bool> {
        let raw = Arc::clone(&self.raw);
        match &self.way {
            Way::Inline if len <= PUNCH_INLINE_MAX => raw.punch(offset, len),
            Way::Inline | Way::Pool => pool::run(move || raw.punch(offset, len)).await?,
            Way::Ring { file, .. } => {
                let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                match file.fallocate(offset, len, flags).await {
                    Ok(()) => Ok(true),
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// Everything written before is on stable storage.
    ///
    /// # Errors
    /// See [`RawFile::sync_data`].
    pub async fn flush(&self) -> io::Result<()> {
        traced!(self, super::trace::Kind::Flush, 0, 0_u64, self.flush_untraced().await)
    }

    async fn flush_untraced(&self) -> io::Result<()> {
        match &self.way {
            Way::Inline => self.raw.sync_data(),
            Way::Pool => {
                let raw = Arc::clone(&self.raw);
                pool::run(move || raw.sync_data()).await?
            }
            Way::Ring { file, .. } => file.sync_data().await,
        }
    }

    /// See [`RawFile::next_data`].
    ///
    /// # Errors
    /// The system's.
    pub async fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        match &self.way {
            Way::Inline => self.raw.next_data(offset, end),
            Way::Pool | Way::Ring { .. } => {
                let raw = Arc::clone(&self.raw);
                pool::run(move || raw.next_data(offset, end)).await?
            }
        }
    }
}
