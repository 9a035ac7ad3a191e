//! `twinlun array`: from the configuration to a serving array, and in order back.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::arbitration::Timers;
use crate::config::{ArrayConfig, EngineChoice};
use crate::format::EnvelopeError;
use crate::group::{BootNonce, Life, PathView};
use crate::iscsi::{Limits, TargetIdentity};
use crate::link::watch::Board;
use crate::portal::{self, PortalConfig, ScsiService, Sessions};
use crate::store::data_dir::{DataDir, DataDirError, Owner};
use crate::store::lives::Lives;
use crate::store::objects::{ObjectStore, StoreError};
use crate::store::records::RecordError;
use crate::sys::engine::Engine;
use crate::sys::{clock, process, socket, thread};
use crate::tls::{Site, Tls, Whom};
use crate::volume::{Job, Mailboxes};
use crate::wire::{Hello, Role};

use super::age::{self, Age};
use super::control::{Controller, Input, Parts, PeerReply, Surroundings};
use super::events::EventLog;
use super::exports::{ExportTable, PORTAL_GROUP_TAG};
use super::handle::{AbsentCopies, Handle, Shared};
use super::metadata::Metadata;
use super::peer::{self, Link};
use super::rpc::{PeerAnswer, PeerRefusal};
use super::volumes::{OpenError, VolumeSet};
use super::{data, start};

/// How long hosts are given to move after a hand over, unless configured.
const STOP_LINGER: Duration = Duration::from_secs(2);
/// How long the hand over of all groups may take before the array stops all the same.
const HAND_OVER: Duration = Duration::from_secs(4);
/// How long the other array has to be linked, or to say so itself, when the witness takes this one for an old copy.
const PEER_SAYS: Duration = Duration::from_secs(10);
/// How often it is said that this array serves although another end takes it for an old copy.
const SERVES_AFTER_ALL: Duration = Duration::from_secs(10);
/// How long hosts are given to log out when asked to.
const LOGOUT_GRACE: Duration = Duration::from_secs(1);

