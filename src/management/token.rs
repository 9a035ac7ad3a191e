//! The local token: whoever may read a file of mode 0600 on this machine may manage the array, as
//! whoever may read its `data_dir` can anyway. The command line finds it by the API's address.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the token for the API at `address` lies. Two arrays may have one address in two network
/// namespaces, so the namespace is part of the name.
pub fn token_path(address: SocketAddr) -> PathBuf {
    let namespace = fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino());
    directory().join(format!("management-{namespace}-{}-{}.token", address.ip(), address.port()))
}

fn directory() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/twinlun");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => PathBuf::from(runtime).join("twinlun"),
        None => PathBuf::from(format!("/tmp/twinlun-{}", nix::unistd::geteuid())),
    }
}

/// Where the certificate of an encrypted API at `address` lies, for the command line to trust.
pub fn certificate_path(address: SocketAddr) -> PathBuf {
    token_path(address).with_extension("pem")
}

/// The certificate of an encrypted API of this machine at `address`, if it lies where only this user writes.
pub fn local_certificate(address: SocketAddr) -> Option<PathBuf> {
    let path = certificate_path(address);
    (must_be_own(&directory()).is_ok() && path.exists()).then_some(path)
}

/// The token for the API at `address`, as the command line finds it.
///
/// # Errors
/// None there; a directory of somebody else's, who would learn what is said to a false array.
pub fn read_token(address: SocketAddr) -> io::Result<String> {
    must_be_own(&directory())?;
    fs::read_to_string(token_path(address))
}

/// In a directory of somebody else's a file could be exchanged.
fn must_be_own(directory: &Path) -> io::Result<()> {
    let owner = fs::symlink_metadata(directory)?;
    if !owner.is_dir() || owner.uid() != nix::unistd::geteuid().as_raw() {
        let problem = format!("{} belongs to another user; remove it", directory.display());
        return Err(io::Error::other(problem));
    }
    Ok(())
}

/// Draws a token and writes it for the command line.
///
/// Beside it lies the certificate, as PEM, where the API shows one.
///
/// # Errors
/// No randomness, or the file cannot be written.
pub fn make_token(address: SocketAddr, certificate: Option<&str>) -> io::Result<String> {
    let mut bytes = [0u8; 24];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = token_path(address);
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        must_be_own(directory)?;
    }
    match certificate {
        Some(pem) => make(&certificate_path(address), pem)?,
        None => forget(&certificate_path(address)),
    }
    make(&path, &token)?;
    Ok(token)
}

/// Made anew, never opened: a file that somebody else put there is not written to.
fn make(path: &Path, text: &str) -> io::Result<()> {
    forget(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// What cannot be removed shows when it is made.
fn forget(path: &Path) {
    let _ = fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_s_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        must_be_own(directory.path()).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        must_be_own(&link).unwrap_err();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(directory.path(), Some(12_345), None).unwrap();
            let said = must_be_own(directory.path()).unwrap_err().to_string();
            assert!(said.contains("belongs to another user"), "{said}");
        }
    }
}
