//! The control connection, the lanes and the witness, as the groups' controls hear of them, and what the other
//! array says.

use twinlun::arbitration::{Connection, Voter};
use twinlun::group::{Event as Happened, Liveness};
use twinlun::mirror::LaneId;

use crate::control::{PeerText, group_index, side};
use crate::network::{ConnectionId, Item, Use};
use crate::world::{Message, Work, World};

impl World {
    pub fn link_is(&mut self, a: usize, of: Use, up: bool) {
        self.say(|| format!("{of:?} of {} is {}", ["A", "B"][a], if up { "up" } else { "down" }));
        // What was said while the control thread stood still is told in order; the last word is how
        // things are now.
        let array = &self.arrays[a];
        let is_up = match of {
            Use::Control => array.control.is_some(),
            Use::Witness => array.witness.is_some(),
            Use::Lane(lane) => array.lane(lane).is_some(),
            Use::Host => false,
        };
        if !up {
            self.tell_link(a, of, false);
        }
        if is_up {
            self.tell_link(a, of, true);
        }
    }

    fn tell_link(&mut self, a: usize, of: Use, up: bool) {
        match of {
            Use::Control => self.control_link(a, up),
            Use::Witness => self.witness_link(a, up),
            Use::Lane(lane) => self.lane_link(a, lane, up),
            Use::Host => {}
        }
    }

    fn control_link(&mut self, a: usize, up: bool) {
        if !up {
            self.arrays[a].liveness = None;
            self.requests_are_lost(a);
            return self.tell_all(a, &Happened::LinkDown);
        }
        if let Some(connection) = self.arrays[a].control {
            let nonce = self.arrays[a].nonce;
            self.send(connection, a, Message::Peer(PeerText::Hello { nonce }));
        }
    }

    fn witness_link(&mut self, a: usize, up: bool) {
        let event = match self.arrays[a].witness {
            Some(connection) if up => Happened::WitnessUp { connection: Connection(u64::from(connection)) },
            _ => Happened::WitnessDown,
        };
        self.tell_all(a, &event);
    }

    fn lane_link(&mut self, a: usize, lane: u16, up: bool) {
        let lane = LaneId(lane);
        self.tell_all(a, &if up { Happened::LaneUp(lane) } else { Happened::LaneLost(lane) });
    }

    pub fn control_message(&mut self, a: usize, connection: ConnectionId, message: Message) {
        let on = Connection(u64::from(connection));
        match message {
            Message::Peer(text) if self.arrays[a].control == Some(connection) => {
                self.peer_says(a, on, text);
            }
            Message::FromWitness(reply) => {
                for message in reply.batch {
                    let g = group_index(message.group);
                    self.tell(a, g, Happened::Message { from: Voter::Witness, connection: on, message });
                }
            }
            _ => {}
        }
    }

    fn peer_says(&mut self, a: usize, connection: Connection, text: PeerText) {
        match text {
            PeerText::Hello { nonce } => {
                // Another life of the peer: lanes to the one before are dead, said so or not (a lane's
                // own hello names the life it belongs to).
                let life = self.arrays[1 - a].boot;
                for lane in 0..self.arrays[a].lanes.len() {
                    if let Some(connection) = self.arrays[a].lanes[lane]
                        && self.arrays[a].lane_watch[lane].peer_life != life
                    {
                        self.work(a, Work::Arrived { connection, item: Item::End });
                    }
                }
                let now = self.arrays[a].clocks.now(self.now).grantor;
                let timers = self.plan.timers;
                self.arrays[a].liveness = Some(Liveness::new(timers.heartbeat, timers.link_timeout, now));
                self.tell_all(a, &Happened::LinkUp { connection, peer: nonce });
                self.share_all_policies(a);
                self.heartbeat(a);
            }
            PeerText::Ping(number) => self.say_to_peer(a, connection, PeerText::Pong(number)),
            PeerText::Pong(number) => {
                if let Some(liveness) = &mut self.arrays[a].liveness {
                    liveness.pong(number);
                }
            }
            PeerText::Vote(message) => {
                let g = group_index(message.group);
                let from = Voter::Array(side(1 - a));
                self.tell(a, g, Happened::Message { from, connection, message });
            }
            PeerText::Session { group, message } => {
                self.tell(a, group, Happened::Session { connection, message })
            }
            PeerText::Offer { group, chosen } => self.take_offer(a, group, chosen),
            PeerText::GroupState { group, told, volumes } => {
                self.group_state_arrived(a, group, told, volumes);
            }
            PeerText::Policies { group, started, tenure } => self.policies_arrived(a, group, started, tenure),
            PeerText::Ask { number, change } => self.asked_by_peer(a, connection, number, change),
            PeerText::Reply { number, done } => self.peer_replied(a, number, done),
        }
    }
}
