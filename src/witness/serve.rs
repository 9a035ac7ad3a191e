//! The witness's shell: its listener, its disk, its core.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc as blocking;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::arbitration::{
    self, Connection, Incarnation, SiteName, Timers, WitnessAction, WitnessCore, WitnessImage,
};
use crate::config::WitnessConfig;
use crate::format::{EnvelopeError, Format, Slots};
use crate::group::BootNonce;
use crate::link::channel::{self, Event, Framed, Sender};
use crate::link::lives;
use crate::link::places::{self, Places};
use crate::link::refusals::Refusals;
use crate::link::stream::Stream;
use crate::store::data_dir::{DataDir, DataDirError, Owner};
use crate::store::lives::Lives;
use crate::store::records::{RecordError, RecordFile};
use crate::sys::engine::Engine;
use crate::sys::{clock, socket, thread};
use crate::tls::{Site, Tls, TlsError, Whom};
use crate::wire::{Frame, Hello, Role};

use super::continuity::Token;

/// Where the state lies: room for [`WitnessCore::GROUPS_MAX`] groups.
const STATE: Slots =
    Slots { format: Format { magic: *b"TWLNWST\0", version: 1, readable_from: 1 }, slot_len: 1 << 20 };
/// Connections at a time: two for each of a few hundred pairs.
const CONNECTIONS_MAX: usize = 1024;
/// Connections that may be at their handshake and hello at once; more are closed. Addresses of arrays that
/// were believed before have places of their own.
const STRANGERS: places::Limits = places::Limits { strangers: 48, of_one: 4, known: 32 };
/// Connections of one array: the present one, and one that has broken and does not know it yet.
const CONNECTIONS_OF_ONE_MAX: usize = 2;
const RUN_DIR: &str = "/run/twinlun";

#[derive(Debug, Error)]
pub enum WitnessError {
    #[error("no randomness to be had: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    State(#[from] RecordError),
    #[error("state of the witness: {0}")]
    Image(#[from] EnvelopeError),
    #[error("run_dir {path}: {source}; name a directory on a tmpfs in [witness] run_dir", path = path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// What the disk thread is asked for.
struct Write {
    image: Vec<u8>,
    incarnation: Incarnation,
    sequence: u64,
}

/// The witness writes little and blocks for it. Test builds: `TWINLUN_WITNESS_ENGINE=volatile`.
fn engine() -> Engine {
    #[cfg(feature = "testing")]
    if std::env::var_os("TWINLUN_WITNESS_ENGINE").is_some_and(|name| name == "volatile") {
        return Engine::Volatile;
    }
    Engine::Plain
}

/// Runs a witness until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, by name.
pub fn run(config: &WitnessConfig, timers: Timers) -> Result<(), WitnessError> {
    let settings = &config.witness;
    let tls = config
        .secures()
        .map(|at| Tls::open(at, Site::witness(&settings.name), Whom::AnyArray))
        .transpose()?;
    if settings.allow_plaintext {
        tracing::warn!("the connections of arrays are not encrypted (allow_plaintext)");
    }
    let data_dir = DataDir::open(&settings.data_dir, Owner::Witness, engine())?;
    let (state, body) = RecordFile::open(&settings.data_dir.join("state"), STATE, data_dir.engine())?;
    let image = body.map(|body| WitnessImage::decode(&body)).transpose()?;
    let run_dir = settings.run_dir.clone().unwrap_or_else(|| RUN_DIR.into());
    let lives = Arc::new(Mutex::new(Lives::open(&settings.data_dir, data_dir.engine())?));
    let identity = data_dir.identity().uuid;
    let token =
        Token::new(&run_dir, identity).map_err(|source| WitnessError::RunDir { path: run_dir, source })?;
    let continued = image.as_ref().is_some_and(|image| token.proves(image));
    let fresh = Incarnation(random()?);
    if image.is_some() && !continued {
        tracing::warn!("no proof of continuity: this witness is a new incarnation, to be enrolled anew");
    }
    let mut actions = Vec::new();
    let core = WitnessCore::start(timers, image, continued, fresh, clock::now(), &mut actions);
    let hello = Hello {
        role: Role::Witness(core.image().incarnation),
        identity: identity.into_bytes(),
        nonce: BootNonce(random()?),
        life: 0,
        name: settings.name.clone(),
        system: 0,
        lanes: 0,
        peer: String::new(),
    };
    if let Err(error) = thread::raise_priority() {
        tracing::debug!(%error, "no raised priority");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = socket::listen(settings.listen)
            .and_then(TcpListener::from_std)
            .map_err(|source| WitnessError::Listen { address: settings.listen, source })?;
        tracing::info!(address = %settings.listen, name = settings.name, "witness ready");
        serve(core, actions, hello, timers, listener, Kept { state, token, lives }, tls).await
    })
}

fn random<const N: usize>() -> Result<[u8; N], WitnessError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(WitnessError::Random)?;
    Ok(bytes)
}

