//! All sessions of this array, over all data threads: TSIHs, reinstatement, limits, resets.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration as WallDuration;

use tokio::sync::Notify;

use crate::iscsi::pdu::{Isid, LoginStatus, TaskFunction};
use crate::iscsi::{Candidate, ManagementId, SessionType};
use crate::time::Duration;

use super::mailbox::{Barrier, Letter, Mailbox};

/// Most sessions of one array. 256 hosts with two paths each; each costs some 70 KiB when idle.
pub const SESSIONS_MAX: usize = 512;
/// Most sessions of one initiator name. A host has one for each of its ports and our portals.
pub const SESSIONS_PER_INITIATOR: usize = 32;
/// Most sessions from one address: whoever invents initiator names leaves half to the others. Machines behind
/// one translated address share it.
pub const SESSIONS_PER_ADDRESS: usize = 256;
/// Most connections that are not logged in yet. Beyond it new ones are closed at once.
pub const LOGINS_MAX: usize = 128;
/// Most of those from one address: no stranger keeps the hosts out, and a host has one for each of its sessions.
pub const LOGINS_PER_ADDRESS: usize = 48;
/// Most discovery sessions, each of which ends by itself (`Limits::discovery_lifetime`),
pub const DISCOVERIES_MAX: usize = 64;
/// and most of them from one address.
pub const DISCOVERIES_PER_ADDRESS: usize = 16;
/// Payload memory of all sessions together, in bytes. Within it each has its own limit; when it is
/// used up, a session with commands in progress gets TASK SET FULL for further ones.
pub const MEMORY_MAX: usize = 1 << 30;
/// How long a new login waits for the commands of the session it replaces; then it is refused, and
/// the initiator tries again. Longer than any hold of a switchover.
const REINSTATEMENT_WAIT: WallDuration = WallDuration::from_secs(10);

/// What makes two sessions the same (RFC 7143 6.3.5): initiator name, ISID and portal group tag;
/// there is one target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    initiator: String,
    isid: Isid,
    portal_group_tag: u16,
}

#[derive(Debug)]
struct Entry {
    tsih: u16,
    cid: u16,
    peer: SocketAddr,
    mailbox: Arc<Mailbox>,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<Key, Entry>,
    last_tsih: u16,
    logins: Places,
    discoveries: Places,
    closing: bool,
}

/// The sessions of one array; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    reinstatement_wait: WallDuration,
    /// Payload bytes of all sessions, and the most of them.
    memory: AtomicUsize,
    memory_max: usize,
    /// Something left: a login that waits for it looks again.
    left: Notify,
}

/// One session as management shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub initiator: String,
    pub isid: Isid,
    pub tsih: u16,
    pub portal_group_tag: u16,
    pub peer: SocketAddr,
}

/// A session's place in the registry. It is given up when this is dropped, and that must be after
/// the session's last command is over (rule 9).
#[derive(Debug)]
pub struct Registration {
    sessions: Sessions,
    key: Option<Key>,
    pub tsih: u16,
    /// Another session of the nexus was ended for it.
    pub reinstated: bool,
    _discovery: Option<DiscoveryPlace>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let mut state = self.sessions.lock();
            if state.sessions.get(&key).is_some_and(|entry| entry.tsih == self.tsih) {
                state.sessions.remove(&key);
            }
        }
        self.sessions.shared.left.notify_waiters();
    }
}

/// What one connection uses of [`MEMORY_MAX`].
#[derive(Debug)]
pub struct MemoryShare {
    sessions: Sessions,
    used: usize,
}

impl MemoryShare {
    /// The connection uses `used` bytes now; returns how many it may use at most.
    pub fn set(&mut self, used: usize) -> usize {
        let memory = &self.sessions.shared.memory;
        // Only the sum counts, and nothing else is ordered by it.
        let total = if used >= self.used {
            let more = used - self.used;
            memory.fetch_add(more, Ordering::Relaxed) + more
        } else {
            let less = self.used - used;
            memory.fetch_sub(less, Ordering::Relaxed) - less
        };
        self.used = used;
        used + self.sessions.shared.memory_max.saturating_sub(total)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How many are in use, by address.
#[derive(Debug, Default)]
struct Places {
    total: usize,
    of: BTreeMap<IpAddr, usize>,
}

impl Places {
    /// False when there is none, of all or for this address.
    fn take(&mut self, address: IpAddr, most: usize, most_of_one: usize) -> bool {
        let own = self.of.get(&address).copied().unwrap_or(0);
        if self.total >= most || own >= most_of_one {
            return false;
        }
        self.total += 1;
        self.of.insert(address, own + 1);
        true
    }

    fn give_back(&mut self, address: IpAddr) {
        self.total = self.total.saturating_sub(1);
        match self.of.get_mut(&address) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                self.of.remove(&address);
            }
        }
    }
}

