//! What a client of the API could make grow: connections, and the time one may take.
//!
//! The HTTP library bounds the head of a request (some 400 KiB, 100 fields), the server its body;
//! this bounds how many there are at once, and ends those that send or read nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::transport::{Https, Transport};

/// Connections served at once; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 64;
/// From a connection's begin or its last answer until the next answer begins. Longer than any
/// command takes; keep-alive connections end after as much silence. Counted from the answer, not
/// from the last byte, so that a request sent byte by byte ends as well.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Pause after the system refused a connection (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// A listener with a limit.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    /// Where the API is encrypted.
    tls: Option<Https>,
    free: Arc<Semaphore>,
    answer_within: Duration,
}

impl Bounded {
    pub fn new(listener: TcpListener, tls: Option<Https>) -> Self {
        Self { tls, ..Self::with(listener, CONNECTIONS_MAX, ANSWER_WITHIN) }
    }

    fn with(listener: TcpListener, connections: usize, answer_within: Duration) -> Self {
        Self { listener, tls: None, free: Arc::new(Semaphore::new(connections)), answer_within }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never closed: `None` does not occur, and would only mean no limit.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let deadline = Box::pin(tokio::time::sleep(self.answer_within));
                    let within = self.answer_within;
                    let stream = Transport::new(stream, self.tls.as_ref());
                    return (Connection { stream, deadline, within, _permit: permit }, address);
                }
                Err(error) => {
                    tracing::warn!(%error, "the management API cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection; its place is free again when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    deadline: Pin<Box<Sleep>>,
    within: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// `Pending` until the deadline, then an error.
    fn late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        self.deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn wrote(&mut self) {
        self.deadline.as_mut().reset(Instant::now() + self.within);
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, into) {
            Poll::Pending => self.late(cx),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, from) {
            Poll::Pending => self.late(cx),
            ready @ Poll::Ready(_) => {
                self.wrote();
                ready
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, from) {
            Poll::Pending => self.late(cx),
            ready @ Poll::Ready(_) => {
                self.wrote();
                ready
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    #[test]
    fn one_connection_too_many_waits_until_another_ends() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut bounded = Bounded::with(listener, 1, ANSWER_WITHIN);
            let (_one, _two) =
                (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
            let (first, _) = bounded.accept().await;
            let wait = Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, bounded.accept()).await.is_err(), "over the limit");
            drop(first);
            bounded.accept().await;
        });
    }

    #[test]
    fn a_request_sent_byte_by_byte_ends_and_an_answer_gives_new_time() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut bounded = Bounded::with(listener, 1, Duration::from_millis(300));
            let mut client = TcpStream::connect(address).await.unwrap();
            let (mut connection, _) = bounded.accept().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            connection.write_all(b"answer").await.unwrap();
            let begin = Instant::now();
            let trickle = tokio::spawn(async move {
                while client.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
            let mut byte = [0];
            let error = loop {
                if let Err(error) = connection.read_exact(&mut byte).await {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(begin.elapsed() >= Duration::from_millis(290), "{:?}", begin.elapsed());
            trickle.abort();
        });
    }
}
