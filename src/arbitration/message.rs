//! What voters say to each other. Pure data and its codec; framing is `wire`'s.

use crate::time::Duration;

use super::fields::{Reader, Writer};
use super::{Ballot, Config, GroupId, Incarnation, Side, Tenure, Vote};

/// One connection of this process, to the peer or to the witness; never used twice in a life.
/// Answers count only on the connection that carried the question (T16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// A message of one group. Who sent it is known by the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub group: GroupId,
    /// The sender's chosen configuration; the receiver learns it first. `None`: a voter that
    /// never heard of the group.
    pub chosen: Option<Config>,
    /// The witness's own incarnation; `None` from arrays, whose identity is in the hello.
    pub incarnation: Option<Incarnation>,
    pub body: Body,
}

/// A running lease promise as its grantor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Promise {
    pub holder: Side,
    /// How much longer it runs.
    pub remaining: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Phase 1 of the instance after `chosen`.
    Prepare {
        ballot: Ballot,
    },
    Promised {
        ballot: Ballot,
        vote: Option<Vote>,
        promise: Option<Promise>,
    },
    /// Phase 2.
    Accept {
        ballot: Ballot,
        value: Config,
    },
    Accepted {
        ballot: Ballot,
    },
    /// Answers a `Prepare` or `Accept` of `ballot`.
    Refused {
        ballot: Ballot,
        promised: Ballot,
        promise: Option<Promise>,
    },
    /// Nothing but `chosen`.
    Learn,
    /// Asks for a lease; `number` matches the answer to the question.
    Ask {
        number: u64,
        lease: Duration,
    },
    Granted {
        number: u64,
        tenure: Tenure,
    },
    NotGranted {
        number: u64,
        vote: Option<Vote>,
    },
    /// The secondary's look at a voter, as often as a primary renews.
    Read {
        number: u64,
    },
    State {
        number: u64,
        vote: Option<Vote>,
        promise: Option<Promise>,
    },
    /// To the witness: an operator's override by the sender. Taken under the ballot that the witness
    /// promised last; answered with `Learn`, its `chosen` being this value then.
    Override {
        ballot: Ballot,
        value: Config,
    },
    /// The group was removed by an operator: leave a tombstone.
    Remove,
    /// There is a tombstone here, now or since long.
    Removed,
}

impl Message {
    /// Longest encoding in bytes.
    pub const LEN_MAX: usize = 512;

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.group(self.group);
        w.option(self.chosen.as_ref(), Writer::config);
        w.option(self.incarnation.as_ref(), Writer::incarnation);
        match &self.body {
            Body::Prepare { ballot } => {
                w.u8(1);
                w.ballot(*ballot);
            }
            Body::Promised { ballot, vote, promise } => {
                w.u8(2);
                w.ballot(*ballot);
                w.option(vote.as_ref(), Writer::vote);
                w.option(promise.as_ref(), write_promise);
            }
            Body::Accept { ballot, value } => {
                w.u8(3);
                w.ballot(*ballot);
                w.config(value);
            }
            Body::Accepted { ballot } => {
                w.u8(4);
                w.ballot(*ballot);
            }
            Body::Refused { ballot, promised, promise } => {
                w.u8(5);
                w.ballot(*ballot);
                w.ballot(*promised);
                w.option(promise.as_ref(), write_promise);
            }
            Body::Learn => w.u8(6),
            Body::Ask { number, lease } => {
                w.u8(7);
                w.u64(*number);
                w.duration(*lease);
            }
            Body::Granted { number, tenure } => {
                w.u8(8);
                w.u64(*number);
                w.tenure(tenure);
            }
            Body::NotGranted { number, vote } => {
                w.u8(9);
                w.u64(*number);
                w.option(vote.as_ref(), Writer::vote);
            }
            Body::Read { number } => {
                w.u8(10);
                w.u64(*number);
            }
            Body::State { number, vote, promise } => {
                w.u8(11);
                w.u64(*number);
                w.option(vote.as_ref(), Writer::vote);
                w.option(promise.as_ref(), write_promise);
            }
            Body::Remove => w.u8(12),
            Body::Removed => w.u8(13),
            Body::Override { ballot, value } => {
                w.u8(14);
                w.ballot(*ballot);
                w.config(value);
            }
        }
    }

    /// Takes one message off `r`; `None`: not one.
    pub fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let group = r.group()?;
        let chosen = r.option(Reader::config)?;
        let incarnation = r.option(Reader::incarnation)?;
        let body = match r.u8()? {
            1 => Body::Prepare { ballot: r.ballot()? },
            2 => Body::Promised {
                ballot: r.ballot()?,
                vote: r.option(Reader::vote)?,
                promise: r.option(read_promise)?,
            },
            3 => Body::Accept { ballot: r.ballot()?, value: r.config()? },
            4 => Body::Accepted { ballot: r.ballot()? },
            5 => {
                Body::Refused { ballot: r.ballot()?, promised: r.ballot()?, promise: r.option(read_promise)? }
            }
            6 => Body::Learn,
            7 => Body::Ask { number: r.u64()?, lease: r.duration()? },
            8 => Body::Granted { number: r.u64()?, tenure: r.tenure()? },
            9 => Body::NotGranted { number: r.u64()?, vote: r.option(Reader::vote)? },
            10 => Body::Read { number: r.u64()? },
            11 => Body::State {
                number: r.u64()?,
                vote: r.option(Reader::vote)?,
                promise: r.option(read_promise)?,
            },
            12 => Body::Remove,
            13 => Body::Removed,
            14 => Body::Override { ballot: r.ballot()?, value: r.config()? },
            _ => return None,
        };
        Some(Self { group, chosen, incarnation, body })
    }
}

fn write_promise(w: &mut Writer<'_>, promise: &Promise) {
    w.side(promise.holder);
    w.duration(promise.remaining);
}

fn read_promise(r: &mut Reader<'_>) -> Option<Promise> {
    Some(Promise { holder: r.side()?, remaining: r.duration()? })
}
