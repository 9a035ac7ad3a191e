//! What a front end sees of the array: the exports, and volumes to submit to.
//!
//! Front ends are generic over [`Service`] (static dispatch), so that they can be tested against
//! a service in memory; the array's own is `array::Exports`.

use crate::block::Request;
use crate::sys::buffer::Buffer;

use super::{Completion, ReplyTo};

/// A request accepted by a volume and not yet over; names it for `abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What `submit` did.
#[derive(Debug)]
pub enum Submitted {
    /// Over already; nothing will be pushed to the queue.
    Done(Completion),
    /// The outcome will be pushed to the `ReplyTo`'s queue exactly once.
    Pending(Ticket),
}

/// One volume, as a front end's data thread uses it. Cloning is cheap.
pub trait BlockVolume: Clone + 'static {
    /// Starts a request on the calling data thread. `data`: Write: the extent's bytes; WriteSame:
    /// one block; CompareAndWrite: both halves; otherwise empty. The extent lies inside the
    /// volume (checked by the command set). Never blocks.
    fn submit(&self, request: Request, data: Buffer, reply: ReplyTo) -> Submitted;

    /// Rule 9: asks that the request never take effect. Its completion still comes exactly once:
    /// `Aborted` when it was killed before it took effect, else its true outcome once it is over.
    /// An abort is confirmed to the host only after that completion.
    fn abort(&self, ticket: Ticket);
}
