//! Connections between processes, as TCP makes them: in order within one, broken and made again,
//! each direction of each leg cut by itself. A cut delays (TCP sends again) until one end gives
//! the connection up; what had reached the other machine by then is still read there, late.

use std::collections::VecDeque;

use crate::prng::Prng;

/// A, B, the witness, then the hosts.
pub type Process = usize;
pub const A: Process = 0;
pub const B: Process = 1;
pub const WITNESS: Process = 2;
pub const FIRST_HOST: Process = 3;
/// A second machine that calls itself the witness; above all hosts.
pub const SECOND_WITNESS: Process = 63;

pub const fn is_witness(process: Process) -> bool {
    process == WITNESS || process == SECOND_WITNESS
}

pub const fn is_host(process: Process) -> bool {
    process >= FIRST_HOST && process != SECOND_WITNESS
}

pub type ConnectionId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Between the arrays: heartbeats, arbitration, hello.
    Control,
    /// Between the arrays: frames and acks.
    Lane(u16),
    /// From an array to the witness.
    Witness,
    /// From a host to an array.
    Host,
}

#[derive(Debug)]
pub enum Item<M> {
    Message(M),
    /// The other end is gone.
    End,
}

/// Not under way: the leg is cut.
const STUCK: u64 = u64::MAX;

struct Direction<M> {
    queue: VecDeque<(u64, Item<M>)>,
    /// Time of the latest arrival handed out: order within the connection.
    last: u64,
    /// When the head got stuck, if it is.
    stuck_since: u64,
}

pub struct Connection<M> {
    /// The end that connected, and the end that accepted.
    pub ends: [Process; 2],
    pub of: Use,
    /// Each end's own view: not yet closed there.
    pub open: [bool; 2],
    directions: [Direction<M>; 2],
    /// An end whose machine lost its power: nothing answers there.
    vanished: [bool; 2],
}

impl<M> Connection<M> {
    fn idle(&self) -> bool {
        !self.open[0]
            && !self.open[1]
            && self.directions[0].queue.is_empty()
            && self.directions[1].queue.is_empty()
    }

    pub fn end_of(&self, process: Process) -> usize {
        usize::from(self.ends[1] == process)
    }
}

/// What the world must put into its event queue.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// `deliver` this direction at that time.
    Deliver { at: u64, connection: ConnectionId, direction: u8 },
    /// `user_timeout` this direction at that time.
    UserTimeout { at: u64, connection: ConnectionId, direction: u8 },
}

/// One direction of one leg for one use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub from: Process,
    pub to: Process,
    /// `None`: everything between the two; else only that lane's link.
    pub lane: Option<u16>,
}

/// How long a message takes.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    pub min: u64,
    pub max: u64,
    /// Per mille of messages that take up to twenty times `max`.
    pub slow: u64,
}

pub struct Network<M> {
    connections: Vec<Option<Connection<M>>>,
    live: Vec<ConnectionId>,
    cuts: Vec<Cut>,
    pub delay: Delay,
    /// TCP_USER_TIMEOUT of every end.
    pub user_timeout: u64,
    pub due: Vec<Due>,
}

impl<M> Network<M> {
    pub fn new(delay: Delay, user_timeout: u64) -> Self {
        Self {
            connections: Vec::new(),
            live: Vec::new(),
            cuts: Vec::new(),
            delay,
            user_timeout,
            due: Vec::new(),
        }
    }

    pub fn blocked(&self, from: Process, to: Process, of: Use) -> bool {
        self.cuts.iter().any(|cut| {
            cut.from == from
                && cut.to == to
                && (cut.lane.is_none() || matches!(of, Use::Lane(l) if cut.lane == Some(l)))
        })
    }

    pub fn get(&self, id: ConnectionId) -> Option<&Connection<M>> {
        self.connections.get(id as usize).and_then(Option::as_ref)
    }

