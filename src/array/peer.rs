//! The link to the other array: who dials, who is believed, and the lanes.
//!
//! Array A dials, B listens, on one address for the control connection and every lane; the first
//! bytes tell them apart. A lane counts only while the control connection of the same two lives is
//! up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::age::Age;
use crate::arbitration::{Connection, Side, Timers};
use crate::link::channel::{self, Event, Framed, HELLO_TIMEOUT, Restored};
use crate::link::dial::PAUSE;
use crate::link::lane::{self, LaneConnection, LaneEvent, Volumes};
use crate::link::lives;
use crate::link::places::{self, Place, Places};
use crate::link::refusals::Refusals;
use crate::link::said::Said;
use crate::link::stream::Stream;
use crate::link::watch::Board;
use crate::mirror::LaneId;
use crate::mirror::frame::{self, Announced, Decoded, LaneHello};
use crate::store::lives::Lives;
use crate::tls::Tls;
use crate::volume::{Job, Mailboxes};
use crate::wire::{Frame, Hello, Role};

/// Numbers of connections of this process: never used twice.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

pub fn next_connection() -> Connection {
    Connection(CONNECTIONS.fetch_add(1, Ordering::Relaxed))
}

/// Connections that may be at their hello at once; more are closed. The other array's address has places of
/// its own: its control connection and its lanes come together.
const STRANGERS: places::Limits = places::Limits { strangers: 32, of_one: 4, known: 64 };

/// What the link needs to know; shared by its tasks.
#[derive(Debug)]
pub struct Link {
    pub hello: Hello,
    pub age: Age,
    pub side: Side,
    /// The other array's name, as configured.
    pub peer_name: String,
    pub timers: Timers,
    /// Whom both ends believe; without it anybody who speaks the protocol.
    pub tls: Option<Arc<Tls>>,
    pub mailboxes: Mailboxes,
    pub volumes: Volumes,
    pub channel: mpsc::UnboundedSender<Event>,
    pub lanes: mpsc::UnboundedSender<LaneEvent>,
    /// When each lane was last heard.
    pub board: Arc<Board>,
    /// The other array as the present control connection knows it.
    pub present: Mutex<Option<(Connection, Hello)>>,
    /// Which lives of the other array were heard.
    pub lives: Arc<Mutex<Lives>>,
    /// Told when the other end knows of a later life of this array.
    pub restored: Arc<Notify>,
}

impl Link {
    fn peer(&self) -> Option<(Connection, Hello)> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_peer(&self, peer: Option<(Connection, Hello)>) {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = peer;
    }

    /// Is this the other array of the pair?
    fn check(&self, hello: &Hello) -> Result<(), String> {
        let Role::Array(side) = hello.role else {
            return Err("this is a replication address, and the caller is no array".into());
        };
        if hello.identity == self.hello.identity {
            return Err("both arrays have the same identity: a data_dir was copied; give one of them an empty data_dir".into());
        }
        if side == self.side {
            return Err(format!(
                "both arrays are configured as side {side}; make one of them side {}",
                side.other()
            ));
        }
        if hello.name != self.peer_name {
            return Err(format!(
                "the array calls itself {}, expected is {} ([peer] name)",
                hello.name, self.peer_name
            ));
        }
        if hello.system == self.hello.system {
            return Err(format!("both arrays have system_id {}; give each its own", hello.system));
        }
        Ok(())
    }

    /// Two lives of one array cannot both be linked: while the one is heard, the other is a copy. A
    /// restarted array is let in once its former connection has broken.
    fn check_life(&self, hello: &Hello) -> Result<(), String> {
        match self.peer() {
            Some((_, present)) if present.nonce != hello.nonce => Err(format!(
                "{} is linked already by another process: its former life is not gone yet, or its data_dir was copied",
                hello.name
            )),
            _ => Ok(()),
        }
    }

    /// Is this the newest life of its `data_dir`? Noted down before it is answered.
    async fn admit(&self, hello: &Hello) -> Result<(), Frame> {
        lives::admit(&self.lives, hello).await
    }

    fn lane_hello(&self, lane: LaneId) -> LaneHello {
        LaneHello {
            array: self.hello.identity,
            boot_nonce: self.hello.nonce.0,
            lane,
            side: self.side,
            newest: frame::VERSION,
            oldest: frame::OLDEST,
        }
    }

    /// Gives a lane to the data thread that owns its number.
    fn hand_over(&self, stream: Stream, lane: LaneId, version: u8) -> io::Result<()> {
        let stream = stream.carried()?;
        let connection = LaneConnection { lane, number: next_connection().0 };
        let (volumes, events) = (Arc::clone(&self.volumes), self.lanes.clone());
        let board = Arc::clone(&self.board);
        let call = move || {
            tokio::task::spawn_local(lane::serve(stream, connection, version, board, volumes, events));
        };
        self.mailboxes.send(self.mailboxes.thread_of(lane), Job::Call(Box::new(call)));
        Ok(())
    }
}