/// What keeps an array from starting.
#[derive(Debug, Error)]
pub enum RunError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Objects(#[from] StoreError),
    #[error(transparent)]
    Votes(#[from] RecordError),
    #[error("vote of group {group}: {source}")]
    Vote { group: uuid::Uuid, source: EnvelopeError },
    #[error("volume {name}: {source}")]
    Volume { name: String, source: OpenError },
    #[error("cannot listen on {address} for {what}: {source}")]
    Listen { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("management: {0}")]
    Management(crate::management::ServeError),
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    #[error("no randomness to be had: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    System(#[from] io::Error),
}

fn engine(choice: EngineChoice) -> Engine {
    match choice {
        EngineChoice::Ring => Engine::Ring,
        EngineChoice::Plain => Engine::Plain,
        #[cfg(feature = "testing")]
        EngineChoice::Volatile => Engine::Volatile,
        #[cfg(not(feature = "testing"))]
        EngineChoice::Volatile => Engine::Plain, // refused by the configuration's check
        EngineChoice::Auto => {
            let (engine, why_not) = Engine::best();
            if let Some(error) = why_not {
                tracing::warn!(%error, "no io_uring here; the plain engine is used, at more CPU for each I/O");
            }
            engine
        }
    }
}

/// The surroundings of the controls: everything that goes through the handle runs as a task.
#[derive(Debug)]
struct Outside {
    handle: Arc<Mutex<Option<Handle>>>,
    requests: Arc<Semaphore>,
}

/// Requests of the other array that are carried out at once; it has no more waiting itself.
const REQUESTS_MAX: usize = 256;

impl Outside {
    fn handle(&self) -> Option<Handle> {
        self.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Surroundings for Outside {
    fn path_changed(&self, group: crate::arbitration::GroupId, view: &PathView) {
        if let Some(handle) = self.handle() {
            handle.exports.path_changed(&handle.snapshot(), group, view);
        }
    }

    fn peer_request(&self, body: Vec<u8>, reply: PeerReply) {
        if let Some(handle) = self.handle() {
            let Ok(place) = Arc::clone(&self.requests).try_acquire_owned() else {
                let why = "too many requests at once; try again";
                return reply.send(PeerAnswer::refused(PeerRefusal::Other, why).encode());
            };
            tokio::spawn(async move {
                reply.send(handle.serve_peer(&body).await.encode());
                drop(place);
            });
        }
    }

    fn send_group_state(&self, group: crate::arbitration::GroupId) {
        if let Some(handle) = self.handle() {
            tokio::spawn(async move { handle.send_group_state(group).await });
        }
    }

    fn policy(&self, group: crate::arbitration::GroupId, policy: crate::group::Policy) {
        if let Some(handle) = self.handle() {
            tokio::spawn(async move { handle.keep_policy(group, policy).await });
        }
    }

    fn peer_up(&self) {
        if let Some(handle) = self.handle() {
            tokio::spawn(async move { handle.introduce().await });
        }
    }
}

/// Runs an array until SIGTERM or SIGINT, then hands over and stops.
///
/// # Errors
/// What keeps it from starting, by name.
pub fn run(config: &ArrayConfig, timers: Timers) -> Result<(), RunError> {
    let engine = engine(config.array.engine);
    let data_dir = Arc::new(DataDir::open(&config.array.data_dir, Owner::Array(config.side()), engine)?);
    if clock::pauses_may_go_unseen() {
        tracing::warn!("this machine has no clock that shows a pause of the whole machine; do not pause it");
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = config.array.data_threads.map_or(cores, usize::from);
    let (mailboxes, receivers) = Mailboxes::new(threads);
    let mut running = Vec::new();
    for (index, mailbox) in receivers.into_iter().enumerate() {
        running.push(data::spawn(index, mailbox, engine)?);
    }
    let (metadata, _metadata_thread) = Metadata::spawn()?;
    if let Err(error) = thread::raise_priority() {
        tracing::debug!(%error, "no raised priority for the control thread");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, timers, engine, data_dir, mailboxes, metadata))
}

async fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    socket::listen(address).and_then(TcpListener::from_std).map_err(|source| RunError::Listen {
        what,
        address,
        source,
    })
}

async fn serve(
    config: &ArrayConfig,
    timers: Timers,
    engine: Engine,
    data_dir: Arc<DataDir>,
    mailboxes: Mailboxes,
    metadata: Metadata,
) -> Result<(), RunError> {
    let (inputs, queue) = mpsc::unbounded_channel();
    let (pokes, mut poked) = mpsc::unbounded_channel();
    let log = EventLog::open(&data_dir.events());
    let volumes = VolumeSet::new(
        Arc::clone(&data_dir),
        engine,
        mailboxes.clone(),
        metadata.clone(),
        pokes,
        log.clone(),
    );
    let objects = Arc::new(ObjectStore::open(&data_dir.objects(), data_dir.engine())?);
    let lost = start::open_volumes(&objects.snapshot(), &volumes)?;
    let votes = start::open_votes(&data_dir)?;
    let found = start::groups(&objects, &votes, &volumes, &lost);
    start::warn_of_shared_device(&data_dir, &volumes);

    let views = Arc::new(ArcSwap::from_pointee(std::collections::BTreeMap::new()));
    let sessions = Sessions::default();
    let exports = ExportTable::new(
        config.side(),
        config.target_name(),
        config.portal.listen.clone(),
        volumes.clone(),
        Arc::clone(&views),
    );
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(RunError::Random)?;
    let identity = data_dir.identity();
    let age = Age::new(identity.age);
    let lives = Arc::new(Mutex::new(Lives::open(&config.array.data_dir, data_dir.engine())?));
    let outside = Arc::new(Mutex::new(None));
    let mut controller = Controller::new(Parts {
        me: config.side(),
        timers,
        boot: identity.boot,
        age: age.clone(),
        lives: Arc::clone(&lives),
        nonce: BootNonce(nonce),
        memory: start::memory(engine, nonce, &volumes),
        metadata: metadata.clone(),
        votes: Arc::clone(&votes.table),
        mailboxes: mailboxes.clone(),
        views: Arc::clone(&views),
        log: log.clone(),
        surroundings: Box::new(Outside {
            handle: Arc::clone(&outside),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
        }),
        inputs: inputs.clone(),
        probe: data_dir.probe(),
    });
    let lanes = config
        .peer
        .as_ref()
        .and_then(|peer| peer.lanes)
        .unwrap_or_else(|| u16::try_from(mailboxes.threads()).unwrap_or(u16::MAX));
    let handle = Handle::new(Shared {
        name: config.array.name.clone(),
        system_id: config.system_id(),
        side: config.side(),
        target_name: config.target_name(),
        portals: config.portal.listen.clone(),
        peer_name: config.peer.as_ref().map(|peer| peer.name.clone()),
        peer_address: config.peer.as_ref().map(|peer| peer.address),
        lanes,
        has_witness: config.witness.is_some(),
        witness_address: config.witness.as_ref().map(|witness| witness.address),
        data_dir: Arc::clone(&data_dir),
        objects: Arc::clone(&objects),
        volumes: volumes.clone(),
        views,
        log: log.clone(),
        sessions: sessions.clone(),
        exports: exports.clone(),
        absent: AbsentCopies::new(found.absent.clone()),
        inputs: inputs.clone(),
    });
    *outside.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(handle.clone());
    for (group, record, members) in found.present {
        controller.add_group(&group, record, Life::Restarted, members, false);
    }
    volumes.drop_lone_images(&objects.snapshot());
    exports.rebuild(&handle);
    let version = env!("CARGO_PKG_VERSION");
    let start = identity.boot;
    log.add(
        None,
        None,
        format!("array {} starts, version {version} (start {start} of its data_dir)", handle.name),
    );

    for (group, copy) in &found.absent {
        let name = objects.snapshot().group(*group).map(|group| group.name.clone());
        let why = &copy.why;
        log.add(name, None, format!("this array takes no part until the primary has enrolled it: {why}"));
    }

    let hello = Hello {
        role: Role::Array(config.side()),
        identity: identity.uuid.into_bytes(),
        nonce: BootNonce(nonce),
        life: identity.age,
        name: config.array.name.clone(),
        system: config.system_id(),
        lanes,
        peer: String::new(),
    };
    let restored = Arc::new(Notify::new());
    let doubted = Arc::new(Notify::new());
    let links = Links {
        timers,
        hello: &hello,
        age: &age,
        mailboxes: &mailboxes,
        inputs: &inputs,
        told: (&restored, &doubted),
    };
    start_links(config, lives, volumes.shared(), links).await?;
    tokio::spawn(handle.clone().keep_enrolling());
    tokio::spawn(age::keep_raising(handle.clone(), data_dir, age, metadata));
    tokio::spawn(believe_witness(handle.clone(), doubted, Arc::clone(&restored)));
    tokio::spawn(begin_as_new(handle.clone(), restored));
    let forward = inputs.clone();
    tokio::spawn(async move {
        while let Some(volume) = poked.recv().await {
            let _ = forward.send(Input::Poke(volume));
        }
    });
    let control = tokio::task::LocalSet::new();
    // The control's state never leaves this thread.
    let running = control.run_until(async move {
        let controlling = tokio::task::spawn_local(controller.run(queue));
        let portals = open_portals(config, &handle, &exports, &sessions, &mailboxes).await?;
        let management =
            crate::management::serve(config, handle.clone()).await.map_err(RunError::Management)?;
        tracing::info!(name = handle.name, portals = ?config.portal.listen, "array ready");
        wait_for_signal().await?;
        stop(config, &handle, &sessions, portals).await;
        management.abort();
        controlling.abort();
        Ok(())
    });
    running.await
}

/// What the tasks of all links have in common.
#[derive(Clone, Copy)]
struct Links<'a> {
    timers: Timers,
    hello: &'a Hello,
    age: &'a Age,
    mailboxes: &'a Mailboxes,
    inputs: &'a mpsc::UnboundedSender<Input>,
    /// Told when the other array, and when the witness, knows of a later life of this one.
    told: (&'a Arc<Notify>, &'a Arc<Notify>),
}

async fn start_links(
    config: &ArrayConfig,
    lives: Arc<Mutex<Lives>>,
    volumes: crate::link::lane::Volumes,
    links: Links<'_>,
) -> Result<(), RunError> {
    let Links { timers, hello, age, mailboxes, inputs, told: (restored, doubted) } = links;
    let own = || Site::array(&config.array.name);
    if let Some(peer) = &config.peer {
        let (channel, mut events) = mpsc::unbounded_channel();
        let (lanes, mut lane_events) = mpsc::unbounded_channel();
        let link = Arc::new(Link {
            hello: hello.clone(),
            age: age.clone(),
            side: config.side(),
            peer_name: peer.name.clone(),
            timers,
            tls: config
                .secures(peer.allow_plaintext)
                .map(|at| Tls::open(at, own(), Whom::Array(peer.name.clone())))
                .transpose()?,
            mailboxes: mailboxes.clone(),
            volumes,
            channel,
            lanes,
            board: Arc::new(Board::new(hello.lanes.max(1), timers.lane_timeout)),
            present: Mutex::new(None),
            lives,
            restored: Arc::clone(restored),
        });
        let forward = inputs.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let _ = forward.send(Input::Peer(event));
            }
        });
        let forward = inputs.clone();
        tokio::spawn(async move {
            while let Some(event) = lane_events.recv().await {
                let _ = forward.send(Input::Lane(event));
            }
        });
        let listener = listen("replication", peer.listen).await?;
        if peer.allow_plaintext {
            tracing::warn!("replication is not encrypted (allow_plaintext)");
        }
        match config.side() {
            crate::arbitration::Side::A => {
                // A dials; its address is kept open only to tell a misconfigured peer so.
                tokio::spawn(peer::keep_listening(Arc::clone(&link), listener, peer.address));
                tokio::spawn(peer::keep_dialling(link, peer.address));
            }
            crate::arbitration::Side::B => {
                tokio::spawn(peer::keep_listening(link, listener, peer.address));
            }
        }
    }
    if let Some(witness) = &config.witness {
        let (channel, mut events) = mpsc::unbounded_channel();
        let forward = inputs.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let _ = forward.send(Input::Witness(event));
            }
        });
        if witness.allow_plaintext {
            tracing::warn!("the connection to the witness is not encrypted (allow_plaintext)");
        }
        let tls = config
            .secures(witness.allow_plaintext)
            .map(|at| Tls::open(at, own(), Whom::AnyWitness))
            .transpose()?;
        let peer = config.peer.as_ref().map(|peer| peer.name.clone()).unwrap_or_default();
        let hello = Hello { peer, ..hello.clone() };
        let (age, doubted) = (age.clone(), Arc::clone(doubted));
        tokio::spawn(super::peer::keep_witness(hello, age, timers, witness.address, tls, channel, doubted));
    }
    Ok(())
}

