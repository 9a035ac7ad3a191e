//! The runtime of one data thread: `tokio_uring` with its ring, or plain tokio. Either way tasks
//! are spawned with `tokio::task::spawn_local` and sockets come from `tokio::net`.

use std::future::Future;
use std::io;

use super::engine::Engine;

/// Submission queue entries of a data thread's ring; more wait in the runtime.
const RING_ENTRIES: u32 = 512;

/// A single-threaded runtime.
pub struct Runtime(Kind);

enum Kind {
    Ring(tokio_uring::Runtime),
    Plain(tokio::runtime::Runtime, tokio::task::LocalSet),
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Ring(_) => "Runtime(Ring)",
            Kind::Plain(..) => "Runtime(Plain)",
        })
    }
}

impl Runtime {
    /// A runtime on which handles of `engine` work.
    ///
    /// # Errors
    /// The system's; for `Ring` also EPERM and ENOSYS where io_uring is forbidden.
    pub fn new(engine: Engine) -> io::Result<Self> {
        Ok(Self(match engine {
            Engine::Ring => {
                // Completions are reaped when this thread enters the kernel anyway (no interrupt
                // for each). SINGLE_ISSUER with DEFER_TASKRUN hangs with tokio-uring 0.5.
                let mut ring = tokio_uring::uring_builder();
                ring.setup_coop_taskrun();
                let mut builder = tokio_uring::builder();
                builder.entries(RING_ENTRIES).uring_builder(&ring);
                Kind::Ring(
                    tokio_uring::Runtime::new(&builder)
                        // Kernels before 5.19 do not know the flag.
                        .or_else(|_| {
                            tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))
                        })?,
                )
            }
            _ => Kind::Plain(
                tokio::runtime::Builder::new_current_thread().enable_all().build()?,
                tokio::task::LocalSet::new(),
            ),
        }))
    }

    /// Runs `future`, and what it spawns, on the calling thread until it ends.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match &self.0 {
            Kind::Ring(runtime) => runtime.block_on(future),
            Kind::Plain(runtime, local) => runtime.block_on(local.run_until(future)),
        }
    }
}
