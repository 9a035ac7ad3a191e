//! Who may speak: TLS 1.3 with certificates that each site knows beforehand. There is no authority:
//! exactly the certificates in the directory are believed, byte for byte, each for one site only,
//! and both ends prove that they hold the private key.

mod cards;
mod pairing;
mod pinned;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{ClientConfig, Resumption};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ServerConfig};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use cards::{Card, CardError, Directory, Role, Site, read_card};
pub use pairing::{Code, PairingError, Told, hexadecimal, host, join};
use pinned::Pinned;

/// The name that a caller asks for; trust does not depend on it.
const NAME: &str = "twinlun";
/// The directory is read again at most so often, when somebody was not believed; while somebody is connected it
/// is looked at so often, and read when it has changed.
const REFRESH: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum TlsError {
    #[error(transparent)]
    Card(#[from] CardError),
    #[error("{directory} holds no certificate of {whom}; `twinlun pair` exchanges them", directory = directory.display())]
    Nobody { directory: PathBuf, whom: Whom },
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Whom one end of a connection believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The other array of the pair, by its name.
    Array(String),
    AnyArray,
    AnyWitness,
}

impl Whom {
    fn is(&self, site: &Site) -> bool {
        match self {
            Self::Array(name) => site.role == Role::Array && site.name == *name,
            Self::AnyArray => site.role == Role::Array,
            Self::AnyWitness => site.role == Role::Witness,
        }
    }
}

impl std::fmt::Display for Whom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Array(name) => write!(f, "array {name}"),
            Self::AnyArray => f.write_str("any array"),
            Self::AnyWitness => f.write_str("any witness"),
        }
    }
}

/// Own key, and the certificates that are believed on one kind of connection.
#[derive(Debug)]
pub struct Tls {
    directory: Directory,
    own: Site,
    whom: Whom,
    loaded: Mutex<Arc<Loaded>>,
    /// When the directory was read; whether it is read right now.
    read: Mutex<Instant>,
    reads: AtomicBool,
    looked: Mutex<Instant>,
}

/// Whose certificate the other end of a connection has shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub site: Site,
    certificate: CertificateDer<'static>,
    tls: Arc<Tls>,
}

impl Shown {
    /// Waits until the certificate is believed no more: it was removed, or replaced by another one.
    pub async fn is_over(&self) {
        let is_believed = |loaded: &Loaded| {
            loaded.trusted.iter().any(|card| card.certificate == self.certificate && card.site == self.site)
        };
        while is_believed(&self.tls.loaded()) {
            tokio::time::sleep(REFRESH).await;
            self.tls.look();
        }
    }
}

#[derive(Debug)]
struct Loaded {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    trusted: Vec<Card>,
    /// When the directory had changed last, before it was read.
    changed: Option<SystemTime>,
}

impl Tls {
    /// # Errors
    /// Files that are missing, open to others, another site's or no PEM: by name, with advice.
    pub fn open(directory: &Path, own: Site, whom: Whom) -> Result<Arc<Self>, TlsError> {
        let directory = Directory::new(directory);
        let loaded = Loaded::read(&directory, &own, &whom)?;
        if loaded.trusted.is_empty() && whom != Whom::AnyArray {
            return Err(TlsError::Nobody { directory: directory.path().to_owned(), whom });
        }
        Ok(Arc::new(Self {
            directory,
            own,
            whom,
            loaded: Mutex::new(Arc::new(loaded)),
            read: Mutex::new(Instant::now()),
            reads: AtomicBool::new(false),
            looked: Mutex::new(Instant::now()),
        }))
    }

    fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The handshake of the end that dialled.
    ///
    /// # Errors
    /// The handshake's: among them a certificate that is not believed. Unbounded in time.
    pub async fn connect(self: &Arc<Self>, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let loaded = self.loaded();
        let stream = TlsConnector::from(Arc::clone(&loaded.client)).connect(name, stream).await;
        self.met(&loaded, stream.map(TlsStream::from))
    }

