//! TCP sockets as the arrays, the witness and the portals use them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that may wait to be accepted: a host that logs in on every path at once, after a
/// power cut every host at once.
const BACKLOG: i32 = 1024;

/// A non-blocking listener; the address may be in TIME_WAIT from a former life of this process.
///
/// # Errors
/// The system's: the address is in use, or is none of this machine's.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // "[::]" and "0.0.0.0" may be configured side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A non-blocking socket that is about to connect to `to`, from `from` where one is given.
///
/// # Errors
/// The system's: `from` is none of this machine's addresses.
pub fn unconnected(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    Ok(socket.into())
}

/// Small messages leave at once (TCP_NODELAY).
///
/// # Errors
/// The system's.
pub fn no_delay(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_tcp_nodelay(true)
}

/// The connection breaks when sent data is not acknowledged for so long (TCP_USER_TIMEOUT);
/// without it a dead peer is noticed after a quarter of an hour.
///
/// # Errors
/// The system's.
pub fn user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
}

/// An idle connection is asked for a sign of life after `idle`, then every `interval`; after
/// `probes` unanswered ones it breaks.
///
/// # Errors
/// The system's.
pub fn keepalive(socket: &impl AsFd, idle: Duration, interval: Duration, probes: u32) -> io::Result<()> {
    let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listens_again_at_once_and_sets_options() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        first.set_nonblocking(false).unwrap();
        let (server, _) = first.accept().unwrap();
        for end in [&client, &server] {
            no_delay(end).unwrap();
            user_timeout(end, Duration::from_secs(2)).unwrap();
            keepalive(end, Duration::from_secs(5), Duration::from_secs(1), 3).unwrap();
            assert!(end.nodelay().unwrap());
            assert_eq!(SockRef::from(end).tcp_user_timeout().unwrap(), Some(Duration::from_secs(2)));
        }
        drop((first, server, client));
        assert_eq!(listen(address).unwrap().local_addr().unwrap(), address);
        assert!(listen("192.0.2.1:0".parse().unwrap()).is_err());
    }
}
