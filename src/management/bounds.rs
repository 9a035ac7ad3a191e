//! What a client of the API could make grow: connections, and the time one may take.
//!
//! The HTTP library bounds the head of a request (some 400 KiB, 100 fields), the server its body;
//! this bounds how many there are at once, of all and of each address, and ends those that prove nothing,
//! or send or read nothing.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep};

use super::transport::{Https, Transport};
use crate::link::places::{Limits, Place, Places};
use crate::link::refusals::Refusals;

/// Connections served at once; more are closed. Some are for this machine's command line alone.
pub const CONNECTIONS: Limits = Limits { strangers: 56, of_one: 16, known: 8 };
/// From a connection's begin until a request on it has proved who asks, the handshake included. What is
/// answered to anybody gives no new time.
const PROVED_WITHIN: Duration = Duration::from_secs(10);
/// From a request with a session until the next one. Longer than any command takes; keep-alive
/// connections end after as much silence. Not counted from the last byte, so that a request sent byte by
/// byte ends as well.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);
/// Pause after the system refused a connection (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// A listener with a limit.
#[derive(Debug)]
pub struct Bounded {
    listener: TcpListener,
    /// Where the API is encrypted.
    tls: Option<Https>,
    places: Places,
    refusals: Refusals,
    proved_within: Duration,
    answer_within: Duration,
}

/// Whose connection a request came by.
#[derive(Clone, Debug)]
pub struct Client {
    pub from: IpAddr,
    proved: Arc<AtomicBool>,
}

impl Client {
    /// A request on this connection showed a session, or opened one.
    pub fn has_proved(&self) {
        self.proved.store(true, Ordering::Release);
    }
}

impl Connected<IncomingStream<'_, Bounded>> for Client {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Bounded {
    pub fn new(listener: TcpListener, tls: Option<Https>) -> Self {
        Self { tls, ..Self::with(listener, CONNECTIONS, PROVED_WITHIN, ANSWER_WITHIN) }
    }

    fn with(listener: TcpListener, limits: Limits, proved_within: Duration, answer_within: Duration) -> Self {
        let places = Places::new(limits);
        places.know(Ipv4Addr::LOCALHOST.into());
        places.know(Ipv6Addr::LOCALHOST.into());
        Self { listener, tls: None, places, refusals: Refusals::default(), proved_within, answer_within }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = Client;

    async fn accept(&mut self) -> (Connection, Client) {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let from = address.ip().to_canonical();
                    let Some(place) = self.places.take(from) else {
                        if let Some(untold) = self.refusals.is_due(from, "too many") {
                            tracing::warn!(%from, untold, "a connection of the management API is closed: too many");
                        }
                        continue;
                    };
                    let client = Client { from, proved: Arc::default() };
                    let connection = Connection {
                        stream: Transport::new(stream, self.tls.as_ref()),
                        deadline: Box::pin(tokio::time::sleep(self.proved_within)),
                        within: self.answer_within,
                        client: client.clone(),
                        _place: place,
                    };
                    return (connection, client);
                }
                Err(error) => {
                    tracing::warn!(%error, "the management API cannot take a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Client> {
        let from = self.listener.local_addr()?.ip();
        Ok(Client { from, proved: Arc::default() })
    }
}

/// One connection; its place is free again when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: Transport,
    deadline: Pin<Box<Sleep>>,
    within: Duration,
    client: Client,
    _place: Place,
}

impl Connection {
    /// `Pending` until the deadline, then an error.
    fn late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            std::task::ready!(self.deadline.as_mut().poll(cx));
            if !self.extend() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
    }

    /// A request that proved who asks gives new time, once.
    fn extend(&mut self) -> bool {
        let proved = self.client.proved.swap(false, Ordering::AcqRel);
        if proved {
            self.deadline.as_mut().reset(Instant::now() + self.within);
        }
        proved
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
                self.extend();
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
                self.extend();
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
    fn one_connection_too_many_is_closed_and_this_machine_s_places_are_its_own() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let limits = Limits { strangers: 1, of_one: 1, known: 1 };
            let mut bounded = Bounded::with(listener, limits, PROVED_WITHIN, ANSWER_WITHIN);
            let from = |n| crate::link::dial::dial(address, Some(([127, 0, 0, n], 0).into()));
            let (_one, mut two) = (from(2).await.unwrap(), from(2).await.unwrap());
            let (first, client) = bounded.accept().await;
            assert_eq!(client.from, IpAddr::from([127, 0, 0, 2]));
            let wait = Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, bounded.accept()).await.is_err(), "over the limit");
            assert_eq!(two.read(&mut [0; 1]).await.unwrap(), 0, "closed");
            let _own = from(1).await.unwrap();
            assert_eq!(bounded.accept().await.1.from, IpAddr::from([127, 0, 0, 1]));
            drop(first);
            let _three = from(2).await.unwrap();
            bounded.accept().await;
        });
    }

    #[test]
    fn a_request_sent_byte_by_byte_ends_and_only_one_with_a_session_gives_new_time() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let long = Duration::from_millis(300);
            let mut bounded = Bounded::with(listener, CONNECTIONS, long, long);
            let silent = TcpStream::connect(address).await.unwrap();
            let (mut stranger, _) = bounded.accept().await;
            let begin = Instant::now();
            tokio::time::sleep(Duration::from_millis(200)).await;
            stranger.write_all(b"answer").await.unwrap();
            let error = stranger.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(begin.elapsed() < Duration::from_millis(450), "an answer to anybody gives no time");
            drop((stranger, silent));
            let mut client = TcpStream::connect(address).await.unwrap();
            let (mut connection, who) = bounded.accept().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            who.has_proved();
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
