//! A lane on its data thread: frames from the volumes to the peer, and the peer's to the volumes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::arbitration::GroupId;
use crate::link::secured::{Carried, Carrier, Secured};
use crate::link::watch::{self, Board, Due, Watch};
use crate::mirror::frame::{self, Ack, Announced, Announcement, Decoded, HEADER_LEN};
use crate::mirror::{FrameHeader, LaneId, VolumeId};
use crate::sys::buffer::Buffer;
use crate::volume::{DataThread, LaneFrame, LaneOut, Volume};

/// The volumes of this array, as every thread looks them up.
pub type Volumes = Arc<ArcSwap<BTreeMap<VolumeId, Volume>>>;

/// Receive buffer of a lane: a batch of 4 KiB writes; larger payloads go straight to their place.
const RECEIVE: usize = 256 * 1024;
/// Pieces of one writev.
const WRITE_PIECES: usize = 128;

/// Which connection a lane runs over: a lane number may come back on a new one before the end of
/// the old one was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneConnection {
    pub lane: LaneId,
    pub number: u64,
}

/// What the control thread hears of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    Up(LaneConnection),
    Down(LaneConnection),
}

/// Serves a lane on the calling data thread until it breaks. The hellos were exchanged before; the peer
/// speaks the lane format up to `version`.
pub async fn serve(
    carried: Carried,
    connection: LaneConnection,
    version: u8,
    board: Arc<Board>,
    volumes: Volumes,
    events: mpsc::UnboundedSender<LaneEvent>,
) {
    let (socket, tls) = match carried {
        Carried::Plain(socket) => (socket, None),
        Carried::Secured(socket, tls) => (socket, Some(tls)),
    };
    let stream = match socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(lane = connection.lane.0, %error, "cannot serve a lane");
            let _ = events.send(LaneEvent::Down(connection));
            return;
        }
    };
    match tls {
        None => serve_on(&stream, connection, version, board, volumes, events).await,
        Some(tls) => {
            serve_on(&Secured::new(stream, tls), connection, version, board, volumes, events).await;
        }
    }
}

async fn serve_on(
    stream: &impl Carrier,
    connection: LaneConnection,
    version: u8,
    board: Arc<Board>,
    volumes: Volumes,
    events: mpsc::UnboundedSender<LaneEvent>,
) {
    let Some(thread) = DataThread::current() else { return };
    let out = Rc::new(LaneOut::new(version));
    thread.adopt_lane(connection.lane, Rc::clone(&out));
    let _ = events.send(LaneEvent::Up(connection));
    let alive = Watch::new(board, connection.lane);
    let error = tokio::select! {
        error = receive(stream, connection.lane, &volumes, &alive, &out) => error,
        error = send(stream, &out, &alive) => error,
        error = watch(&alive, &out) => error,
    };
    out.close();
    thread.drop_lane(connection.lane, &out);
    // The control thread may be gone (shutdown); then nobody needs to know.
    let _ = events.send(LaneEvent::Down(connection));
    tracing::info!(lane = connection.lane.0, %error, "replication lane lost");
}

/// Ends when the lane is silent and another one is not.
async fn watch(alive: &Watch, out: &LaneOut) -> io::Error {
    loop {
        tokio::time::sleep(watch::TICK).await;
        match alive.due() {
            Due::Nothing => {}
            Due::Ask => out.push(LaneFrame::Ask),
            Due::GiveUp => {
                return io::Error::new(
                    io::ErrorKind::TimedOut,
                    "silent for lane_timeout while another lane moves",
                );
            }
        }
    }
}

/// Sends what is queued, batch by batch; ends when the connection breaks.
async fn send(stream: &impl Carrier, out: &LaneOut, alive: &Watch) -> io::Error {
    let mut queue = VecDeque::new();
    let mut batch = Batch::default();
    loop {
        out.wait().await;
        if out.is_closed() {
            return io::Error::other("closed by this array");
        }
        out.drain(&mut queue);
        while !queue.is_empty() {
            batch.fill(&mut queue);
            alive.sends(batch.payloads.len() - batch.given);
            if let Err(error) = batch.write(stream).await {
                return error;
            }
            out.drain(&mut queue);
        }
    }
}

