//! Who may use the API: users of a file with salted hashes, sessions, and the local token.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};
use thiserror::Error;

use crate::mutation::{self, Mutation};

/// Sessions kept; the one unused for longest goes first. Clients of the real array leak sessions.
const SESSIONS_MAX: usize = 512;
/// A session unused for so long is over (as on the real array).
const SESSION_LIFE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Error)]
pub enum UsersError {
    #[error("users file {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("users file {path} may be read by others (mode {mode:o}); run: chmod 600 {path}", path = path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("users file {path}, line {line}: not `name:hash`; make entries with: twinlun setuser NAME", path = path.display())]
    Line { path: PathBuf, line: usize },
    #[error("user name `{0}` is not 1 to 31 letters, digits, '.', '_' or '-'")]
    Name(String),
    #[error("the password cannot be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

type Users = BTreeMap<String, String>;

fn read_users(path: &Path) -> Result<Users, UsersError> {
    let failed = |source| UsersError::Io { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Users::new()),
        Err(error) => return Err(failed(error)),
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(UsersError::Mode { path: path.to_owned(), mode });
    }
    let mut users = Users::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let entry = line.split_once(':').filter(|(_, hash)| PasswordHash::new(hash).is_ok());
        let Some((name, hash)) = entry else {
            return Err(UsersError::Line { path: path.to_owned(), line: at + 1 });
        };
        users.insert(name.to_owned(), hash.to_owned());
    }
    Ok(users)
}

/// Adds a user or changes a password (`twinlun setuser`).
///
/// # Errors
/// A bad name, or the file cannot be read or written.
pub fn set_user(path: &Path, name: &str, password: &str) -> Result<(), UsersError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 31 || !name.bytes().all(good) {
        return Err(UsersError::Name(name.to_owned()));
    }
    let mut users = read_users(path)?;
    let hash = Argon2::default().hash_password(password.as_bytes()).map_err(UsersError::Hash)?;
    users.insert(name.to_owned(), hash.to_string());
    let failed = |source| UsersError::Io { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    for (name, hash) in users {
        writeln!(file, "{name}:{hash}").map_err(failed)?;
    }
    if !mutation::on(Mutation::UsersNotFlushed) {
        file.sync_all().map_err(failed)?;
    }
    fs::rename(&new, path).map_err(failed)?;
    if mutation::on(Mutation::UsersNameNotSynced) {
        return Ok(());
    }
    crate::sys::directory::sync_of(path).map_err(failed)
}

/// The sessions of one API.
#[derive(Debug)]
pub struct Auth {
    users: PathBuf,
    token: String,
    sessions: Mutex<BTreeMap<String, Instant>>,
}

impl Auth {
    /// # Errors
    /// The users file is of no use; better known at the start than at the first login.
    pub fn new(users: PathBuf, token: String) -> Result<Self, UsersError> {
        read_users(&users)?;
        Ok(Self { users, token, sessions: Mutex::default() })
    }

    /// Opens a session. `None`: wrong user or password. Takes some 50 ms by design; not for the
    /// control thread.
    ///
    /// # Errors
    /// The users file cannot be read.
    pub fn login(&self, user: &str, password: &str) -> Result<Option<String>, UsersError> {
        let users = read_users(&self.users)?;
        // An unknown user costs the same time as a wrong password.
        let unknown = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let hash = users.get(user).map_or(unknown, String::as_str);
        let right = PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        if !right || !users.contains_key(user) {
            return Ok(None);
        }
        let key = uuid::Uuid::new_v4().simple().to_string();
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, used)| **used).map(|(key, _)| key.clone());
            oldest.map(|key| sessions.remove(&key));
        }
        sessions.insert(key.clone(), Instant::now());
        Ok(Some(key))
    }

    /// Is this the key of a living session, or the local token? Using it prolongs it.
    pub fn knows(&self, key: &str) -> bool {
        if equal(key, &self.token) {
            return true;
        }
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, used| used.elapsed() < SESSION_LIFE);
        match sessions.get_mut(key) {
            Some(used) => {
                *used = Instant::now();
                true
            }
            None => false,
        }
    }

    /// Ends a session.
    pub fn logout(&self, key: &str) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// Compares without telling by time where the difference is.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_file_log_in_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        set_user(&path, "admin", "secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let auth = Auth::new(path.clone(), "token".into()).unwrap();
        assert_eq!(auth.login("admin", "wrong").unwrap(), None);
        assert_eq!(auth.login("nobody", "secret").unwrap(), None);
        let key = auth.login("admin", "secret").unwrap().expect("the right password");
        assert!(auth.knows(&key) && auth.knows("token") && !auth.knows("toke"));
        auth.logout(&key);
        assert!(!auth.knows(&key));
        assert!(!fs::read_to_string(&path).unwrap().contains("secret"));
    }

    #[cfg(feature = "testing")]
    #[test]
    fn a_password_is_kept_over_a_power_failure() {
        use crate::sys::mounted_tests::{mounted, power_failure};

        let test = "management::auth::tests::a_password_is_kept_over_a_power_failure";
        let Some(at) = mounted(test, &["xfs"]) else { return };
        let path = at.join("users");
        let kept = |broken, password| {
            mutation::set(broken);
            set_user(&path, "admin", password).unwrap();
            mutation::set(None);
            power_failure(&at);
            let auth = Auth::new(path.clone(), String::new());
            auth.is_ok_and(|auth| auth.login("admin", password).is_ok_and(|key| key.is_some()))
        };
        assert!(kept(None, "one"));
        assert!(!kept(Some(Mutation::UsersNameNotSynced), "two"));
        // Without its content, the new name is that of an empty file.
        assert!(!kept(Some(Mutation::UsersNotFlushed), "three"));
    }

    #[test]
    fn a_users_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        set_user(&path, "admin", "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Auth::new(path, String::new()).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}