    /// A connection that both ends know of from now on (the handshake is the caller's matter).
    pub fn open(&mut self, from: Process, to: Process, of: Use, now: u64) -> ConnectionId {
        let direction = || Direction { queue: VecDeque::new(), last: now, stuck_since: STUCK };
        let id = self.connections.len() as ConnectionId;
        self.connections.push(Some(Connection {
            ends: [from, to],
            of,
            open: [true; 2],
            directions: [direction(), direction()],
            vanished: [false; 2],
        }));
        self.live.push(id);
        id
    }

    fn travel(&self, rng: &mut Prng) -> u64 {
        let base = rng.between(self.delay.min, self.delay.max);
        if self.delay.slow != 0 && rng.per_mille(self.delay.slow) {
            base + rng.below(self.delay.max * 20)
        } else {
            base
        }
    }

    /// Sends from `process`; lost without a word when that end is closed.
    pub fn send(&mut self, id: ConnectionId, process: Process, message: M, now: u64, rng: &mut Prng) {
        let Some(connection) = self.get(id) else { return };
        let end = connection.end_of(process);
        if connection.open[end] {
            self.enqueue(id, end, Item::Message(message), now, rng);
        }
    }

    /// As [`Self::send`], as fast as can be: nothing that follows on the connection is any later for it.
    pub fn send_at_once(&mut self, id: ConnectionId, process: Process, message: M, now: u64) {
        let Some(connection) = self.get(id) else { return };
        let end = connection.end_of(process);
        if connection.open[end] {
            self.enqueue_for(id, end, Item::Message(message), now, self.delay.min);
        }
    }

    fn enqueue(&mut self, id: ConnectionId, end: usize, item: Item<M>, now: u64, rng: &mut Prng) {
        let travel = self.travel(rng);
        self.enqueue_for(id, end, item, now, travel);
    }

    fn enqueue_for(&mut self, id: ConnectionId, end: usize, item: Item<M>, now: u64, travel: u64) {
        let Some(connection) = self.get(id) else { return };
        let blocked = self.blocked(connection.ends[end], connection.ends[1 - end], connection.of);
        let timeout = self.user_timeout;
        let Some(Some(connection)) = self.connections.get_mut(id as usize) else { return };
        let direction = &mut connection.directions[end];
        let stuck = blocked || direction.stuck_since != STUCK;
        if stuck {
            direction.queue.push_back((STUCK, item));
            if direction.stuck_since == STUCK {
                direction.stuck_since = now;
                self.due.push(Due::UserTimeout { at: now + timeout, connection: id, direction: end as u8 });
            }
        } else {
            let at = direction.last.max(now + travel);
            direction.last = at;
            direction.queue.push_back((at, item));
            self.due.push(Due::Deliver { at, connection: id, direction: end as u8 });
        }
    }

    /// The head of a direction is due: what arrives, and at whom. `None`: stale, or the leg is cut.
    pub fn deliver(&mut self, id: ConnectionId, direction: u8, now: u64) -> Option<(Process, Item<M>)> {
        let end = usize::from(direction);
        let connection = self.get(id)?;
        let blocked = self.blocked(connection.ends[end], connection.ends[1 - end], connection.of);
        let timeout = self.user_timeout;
        let connection = self.connections.get_mut(id as usize)?.as_mut()?;
        let queue = &mut connection.directions[end];
        let &(at, _) = queue.queue.front()?;
        if at > now {
            return None;
        }
        // A closed sender's bytes are in the receiver's machine already: no cut stops them.
        if (blocked && connection.open[end]) || connection.vanished[1 - end] {
            for entry in &mut queue.queue {
                entry.0 = STUCK;
            }
            if queue.stuck_since == STUCK {
                queue.stuck_since = now;
                self.due.push(Due::UserTimeout { at: now + timeout, connection: id, direction });
            }
            return None;
        }
        let (_, item) = queue.queue.pop_front()?;
        let to = connection.ends[1 - end];
        let receiving = connection.open[1 - end];
        if connection.idle() {
            self.forget(id);
        }
        receiving.then_some((to, item))
    }

    fn forget(&mut self, id: ConnectionId) {
        self.connections[id as usize] = None;
        self.live.retain(|&c| c != id);
    }