/// Writes states in the order they are asked for, the newest of several waiting ones only.
fn disk(
    mut state: RecordFile,
    token: &Token,
    jobs: &blocking::Receiver<Write>,
    done: &mpsc::UnboundedSender<u64>,
) {
    while let Ok(mut job) = jobs.recv() {
        while let Ok(newer) = jobs.try_recv() {
            job = newer;
        }
        while let Err(error) = state.write(&job.image) {
            tracing::error!(%error, "the witness's state cannot be written; nothing is answered meanwhile");
            std::thread::sleep(Duration::from_secs(1));
        }
        if let Err(error) = token.write(job.incarnation, job.sequence) {
            tracing::warn!(%error, "no proof of continuity for the next start");
        }
        if done.send(job.sequence).is_err() {
            return;
        }
    }
}

/// An array that is connected.
struct Caller {
    hello: Hello,
    /// As its certificate and its hello say.
    array: arbitration::Caller,
    /// Without TLS anybody may use any name: then arrays of one name are told apart by this.
    identity: Option<[u8; 16]>,
    sender: Sender,
}

impl Caller {
    /// `None`: no array, which `welcome` has refused.
    fn new(hello: &Hello, secured: bool, sender: Sender) -> Option<Self> {
        let Role::Array(side) = hello.role else { return None };
        let array =
            arbitration::Caller { side, name: SiteName::new(&hello.name)?, peer: SiteName::new(&hello.peer) };
        Some(Self { hello: hello.clone(), array, identity: (!secured).then_some(hello.identity), sender })
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.array.name, self.identity) == (other.array.name, other.identity)
    }
}

/// What the witness keeps on disk.
struct Kept {
    state: RecordFile,
    token: Token,
    lives: Arc<Mutex<Lives>>,
}

