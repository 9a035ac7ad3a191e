//! One turn of a data thread's runtime without sleeping.
#![allow(unsafe_code)]

use std::io;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets a task wait until the runtime has submitted its ring and polled its sockets once.
///
/// `yield_now` is not enough on a `tokio_uring` runtime: the ring is submitted only when the thread
/// parks. So the thread parks, on an eventfd that is ready already.
#[derive(Debug)]
pub struct Turn {
    event: AsyncFd<EventFd>,
}

impl Turn {
    /// To be called on the runtime it is for.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        // SAFETY: the AsyncFd owns the EventFd, whose descriptor is one and the same until it is
        // dropped, which closes it.
        let event = unsafe { AsyncFd::register_with_interest(event, Interest::READABLE) }?;
        Ok(Self { event })
    }

    /// Other tasks that are ready run, the ring is submitted, completions and socket events come
    /// in; then it returns.
    pub async fn turn(&self) {
        // The counter is never read: every write is a new edge, and 2^64 of them do not happen.
        let _ = self.event.get_ref().write(1);
        if let Ok(mut ready) = self.event.readable().await {
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Turn;

    #[test]
    fn a_turn_ends_by_itself() {
        tokio_uring::start(async {
            let turn = Turn::new().unwrap();
            for _ in 0..1000 {
                turn.turn().await;
            }
        });
    }
}