    /// The sender's patience ends: the process whose end is to be closed, if the head is still
    /// stuck since then.
    pub fn user_timeout(&mut self, id: ConnectionId, direction: u8, now: u64) -> Option<Process> {
        let timeout = self.user_timeout;
        let connection = self.connections.get(id as usize)?.as_ref()?;
        let end = usize::from(direction);
        let since = connection.directions[end].stuck_since;
        (since != STUCK && since + timeout <= now && connection.open[end]).then_some(connection.ends[end])
    }

    /// One end closes. Bytes under way are still read by the other end (perhaps late); what the
    /// cut held back is gone. The other end learns of it when the leg carries it.
    pub fn close(&mut self, id: ConnectionId, process: Process, late_max: u64, now: u64, rng: &mut Prng) {
        let Some(Some(connection)) = self.connections.get_mut(id as usize) else { return };
        let end = connection.end_of(process);
        if !connection.open[end] {
            return;
        }
        connection.open[end] = false;
        let late = if late_max != 0 && rng.per_mille(400) { rng.below(late_max) } else { 0 };
        let direction = &mut connection.directions[end];
        direction.queue.retain(|&(at, _)| at != STUCK);
        let mut last = now;
        for entry in &mut direction.queue {
            entry.0 += late;
            last = entry.0;
            self.due.push(Due::Deliver { at: entry.0, connection: id, direction: end as u8 });
        }
        direction.last = direction.last.max(last);
        if direction.queue.is_empty() && !connection.open[1 - end] {
            if connection.idle() {
                self.forget(id);
            }
            return;
        }
        direction.stuck_since = STUCK;
        self.enqueue(id, end, Item::End, now, rng);
    }

    /// The end's machine lost its power: the other end hears nothing more, not even an end.
    pub fn vanish(&mut self, id: ConnectionId, process: Process) {
        let Some(Some(connection)) = self.connections.get_mut(id as usize) else { return };
        let end = connection.end_of(process);
        connection.open[end] = false;
        connection.vanished[end] = true;
        connection.directions[end].queue.clear();
        if connection.idle() {
            self.forget(id);
        }
    }

    /// Closes at once what a host gives up: nothing of it arrives any more.
    pub fn abandon(&mut self, id: ConnectionId, process: Process, now: u64, rng: &mut Prng) {
        if let Some(Some(connection)) = self.connections.get_mut(id as usize) {
            let end = connection.end_of(process);
            connection.directions[end].queue.clear();
        }
        self.close(id, process, 0, now, rng);
    }

    pub fn cut(&mut self, cut: Cut) {
        if !self.cuts.contains(&cut) {
            self.cuts.push(cut);
        }
    }

    /// Takes cuts away that `which` names; what was held back is sent again.
    pub fn heal(&mut self, which: impl Fn(&Cut) -> bool, now: u64, rng: &mut Prng) {
        self.cuts.retain(|cut| !which(cut));
        for i in 0..self.live.len() {
            let id = self.live[i];
            for end in 0..2 {
                let Some(connection) = self.get(id) else { continue };
                if connection.directions[end].queue.is_empty()
                    || self.blocked(connection.ends[end], connection.ends[1 - end], connection.of)
                {
                    continue;
                }
                let travel = self.travel(rng);
                let Some(Some(connection)) = self.connections.get_mut(id as usize) else { continue };
                let direction = &mut connection.directions[end];
                direction.stuck_since = STUCK;
                let mut at = direction.last.max(now + travel);
                for entry in direction.queue.iter_mut().filter(|entry| entry.0 == STUCK) {
                    entry.0 = at;
                    self.due.push(Due::Deliver { at, connection: id, direction: end as u8 });
                    at += 1;
                }
                direction.last = at;
            }
        }
    }

    /// Open connections of a process.
    pub fn of_process(&self, process: Process) -> Vec<ConnectionId> {
        let mine = |id: &ConnectionId| {
            self.get(*id).is_some_and(|c| c.ends.contains(&process) && c.open[c.end_of(process)])
        };
        self.live.iter().copied().filter(mine).collect()
    }
}
