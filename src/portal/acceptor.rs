//! Listening, and handing connections to the data threads.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::sessions::{LoginPlace, Sessions};

/// A connection that was just accepted, on its way to a data thread.
#[derive(Debug)]
pub struct Accepted {
    pub stream: std::net::TcpStream,
    pub peer: SocketAddr,
    /// Counts against the limit of connections not logged in; dropped after the login.
    pub place: LoginPlace,
}

/// How long to wait after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that connections are closed; each of them would fill the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Accepts connections until the future is dropped, and hands each one out. Those beyond the limit
/// of logins under way are closed at once.
pub async fn accept(listener: TcpListener, sessions: Sessions, mut hand_over: impl FnMut(Accepted)) {
    let (mut told, mut untold) = (None::<Instant>, 0u64);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an iSCSI connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = sessions.begin_login(peer.ip()) else {
            if told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
                untold += 1;
            } else {
                tracing::warn!(%peer, untold, "iSCSI connection closed: too many logins under way, of all or of this address");
                (told, untold) = (Some(Instant::now()), 0);
            }
            continue;
        };
        match prepare(stream) {
            Ok(stream) => hand_over(Accepted { stream, peer, place }),
            Err(error) => tracing::debug!(%peer, %error, "iSCSI connection lost at once"),
        }
    }
}

fn prepare(stream: tokio::net::TcpStream) -> io::Result<std::net::TcpStream> {
    // Answers are written whole; waiting for more of them only delays.
    stream.set_nodelay(true)?;
    stream.into_std()
}