/// A connection's place among those not logged in yet.
#[derive(Debug)]
pub struct LoginPlace {
    sessions: Sessions,
    address: IpAddr,
}

impl Drop for LoginPlace {
    fn drop(&mut self) {
        self.sessions.lock().logins.give_back(self.address);
    }
}

/// A discovery session's place.
#[derive(Debug)]
struct DiscoveryPlace {
    sessions: Sessions,
    address: IpAddr,
}

impl Drop for DiscoveryPlace {
    fn drop(&mut self) {
        self.sessions.lock().discoveries.give_back(self.address);
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            reinstatement_wait: REINSTATEMENT_WAIT,
            memory: AtomicUsize::new(0),
            memory_max: MEMORY_MAX,
            left: Notify::new(),
        }
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sessions whose payload memory is bounded by `memory_max` bytes instead of [`MEMORY_MAX`].
    pub fn with_memory_max(memory_max: usize) -> Self {
        Self { shared: Arc::new(Shared { memory_max, ..Shared::default() }) }
    }

    /// Payload bytes of all sessions: what their commands stand for, and what waits to be sent.
    pub fn memory(&self) -> usize {
        self.shared.memory.load(Ordering::Relaxed)
    }

    /// A place for a connection from `address` that is about to log in; `None` when too many are.
    pub fn begin_login(&self, address: IpAddr) -> Option<LoginPlace> {
        let mut state = self.lock();
        if state.closing || !state.logins.take(address, LOGINS_MAX, LOGINS_PER_ADDRESS) {
            return None;
        }
        Some(LoginPlace { sessions: self.clone(), address })
    }

    /// A connection's share of the memory, none used yet.
    pub fn memory_share(&self) -> MemoryShare {
        MemoryShare { sessions: self.clone(), used: 0 }
    }

    /// Makes a session. One with the same key is ended first, and its commands are over when this
    /// returns (RFC 7143 6.3.5, rule 9).
    ///
    /// # Errors
    /// The status the login is refused with.
    pub async fn establish(
        &self,
        candidate: &Candidate,
        portal_group_tag: u16,
        peer: SocketAddr,
        mailbox: &Arc<Mailbox>,
    ) -> Result<Registration, LoginStatus> {
        if candidate.session_type == SessionType::Discovery {
            // No commands, nothing to reinstate; the TSIH must only not be zero.
            let address = peer.ip();
            let mut state = self.lock();
            if !state.discoveries.take(address, DISCOVERIES_MAX, DISCOVERIES_PER_ADDRESS) {
                return Err(LoginStatus::OUT_OF_RESOURCES);
            }
            return Ok(Registration {
                sessions: self.clone(),
                key: None,
                tsih: state.next_tsih(),
                reinstated: false,
                _discovery: Some(DiscoveryPlace { sessions: self.clone(), address }),
            });
        }
        let key = Key { initiator: candidate.initiator_name.clone(), isid: candidate.isid, portal_group_tag };
        let attempt = async {
            // The session that is being replaced, once found.
            let mut replaced = None;
            loop {
                let left = self.shared.left.notified();
                tokio::pin!(left);
                left.as_mut().enable();
                if let Some(done) = self.try_establish(&key, candidate, peer, mailbox, &mut replaced) {
                    return done;
                }
                left.await;
            }
        };
        tokio::time::timeout(self.shared.reinstatement_wait, attempt)
            .await
            .unwrap_or(Err(LoginStatus::SERVICE_UNAVAILABLE))
    }

