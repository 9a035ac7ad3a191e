//! Data threads: one runtime each (the engine's: `tokio_uring` for the ring), fed by a mailbox.

use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::sys::engine::Engine;
use crate::sys::runtime::Runtime;
use crate::volume::{DataThread, Job, run_job};

/// Jobs taken from the mailbox before other tasks of the thread get their turn.
const JOBS_PER_TURN: usize = 64;

/// Starts data thread `index`; it ends when every sender of its mailbox is gone.
///
/// # Errors
/// The operating system refuses a thread, or the ring.
pub fn spawn(
    index: usize,
    mailbox: mpsc::UnboundedReceiver<Job>,
    engine: Engine,
) -> io::Result<JoinHandle<()>> {
    let (ready, started) = std::sync::mpsc::channel();
    let thread =
        std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
            match Runtime::new(engine) {
                Ok(runtime) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(index, mailbox));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
    started.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(thread)
}

async fn run(index: usize, mut mailbox: mpsc::UnboundedReceiver<Job>) {
    let thread = DataThread::enter(index);
    #[cfg(feature = "testing")]
    if let Some(every) = crate::volume::fault::stall_every() {
        tokio::task::spawn_local(stall(every));
    }
    let mut jobs = Vec::with_capacity(JOBS_PER_TURN);
    while mailbox.recv_many(&mut jobs, JOBS_PER_TURN).await > 0 {
        for job in jobs.drain(..) {
            match job {
                Job::Work(volume, work) => run_job(&volume, &thread, work),
                Job::Call(call) => call(),
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Test builds: stands still now and then, at the same moments as all other data threads.
#[cfg(feature = "testing")]
async fn stall(every: std::time::Duration) {
    loop {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = u128::max(every.as_millis(), 1);
        let rest = millis - since_epoch.map_or(0, |now| now.as_millis()) % millis;
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(rest).unwrap_or(1))).await;
        std::thread::sleep(crate::volume::fault::STALL);
    }
}
