//! One control connection: frames both ways, with heartbeats. It runs on the control thread, and
//! tells its owner when it is up, what came in, and when it is down; it decides nothing else.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::arbitration::{Connection, Timers};
use crate::group::Liveness;
use crate::sys::clock;
use crate::time::Time;
use crate::tls::Shown;
use crate::wire::{self, Frame, Hello};

use super::stream::Stream;

/// How long either end waits for the other's hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Unacknowledged data breaks a connection after so long.
pub const USER_TIMEOUT: Duration = Duration::from_secs(2);
/// Frames waiting to be sent before the connection is given up: the other end takes nothing.
const QUEUE_MAX: usize = 4096;
/// One step of reading.
const READ: usize = 64 * 1024;

/// What a connection tells its owner.
#[derive(Debug)]
pub enum Event {
    Up { connection: Connection, hello: Hello, sender: Sender },
    Frame { connection: Connection, frame: Frame },
    Down { connection: Connection },
}

/// The sending end; cheap to clone. Frames for a connection that is gone are dropped; one that finds the queue full
/// ends the connection, for what comes after a lost frame may mean something else without it.
#[derive(Clone, Debug)]
pub struct Sender {
    queue: mpsc::Sender<Frame>,
    full: Arc<Notify>,
}

impl Sender {
    pub fn send(&self, frame: Frame) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(frame) {
            self.full.notify_one();
        }
    }
}

/// A stream with what was read of it beyond the frames taken so far.
#[derive(Debug)]
pub struct Framed {
    stream: Stream,
    received: Vec<u8>,
}

impl Framed {
    pub const fn new(stream: Stream, received: Vec<u8>) -> Self {
        Self { stream, received }
    }

    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    /// Does the hello agree with the certificate?
    ///
    /// # Errors
    /// Whose certificate it was, and who the hello speaks for.
    pub fn agrees(&self, hello: &Hello) -> Result<(), String> {
        self.stream.agrees(hello)
    }

    /// The other end's hello.
    ///
    /// # Errors
    /// Nothing in time, something else, or a refusal (with its reason).
    pub async fn hello(&mut self) -> io::Result<Hello> {
        let read = async {
            loop {
                if let Some((frame, length)) = wire::decode_first(&self.received).map_err(io::Error::other)? {
                    self.received.drain(..length);
                    return io::Result::Ok(frame);
                }
                read_more(&mut self.stream, &mut self.received).await?;
            }
        };
        match timeout(HELLO_TIMEOUT, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
            Frame::Hello(hello) => Ok(hello),
            frame => {
                Err(refusal(frame)
                    .unwrap_or_else(|| io::Error::other("no hello at the start of the connection")))
            }
        }
    }
}

/// The other end knows of a later life of this array: this one can only go on as a new array (rule 18).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end refuses: {0}")]
pub struct Restored(String);

