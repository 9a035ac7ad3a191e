//! HTTP or HTTPS: the handshake is made while the first bytes are asked for, so that a client that is
//! slow at it keeps nobody else waiting. Its time and number are bounded with the connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::link::said::Said;

/// What makes a connection secure, and what was said of those that could not be.
#[derive(Clone)]
pub struct Https {
    acceptor: TlsAcceptor,
    said: Arc<Said>,
}

impl Https {
    pub fn new(acceptor: TlsAcceptor) -> Self {
        Self { acceptor, said: Arc::default() }
    }
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Https").finish_non_exhaustive()
    }
}

/// What a connection of the API travels on.
pub enum Transport {
    Plain(TcpStream),
    Handshake(Box<Accept<TcpStream>>, Arc<Said>),
    Secured(Box<TlsStream<TcpStream>>),
    /// The handshake has failed.
    Refused,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Handshake(..) => "Handshake",
            Self::Secured(_) => "Secured",
            Self::Refused => "Refused",
        })
    }
}

/// Either stream; they are used alike.
trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Both for S {}

impl Transport {
    pub fn new(stream: TcpStream, tls: Option<&Https>) -> Self {
        match tls {
            None => Self::Plain(stream),
            Some(Https { acceptor, said }) => {
                Self::Handshake(Box::new(acceptor.accept(stream)), Arc::clone(said))
            }
        }
    }

    /// The stream, once there is one.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Both>>> {
        if let Self::Handshake(accept, said) = self {
            match ready!(Pin::new(&mut **accept).poll(cx)) {
                Ok(stream) => {
                    said.clear();
                    *self = Self::Secured(Box::new(stream));
                }
                Err(error) => {
                    if said.is_new(&error.to_string()) {
                        tracing::warn!(%error, "a client of the management API is refused: use https://, with this array's certificate");
                    }
                    *self = Self::Refused;
                    return Poll::Ready(Err(error));
                }
            }
        }
        match self {
            Self::Plain(stream) => Poll::Ready(Ok(Pin::new(stream))),
            Self::Secured(stream) => Poll::Ready(Ok(Pin::new(&mut **stream))),
            // The handshake was left above.
            Self::Refused | Self::Handshake(..) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_read(cx, into)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_write(cx, from)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        // A socket gathers; TLS gathers before it encrypts.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.get_mut().poll_stream(cx))?.poll_shutdown(cx)
    }
}