/// The witness knows of a later life of this array. The other array's word counts more, so that it gets the time to
/// say the same; one that is linked has let this life in.
async fn believe_witness(handle: Handle, doubted: Arc<Notify>, restored: Arc<Notify>) {
    loop {
        doubted.notified().await;
        tokio::time::sleep(PEER_SAYS).await;
        doubted.notified().await;
        let linked = handle.links().await.is_ok_and(|links| links.peer.is_some());
        if linked {
            tracing::error!(
                "the witness takes this data_dir for a restored one, the other array does not; check the witness"
            );
        } else {
            restored.notify_one();
        }
    }
}

/// Waits until another end knows of a later life of this array; this process is then run anew,
/// as an array that takes no part in any group until it is enrolled (FAILURES F33).
async fn begin_as_new(handle: Handle, restored: Arc<Notify>) {
    loop {
        restored.notified().await;
        if handle.serves_any() {
            // It could not without grants of those who know its lives.
            tracing::error!("this data_dir is taken for a restored one; this array serves, and goes on");
            tokio::time::sleep(SERVES_AFTER_ALL).await;
            continue;
        }
        tracing::error!(
            "the data_dir is older than what was heard of this array: it was restored from a backup, or copied. \
             This array goes on as a new one, and its copies are made anew"
        );
        handle.log.add(None, None, "the data_dir was restored from a backup: goes on as a new array".into());
        match handle.become_new().await {
            Ok(()) => {
                let error = process::run_anew();
                tracing::error!(%error, "cannot run anew; start this array again");
                return;
            }
            Err(error) => tracing::error!(%error, "cannot go on as a new array; trying again"),
        }
    }
}

