//! NOP-Out and pings, text requests, and the clock (RFC 7143 11.10, 11.11, 11.18, 11.19).

use super::{Action, Connection, PROTOCOL_ERROR, Phase, TargetRecord, Violation};
use crate::iscsi::frame::Frame;
use crate::iscsi::header::{NO_TAG, Opcode};
use crate::iscsi::negotiation::{Negotiation, SessionType};
use crate::iscsi::pdu::{LoginStatus, NopIn, NopOut, RejectReason, TextRequest, TextResponse};
use crate::iscsi::text::{self, Collector};
use crate::iscsi::window::Arrival;
use crate::time::Time;

/// Longest answer to one text exchange: some 600 portals. What is over is cut at a whole target.
const TEXT_REPLY_MAX: usize = 64 * 1024;
/// Most that is kept of answers to a text exchange: one whole SendTargets, and its keys.
const TEXT_KEPT_MAX: usize = 2 * TEXT_REPLY_MAX;

/// Our NOP-In that the initiator has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    ttt: u32,
    sent: Time,
}

/// A text exchange over several PDUs. One at a time: a new one ends the one before.
#[derive(Clone, Debug)]
pub(super) struct TextExchange {
    ttt: u32,
    request: Collector,
    /// Still to be sent, once the request is complete.
    reply: Vec<u8>,
}

impl Connection {
    /// A whole PDU in full feature phase that is neither a command nor Data-Out.
    pub(super) fn control(&mut self, frame: &Frame<'_>, actions: &mut Vec<Action>) -> Result<(), Violation> {
        let header = &frame.header;
        match header.opcode() {
            Some(Opcode::NopOut) => self.nop_out(frame, actions),
            Some(Opcode::TextRequest) => self.text_request(frame, actions),
            Some(Opcode::TaskRequest) => return self.task_request(header, actions),
            Some(Opcode::LogoutRequest) => self.logout(header, actions),
            // 11.16: error recovery level 0 has no SNACK.
            Some(Opcode::Snack) => self.reject(header, RejectReason::SnackReject),
            // 6.3: no login in full feature phase.
            Some(Opcode::LoginRequest) => return Err(PROTOCOL_ERROR),
            _ => self.reject(header, RejectReason::CommandNotSupported),
        }
        Ok(())
    }

    fn nop_out(&mut self, frame: &Frame<'_>, actions: &mut Vec<Action>) {
        let pdu = NopOut::decode(&frame.header);
        if !pdu.immediate && self.arrive(pdu.cmd_sn, actions) == Arrival::Ignored {
            return;
        }
        if pdu.ttt != NO_TAG && self.ping.is_some_and(|ping| ping.ttt == pdu.ttt) {
            self.ping = None;
        }
        if pdu.itt == NO_TAG {
            // The answer to our ping, or a sign of life: neither is answered.
            return;
        }
        // 11.19: the ping's data comes back, as much as the initiator takes.
        let len = frame.data.len().min(self.parameters.send_max as usize);
        let numbers = self.status_numbers();
        let answer = NopIn { lun: pdu.lun, itt: pdu.itt, ttt: NO_TAG, numbers };
        self.output.push(answer.encode(), frame.data.get(..len).unwrap_or_default(), self.digests);
    }