async fn serve(
    mut core: WitnessCore,
    mut actions: Vec<WitnessAction>,
    hello: Hello,
    timers: Timers,
    listener: TcpListener,
    kept: Kept,
    tls: Option<Arc<Tls>>,
) -> Result<(), WitnessError> {
    let Kept { state, token, lives } = kept;
    let (jobs, queue) = blocking::channel();
    let (done, mut written) = mpsc::unbounded_channel();
    std::thread::Builder::new().name("disk".into()).spawn(move || disk(state, &token, &queue, &done))?;
    let (events, mut heard) = mpsc::unbounded_channel();
    let mut callers: BTreeMap<Connection, Caller> = BTreeMap::new();
    let secured = tls.is_some();
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    let strangers = Places::new(STRANGERS);
    let mut next = 1;
    let refusals = Arc::new(Refusals::default());
    let mut foreign = None;
    let mut tasks: BTreeMap<Connection, AbortHandle> = BTreeMap::new();
    loop {
        for action in actions.drain(..) {
            match action {
                WitnessAction::Persist { sequence, .. } => {
                    let mut image = Vec::new();
                    core.image().encode(&mut image);
                    let incarnation = core.image().incarnation;
                    let _ = jobs.send(Write { image, incarnation, sequence });
                }
                WitnessAction::Reply { connection, messages } => {
                    if let Some(caller) = callers.get(&connection) {
                        caller.sender.send(Frame::Batch(messages));
                    }
                }
            }
        }
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let from = from.ip();
                    let place = Arc::clone(&places).try_acquire_owned().ok();
                    let (Some(place), Some(stranger)) = (place, strangers.take(from)) else {
                        if let Some(untold) = refusals.is_due(from, "too many") {
                            tracing::warn!(%from, untold, "connection closed: too many at their hello");
                        }
                        continue;
                    };
                    let connection = Connection(next);
                    next += 1;
                    let (hello, events, lives) = (hello.clone(), events.clone(), Arc::clone(&lives));
                    let (refusals, tls) = (Arc::clone(&refusals), tls.clone());
                    let strangers = strangers.clone();
                    let task = tokio::spawn(async move {
                        let met = meet(stream, tls.as_ref(), hello, &lives).await;
                        drop(stranger);
                        let error = match met {
                            Ok((framed, hello)) => {
                                strangers.know(from);
                                channel::run(framed, connection, hello, timers, events).await
                            }
                            Err(error) => error,
                        };
                        if let Some(untold) = refusals.is_due(from, &error.to_string()) {
                            tracing::info!(%from, %error, untold, "connection of an array ended");
                        }
                        drop(place);
                    });
                    tasks.retain(|_, task| !task.is_finished());
                    tasks.insert(connection, task.abort_handle());
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            event = heard.recv() => match event {
                Some(Event::Up { connection, hello, sender }) => {
                    if let Some(caller) = Caller::new(&hello, secured, sender) {
                        tracing::info!(array = hello.name, side = %caller.array.side, "an array is connected");
                        let older: Vec<_> = callers
                            .iter()
                            .filter(|(_, other)| other.is_of(&caller))
                            .map(|(connection, _)| *connection)
                            .collect();
                        for connection in older.iter().rev().skip(CONNECTIONS_OF_ONE_MAX - 1) {
                            callers.remove(connection);
                            if let Some(task) = tasks.remove(connection) {
                                task.abort();
                            }
                        }
                        callers.insert(connection, caller);
                    }
                }
                Some(Event::Frame { connection, frame: Frame::Batch(batch) }) => {
                    if let Some(caller) = callers.get(&connection) {
                        core.receive(&caller.array, connection, &batch, clock::now(), &mut actions);
                        if let Some(group) = core.take_foreign()
                            && foreign.replace((caller.array.name, group)) != Some((caller.array.name, group))
                        {
                            let (array, group) = (caller.array.name, uuid::Uuid::from_bytes(group.0));
                            tracing::warn!(?array, %group, "an array speaks of a group that is another pair's");
                        }
                    }
                }
                Some(Event::Frame { connection, frame: Frame::Age(age) }) => {
                    if let Some(caller) = callers.get(&connection) {
                        lives::note(&lives, &caller.hello, age);
                    }
                }
                Some(Event::Frame { .. }) => {}
                Some(Event::Down { connection }) => {
                    callers.remove(&connection);
                }
                None => return Ok(()),
            },
            sequence = written.recv() => {
                if let Some(sequence) = sequence {
                    core.persisted(sequence, &mut actions);
                }
            }
            _ = stop.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Handshake and hellos with a caller, in bounded time.
async fn meet(
    stream: TcpStream,
    tls: Option<&Arc<Tls>>,
    own: Hello,
    lives: &Arc<Mutex<Lives>>,
) -> io::Result<(Framed, Hello)> {
    let stream = tokio::time::timeout(channel::HELLO_TIMEOUT, Stream::accepted(stream, tls))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no handshake in time"))??;
    let mut framed = Framed::new(stream, Vec::new());
    let hello = framed.hello().await?;
    let is_array = match hello.role {
        Role::Array(_) => framed.agrees(&hello),
        Role::Witness(_) => Err("this is a witness, and the caller is no array".to_owned()),
    };
    if let Err(why) = is_array {
        return Err(channel::refuse(&mut framed, Frame::Refused(why)).await);
    }
    if let Err(refused) = lives::admit(lives, &hello).await {
        return Err(channel::refuse(&mut framed, refused).await);
    }
    framed.send(&Frame::Hello(own)).await?;
    Ok((framed, hello))
}