    /// `None`: an older session must go first; it was told to.
    fn try_establish(
        &self,
        key: &Key,
        candidate: &Candidate,
        peer: SocketAddr,
        mailbox: &Arc<Mailbox>,
        replaced: &mut Option<u16>,
    ) -> Option<Result<Registration, LoginStatus>> {
        let mut state = self.lock();
        if state.closing {
            return Some(Err(LoginStatus::SERVICE_UNAVAILABLE));
        }
        match state.sessions.get(key) {
            // A login with a TSIH replaces the connection of that session, which is the session
            // itself here: one connection each, and nothing outlives it (RFC 7143 6.3.4).
            Some(old) if candidate.tsih != 0 && old.tsih != candidate.tsih => {
                return Some(Err(LoginStatus::SESSION_DOES_NOT_EXIST));
            }
            Some(old) if candidate.tsih != 0 && old.cid != candidate.cid => {
                return Some(Err(LoginStatus::TOO_MANY_CONNECTIONS));
            }
            Some(old) => {
                *replaced = Some(old.tsih);
                old.mailbox.post(Letter::Terminate);
                return None;
            }
            None if candidate.tsih != 0 && replaced.is_none() => {
                return Some(Err(LoginStatus::SESSION_DOES_NOT_EXIST));
            }
            None => {}
        }
        let of_initiator = state.sessions.keys().filter(|other| other.initiator == key.initiator).count();
        let of_address = state.sessions.values().filter(|other| other.peer.ip() == peer.ip()).count();
        if state.sessions.len() >= SESSIONS_MAX
            || of_initiator >= SESSIONS_PER_INITIATOR
            || of_address >= SESSIONS_PER_ADDRESS
        {
            return Some(Err(LoginStatus::OUT_OF_RESOURCES));
        }
        // Its connection alone is new when the initiator named the session, and keeps its TSIH.
        let tsih = if candidate.tsih == 0 { state.next_tsih() } else { candidate.tsih };
        let entry = Entry { tsih, cid: candidate.cid, peer, mailbox: Arc::clone(mailbox) };
        state.sessions.insert(key.clone(), entry);
        Some(Ok(Registration {
            sessions: self.clone(),
            key: Some(key.clone()),
            tsih,
            reinstated: replaced.is_some(),
            _discovery: None,
        }))
    }

    /// Tells every other session to abort the commands of `unit` (of every unit for `None`); the
    /// asker's mailbox gets [`Letter::Managed`] when all of them are over, or at once.
    pub fn abort_elsewhere(
        &self,
        asker: &Arc<Mailbox>,
        unit: Option<u64>,
        id: ManagementId,
        function: TaskFunction,
    ) {
        let barrier = Arc::new(Barrier { asker: Arc::clone(asker), id, function });
        let state = self.lock();
        for entry in state.sessions.values().filter(|entry| !Arc::ptr_eq(&entry.mailbox, asker)) {
            entry.mailbox.post(Letter::Abort { unit, barrier: Arc::clone(&barrier) });
        }
    }

    /// Every session's initiator is asked to log out within `grace`; no new session is made.
    pub fn request_logout(&self, grace: Duration) {
        let mut state = self.lock();
        state.closing = true;
        for entry in state.sessions.values() {
            entry.mailbox.post(Letter::RequestLogout { grace });
        }
    }

    /// Ends when no session is left.
    pub async fn all_gone(&self) {
        loop {
            let left = self.shared.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.lock().sessions.is_empty() {
                return;
            }
            left.await;
        }
    }

    /// Every normal session, in the order of initiator names.
    pub fn list(&self) -> Vec<SessionInfo> {
        let state = self.lock();
        let info = |(key, entry): (&Key, &Entry)| SessionInfo {
            initiator: key.initiator.clone(),
            isid: key.isid,
            tsih: entry.tsih,
            portal_group_tag: key.portal_group_tag,
            peer: entry.peer,
        };
        state.sessions.iter().map(info).collect()
    }
}

