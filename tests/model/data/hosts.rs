//! The hosts of an exploration: what they ask for, what they are answered, and what that says of each block.

use std::rc::Rc;

use super::judge::Effect;
use super::scenario::HOT;
use super::world::{Payload, World, hot};
use twinlun::arbitration::Mode;
use twinlun::block::{Op, Outcome, Request};
use twinlun::mirror::*;

impl World {
    pub fn may_submit(&self, op: usize, side: usize) -> bool {
        let asked = &self.asked[op];
        let deed = &self.scenario.script[op];
        let ready = deed.after.is_none_or(|before| self.asked[before].over);
        let fresh = !asked.over && asked.at.is_none() && asked.attempts <= deed.retries;
        let gate = self.arrays[side].volumes.get(deed.volume).map(|volume| volume.gate());
        ready && fresh && gate.is_some_and(|gate| gate.mode != Mode::Closed)
    }

    pub fn submit(&mut self, op: usize, side: usize) -> bool {
        let deed = &self.scenario.script[op];
        let cx = self.cx(side, Some(deed.lane));
        let mut out = Vec::new();
        let volume = deed.volume;
        let Some(core) = self.arrays[side].volumes.get_mut(volume) else { return false };
        let core = Rc::make_mut(core);
        let Ok(id) = core.submit(Request { op: deed.op, extent: deed.extent }, cx, &mut out) else {
            return false;
        };
        let arrives = core.gate().may_start(cx.now) && core.status().store_io_old == 0;
        let tenure = Some(core.gate().tenure).filter(|_| arrives);
        if self.asked[op].attempts == 0 {
            let effect = match deed.op {
                Op::Read => Effect::Read,
                Op::CompareAndWrite => Effect::CompareAndWrite(deed.expected),
                _ => Effect::Write,
            };
            for at in hot(deed.extent) {
                self.judges[volume][at].begin(op, effect);
            }
        }
        let asked = &mut self.asked[op];
        asked.attempts += 1;
        asked.at = Some(side as u8);
        let payload = Payload {
            tenure,
            op: op as u8,
            attempt: asked.attempts,
            read: [0; HOT.len()],
            fetched: None,
            answered: false,
            freed: false,
            known: false,
        };
        self.arrays[side].payloads.insert((volume, id), payload);
        self.carry_out(side, volume, cx, out);
        true
    }

    pub fn abort(&mut self, op: usize) -> bool {
        let Some(side) = self.asked[op].at.map(usize::from) else { return false };
        self.asked[op].aborting = true;
        let volume = self.scenario.script[op].volume;
        let ours = |payload: &Payload| usize::from(payload.op) == op && !payload.answered;
        let found = self.arrays[side].payloads.iter().find(|(_, payload)| ours(payload)).map(|(key, _)| *key);
        let Some((_, id)) = found else { return false };
        let lane = self.scenario.script[op].lane;
        self.call(side, volume, Some(lane), |core, cx, out| core.abort(id, cx, out));
        true
    }

    /// The host's path dies: it tries again elsewhere, and what it left behind may still be carried out.
    pub fn leave(&mut self, op: usize) -> bool {
        let asked = &mut self.asked[op];
        asked.at = None;
        asked.doubtful = true;
        true
    }

    pub fn answered(&mut self, side: usize, volume: usize, command: CommandId, outcome: Outcome) {
        let Some(payload) = self.arrays[side].payloads.get_mut(&(volume, command)) else {
            return self.fail(|| "an answer to nothing".into());
        };
        if core::mem::replace(&mut payload.answered, true) {
            return self.fail(|| "answered twice".into());
        }
        payload.known = !matches!(outcome, Outcome::Refused(_));
        let (op, attempt, read) = (usize::from(payload.op), payload.attempt, payload.read);
        let asked = self.asked[op];
        let current = asked.at == Some(side as u8) && asked.attempts == attempt;
        if current {
            let deed = &self.scenario.script[op];
            let asked = &mut self.asked[op];
            let mut fits = true;
            let judges = &mut self.judges[volume];
            match outcome {
                Outcome::Good | Outcome::Miscompare { .. } => {
                    asked.over = true;
                    for at in hot(deed.extent) {
                        fits &= match (deed.op, outcome) {
                            (Op::Read, _) => judges[at].read(op, read[at]),
                            (_, Outcome::Good) => judges[at].wrote(op),
                            _ => judges[at].differed(op, deed.expected),
                        };
                    }
                }
                Outcome::Aborted => {
                    asked.over = true;
                    if !asked.doubtful {
                        for at in hot(deed.extent) {
                            fits &= judges[at].killed(op);
                        }
                    }
                }
                Outcome::Refused(_) | Outcome::NoSpace | Outcome::ReadError | Outcome::WriteError => {
                    let refused = matches!(outcome, Outcome::Refused(_));
                    let again = refused && asked.attempts <= deed.retries && !asked.aborting;
                    asked.over = !again;
                    asked.doubtful = true;
                    if deed.op == Op::Read && !again {
                        hot(deed.extent).for_each(|at| _ = judges[at].closed(op));
                    }
                }
            }
            asked.at = None;
            if !fits {
                self.fail(|| format!("operation {op}: {outcome:?} of {read:?} fits no order"));
            }
        }
        self.release(side, volume, command);
    }

    pub fn release(&mut self, side: usize, volume: usize, command: CommandId) {
        let array = &mut self.arrays[side];
        let Some(payload) = array.payloads.get(&(volume, command)) else { return };
        if !(payload.answered && payload.freed) {
            return;
        }
        // Rule 9: the abort is confirmed now; nothing more comes of the command.
        let op = usize::from(payload.op);
        let asked = &self.asked[op];
        if asked.aborting && asked.attempts == 1 && !payload.known {
            let extent = self.scenario.script[op].extent;
            hot(extent).for_each(|at| _ = self.judges[volume][at].closed(op));
        }
        self.arrays[side].payloads.remove(&(volume, command));
        self.call(side, volume, None, |core, _, _| core.release(command));
    }
}