    fn text_request(&mut self, frame: &Frame<'_>, actions: &mut Vec<Action>) {
        let pdu = TextRequest::decode(&frame.header);
        if !pdu.immediate && self.arrive(pdu.cmd_sn, actions) == Arrival::Ignored {
            return;
        }
        let mut exchange = match self.text.take() {
            _ if pdu.ttt == NO_TAG => {
                TextExchange { ttt: self.new_ttt(), request: Collector::default(), reply: Vec::new() }
            }
            Some(exchange) if exchange.ttt == pdu.ttt => exchange,
            other => {
                self.text = other;
                return self.reject(&frame.header, RejectReason::InvalidPduField);
            }
        };
        // C and F together contradict each other (11.10.2).
        if exchange.request.add(frame.data).is_err() || (pdu.more && pdu.last) {
            return self.reject(&frame.header, RejectReason::ProtocolError);
        }
        let empty = TextResponse {
            last: false,
            more: false,
            lun: pdu.lun,
            itt: pdu.itt,
            ttt: exchange.ttt,
            numbers: self.numbers(),
        };
        if pdu.more {
            let numbers = self.status_numbers();
            self.output.push(TextResponse { numbers, ..empty }.encode(), &[], self.digests);
            self.text = Some(exchange);
            return;
        }
        let request = exchange.request.take();
        match text::parse(&request) {
            Ok(pairs) => {
                for pair in pairs {
                    if pair.key == "SendTargets" {
                        self.send_targets(pair.value, &mut exchange.reply);
                    } else {
                        Negotiation::full_feature(&mut self.parameters, &pair, &mut exchange.reply);
                    }
                }
            }
            Err(_) => return self.reject(&frame.header, RejectReason::ProtocolError),
        }
        // Each request may bring more than one response takes away: an initiator that goes on asking would
        // make it grow without end.
        if exchange.reply.len() > TEXT_KEPT_MAX {
            return self.reject(&frame.header, RejectReason::ProtocolError);
        }
        let part = exchange.reply.len().min(self.parameters.send_max as usize);
        let rest = exchange.reply.split_off(part);
        let more = !rest.is_empty();
        let last = !more && pdu.last;
        let numbers = self.status_numbers();
        let response =
            TextResponse { last, more, ttt: if last { NO_TAG } else { exchange.ttt }, numbers, ..empty };
        self.output.push(response.encode(), &exchange.reply, self.digests);
        if !last {
            exchange.reply = rest;
            self.text = Some(exchange);
        }
    }

    /// RFC 7143 appendix C.
    fn send_targets(&self, which: &str, reply: &mut Vec<u8>) {
        let own = &self.target.name;
        let discovery = self.session_type == SessionType::Discovery;
        let wanted = |record: &&TargetRecord| match which {
            "All" => true,
            "" => record.name == *own,
            name => record.name == name.to_lowercase() && (discovery || record.name == *own),
        };
        // "All" belongs to discovery sessions, the empty value to normal ones.
        if (which == "All" && !discovery) || (which.is_empty() && discovery) {
            return text::push(reply, "SendTargets", "Reject");
        }
        for record in self.targets.iter().filter(wanted) {
            let start = reply.len();
            text::push(reply, "TargetName", &record.name);
            for (address, tag) in &record.portals {
                text::push(reply, "TargetAddress", &format!("{address},{tag}"));
            }
            if reply.len() > TEXT_REPLY_MAX {
                reply.truncate(start);
                return;
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_timeout(&self) -> Time {
        let own = match self.phase {
            Phase::Login(_) | Phase::Establishing(_) => self.opened + self.limits.login_timeout,
            Phase::FullFeature => match self.ping {
                Some(ping) => ping.sent + self.limits.ping_timeout,
                None => self.last_received + self.limits.idle_before_ping,
            },
            Phase::LoggingOut | Phase::Closing => Time::FOREVER,
        };
        own.min(self.logout_deadline.unwrap_or(Time::FOREVER)).min(self.discovery_end())
    }

    /// When a discovery session is over at the latest.
    fn discovery_end(&self) -> Time {
        match self.session_type {
            SessionType::Discovery => self.opened + self.limits.discovery_lifetime,
            SessionType::Normal => Time::FOREVER,
        }
    }

    /// Does what is due at `now`: ends a login that takes too long, pings an idle initiator, gives
    /// up a dead one.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.logout_deadline.is_some_and(|deadline| deadline <= now) || self.discovery_end() <= now {
            self.phase = Phase::Closing;
            return;
        }
        match self.phase {
            Phase::Login(_) if self.opened + self.limits.login_timeout <= now => self.phase = Phase::Closing,
            Phase::Establishing(_) if self.opened + self.limits.login_timeout <= now => {
                self.refused(LoginStatus::SERVICE_UNAVAILABLE);
            }
            Phase::FullFeature => match self.ping {
                // Anything received is a sign of life, an answer or not.
                Some(ping) if self.last_received > ping.sent => self.ping = None,
                Some(ping) if ping.sent + self.limits.ping_timeout <= now => self.phase = Phase::Closing,
                None if self.last_received + self.limits.idle_before_ping <= now => self.send_ping(now),
                _ => {}
            },
            _ => {}
        }
    }

    fn send_ping(&mut self, now: Time) {
        let ttt = self.new_ttt();
        // 11.19: StatSN does not advance with a ping.
        let ping = NopIn { lun: 0, itt: NO_TAG, ttt, numbers: self.numbers() };
        self.output.push(ping.encode(), &[], self.digests);
        self.ping = Some(Ping { ttt, sent: now });
    }
}
