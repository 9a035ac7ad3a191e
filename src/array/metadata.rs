//! The metadata thread: everything that waits for an fsync of `data_dir` (votes, dirty maps,
//! objects) happens here, in the order it was asked for, so that neither the control thread nor a
//! data thread ever waits for that disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sys::clock;
use crate::time::Time;

type Job = Box<dyn FnOnce() + Send>;

/// Sends jobs to the metadata thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metadata {
    jobs: mpsc::Sender<Job>,
    /// When the job now running began, in nanoseconds of the grantor's clock; zero: none runs.
    busy_since: Arc<AtomicU64>,
}

impl Metadata {
    /// # Errors
    /// The operating system refuses a thread.
    pub fn spawn() -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let busy_since = Arc::new(AtomicU64::new(0));
        let busy = Arc::clone(&busy_since);
        let thread = std::thread::Builder::new().name("metadata".into()).spawn(move || {
            while let Ok(job) = queue.recv() {
                busy.store(clock::now().grantor.0, Ordering::Relaxed);
                job();
                busy.store(0, Ordering::Relaxed);
            }
        })?;
        Ok((Self { jobs, busy_since }, thread))
    }

    /// Runs `job` after all jobs given before.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The thread ends only when every sender is gone; a failed send cannot happen before.
        let _ = self.jobs.send(Box::new(job));
    }

    /// How long the present job has been waiting for the disk (DESIGN 3.3: beyond `disk_timeout`
    /// this array asks for no lease).
    pub fn stalled_for(&self) -> Duration {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => clock::now().grantor.since(Time(since)),
        }
    }
}
