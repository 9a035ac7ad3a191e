//! Data threads and how work reaches them.
//!
//! Each data thread is a `tokio_uring` runtime that owns connections of hosts, some lanes to the
//! peer, and its own handles of the volumes' files. Work that belongs to a certain thread (I/O of
//! a command that another thread or the control thread set free, frames for a lane) arrives
//! through its mailbox; everything else is done where it comes up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::mirror::{LaneId, VolumeId};
use crate::store::Handle;

use super::lane::LaneOut;
use super::shell::Volume;
use super::work::Work;

/// What a data thread's mailbox carries.
pub enum Job {
    /// One piece of a volume's work.
    Work(Volume, Work),
    /// Anything rare: adopt a connection, close a file, stop.
    Call(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Work(volume, work) => f.debug_tuple("Work").field(&volume.id()).field(work).finish(),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

/// Senders to every data thread of this array; cheap to clone.
#[derive(Clone, Debug)]
pub struct Mailboxes {
    senders: Arc<[mpsc::UnboundedSender<Job>]>,
}

impl Mailboxes {
    /// Mailboxes of `count` threads and their receiving ends. The queues are unbounded in type
    /// only: what can be in them is bounded by the commands and frames that volumes admit.
    pub fn new(count: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Job>>) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        (Self { senders: senders.into() }, receivers)
    }

    pub fn threads(&self) -> usize {
        self.senders.len()
    }

    /// The thread that owns a lane, on this array.
    pub fn thread_of(&self, lane: LaneId) -> usize {
        usize::from(lane.0) % self.senders.len()
    }

    /// Hands a job to a thread; a thread that has ended (shutdown) drops it.
    pub fn send(&self, thread: usize, job: Job) {
        if let Some(sender) = self.senders.get(thread) {
            let _ = sender.send(job);
        }
    }

    /// Runs `call` on every data thread.
    pub fn everywhere(&self, call: impl Fn() + Clone + Send + 'static) {
        for thread in 0..self.senders.len() {
            let call = call.clone();
            self.send(thread, Job::Call(Box::new(call)));
        }
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<DataThread>>> = const { RefCell::new(None) };
}

/// What belongs to one data thread.
#[derive(Debug)]
pub struct DataThread {
    pub index: usize,
    /// Lanes that are up and owned here, in the order they came up.
    lanes: RefCell<Vec<(LaneId, Rc<LaneOut>)>>,
    /// This thread's own handles of the volumes' files.
    handles: RefCell<HashMap<VolumeId, Handle>>,
}

impl DataThread {
    /// Makes the calling thread a data thread.
    pub fn enter(index: usize) -> Rc<Self> {
        let thread = Rc::new(Self { index, lanes: RefCell::default(), handles: RefCell::default() });
        CURRENT.with(|current| *current.borrow_mut() = Some(thread.clone()));
        thread
    }

    /// The calling thread's own state; `None` on the control and metadata threads.
    pub fn current() -> Option<Rc<Self>> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// Index of the calling thread, if it is a data thread.
    pub fn current_index() -> Option<usize> {
        CURRENT.with(|current| current.borrow().as_ref().map(|thread| thread.index))
    }

    /// The lane on which frames caused by the calling thread go out.
    pub fn current_lane() -> Option<LaneId> {
        CURRENT.with(|current| current.borrow().as_ref().and_then(|thread| thread.own_lane()))
    }

    /// This thread's handle of a volume's file, opened at the first use. `None`: it could not be
    /// opened; said in the log.
    pub fn handle(&self, volume: &Volume) -> Option<Handle> {
        let mut handles = self.handles.borrow_mut();
        if let Some(handle) = handles.get(&volume.id()) {
            return Some(handle.clone());
        }
        match volume.file().handle() {
            Ok(handle) => {
                handles.insert(volume.id(), handle.clone());
                Some(handle)
            }
            Err(error) => {
                tracing::error!(?volume, %error, "cannot open the volume's file on a data thread");
                None
            }
        }
    }

    /// Closes this thread's handle of a removed volume.
    pub fn forget(&self, volume: VolumeId) {
        self.handles.borrow_mut().remove(&volume);
    }

    pub fn adopt_lane(&self, lane: LaneId, out: Rc<LaneOut>) {
        let mut lanes = self.lanes.borrow_mut();
        // A new connection under an old number: the old one is given up.
        lanes.retain(|(id, old)| {
            if *id == lane {
                old.close();
            }
            *id != lane
        });
        lanes.push((lane, out));
    }

    /// Gives up every lane of this thread: the link they belong to is gone.
    pub fn close_lanes(&self) {
        for (_, out) in self.lanes.borrow().iter() {
            out.close();
        }
    }

    /// Forgets a lane, unless another connection has taken its number meanwhile.
    pub fn drop_lane(&self, lane: LaneId, out: &Rc<LaneOut>) {
        self.lanes.borrow_mut().retain(|(id, o)| *id != lane || !Rc::ptr_eq(o, out));
    }

    pub fn lane(&self, lane: LaneId) -> Option<Rc<LaneOut>> {
        self.lanes.borrow().iter().find(|(id, _)| *id == lane).map(|(_, out)| out.clone())
    }

    /// The lane on which this thread's new frames go out.
    pub fn own_lane(&self) -> Option<LaneId> {
        self.lanes.borrow().first().map(|(id, _)| *id)
    }
}