impl State {
    /// A TSIH that no session has; never zero.
    fn next_tsih(&mut self) -> u16 {
        loop {
            self.last_tsih = self.last_tsih.wrapping_add(1).max(1);
            // At most SESSIONS_MAX of 65,535 are taken, so the loop ends.
            if self.sessions.values().all(|entry| entry.tsih != self.last_tsih) {
                return self.last_tsih;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(initiator: &str, tsih: u16) -> Candidate {
        Candidate {
            initiator_name: initiator.into(),
            initiator_alias: String::new(),
            isid: Isid([1; 6]),
            tsih,
            cid: 0,
            session_type: SessionType::Normal,
            parameters: crate::iscsi::negotiation::Parameters::default(),
        }
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1000))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_login_waits_for_the_session_it_replaces() {
        let sessions = Sessions::default();
        let (old, new) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let first = sessions.establish(&candidate("iqn.h", 0), 1, peer(), &old).await.unwrap();
        let again = candidate("iqn.h", 0);
        let second = sessions.establish(&again, 1, peer(), &new);
        tokio::pin!(second);
        let early = tokio::time::timeout(WallDuration::from_millis(20), second.as_mut()).await;
        assert!(early.is_err(), "the old session is still there");
        let mut letters = Vec::new();
        old.collect(&mut letters);
        assert!(matches!(letters[..], [Letter::Terminate]));
        drop(first);
        assert!(second.await.is_ok());
        assert!(sessions.list().is_empty(), "the registration was dropped");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_wait_is_bounded() {
        let reinstatement_wait = WallDuration::from_millis(10);
        let shared = Shared { reinstatement_wait, ..Shared::default() };
        let sessions = Sessions { shared: Arc::new(shared) };
        let mailbox = Arc::new(Mailbox::default());
        let _first = sessions.establish(&candidate("iqn.h", 0), 1, peer(), &mailbox).await.unwrap();
        let second = sessions.establish(&candidate("iqn.h", 0), 1, peer(), &mailbox).await;
        assert_eq!(second.map(|_| ()), Err(LoginStatus::SERVICE_UNAVAILABLE));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_login_with_a_tsih_needs_its_session() {
        let sessions = Sessions::default();
        let mailbox = Arc::new(Mailbox::default());
        let none = sessions.establish(&candidate("iqn.h", 9), 1, peer(), &mailbox).await;
        assert_eq!(none.map(|_| ()), Err(LoginStatus::SESSION_DOES_NOT_EXIST));
        let first = sessions.establish(&candidate("iqn.h", 0), 1, peer(), &mailbox).await.unwrap();
        let wrong = candidate("iqn.h", first.tsih + 1);
        let wrong = sessions.establish(&wrong, 1, peer(), &mailbox).await;
        assert_eq!(wrong.map(|_| ()), Err(LoginStatus::SESSION_DOES_NOT_EXIST));
        let other = Candidate { cid: 1, ..candidate("iqn.h", first.tsih) };
        let other = sessions.establish(&other, 1, peer(), &mailbox).await;
        assert_eq!(other.map(|_| ()), Err(LoginStatus::TOO_MANY_CONNECTIONS));
    }

    #[test]
    fn memory_is_shared() {
        let sessions = Sessions::default();
        let (mut one, mut two) = (sessions.memory_share(), sessions.memory_share());
        assert_eq!(one.set(1000), MEMORY_MAX);
        assert_eq!(two.set(MEMORY_MAX - 3000), MEMORY_MAX - 1000);
        assert_eq!(one.set(1000), 3000);
        drop(two);
        assert_eq!(one.set(10), MEMORY_MAX);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn limits() {
        let sessions = Sessions::default();
        let mailbox = Arc::new(Mailbox::default());
        let mut kept = Vec::new();
        for n in 0..SESSIONS_PER_INITIATOR {
            let one = Candidate { isid: Isid([u8::try_from(n).unwrap(); 6]), ..candidate("iqn.h", 0) };
            kept.push(sessions.establish(&one, 1, peer(), &mailbox).await.unwrap());
        }
        let one = Candidate { isid: Isid([99; 6]), ..candidate("iqn.h", 0) };
        let over = sessions.establish(&one, 1, peer(), &mailbox).await;
        assert_eq!(over.map(|_| ()), Err(LoginStatus::OUT_OF_RESOURCES));
        for n in SESSIONS_PER_INITIATOR..SESSIONS_PER_ADDRESS {
            let one = candidate(&format!("iqn.{n}"), 0);
            kept.push(sessions.establish(&one, 1, peer(), &mailbox).await.unwrap());
        }
        let over = sessions.establish(&candidate("iqn.last", 0), 1, peer(), &mailbox).await;
        assert_eq!(over.map(|_| ()), Err(LoginStatus::OUT_OF_RESOURCES));
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1000));
        kept.push(sessions.establish(&candidate("iqn.last", 0), 1, elsewhere, &mailbox).await.unwrap());
        let address = |n: usize| IpAddr::from([192, 0, 2, u8::try_from(n).unwrap()]);
        let own: Vec<_> =
            (0..LOGINS_PER_ADDRESS).map(|_| sessions.begin_login(address(0)).unwrap()).collect();
        assert!(sessions.begin_login(address(0)).is_none());
        let rest = LOGINS_PER_ADDRESS..LOGINS_MAX;
        let others: Vec<_> = rest.map(|n| sessions.begin_login(address(n)).unwrap()).collect();
        assert!(sessions.begin_login(address(1)).is_none());
        drop(own);
        assert!(sessions.begin_login(address(0)).is_some());
        drop(others);
        assert_eq!(sessions.lock().logins.of.len(), 0);
    }
}
