//! A small pool of threads for calls that block: the plain engine's transfers, and the few calls
//! that no ring has. Shared by the whole process, started when first needed.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

/// Transfers under way at a time. Enough to keep a disk's queue filled at the depths hosts use;
/// more threads only wait for the same disk.
const THREADS: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Pool {
    jobs: Mutex<Jobs>,
    wake: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// Bounded by what the ledgers let in: each command has at most one job here.
    waiting: VecDeque<Job>,
    idle: usize,
    threads: usize,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(Pool::default)
}

impl Pool {
    fn work(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                drop(jobs);
                job();
                jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            } else {
                jobs.idle += 1;
                jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                jobs.idle -= 1;
            }
        }
    }

    fn submit(&'static self, job: Job) -> io::Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.waiting.len() >= jobs.idle && jobs.threads < THREADS {
            let name = format!("blocking-{}", jobs.threads);
            match thread::Builder::new().name(name).spawn(|| self.work()) {
                Ok(_) => jobs.threads += 1,
                // With some threads there, the job merely waits longer.
                Err(error) if jobs.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        jobs.waiting.push_back(job);
        drop(jobs);
        self.wake.notify_one();
        Ok(())
    }
}

/// Runs `job` on a thread that may block. It runs to its end even when the caller stops waiting.
///
/// # Errors
/// No thread could be started, or the job panicked.
pub async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    pool().submit(Box::new(move || {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
        if let Ok(done) = done {
            let _ = tell.send(done); // nobody waits any more
        }
    }))?;
    told.await.map_err(|_| io::Error::other("a blocking call panicked"))
}

/// As [`run`], for a job whose end nobody waits for.
///
/// # Errors
/// No thread could be started.
pub fn start(job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    pool().submit(Box::new(move || {
        // What it was for is told by the panic's own message.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_many_and_survives_a_panic() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let jobs: Vec<_> = (0..200).map(|n| tokio::spawn(run(move || n * 2))).collect();
            for (n, job) in jobs.into_iter().enumerate() {
                assert_eq!(job.await.unwrap().unwrap(), n * 2);
            }
            assert!(run(|| -> u32 { panic!("on purpose") }).await.is_err());
            assert_eq!(run(|| 7).await.unwrap(), 7);
        });
        assert!(pool().jobs.lock().unwrap().threads <= THREADS);
    }
}
