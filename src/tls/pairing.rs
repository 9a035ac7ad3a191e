//! How sites get each other's certificates: one of them listens and prints a code; the others join
//! with it. The code holds half of the listener's fingerprint, so that a joiner knows whom it talks
//! to, and a secret made for this one occasion, so that the listener knows that the joiner was
//! invited. When all are there, everybody gets everybody's card.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::rustls::client::ClientConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::ServerConfig;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::NAME;
use super::cards::{Card, CardError, Own, Site};
use super::pinned::Pinned;

/// Handshake and introduction of one caller.
const MEET: Duration = Duration::from_secs(5);
/// Callers at their introduction at once.
const STRANGERS_MAX: usize = 16;
/// Wrong codes before the listener gives up: somebody guesses, or a code is mistyped for good.
const WRONG_MAX: usize = 10;
/// How long a code is good for.
const LIFE: Duration = Duration::from_secs(600);
/// A message is a few cards.
const MESSAGE_MAX: u32 = 256 << 10;

#[derive(Debug, Error)]
pub enum PairingError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("{address} names no address that the other sites could reach; give one, e.g. 192.0.2.9:5809")]
    Unspecified { address: SocketAddr },
    #[error("{0} does not answer: {1}")]
    Unreachable(SocketAddr, io::Error),
    #[error("{0} is not the site that printed this code; do not go on before you know who answers there")]
    NotTheHost(SocketAddr),
    #[error("the other site refuses: {0}")]
    Refused(String),
    #[error("{WRONG_MAX} callers had no valid code; start again for a new one")]
    Guessed,
    #[error("not all sites have joined within {} minutes; start again for a new code", LIFE.as_secs() / 60)]
    Expired,
    #[error("no randomness to be had: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Tls(#[from] tokio_rustls::rustls::Error),
    #[error(transparent)]
    Card(#[from] CardError),
    #[error("pairing: {0}")]
    Io(#[from] io::Error),
}

/// What an operator carries from one site to the others: `ADDRESS:PORT/64 hexadecimal digits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    pub address: SocketAddr,
    secret: [u8; 16],
    /// The first half of the listener's fingerprint.
    host: [u8; 16],
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.address, hexadecimal(&self.secret), hexadecimal(&self.host))
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shape =
            "a code is ADDRESS:PORT/ and 64 hexadecimal digits, as `twinlun pair CONFIG --listen` prints it";
        let parsed = || {
            let (address, digits) = text.trim().split_once('/')?;
            let address = address.parse().ok()?;
            let bytes = bytes_of(digits)?;
            let (secret, host) = bytes.split_at_checked(16)?;
            Some(Self { address, secret: secret.try_into().ok()?, host: host.try_into().ok()? })
        };
        parsed().ok_or_else(|| shape.to_owned())
    }
}

pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits
        .chunks_exact(2)
        .map(|two| std::str::from_utf8(two).ok().and_then(|two| u8::from_str_radix(two, 16).ok()))
        .collect()
}

fn half(card: &Card) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&card.fingerprint()[..16]);
    half
}

async fn write(stream: &mut TlsStream<TcpStream>, message: &Value) -> io::Result<()> {
    let text = message.to_string();
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}

