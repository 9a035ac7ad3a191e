//! The process itself.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs this very program anew in this process, with the same arguments: nothing of what is in memory, no
/// connection and no lock survives. Returns only if that fails.
pub fn run_anew() -> io::Error {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}
