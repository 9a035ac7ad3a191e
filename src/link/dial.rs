//! Dialling: one attempt, bounded in time, with the options of all links.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::sys::socket;

/// How long one attempt may take.
pub const ATTEMPT: Duration = Duration::from_secs(1);
/// Pause between attempts: short, because every failover gap waits for it.
pub const PAUSE: Duration = Duration::from_millis(200);

/// Connects to `to`, from `from` where one is given.
///
/// # Errors
/// The system's, or `TimedOut`.
pub async fn dial(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket::unconnected(to, from)?);
    let stream = timeout(ATTEMPT, socket.connect(to))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    socket::no_delay(&stream)?;
    Ok(stream)
}