    /// The handshake of the end that was dialled.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn accept(self: &Arc<Self>, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let loaded = self.loaded();
        let stream = TlsAcceptor::from(Arc::clone(&loaded.server)).accept(stream).await;
        self.met(&loaded, stream.map(TlsStream::from))
    }

    fn met(
        self: &Arc<Self>,
        loaded: &Loaded,
        stream: io::Result<TlsStream<TcpStream>>,
    ) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let met = stream.and_then(|stream| {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let card = loaded.trusted.iter().find(|card| Some(&card.certificate) == shown);
            // The verifier has let it through, so it is one of them.
            let Card { site, certificate } =
                card.cloned().ok_or_else(|| io::Error::other("no certificate was shown"))?;
            Ok((stream, Shown { site, certificate, tls: Arc::clone(self) }))
        });
        if met.is_err() {
            self.refresh();
        }
        met.map_err(in_words)
    }

    /// Reads the directory again for the next attempt: sites are paired while others run. Never on
    /// the calling thread, which must not wait for a disk.
    fn refresh(self: &Arc<Self>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.elapsed() < REFRESH || self.reads.swap(true, Ordering::AcqRel) {
            return;
        }
        *read = Instant::now();
        drop(read);
        self.read_again(true);
    }

    /// As [`Self::refresh`], if the directory has changed since.
    fn look(self: &Arc<Self>) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.elapsed() < REFRESH / 2 || self.reads.swap(true, Ordering::AcqRel) {
            return;
        }
        *looked = Instant::now();
        drop(looked);
        self.read_again(false);
    }

    fn read_again(self: &Arc<Self>, anyway: bool) {
        let tls = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            // What cannot be read now leaves all as it is; the next one tries again.
            if (anyway || changed(&tls.directory) != tls.loaded().changed)
                && let Ok(loaded) = Loaded::read(&tls.directory, &tls.own, &tls.whom)
            {
                *tls.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
            }
            tls.reads.store(false, Ordering::Release);
        });
    }
}

/// A handshake with an end that speaks no TLS reads as a corrupt message; say what it means.
fn in_words(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => io::Error::new(
            error.kind(),
            format!("{error} (the other end speaks no TLS: is [tls] in its file?)"),
        ),
        Some(rustls::Error::AlertReceived(_)) => io::Error::new(
            error.kind(),
            format!("the other end does not believe this one's certificate: {error}; run `twinlun pair`"),
        ),
        _ => error,
    }
}

/// When a name in the directory was made, exchanged or removed last.
fn changed(directory: &Directory) -> Option<SystemTime> {
    std::fs::metadata(directory.path()).and_then(|found| found.modified()).ok()
}

impl Loaded {
    fn read(directory: &Directory, own: &Site, whom: &Whom) -> Result<Self, TlsError> {
        let changed = changed(directory);
        let own = directory.own_of(own)?;
        let trusted: Vec<Card> = directory.cards()?.into_iter().filter(|card| whom.is(&card.site)).collect();
        let provider = Arc::new(ring::default_provider());
        let pinned = Arc::new(Pinned::listed(&trusted, Arc::clone(&provider)));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Pinned>::clone(&pinned))
            .with_client_auth_cert(vec![own.card.certificate.clone()], own.key.clone_key())?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(pinned)
            .with_single_cert(vec![own.card.certificate], own.key)?;
        // Every connection proves itself anew.
        client.resumption = Resumption::disabled();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), trusted, changed })
    }
}

/// A server that shows this site's certificate to clients that prove themselves by other means (the
/// management API's passwords).
///
/// # Errors
/// As [`Tls::open`].
pub fn https(directory: &Path, own: &Site) -> Result<(TlsAcceptor, Card), TlsError> {
    let own = Directory::new(directory).own_of(own)?;
    let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![own.card.certificate.clone()], own.key)?;
    Ok((TlsAcceptor::from(Arc::new(server)), own.card))
}

#[cfg(test)]
mod tests;
