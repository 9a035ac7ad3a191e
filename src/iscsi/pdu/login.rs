//! Login Request and Response (RFC 7143 11.12, 11.13).

use super::{CONTINUE, FINAL, Numbers};
use crate::iscsi::header::{Header, Opcode};
use crate::iscsi::serial::Serial;

/// Login stages as CSG and NSG name them (RFC 7143 11.12.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    #[default]
    SecurityNegotiation,
    LoginOperationalNegotiation,
    /// 2.
    Reserved,
    FullFeaturePhase,
}

impl Stage {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::SecurityNegotiation,
            1 => Self::LoginOperationalNegotiation,
            2 => Self::Reserved,
            _ => Self::FullFeaturePhase,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::SecurityNegotiation => 0,
            Self::LoginOperationalNegotiation => 1,
            Self::Reserved => 2,
            Self::FullFeaturePhase => 3,
        }
    }
}

/// Initiator part of the session identifier (RFC 7143 11.12.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isid(pub [u8; 6]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoginRequest {
    /// T: ready to move on to `next`.
    pub transit: bool,
    /// C: the text goes on in the next request.
    pub more: bool,
    pub current: Stage,
    pub next: Stage,
    pub version_max: u8,
    pub version_min: u8,
    pub isid: Isid,
    /// Zero for a new session.
    pub tsih: u16,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
}

impl LoginRequest {
    pub fn decode(header: &Header) -> Self {
        let flags = header.flags();
        Self {
            transit: flags & FINAL != 0,
            more: flags & CONTINUE != 0,
            current: Stage::from_bits(flags >> 2),
            next: Stage::from_bits(flags),
            version_max: header.u8::<2>(),
            version_min: header.u8::<3>(),
            isid: Isid(header.bytes::<8, 6>()),
            tsih: header.u16::<14>(),
            itt: header.itt(),
            cid: header.u16::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::LoginRequest);
        // A Login Request is always immediate (RFC 7143 11.12).
        header.set_immediate(true);
        header.put_u8::<1>(flags(self.transit, self.more, self.current, self.next));
        header.put_u8::<2>(self.version_max);
        header.put_u8::<3>(self.version_min);
        header.put::<8, 6>(self.isid.0);
        header.put_u16::<14>(self.tsih);
        header.put_u32::<16>(self.itt);
        header.put_u16::<20>(self.cid);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header
    }
}

fn flags(transit: bool, more: bool, current: Stage, next: Stage) -> u8 {
    let mut flags = current.bits() << 2 | next.bits();
    flags |= if transit { FINAL } else { 0 };
    flags |= if more { CONTINUE } else { 0 };
    flags
}

/// Status-Class and Status-Detail (RFC 7143 11.13.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoginStatus {
    pub class: u8,
    pub detail: u8,
}

impl LoginStatus {
    pub const SUCCESS: Self = Self { class: 0, detail: 0 };
    pub const MOVED_TEMPORARILY: Self = Self { class: 1, detail: 1 };
    pub const MOVED_PERMANENTLY: Self = Self { class: 1, detail: 2 };
    pub const INITIATOR_ERROR: Self = Self { class: 2, detail: 0 };
    pub const AUTHENTICATION_FAILURE: Self = Self { class: 2, detail: 1 };
    pub const AUTHORIZATION_FAILURE: Self = Self { class: 2, detail: 2 };
    pub const NOT_FOUND: Self = Self { class: 2, detail: 3 };
    pub const TARGET_REMOVED: Self = Self { class: 2, detail: 4 };
    pub const UNSUPPORTED_VERSION: Self = Self { class: 2, detail: 5 };
    pub const TOO_MANY_CONNECTIONS: Self = Self { class: 2, detail: 6 };
    pub const MISSING_PARAMETER: Self = Self { class: 2, detail: 7 };
    pub const CANNOT_INCLUDE_IN_SESSION: Self = Self { class: 2, detail: 8 };
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self { class: 2, detail: 9 };
    pub const SESSION_DOES_NOT_EXIST: Self = Self { class: 2, detail: 10 };
    pub const INVALID_DURING_LOGIN: Self = Self { class: 2, detail: 11 };
    pub const TARGET_ERROR: Self = Self { class: 3, detail: 0 };
    pub const SERVICE_UNAVAILABLE: Self = Self { class: 3, detail: 1 };
    pub const OUT_OF_RESOURCES: Self = Self { class: 3, detail: 2 };

    pub const fn is_success(self) -> bool {
        self.class == 0
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoginResponse {
    pub transit: bool,
    pub more: bool,
    pub current: Stage,
    pub next: Stage,
    pub version_max: u8,
    pub version_active: u8,
    pub isid: Isid,
    /// Non-zero only in the final response of a login that made a session.
    pub tsih: u16,
    pub itt: u32,
    pub numbers: Numbers,
    pub status: LoginStatus,
}

impl LoginResponse {
    pub fn decode(header: &Header) -> Self {
        let bits = header.flags();
        Self {
            transit: bits & FINAL != 0,
            more: bits & CONTINUE != 0,
            current: Stage::from_bits(bits >> 2),
            next: Stage::from_bits(bits),
            version_max: header.u8::<2>(),
            version_active: header.u8::<3>(),
            isid: Isid(header.bytes::<8, 6>()),
            tsih: header.u16::<14>(),
            itt: header.itt(),
            numbers: Numbers::decode(header),
            status: LoginStatus { class: header.u8::<36>(), detail: header.u8::<37>() },
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::LoginResponse);
        header.put_u8::<1>(flags(self.transit, self.more, self.current, self.next));
        header.put_u8::<2>(self.version_max);
        header.put_u8::<3>(self.version_active);
        header.put::<8, 6>(self.isid.0);
        header.put_u16::<14>(self.tsih);
        header.put_u32::<16>(self.itt);
        self.numbers.encode(&mut header);
        header.put_u8::<36>(self.status.class);
        header.put_u8::<37>(self.status.detail);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_on_the_wire() {
        let request = LoginRequest {
            transit: true,
            next: Stage::LoginOperationalNegotiation,
            isid: Isid([0x80, 1, 2, 3, 4, 5]),
            itt: 1,
            ..LoginRequest::default()
        };
        let bytes = request.encode().0;
        assert_eq!(bytes[..4], [0x43, 0x81, 0, 0]);
        assert_eq!(bytes[8..16], [0x80, 1, 2, 3, 4, 5, 0, 0]);
    }
}