/// Frames on their way out: headers (and answers) in one buffer, payloads where they are.
#[derive(Debug, Default)]
struct Batch {
    acks: Vec<Ack>,
    /// Signs of life and encoded acks, then a header for each payload.
    heads: Vec<u8>,
    /// Where the headers of payloads begin in `heads`.
    front_end: usize,
    payloads: Vec<Buffer>,
    /// How many of the payloads are answers themselves, and want none.
    given: usize,
}

impl Batch {
    /// Takes frames from the queue, up to [`WRITE_PIECES`].
    fn fill(&mut self, queue: &mut VecDeque<LaneFrame>) {
        self.acks.clear();
        self.heads.clear();
        self.payloads.clear();
        self.given = 0;
        let mut headers = Vec::new();
        while let Some(next) = queue.pop_front() {
            match next {
                LaneFrame::Acknowledge { volume, session, sequence, result } => {
                    self.acks.push(Ack { volume, session, sequence, result });
                }
                LaneFrame::Given { group, volume, header, data } => {
                    match frame::encode_given(group, volume, &header, data.as_slice()) {
                        Ok(encoded) => {
                            headers.extend_from_slice(&encoded);
                            self.payloads.push(data);
                            self.given += 1;
                        }
                        Err(error) => tracing::error!(%error, "blocks cannot be given"),
                    }
                }
                LaneFrame::AskSums { group, volume, header } => {
                    match frame::encode_ask_sums(group, volume, &header) {
                        Ok(encoded) => {
                            headers.extend_from_slice(&encoded);
                            self.payloads.push(Buffer::empty());
                        }
                        Err(error) => tracing::error!(%error, "digests cannot be asked for"),
                    }
                }
                LaneFrame::Sums { group, volume, header, data } => {
                    match frame::encode_sums(group, volume, &header, data.as_slice()) {
                        Ok(encoded) => {
                            headers.extend_from_slice(&encoded);
                            self.payloads.push(data);
                            self.given += 1;
                        }
                        Err(error) => tracing::error!(%error, "digests cannot be given"),
                    }
                }
                LaneFrame::Data { group, volume, header, data } => {
                    // Longer than a frame may be: no front end takes such a write.
                    match frame::encode_data(group, volume, &header, data.as_slice()) {
                        Ok(encoded) => {
                            headers.extend_from_slice(&encoded);
                            self.payloads.push(data);
                        }
                        Err(error) => tracing::error!(%error, "a frame cannot be sent"),
                    }
                }
                LaneFrame::Ask => self.heads.extend_from_slice(&frame::encode_sign(false)),
                LaneFrame::Here => self.heads.extend_from_slice(&frame::encode_sign(true)),
            }
            if self.payloads.len() * 2 >= WRITE_PIECES - 1 || self.acks.len() == frame::ACKS_MAX {
                break;
            }
        }
        if !self.acks.is_empty() {
            frame::encode_acks(&self.acks, &mut self.heads);
        }
        self.front_end = self.heads.len();
        self.heads.append(&mut headers);
    }

    async fn write(&self, stream: &impl Carrier) -> io::Result<()> {
        let (front, headers) = self.heads.split_at(self.front_end);
        let mut pieces = Vec::with_capacity(1 + 2 * self.payloads.len());
        if !front.is_empty() {
            pieces.push(IoSlice::new(front));
        }
        for (header, payload) in headers.chunks_exact(HEADER_LEN).zip(&self.payloads) {
            pieces.push(IoSlice::new(header));
            if !payload.is_empty() {
                pieces.push(IoSlice::new(payload.as_slice()));
            }
        }
        stream.write_all(&mut pieces).await
    }
}

