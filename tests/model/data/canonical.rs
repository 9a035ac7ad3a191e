//! The digest of a whole state: equal for states that behave alike.

use std::hash::Hash;

use super::world::{Array, Message, Purpose, Sweep, World, hot};
use twinlun::arbitration::{Config, InSync};
use twinlun::block::Op;
use twinlun::mirror::FrameHeader;
use twinlun::mirror::canonical::{Canonical, Names, Scale};

impl World {
    /// 128 bits; two states that differ are taken for one with a chance of one in 2^128 for each pair.
    pub fn digest(&self, into: &mut Canonical) -> u128 {
        into.clear();
        config(&self.chosen, into);
        self.lanes_up.hash(into);
        into.put(self.isolated);
        self.asked.hash(into);
        self.judges.hash(into);
        self.left.hash(into);
        for queue in self.lanes.iter().flatten() {
            queue.iter().for_each(|message| self.message(message, into));
            into.put(u64::MAX);
        }
        for (from, queue) in &self.stale {
            into.put(*from as u64);
            queue.iter().for_each(|message| self.message(message, into));
        }
        into.put(u64::MAX);
        for side in 0..2 {
            into.put(self.in_sync_boots[side] == self.arrays[side].boot);
            self.array(side, into);
        }
        into.digest()
    }

    fn message(&self, message: &Message, into: &mut Canonical) {
        match message {
            Message::Data { volume, header, data, .. } => {
                into.put(0x100 | *volume as u64);
                frame(*volume, header, data, into);
            }
            Message::Given { volume, header, data } => {
                into.put(0x200 | *volume as u64);
                frame(*volume, header, data, into);
            }
            Message::Ack { volume, session, sequence, result } => {
                into.put(0x300 | *volume as u64);
                into.session(*session);
                into.sequence(*volume as u64, *session, *sequence);
                result.hash(into);
            }
        }
    }

    fn array(&self, side: usize, into: &mut Canonical) {
        let array = &self.arrays[side];
        let name = |volume: usize, slot: u32| {
            let held = array.payloads.iter().find(|((of, id), _)| *of == volume && id.slot() == slot);
            held.map_or(u64::MAX - 1, |(_, payload)| u64::from(payload.op) << 8 | u64::from(payload.attempt))
        };
        for (volume, core) in array.volumes.iter().enumerate() {
            let command = |slot| name(volume, slot);
            let names = Names { volume: volume as u64, side: side as u64, command: &command };
            core.canonical(&names, into);
        }
        into.put(array.volumes.len() as u64);
        array.disks.hash(into);
        array.durable.hash(into);
        for write in &array.map_writes {
            into.put(write.is_some());
        }
        for io in &array.ios {
            into.put(io.volume as u64);
            match io.purpose {
                Purpose::Command(_) | Purpose::Compare(_) | Purpose::Mend(_) => {
                    into.put(io.name << 8 | u64::from(matches!(io.purpose, Purpose::Compare(_))));
                    if matches!(io.purpose, Purpose::Mend(_)) {
                        (io.extent, io.data).hash(into);
                    }
                }
                Purpose::Apply(_) => into.put(1_u64 << 60),
                Purpose::Copy(copy) => into.put(1 << 61 | u64::from(copy.slot())),
            }
            if let Some((lane, header)) = &io.frame {
                into.put(lane.0);
                frame(io.volume, header, &io.data, into);
            }
            io.edges.hash(into);
        }
        into.put(u64::MAX);
        self.payloads(array, into);
        let mut applies: Vec<_> = array.applies.iter().map(|((volume, _), frame)| (*volume, frame)).collect();
        applies.sort_unstable_by_key(|(volume, (header, _))| (*volume, header.session, header.sequence));
        for (volume, (header, data)) in applies {
            frame(volume, header, data, into);
        }
        into.put(u64::MAX);
        config(&array.known, into);
        into.put(array.vote.is_some());
        for session in [array.session, array.hello] {
            into.put(session.is_some());
            session.into_iter().for_each(|id| into.session(id));
        }
        let flags =
            [array.lapsed, array.dropping, array.switching, array.voted_away, array.mixed, array.gate_waits];
        flags.hash(into);
        if let Some((sweep, at)) = &array.sweep {
            let kind = match sweep {
                Sweep::Mute => 1_u64,
                Sweep::Close => 2,
                Sweep::Learn(_) => 3,
                Sweep::Gate => 4,
            };
            into.put(kind << 8 | u64::from(*at));
        }
    }

    fn payloads(&self, array: &Array, into: &mut Canonical) {
        let mut kept: Vec<_> = array.payloads.iter().collect();
        kept.sort_unstable_by_key(|(_, payload)| (payload.op, payload.attempt));
        for (_, payload) in kept {
            into.put(u64::from(payload.op) << 8 | u64::from(payload.attempt));
            (payload.answered, payload.freed, payload.known, payload.fetched).hash(into);
            into.put(payload.tenure.is_some());
            payload.tenure.into_iter().for_each(|tenure| into.rank(Scale::Epochs, tenure.epoch.0));
            if self.scenario.script[usize::from(payload.op)].op == Op::Read {
                payload.read.hash(into);
            }
        }
        into.put(u64::MAX);
    }
}

fn config(config: &Config, into: &mut Canonical) {
    into.rank(Scale::Epochs, config.epoch.0);
    into.rank(Scale::Epochs, config.tenure_epoch.0);
    config.primary.hash(into);
    into.put(config.in_sync == InSync::Both);
}

fn frame(volume: usize, header: &FrameHeader, data: &[u8], into: &mut Canonical) {
    into.header(volume as u64, header);
    hot(header.extent).for_each(|at| into.put(data[at]));
}