async fn open_portals(
    config: &ArrayConfig,
    handle: &Handle,
    exports: &ExportTable,
    sessions: &Sessions,
    mailboxes: &Mailboxes,
) -> Result<Vec<tokio::task::AbortHandle>, RunError> {
    let portal_config = PortalConfig {
        target: TargetIdentity {
            name: config.target_name(),
            alias: handle.name.clone(),
            portal_group_tag: PORTAL_GROUP_TAG,
        },
        limits: Limits::default(),
        sessions: sessions.clone(),
    };
    let mut portals = Vec::new();
    for address in &config.portal.listen {
        let listener = listen("iSCSI", *address).await?;
        let (mailboxes, exports, portal_config) = (mailboxes.clone(), exports.clone(), portal_config.clone());
        let mut next = 0;
        let hand_over = move |accepted| {
            let thread = next % mailboxes.threads();
            next = thread + 1;
            let (service, portal_config) = (ScsiService(exports.clone()), portal_config.clone());
            let call = move || {
                let serve = portal::serve_connection(accepted, service, std::rc::Rc::new(portal_config));
                tokio::task::spawn_local(serve);
            };
            mailboxes.send(thread, Job::Call(Box::new(call)));
        };
        let task = tokio::task::spawn_local(portal::accept(listener, sessions.clone(), hand_over));
        portals.push(task.abort_handle());
    }
    Ok(portals)
}