/// Takes frames in and hands them to their volumes; ends when the connection breaks or says
/// something that is no frame.
async fn receive(
    stream: &impl Carrier,
    lane: LaneId,
    volumes: &Volumes,
    alive: &Watch,
    out: &LaneOut,
) -> io::Error {
    let mut receiver = Receiver { stream, alive, out, buffer: vec![0; RECEIVE], filled: 0 };
    loop {
        if let Err(error) = receiver.turn(lane, volumes).await {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

struct Receiver<'a, C> {
    stream: &'a C,
    alive: &'a Watch,
    out: &'a LaneOut,
    buffer: Vec<u8>,
    filled: usize,
}

impl<C: Carrier> Receiver<'_, C> {
    /// Reads once and handles every frame that is there.
    async fn turn(&mut self, lane: LaneId, volumes: &Volumes) -> io::Result<()> {
        self.filled += self.stream.read_some(&mut self.buffer[self.filled..]).await?;
        self.alive.heard();
        let mut at = 0;
        loop {
            let bytes = &self.buffer[at..self.filled];
            match frame::decode(bytes).map_err(io::Error::other)? {
                Decoded::NeedHeader(_) => break,
                Decoded::NeedPayload { announced, .. } => {
                    if HEADER_LEN + announced.payload_len as usize <= RECEIVE / 2 {
                        break;
                    }
                    // A large payload is read to where it stays.
                    let have = &bytes[HEADER_LEN..];
                    let payload = read_payload(self.stream, announced, have, self.alive).await?;
                    self.deliver(announced.what, payload, lane, volumes)?;
                    at = self.filled;
                }
                Decoded::Frame { what, payload, consumed } => {
                    match what {
                        Announced::Acks => self.alive.answered(answer(payload, volumes)?),
                        Announced::Ask => self.out.push(LaneFrame::Here),
                        Announced::Here => {}
                        _ => self.deliver(what, Buffer::copy_of(payload), lane, volumes)?,
                    }
                    at += consumed;
                }
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn deliver(&self, what: Announced, payload: Buffer, lane: LaneId, volumes: &Volumes) -> io::Result<()> {
        match what {
            Announced::Data { group, volume, header } => {
                take(group, volume, header, Question::Data(payload), lane, volumes);
                Ok(())
            }
            Announced::AskSums { group, volume, header } => {
                take(group, volume, header, Question::Sums, lane, volumes);
                Ok(())
            }
            Announced::Sums { group, volume, header } => {
                self.alive.answered(1);
                if let Some(volume) = volumes.load().get(&volume).filter(|v| v.group() == Some(group)) {
                    volume.sums_given(header, frame::sums(payload.as_slice()));
                }
                Ok(())
            }
            Announced::Given { group, volume, header } => {
                self.alive.answered(1);
                if let Some(volume) = volumes.load().get(&volume).filter(|v| v.group() == Some(group)) {
                    volume.given(header, payload);
                }
                Ok(())
            }
            // Their payloads are small, they do not come this way.
            Announced::Acks | Announced::Ask | Announced::Here => {
                Err(io::Error::other("a frame of this kind has no large payload"))
            }
            Announced::Hello => Err(io::Error::other("a second hello on a lane")),
        }
    }
}

async fn read_payload(
    stream: &impl Carrier,
    announced: Announcement,
    have: &[u8],
    alive: &Watch,
) -> io::Result<Buffer> {
    let mut payload = Buffer::with_len(announced.payload_len as usize);
    let Some(bytes) = payload.as_mut_slice() else { return Err(io::ErrorKind::OutOfMemory.into()) };
    bytes[..have.len()].copy_from_slice(have);
    let mut filled = have.len();
    while filled < bytes.len() {
        filled += stream.read_some(&mut bytes[filled..]).await?;
        alive.heard();
    }
    announced.check(payload.as_slice()).map_err(io::Error::other)?;
    Ok(payload)
}

/// What a frame wants of a volume.
enum Question {
    /// What its header says, with this payload.
    Data(Buffer),
    /// The digests of its extent.
    Sums,
}

fn take(
    group: GroupId,
    id: VolumeId,
    header: FrameHeader,
    question: Question,
    lane: LaneId,
    volumes: &Volumes,
) {
    match volumes.load().get(&id).filter(|volume| volume.group() == Some(group)) {
        Some(volume) => match question {
            Question::Data(payload) => volume.receive(lane, header, payload),
            Question::Sums => volume.receive_question(lane, header),
        },
        None => {
            // Not a member here (any more): refused, which ends the peer's session.
            let FrameHeader { session, sequence, .. } = header;
            if let Some(out) = DataThread::current().and_then(|thread| thread.lane(lane)) {
                out.push(LaneFrame::Acknowledge { volume: id, session, sequence, result: None });
            }
        }
    }
}

/// Returns how many answers there were.
fn answer(payload: &[u8], volumes: &Volumes) -> io::Result<usize> {
    let mut answers = 0;
    let volumes = volumes.load();
    for ack in frame::acks(payload) {
        let ack = ack.map_err(io::Error::other)?;
        answers += 1;
        if let Some(volume) = volumes.get(&ack.volume) {
            volume.acknowledged(ack.session, ack.sequence, ack.result);
        }
    }
    Ok(answers)
}
