//! Codec of what the controls of one group say to each other.

use crate::arbitration::{Epoch, Reader, Writer};
use crate::group::{Decline, MEMBERS_MAX, RUNS_MAX, Refused, Request, SessionMessage};
use crate::mirror::{RegionRun, SessionId, VolumeId};

fn session(w: &mut Writer<'_>, session: &SessionId) {
    w.u64(session.boot);
    w.u64(session.counter);
}

fn read_session(r: &mut Reader<'_>) -> Option<SessionId> {
    Some(SessionId { boot: r.u64()?, counter: r.u64()? })
}

fn read_volume(r: &mut Reader<'_>) -> Option<VolumeId> {
    r.array().map(VolumeId)
}

pub(super) fn encode(message: &SessionMessage, w: &mut Writer<'_>) {
    match message {
        SessionMessage::Hello { tenure, epoch, session: id, members } => {
            w.u8(1);
            w.tenure(tenure);
            w.u64(epoch.0);
            session(w, id);
            w.u16(u16::try_from(members.len()).unwrap_or(u16::MAX)); // at most MEMBERS_MAX
            for (volume, blocks) in members {
                w.bytes(&volume.0);
                w.u64(*blocks);
            }
        }
        SessionMessage::Answer { session: id, volume, runs, last } => {
            w.u8(2);
            session(w, id);
            w.option(volume.as_ref(), |w, volume| w.bytes(&volume.0));
            w.u16(u16::try_from(runs.len()).unwrap_or(u16::MAX)); // at most RUNS_MAX
            for run in runs {
                w.u64(run.first);
                w.u64(run.count);
            }
            w.bool(*last);
        }
        SessionMessage::Decline { session: id, why } => {
            w.u8(3);
            session(w, id);
            w.u8(match why {
                Decline::NotPrimary => 1,
                Decline::Old => 2,
                Decline::Members => 3,
                Decline::Diverged => 4,
                Decline::DiskBad => 5,
                Decline::Tainted => 6,
            });
        }
        SessionMessage::JoinQuery { session: id, group_state } => {
            w.u8(4);
            session(w, id);
            w.u64(*group_state);
        }
        SessionMessage::JoinReady { session: id, group_state } => {
            w.u8(5);
            session(w, id);
            w.u64(*group_state);
        }
        SessionMessage::Serving { tenure } => {
            w.u8(6);
            w.tenure(tenure);
        }
        SessionMessage::Request { number, request } => {
            w.u8(7);
            w.u64(*number);
            w.u8(match request {
                Request::SwitchOver => 1,
                Request::FailOver => 2,
                Request::SetStarted(false) => 3,
                Request::SetStarted(true) => 4,
            });
        }
        SessionMessage::WitnessLost(lost) => {
            w.u8(9);
            w.bool(*lost);
        }
        SessionMessage::DiskBad(bad) => {
            w.u8(10);
            w.bool(*bad);
        }
        SessionMessage::Tainted { epoch, tainted } => {
            w.u8(11);
            w.u64(epoch.0);
            w.bool(*tainted);
        }
        SessionMessage::Reply { number, result } => {
            w.u8(8);
            w.u64(*number);
            w.u8(match result {
                Ok(()) => 0,
                Err(refused) => refusal_code(*refused),
            });
        }
    }
}

pub(super) fn decode(r: &mut Reader<'_>) -> Option<SessionMessage> {
    Some(match r.u8()? {
        1 => SessionMessage::Hello {
            tenure: r.tenure()?,
            epoch: Epoch(r.u64()?),
            session: read_session(r)?,
            members: {
                let count = usize::from(r.u16()?);
                if count > MEMBERS_MAX {
                    return None;
                }
                (0..count).map(|_| Some((read_volume(r)?, r.u64()?))).collect::<Option<_>>()?
            },
        },
        2 => SessionMessage::Answer {
            session: read_session(r)?,
            volume: r.option(read_volume)?,
            runs: {
                let count = usize::from(r.u16()?);
                if count > RUNS_MAX {
                    return None;
                }
                let run = |r: &mut Reader<'_>| Some(RegionRun { first: r.u64()?, count: r.u64()? });
                (0..count).map(|_| run(r)).collect::<Option<_>>()?
            },
            last: r.bool()?,
        },
        3 => SessionMessage::Decline {
            session: read_session(r)?,
            why: match r.u8()? {
                1 => Decline::NotPrimary,
                2 => Decline::Old,
                3 => Decline::Members,
                4 => Decline::Diverged,
                5 => Decline::DiskBad,
                6 => Decline::Tainted,
                _ => return None,
            },
        },
        4 => SessionMessage::JoinQuery { session: read_session(r)?, group_state: r.u64()? },
        5 => SessionMessage::JoinReady { session: read_session(r)?, group_state: r.u64()? },
        6 => SessionMessage::Serving { tenure: r.tenure()? },
        7 => SessionMessage::Request {
            number: r.u64()?,
            request: match r.u8()? {
                1 => Request::SwitchOver,
                2 => Request::FailOver,
                3 => Request::SetStarted(false),
                4 => Request::SetStarted(true),
                _ => return None,
            },
        },
        8 => SessionMessage::Reply {
            number: r.u64()?,
            result: match r.u8()? {
                0 => Ok(()),
                code => Err(refusal(code)?),
            },
        },
        9 => SessionMessage::WitnessLost(r.bool()?),
        10 => SessionMessage::DiskBad(r.bool()?),
        11 => SessionMessage::Tainted { epoch: Epoch(r.u64()?), tainted: r.bool()? },
        _ => return None,
    })
}

/// The refusals and their codes on the wire; never renumbered.
const REFUSALS: &[(u8, Refused)] = &[
    (1, Refused::NotInSync),
    (2, Refused::PeerServes),
    (3, Refused::Stale),
    (4, Refused::PeerUnreachable),
    (5, Refused::NotPrimary),
    (6, Refused::AlreadyPrimary),
    (7, Refused::Recovering),
    (8, Refused::Busy),
    (9, Refused::TimedOut),
    (10, Refused::Undecided),
    (11, Refused::PromiseRuns),
    (12, Refused::Started),
    (13, Refused::PeerLinked),
    (14, Refused::Serves),
    (15, Refused::MayBeStale),
    (16, Refused::NotDiverged),
    (17, Refused::PromiseHolds),
    (18, Refused::NotReversed),
    (19, Refused::PrimaryAlone),
    (20, Refused::DiskBad),
    (21, Refused::PeerDiskBad),
];

/// A refusal without a code of its own is told as `Busy`: try again.
fn refusal_code(refused: Refused) -> u8 {
    REFUSALS.iter().find(|(_, known)| *known == refused).map_or(8, |(code, _)| *code)
}

fn refusal(code: u8) -> Option<Refused> {
    REFUSALS.iter().find(|(known, _)| *known == code).map(|(_, refused)| *refused)
}