async fn wait_for_signal() -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Hands every group over, lets the hosts move, asks them to log out.
async fn stop(
    config: &ArrayConfig,
    handle: &Handle,
    sessions: &Sessions,
    portals: Vec<tokio::task::AbortHandle>,
) {
    handle.log.add(None, None, "stops in order: hands every group over".into());
    if let Ok(outcomes) = handle.control(super::control::Controller::hand_over_all).await {
        let all = async {
            for outcome in outcomes {
                if let Ok(Err(refused)) = outcome.await {
                    tracing::warn!(%refused, "a group is not handed over");
                }
            }
        };
        if tokio::time::timeout(HAND_OVER, all).await.is_err() {
            tracing::warn!("not every group was handed over in time");
        }
    }
    for portal in portals {
        portal.abort();
    }
    let linger = config.array.stop_linger.map_or(STOP_LINGER, |linger| linger.0);
    tokio::time::sleep(linger).await;
    sessions.request_logout(LOGOUT_GRACE);
    tokio::time::sleep(LOGOUT_GRACE).await;
    let volumes = handle.volumes.clone();
    match tokio::task::spawn_blocking(move || volumes.flush_memory()).await {
        Ok(Err(error)) => {
            tracing::error!(%error, "a volume cannot be flushed: what its memory held may be lost")
        }
        _ => handle.log.add(None, None, "stopped in order".into()),
    }
}
