//! What a thread may ask of the scheduler.

use std::io;

/// Nice value of the control thread: ahead of every ordinary thread of the machine.
const CONTROL_NICE: libc::c_int = -15;

/// Raises the calling thread's priority above that of ordinary threads.
///
/// # Errors
/// The system does not allow it (CAP_SYS_NICE, or `LimitNICE=` in the unit): to be logged as a
/// warning, everything works without it.
pub fn raise_priority() -> io::Result<()> {
    // SAFETY: no memory is involved; 0 names the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, CONTROL_NICE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raises_or_says_why_not() {
        std::thread::spawn(|| match raise_priority() {
            Ok(()) => {
                // SAFETY: no memory is involved; 0 names the calling thread.
                assert_eq!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, CONTROL_NICE);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        })
        .join()
        .unwrap();
    }
}