impl Restored {
    /// Is this why a connection ended?
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// Tells the caller why it is not believed; what the connection ends with here.
pub async fn refuse(framed: &mut Framed, refused: Frame) -> io::Error {
    let why = match &refused {
        Frame::Refused(why) | Frame::Restored(why) => why.clone(),
        _ => String::new(),
    };
    // One that does not listen is not told.
    let _ = framed.send(&refused).await;
    io::Error::other(why)
}

/// The end of a connection that the other end refuses.
fn refusal(frame: Frame) -> Option<io::Error> {
    match frame {
        Frame::Refused(why) => Some(io::Error::other(format!("the other end refuses: {why}"))),
        Frame::Restored(why) => Some(io::Error::other(Restored(why))),
        _ => None,
    }
}

async fn read_more(stream: &mut Stream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let read = stream.read(&mut bytes).await?;
    if read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    into.extend_from_slice(&bytes[..read]);
    Ok(())
}

/// Runs a connection whose hellos were exchanged, until it breaks or is dead by heartbeat. Reports
/// `Up` first and `Down` last.
pub async fn run(
    framed: Framed,
    connection: Connection,
    hello: Hello,
    timers: Timers,
    events: mpsc::UnboundedSender<Event>,
) -> io::Error {
    let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
    let full = Arc::new(Notify::new());
    let sender = Sender { queue, full: Arc::clone(&full) };
    // The owner is gone only while the process ends.
    let _ = events.send(Event::Up { connection, hello, sender: sender.clone() });
    let shown = framed.stream.shown().cloned();
    let (read, write) = tokio::io::split(framed.stream);
    let liveness = Liveness::new(timers.heartbeat, timers.link_timeout, clock::now().grantor);
    let (pongs, heard) = mpsc::unbounded_channel();
    let error = tokio::select! {
        error = receive(read, framed.received, connection, &sender, &pongs, &events) => error,
        error = transmit(write, outgoing) => error,
        error = beat(liveness, &sender, heard) => error,
        error = distrust(shown) => error,
        () = full.notified() => io::Error::other("more was to be sent than the other end takes"),
    };
    let _ = events.send(Event::Down { connection });
    error
}

async fn receive(
    mut read: ReadHalf<Stream>,
    mut received: Vec<u8>,
    connection: Connection,
    sender: &Sender,
    pongs: &mpsc::UnboundedSender<u64>,
    events: &mpsc::UnboundedSender<Event>,
) -> io::Error {
    let mut taken = 0;
    loop {
        loop {
            match wire::decode(received.get(taken..).unwrap_or_default()) {
                Ok(Some((frame, length))) => {
                    taken += length;
                    match frame {
                        Frame::Ping(number) => sender.send(Frame::Pong(number)),
                        Frame::Pong(number) => {
                            let _ = pongs.send(number);
                        }
                        frame @ (Frame::Refused(_) | Frame::Restored(_)) => {
                            return refusal(frame).unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
                        }
                        frame => {
                            let _ = events.send(Event::Frame { connection, frame });
                        }
                    }
                }
                Ok(None) => break,
                Err(error) => return io::Error::other(error),
            }
        }
        received.drain(..taken);
        taken = 0;
        received.reserve(READ);
        match read.read_buf(&mut received).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

async fn transmit(mut write: WriteHalf<Stream>, mut outgoing: mpsc::Receiver<Frame>) -> io::Error {
    let mut bytes = Vec::new();
    while let Some(frame) = outgoing.recv().await {
        bytes.clear();
        frame.encode(&mut bytes);
        while bytes.len() < READ {
            let Ok(frame) = outgoing.try_recv() else { break };
            frame.encode(&mut bytes);
        }
        // TLS keeps records back until it is flushed.
        let written = match write.write_all(&bytes).await {
            Ok(()) => write.flush().await,
            failed => failed,
        };
        if let Err(error) = written {
            return error;
        }
    }
    io::ErrorKind::BrokenPipe.into()
}

/// Ends when the other end's certificate is believed no more. Lanes end with their control connection.
async fn distrust(shown: Option<Shown>) -> io::Error {
    let Some(shown) = shown else { return std::future::pending().await };
    shown.is_over().await;
    io::Error::other(format!("the certificate of {} is believed here no more", shown.site))
}

/// Sends pings, and ends when too long none was answered.
async fn beat(mut liveness: Liveness, sender: &Sender, mut heard: mpsc::UnboundedReceiver<u64>) -> io::Error {
    loop {
        let now = clock::now().grantor;
        if !liveness.is_alive(now) {
            return io::Error::other("no answer to heartbeats");
        }
        if let Some(number) = liveness.beat(now) {
            sender.send(Frame::Ping(number));
        }
        tokio::select! {
            () = sleep_until(instant(liveness.next_timeout())) => {}
            number = heard.recv() => {
                if let Some(number) = number {
                    liveness.pong(number);
                }
            }
        }
    }
}

/// The moment on tokio's clock at which the grantor's clock shows `time`.
pub fn instant(time: Time) -> Instant {
    let now = clock::now().grantor;
    // No timer of this program is longer; "no end" becomes an hour.
    let wait = time.since(now).min(Duration::from_secs(3600));
    Instant::now() + wait
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_finds_the_queue_full_is_not_lost_in_silence() {
        let (queue, _outgoing) = mpsc::channel(1);
        let sender = Sender { queue, full: Arc::new(Notify::new()) };
        sender.send(Frame::Ping(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let ends = || {
            runtime
                .block_on(async { timeout(Duration::from_millis(20), sender.full.notified()).await.is_ok() })
        };
        assert!(!ends(), "there was room");
        sender.send(Frame::Ping(2));
        assert!(ends());
    }
}
