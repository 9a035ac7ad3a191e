//! What a lane's bytes go through on its data thread: the socket itself, or TLS on it. A lane reads
//! and writes at the same time from one thread, in large steps.

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};

use tokio::net::TcpStream;
use tokio_rustls::rustls;

/// Ciphertext taken from the socket at once.
const READ: usize = 256 * 1024;
/// Ciphertext made before it is written: a few records, so that the peer decrypts meanwhile.
const WRITE: usize = 256 * 1024;

/// A lane's connection on its way to its data thread.
#[derive(Debug)]
pub enum Carried {
    Plain(std::net::TcpStream),
    Secured(std::net::TcpStream, Box<rustls::Connection>),
}

/// One lane's bytes, both ways; not for several readers or several writers.
#[expect(async_fn_in_trait, reason = "used on one thread, by lanes alone")]
pub trait Carrier {
    /// Writes all of `pieces`.
    async fn write_all(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Reads what is there, at least one byte; the end is an error.
    async fn read_some(&self, into: &mut [u8]) -> io::Result<usize>;
}

impl Carrier for TcpStream {
    async fn write_all(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = pieces;
        while !rest.is_empty() {
            match self.try_write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_some(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.try_read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                other => return other,
            }
        }
    }
}

/// TLS on a socket, after the handshake. No borrow lives across a wait.
#[derive(Debug)]
pub struct Secured {
    stream: TcpStream,
    tls: RefCell<Box<rustls::Connection>>,
    received: RefCell<Received>,
}

/// Ciphertext that was read and not yet decrypted.
#[derive(Debug)]
struct Received {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Secured {
    pub fn new(stream: TcpStream, mut tls: Box<rustls::Connection>) -> Self {
        tls.set_buffer_limit(Some(WRITE));
        let received = Received { bytes: vec![0; READ], from: 0, to: 0 };
        Self { stream, tls: RefCell::new(tls), received: RefCell::new(received) }
    }

    /// Decrypts from what is there: the bytes given, or `None` when more must be read.
    fn decrypt(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut tls = self.tls.borrow_mut();
        let mut received = self.received.borrow_mut();
        loop {
            match tls.reader().read(into) {
                // The other end has closed in order.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let Received { bytes, from, to } = &mut *received;
            let mut rest = bytes.get(*from..*to).unwrap_or_default();
            if rest.is_empty() {
                return Ok(None);
            }
            *from += tls.read_tls(&mut rest)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn try_receive(&self) -> io::Result<usize> {
        let mut received = self.received.borrow_mut();
        let read = self.stream.try_read(&mut received.bytes)?;
        (received.from, received.to) = (0, read);
        Ok(read)
    }

    /// Writes all ciphertext there is.
    async fn flush(&self) -> io::Result<()> {
        loop {
            let written = {
                let mut tls = self.tls.borrow_mut();
                if !tls.wants_write() {
                    return Ok(());
                }
                tls.write_tls(&mut Socket(&self.stream))
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Carrier for Secured {
    async fn write_all(&self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = pieces;
        while !rest.is_empty() {
            let taken = self.tls.borrow_mut().writer().write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, taken);
            // Full, or all is in.
            self.flush().await?;
        }
        Ok(())
    }

    async fn read_some(&self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(read) = self.decrypt(into)? {
                return Ok(read);
            }
            match self.try_receive() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }
}

/// The socket as `rustls` writes to it: without waiting.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