/// Keeps a control connection to `address`, from array A's side, with its lanes.
pub async fn keep_dialling(link: Arc<Link>, address: SocketAddr) {
    // Each reason once: the other array that starts later may have another one to refuse.
    let said = Said::default();
    loop {
        match dial_once(&link, address).await {
            Ok(()) => said.clear(),
            Err(error) => {
                if Restored::is(&error) {
                    link.restored.notify_one();
                }
                if said.is_new(&error.to_string()) {
                    tracing::warn!(peer = link.peer_name, %address, %error, "no link to the other array");
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn dial_once(link: &Arc<Link>, address: SocketAddr) -> io::Result<()> {
    let mut framed = Framed::new(Stream::dialled(address, link.tls.as_ref()).await?, Vec::new());
    framed.send(&Frame::Hello(link.age.hello(&link.hello))).await?;
    let hello = framed.hello().await?;
    framed.agrees(&hello).and_then(|()| link.check(&hello)).map_err(io::Error::other)?;
    if let Err(refused) = link.admit(&hello).await {
        return Err(channel::refuse(&mut framed, refused).await);
    }
    let connection = next_connection();
    link.set_peer(Some((connection, hello.clone())));
    let lanes = link.hello.lanes.min(hello.lanes).max(1);
    let dialled = (0..lanes).map(|lane| keep_lane(Arc::clone(link), address, LaneId(lane), hello.nonce.0));
    let dialled: Vec<_> = dialled.map(|lane| tokio::spawn(lane).abort_handle()).collect();
    let error = channel::run(framed, connection, hello, link.timers, link.channel.clone()).await;
    for lane in dialled {
        lane.abort();
    }
    link.set_peer(None);
    tracing::info!(peer = link.peer_name, %error, "link to the other array lost");
    Ok(())
}

/// Dials one lane again and again while the control connection is up. The data thread tells by
/// `Down` when it breaks; a new attempt is made only then.
async fn keep_lane(link: Arc<Link>, address: SocketAddr, lane: LaneId, nonce: [u8; 16]) {
    loop {
        match dial_lane(&link, address, lane, nonce).await {
            Ok(watch) => {
                // Ends when the lane's thread has dropped the connection.
                let _ = watch.await;
            }
            Err(error) => tracing::debug!(lane = lane.0, %error, "lane not up"),
        }
        sleep(PAUSE).await;
    }
}

async fn dial_lane(
    link: &Arc<Link>,
    address: SocketAddr,
    lane: LaneId,
    nonce: [u8; 16],
) -> io::Result<tokio::sync::oneshot::Receiver<()>> {
    let mut stream = Stream::dialled(address, link.tls.as_ref()).await?;
    let mut bytes = Vec::new();
    frame::encode_hello(&link.lane_hello(lane), &mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    let (hello, _) = timeout(HELLO_TIMEOUT, read_lane_hello(&mut stream, Vec::new()))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if hello.boot_nonce != nonce || hello.lane != lane {
        return Err(io::Error::other("the lane ends at another life of the other array"));
    }
    check_versions(&hello)?;
    let version = hello.newest;
    let (guard, watch) = tokio::sync::oneshot::channel();
    let stream = stream.carried()?;
    let connection = LaneConnection { lane, number: next_connection().0 };
    let (volumes, events) = (Arc::clone(&link.volumes), link.lanes.clone());
    let board = Arc::clone(&link.board);
    let call = move || {
        tokio::task::spawn_local(async move {
            lane::serve(stream, connection, version, board, volumes, events).await;
            drop(guard);
        });
    };
    link.mailboxes.send(link.mailboxes.thread_of(lane), Job::Call(Box::new(call)));
    Ok(watch)
}

async fn read_lane_hello(stream: &mut Stream, mut bytes: Vec<u8>) -> io::Result<(LaneHello, Vec<u8>)> {
    loop {
        match frame::decode(&bytes).map_err(io::Error::other)? {
            Decoded::Frame { what: Announced::Hello, payload, consumed } => {
                let hello = frame::hello(payload).map_err(io::Error::other)?;
                return Ok((hello, bytes.split_off(consumed)));
            }
            Decoded::Frame { .. } => return Err(io::Error::other("no hello at the start of a lane")),
            Decoded::NeedHeader(_) | Decoded::NeedPayload { .. } => {
                // Never more than the hello: what follows belongs to the lane's data thread.
                let whole = frame::HEADER_LEN + frame::HELLO_LEN;
                let mut chunk = vec![0; whole.saturating_sub(bytes.len())];
                let read = stream.read(&mut chunk).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.extend_from_slice(&chunk[..read]);
            }
        }
    }
}

/// Accepts the other array's connections, on array B's side, until dropped.
pub async fn keep_listening(link: Arc<Link>, listener: TcpListener, peer: SocketAddr) {
    let strangers = Places::new(STRANGERS);
    strangers.know(peer.ip());
    let refusals = Arc::new(Refusals::default());
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a replication connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let from = from.ip();
        let Some(place) = strangers.take(from) else {
            if let Some(untold) = refusals.is_due(from, "too many") {
                tracing::warn!(%from, untold, "replication connection closed: too many at their hello");
            }
            continue;
        };
        let (link, refusals) = (Arc::clone(&link), Arc::clone(&refusals));
        tokio::spawn(async move {
            let Err(error) = welcome(&link, stream, place).await else { return };
            if let Some(untold) = refusals.is_due(from, &error.to_string()) {
                tracing::warn!(%from, %error, untold, "replication connection refused");
            }
        });
    }
}

/// Tells a control connection from a lane, and takes either in.
async fn welcome(link: &Arc<Link>, stream: TcpStream, place: Place) -> io::Result<()> {
    let begun = async {
        let mut stream = Stream::accepted(stream, link.tls.as_ref()).await?;
        let mut magic = vec![0; 4];
        stream.read_exact(&mut magic).await?;
        io::Result::Ok((stream, magic))
    };
    let (stream, magic) = timeout(HELLO_TIMEOUT, begun)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))??;
    if magic == *b"tLan" {
        return welcome_lane(link, stream, magic).await;
    }
    let mut framed = Framed::new(stream, magic);
    let hello = framed.hello().await?;
    let agrees = framed.agrees(&hello).and_then(|()| link.check(&hello));
    let known = match agrees.and_then(|()| link.check_life(&hello)) {
        Ok(()) => link.admit(&hello).await,
        Err(why) => Err(Frame::Refused(why)),
    };
    if let Err(refused) = known {
        return Err(channel::refuse(&mut framed, refused).await);
    }
    framed.send(&Frame::Hello(link.age.hello(&link.hello))).await?;
    drop(place);
    let connection = next_connection();
    link.set_peer(Some((connection, hello.clone())));
    let error = channel::run(framed, connection, hello, link.timers, link.channel.clone()).await;
    if link.peer().is_some_and(|(present, _)| present == connection) {
        link.set_peer(None);
    }
    if Restored::is(&error) {
        link.restored.notify_one();
    }
    tracing::info!(peer = link.peer_name, %error, "link to the other array lost");
    Ok(())
}

async fn welcome_lane(link: &Arc<Link>, mut stream: Stream, begun: Vec<u8>) -> io::Result<()> {
    let (hello, rest) = timeout(HELLO_TIMEOUT, read_lane_hello(&mut stream, begun))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let known =
        link.peer().is_some_and(|(_, peer)| peer.nonce.0 == hello.boot_nonce && peer.identity == hello.array);
    if !known || hello.lane.0 >= link.hello.lanes.max(1) || !rest.is_empty() {
        return Err(io::Error::other("a lane of no array that is linked now"));
    }
    check_versions(&hello)?;
    let mut bytes = Vec::new();
    frame::encode_hello(&link.lane_hello(hello.lane), &mut bytes);
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    link.hand_over(stream, hello.lane, hello.newest)
}

/// Both ends speak a version of the lane format in common.
fn check_versions(hello: &LaneHello) -> io::Result<()> {
    let LaneHello { newest, oldest, .. } = *hello;
    if oldest <= frame::VERSION && newest >= frame::OLDEST {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the other array speaks versions {oldest} to {newest} of the lane format, this one {} to {}",
        frame::OLDEST,
        frame::VERSION
    )))
}

/// Keeps a connection to the witness.
pub async fn keep_witness(
    own: Hello,
    age: Age,
    timers: Timers,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    events: mpsc::UnboundedSender<Event>,
    doubted: Arc<Notify>,
) {
    let said = Said::default();
    loop {
        let exchanged = async {
            let mut framed = Framed::new(Stream::dialled(address, tls.as_ref()).await?, Vec::new());
            framed.send(&Frame::Hello(age.hello(&own))).await?;
            let hello = framed.hello().await?;
            framed.agrees(&hello).map_err(io::Error::other)?;
            match hello.role {
                Role::Witness(_) => Ok((framed, hello)),
                Role::Array(_) => Err(io::Error::other("an array answers at the witness's address")),
            }
        };
        match exchanged.await {
            Ok((framed, hello)) => {
                said.clear();
                let error = channel::run(framed, next_connection(), hello, timers, events.clone()).await;
                tracing::info!(%address, %error, "connection to the witness lost");
            }
            Err(error) => {
                if Restored::is(&error) {
                    doubted.notify_one();
                }
                if said.is_new(&error.to_string()) {
                    tracing::warn!(%address, %error, "the witness is not reached");
                }
            }
        }
        sleep(PAUSE).await;
    }
}
