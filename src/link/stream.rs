//! What connections between sites travel on: a socket, or TLS on a socket. Whose certificate was
//! shown goes along, so that nobody claims to be somebody else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::channel::USER_TIMEOUT;
use super::dial::{ATTEMPT, dial};
use super::secured::Carried;
use crate::sys::socket;
use crate::tls::{Role, Shown, Site, Tls};
use crate::wire;

/// A connection that is up, both ways.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Secured(Box<TlsStream<TcpStream>>, Shown),
}

impl Stream {
    /// The dialling end: connects within the limit of every attempt, the TLS handshake included.
    ///
    /// # Errors
    /// The system's, `TimedOut`; another end that is not believed, by reason.
    pub async fn dialled(to: SocketAddr, tls: Option<&Arc<Tls>>) -> io::Result<Self> {
        let connected = async {
            let stream = dial(to, None).await?;
            socket::user_timeout(&stream, USER_TIMEOUT)?;
            let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
            let (stream, shown) = tls.connect(stream).await?;
            Ok(Self::Secured(Box::new(stream), shown))
        };
        timeout(ATTEMPT, connected).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The listening end: `stream` as it is, or after the TLS handshake where `tls` is given.
    /// Unbounded in time.
    ///
    /// # Errors
    /// The system's; a caller who is not believed, by reason.
    pub async fn accepted(stream: TcpStream, tls: Option<&Arc<Tls>>) -> io::Result<Self> {
        socket::no_delay(&stream)?;
        socket::user_timeout(&stream, USER_TIMEOUT)?;
        let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
        let (stream, shown) = tls.accept(stream).await?;
        Ok(Self::Secured(Box::new(stream), shown))
    }

    /// Whose certificate was shown.
    pub const fn shown(&self) -> Option<&Shown> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(_, shown) => Some(shown),
        }
    }

    /// Does what a hello claims agree with the certificate that was shown?
    ///
    /// # Errors
    /// Whose certificate it was, and who the hello speaks for.
    pub fn agrees(&self, hello: &wire::Hello) -> Result<(), String> {
        let Self::Secured(_, shown) = self else { return Ok(()) };
        let role = match hello.role {
            wire::Role::Array(_) => Role::Array,
            wire::Role::Witness(_) => Role::Witness,
        };
        let claimed = Site { role, name: hello.name.clone() };
        let shown = &shown.site;
        if claimed == *shown {
            return Ok(());
        }
        Err(format!("the certificate is that of {shown}, and the other end calls itself {claimed}"))
    }

    /// Ready to go to another thread.
    ///
    /// # Errors
    /// The system's.
    pub fn carried(self) -> io::Result<Carried> {
        Ok(match self {
            Self::Plain(stream) => Carried::Plain(stream.into_std()?),
            Self::Secured(stream, _) => match *stream {
                TlsStream::Client(stream) => {
                    let (stream, tls) = stream.into_inner();
                    Carried::Secured(stream.into_std()?, Box::new(tls.into()))
                }
                TlsStream::Server(stream) => {
                    let (stream, tls) = stream.into_inner();
                    Carried::Secured(stream.into_std()?, Box::new(tls.into()))
                }
            },
        })
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            // Without a word of farewell: a process that ended, or a connection that was cut.
            Self::Secured(stream, _) => {
                Pin::new(stream).poll_read(cx, into).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => io::ErrorKind::UnexpectedEof.into(),
                    _ => error,
                })
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Secured(stream, _) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