async fn read(stream: &mut TlsStream<TcpStream>) -> io::Result<Value> {
    let length = stream.read_u32().await?;
    if length > MESSAGE_MAX {
        return Err(io::Error::other("not a pairing message"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(MEET, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// What the listener tells while it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Listening; this is the code for the others.
    Ready(Code),
    Joined(Site),
    Left(Site),
    /// A caller that was sent away, and why.
    Refused(SocketAddr, String),
}

/// A caller with the right code, waiting for the cards.
struct Guest {
    card: Card,
    stream: TlsStream<TcpStream>,
}

/// Listens on `address` until `others` sites have joined, each of which `admit` agrees to; returns their
/// cards after each of them has received all.
///
/// # Errors
/// The system's; too many wrong codes; not all have come while the code was good.
pub async fn host(
    address: SocketAddr,
    own: Own,
    others: usize,
    admit: impl Fn(&Card) -> Result<(), String>,
    keep: impl Fn(&[Card]) -> Result<(), CardError>,
    mut tell: impl FnMut(Told),
) -> Result<Vec<Card>, PairingError> {
    if address.ip().is_unspecified() {
        return Err(PairingError::Unspecified { address });
    }
    let listener =
        TcpListener::bind(address).await.map_err(|source| PairingError::Listen { address, source })?;
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(PairingError::Random)?;
    let code = Code { address: listener.local_addr()?, secret, host: half(&own.card) };
    let provider = Arc::new(ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Pinned::any(provider)))
        .with_single_cert(vec![own.card.certificate.clone()], own.key)?;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tell(Told::Ready(code));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let (met, mut guests) = mpsc::channel(STRANGERS_MAX);
    let mut waiting: BTreeMap<Site, Guest> = BTreeMap::new();
    let mut wrong = 0;
    let expired = tokio::time::sleep(LIFE);
    tokio::pin!(expired);
    while waiting.len() < others {
        tokio::select! {
            () = &mut expired => return Err(PairingError::Expired),
            accepted = listener.accept() => {
                let (stream, from) = accepted?;
                let Ok(place) = Arc::clone(&strangers).try_acquire_owned() else { continue };
                let (acceptor, met) = (acceptor.clone(), met.clone());
                tokio::spawn(async move {
                    let introduced = within(introduce(acceptor, stream, secret)).await;
                    drop(place);
                    // The listener is gone when it has all it waits for.
                    let _ = met.send((from, introduced)).await;
                });
            }
            guest = guests.recv() => match guest {
                Some((from, Ok(Ok(mut guest)))) => {
                    let site = guest.card.site.clone();
                    let admitted = if site == own.card.site {
                        Err(format!("both sites are {site}; give each its own name and role"))
                    } else if waiting.contains_key(&site) {
                        Err(format!("{site} has joined already; if that was somebody else, end this pairing"))
                    } else {
                        admit(&guest.card)
                    };
                    match admitted {
                        Ok(()) => {
                            tell(Told::Joined(site.clone()));
                            waiting.insert(site, guest);
                        }
                        Err(why) => {
                            let _ = within(write(&mut guest.stream, &json!({"refused": why}))).await;
                            tell(Told::Refused(from, why));
                        }
                    }
                }
                Some((from, Ok(Err(why)))) => {
                    tell(Told::Refused(from, why));
                    wrong += 1;
                    if wrong == WRONG_MAX {
                        return Err(PairingError::Guessed);
                    }
                }
                Some((from, Err(error))) => tell(Told::Refused(from, error.to_string())),
                None => return Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
            },
            gone = first_gone(&mut waiting) => {
                waiting.remove(&gone);
                tell(Told::Left(gone));
            }
        }
    }
    let cards: Vec<Card> = waiting.values().map(|guest| guest.card.clone()).collect();
    keep(&cards)?;
    let all: Vec<String> = cards.iter().chain([&own.card]).map(Card::to_string).collect();
    for (site, mut guest) in waiting {
        let given = within(async {
            write(&mut guest.stream, &json!({"cards": all})).await?;
            read(&mut guest.stream).await
        });
        if let Err(error) = given.await {
            return Err(PairingError::Io(io::Error::other(format!(
                "{site} may not have received the cards ({error}); pair once more"
            ))));
        }
    }
    Ok(cards)
}

/// A caller's secret and card: the caller, or why it is sent away.
async fn introduce(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    secret: [u8; 16],
) -> io::Result<Result<Guest, String>> {
    let mut stream = TlsStream::from(acceptor.accept(stream).await?);
    let said = read(&mut stream).await?;
    // Compared by digest: how far a guess agrees cannot be timed.
    let digest = |bytes: &[u8]| ::ring::digest::digest(&::ring::digest::SHA256, bytes);
    let given = said["secret"].as_str().and_then(bytes_of).unwrap_or_default();
    let card = said["card"].as_str().ok_or_else(|| "no card".to_owned()).and_then(Card::parse);
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let why = match card {
        _ if digest(&given).as_ref() != digest(&secret).as_ref() => {
            "this is not the code of this pairing".to_owned()
        }
        Err(why) => why,
        Ok(card) if Some(&card.certificate) != shown.as_ref() => {
            "the card is not the caller's own".to_owned()
        }
        Ok(card) => return Ok(Ok(Guest { card, stream })),
    };
    write(&mut stream, &json!({"refused": why})).await?;
    Ok(Err(why))
}

/// The first of those that wait to end its connection; they have nothing to say.
async fn first_gone(waiting: &mut BTreeMap<Site, Guest>) -> Site {
    let mut ends: Vec<_> = waiting
        .iter_mut()
        .map(|(site, guest)| {
            Box::pin(async move {
                let mut byte = [0];
                let _ = guest.stream.read(&mut byte).await;
                site.clone()
            })
        })
        .collect();
    std::future::poll_fn(|cx| {
        for end in &mut ends {
            if let std::task::Poll::Ready(site) = end.as_mut().poll(cx) {
                return std::task::Poll::Ready(site);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// Joins the site that printed `code`, waits until all have joined, keeps and returns their cards.
///
/// # Errors
/// Nobody there, somebody else there, a refusal; the system's.
pub async fn join(
    code: &Code,
    own: Own,
    keep: impl Fn(&[Card]) -> Result<(), CardError>,
    joined: impl FnOnce(),
) -> Result<Vec<Card>, PairingError> {
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::any(provider)))
        .with_client_auth_cert(vec![own.card.certificate.clone()], own.key)?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let connected = within(async {
        let stream = TcpStream::connect(code.address).await?;
        TlsConnector::from(Arc::new(client)).connect(name, stream).await
    });
    let stream = connected.await.map_err(|error| PairingError::Unreachable(code.address, error))?;
    let mut stream = TlsStream::from(stream);
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    let is_host = shown.as_ref().is_some_and(|certificate| {
        let site = own.card.site.clone();
        half(&Card { site, certificate: certificate.clone() }) == code.host
    });
    if !is_host {
        // Before the secret is said: it is for the host alone.
        return Err(PairingError::NotTheHost(code.address));
    }
    let introduction = json!({"secret": hexadecimal(&code.secret), "card": own.card.to_string()});
    within(write(&mut stream, &introduction)).await?;
    joined();
    // A little longer than the code is good for at the other end.
    let said = timeout(LIFE + MEET, read(&mut stream)).await.map_err(|_| PairingError::Expired)??;
    if let Some(why) = said["refused"].as_str() {
        return Err(PairingError::Refused(why.to_owned()));
    }
    let texts = said["cards"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut cards = Vec::new();
    for text in texts {
        let card = Card::parse(text.as_str().unwrap_or_default()).map_err(PairingError::Refused)?;
        if card.site != own.card.site {
            cards.push(card);
        }
    }
    keep(&cards)?;
    write(&mut stream, &json!({})).await?;
    Ok(cards)
}
