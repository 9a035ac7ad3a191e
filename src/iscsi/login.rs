//! The login phase of one connection (RFC 7143 6.3), target's side.
//!
//! ```text
//!            T, NSG=1                     T, NSG=3
//!  Security ---------> Operational ------------------> Establish -> full feature phase
//!     |                                                    ^
//!     +---------------------- T, NSG=3 --------------------+
//! ```
//! A login may start in either stage. The only authentication is none; CHAP's exchange belongs into
//! the security stage, between `AuthMethod` and the transit.

use super::negotiation::{Negotiation, Parameters, RECEIVE_MAX, SessionType, push_number};
use super::pdu::{Isid, LoginRequest, LoginResponse, LoginStatus, Stage};
use super::text::{self, Collector};

/// Longest data segment of a login PDU, either way: the default of MaxRecvDataSegmentLength, as
/// what is declared counts from full feature phase only (RFC 7143 13.12).
pub const LOGIN_DATA_MAX: usize = 8192;
/// Most requests of one login. The longest honest one takes some eight, with CHAP and both stages.
const REQUESTS_MAX: u32 = 32;
/// The one version of the protocol (RFC 7143 11.12.6).
const VERSION: u8 = 0;

/// Whom an initiator logs in to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetIdentity {
    /// iSCSI name, in lower case.
    pub name: String,
    /// Shown to the initiator's administrator; may be empty.
    pub alias: String,
    /// TargetPortalGroupTag of the portal.
    pub portal_group_tag: u16,
}

/// A login that has come to its end but for the session itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    pub initiator_name: String,
    pub initiator_alias: String,
    pub isid: Isid,
    /// Zero: a new session, or the reinstatement of the one with the same initiator name and ISID
    /// (RFC 7143 6.3.5). Otherwise the session to reinstate the connection of.
    pub tsih: u16,
    pub cid: u16,
    pub session_type: SessionType,
    pub parameters: Parameters,
}

/// What to do after a login request. The connection fills in the sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Send it, wait for the next request.
    Respond(LoginResponse, Vec<u8>),
    /// Make the session; then send it, with the TSIH.
    Establish(LoginResponse, Vec<u8>, Box<Candidate>),
    /// Send it and close.
    Fail(LoginResponse),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    isid: Isid,
    tsih: u16,
    cid: u16,
}

/// State of a login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Login {
    identity: Option<Identity>,
    stage: Stage,
    /// The first complete text was taken.
    introduced: bool,
    /// Our MaxRecvDataSegmentLength was declared.
    declared: bool,
    requests: u32,
    text: Collector,
    negotiation: Negotiation,
}

impl Login {
    /// Takes one request with its data segment.
    pub fn request(&mut self, target: &TargetIdentity, request: &LoginRequest, data: &[u8]) -> Step {
        match self.step(target, request, data) {
            Ok(step) => step,
            Err(status) => Step::Fail(LoginResponse { status, ..answer(request) }),
        }
    }

    fn step(
        &mut self,
        target: &TargetIdentity,
        request: &LoginRequest,
        data: &[u8],
    ) -> Result<Step, LoginStatus> {
        self.requests += 1;
        if request.version_min > VERSION {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        if self.requests > REQUESTS_MAX || !self.same_login(request) {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        self.text.add(data).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        if request.more {
            // 6.2: a text that goes on is answered empty, and cannot end a stage.
            return match request.transit {
                true => Err(LoginStatus::INITIATOR_ERROR),
                false => Ok(Step::Respond(answer(request), Vec::new())),
            };
        }
        let mut reply = Vec::new();
        let text = self.text.take();
        let pairs = text::parse(&text).map_err(|_| LoginStatus::INITIATOR_ERROR)?;
        self.negotiation.login(&pairs, self.stage, &mut reply)?;
        if self.negotiation.authentication_refused {
            return Err(LoginStatus::AUTHENTICATION_FAILURE);
        }
        if !self.introduced {
            self.introduce(target, &mut reply)?;
        }
        if self.stage == Stage::LoginOperationalNegotiation && !self.declared {
            self.declared = true;
            push_number(&mut reply, "MaxRecvDataSegmentLength", RECEIVE_MAX);
        }
        if reply.len() > LOGIN_DATA_MAX {
            // Only a heap of unknown keys can be that long.
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let mut response = answer(request);
        if !request.transit {
            return Ok(Step::Respond(response, reply));
        }
        response.transit = true;
        response.next = request.next;
        match (self.stage, request.next) {
            (Stage::SecurityNegotiation, Stage::LoginOperationalNegotiation) => {
                self.stage = request.next;
                Ok(Step::Respond(response, reply))
            }
            (Stage::SecurityNegotiation | Stage::LoginOperationalNegotiation, Stage::FullFeaturePhase) => {
                Ok(Step::Establish(response, reply, Box::new(self.candidate(request))))
            }
            _ => Err(LoginStatus::INITIATOR_ERROR),
        }
    }

    /// ISID, TSIH and CID stay the same during one login, and the stage is the one both are in
    /// (RFC 7143 11.12.3).
    fn same_login(&mut self, request: &LoginRequest) -> bool {
        let identity = Identity { isid: request.isid, tsih: request.tsih, cid: request.cid };
        match self.identity {
            Some(known) => known == identity && request.current == self.stage,
            None => {
                self.identity = Some(identity);
                self.stage = request.current;
                matches!(request.current, Stage::SecurityNegotiation | Stage::LoginOperationalNegotiation)
            }
        }
    }

    /// The first request says who speaks, and to whom (RFC 7143 6.3).
    fn introduce(&mut self, target: &TargetIdentity, reply: &mut Vec<u8>) -> Result<(), LoginStatus> {
        self.introduced = true;
        if !self.negotiation.has_initiator_name() {
            return Err(LoginStatus::MISSING_PARAMETER);
        }
        if self.negotiation.session_type == SessionType::Discovery {
            return Ok(());
        }
        if !self.negotiation.has_target_name() {
            return Err(LoginStatus::MISSING_PARAMETER);
        }
        if self.negotiation.target_name != target.name {
            return Err(LoginStatus::NOT_FOUND);
        }
        if !target.alias.is_empty() {
            text::push(reply, "TargetAlias", &target.alias);
        }
        push_number(reply, "TargetPortalGroupTag", u32::from(target.portal_group_tag));
        Ok(())
    }

    fn candidate(&self, request: &LoginRequest) -> Candidate {
        Candidate {
            initiator_name: self.negotiation.initiator_name.clone(),
            initiator_alias: self.negotiation.initiator_alias.clone(),
            isid: request.isid,
            tsih: request.tsih,
            cid: request.cid,
            session_type: self.negotiation.session_type,
            parameters: self.negotiation.parameters,
        }
    }
}

/// The response that says no more than "received".
fn answer(request: &LoginRequest) -> LoginResponse {
    LoginResponse {
        current: request.current,
        version_max: VERSION,
        version_active: VERSION,
        isid: request.isid,
        tsih: request.tsih,
        itt: request.itt,
        ..LoginResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> TargetIdentity {
        TargetIdentity { name: "iqn.2026-01.t:a".into(), alias: String::new(), portal_group_tag: 1 }
    }

    fn request(current: Stage, next: Option<Stage>) -> LoginRequest {
        LoginRequest {
            transit: next.is_some(),
            current,
            next: next.unwrap_or_default(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            ..LoginRequest::default()
        }
    }

    const WHO: &[u8] = b"InitiatorName=iqn.2026-01.h:One\0TargetName=iqn.2026-01.t:a\0";

    #[test]
    fn both_stages() {
        let mut login = Login::default();
        let security = request(Stage::SecurityNegotiation, Some(Stage::LoginOperationalNegotiation));
        let Step::Respond(response, text) =
            login.request(&target(), &security, &[WHO, b"AuthMethod=None\0"].concat())
        else {
            panic!()
        };
        assert!(response.transit && response.status.is_success());
        assert_eq!(text, b"AuthMethod=None\0TargetPortalGroupTag=1\0");
        let operational = request(Stage::LoginOperationalNegotiation, Some(Stage::FullFeaturePhase));
        let Step::Establish(response, text, candidate) =
            login.request(&target(), &operational, b"InitialR2T=No\0")
        else {
            panic!()
        };
        assert_eq!(response.next, Stage::FullFeaturePhase);
        assert_eq!(text, b"InitialR2T=No\0MaxRecvDataSegmentLength=262144\0");
        assert_eq!(candidate.initiator_name, "iqn.2026-01.h:one");
        assert!(!candidate.parameters.initial_r2t);
    }

    #[test]
    fn a_text_over_several_requests() {
        let mut login = Login::default();
        let mut first = request(Stage::LoginOperationalNegotiation, None);
        first.more = true;
        let cut = WHO.len() - 9;
        assert!(
            matches!(login.request(&target(), &first, &WHO[..cut]), Step::Respond(_, text) if text.is_empty())
        );
        let last = request(Stage::LoginOperationalNegotiation, Some(Stage::FullFeaturePhase));
        assert!(matches!(login.request(&target(), &last, &WHO[cut..]), Step::Establish(..)));
    }

    fn failure(requests: &[(LoginRequest, &[u8])]) -> LoginStatus {
        let mut login = Login::default();
        let mut last = LoginStatus::SUCCESS;
        for (request, text) in requests {
            last = match login.request(&target(), request, text) {
                Step::Fail(response) => response.status,
                _ => LoginStatus::SUCCESS,
            };
        }
        last
    }

    #[test]
    fn what_is_refused_and_how() {
        let op = request(Stage::LoginOperationalNegotiation, Some(Stage::FullFeaturePhase));
        let missing = LoginStatus::MISSING_PARAMETER;
        assert_eq!(failure(&[(op, b"")]), missing);
        assert_eq!(failure(&[(op, b"InitiatorName=iqn.a\0")]), missing);
        assert_eq!(failure(&[(op, b"InitiatorName=iqn.a\0TargetName=iqn.other\0")]), LoginStatus::NOT_FOUND);
        assert_eq!(
            failure(&[(LoginRequest { version_min: 1, ..op }, WHO)]),
            LoginStatus::UNSUPPORTED_VERSION
        );
        let wrong = LoginStatus::INITIATOR_ERROR;
        assert_eq!(failure(&[(op, b"not text")]), wrong);
        assert_eq!(failure(&[(LoginRequest { more: true, ..op }, WHO)]), wrong);
        assert_eq!(failure(&[(request(Stage::FullFeaturePhase, None), WHO)]), wrong);
        assert_eq!(failure(&[(request(Stage::Reserved, None), WHO)]), wrong);
        let back = request(Stage::LoginOperationalNegotiation, Some(Stage::SecurityNegotiation));
        assert_eq!(failure(&[(back, WHO)]), wrong);
        let stay = request(Stage::LoginOperationalNegotiation, None);
        assert_eq!(failure(&[(stay, WHO), (LoginRequest { cid: 7, ..stay }, b"")]), wrong);
        assert_eq!(
            failure(&[(request(Stage::SecurityNegotiation, None), &[WHO, b"AuthMethod=SRP\0"].concat())]),
            LoginStatus::AUTHENTICATION_FAILURE
        );
    }

    #[test]
    fn a_login_without_end_ends() {
        let mut requests = vec![(request(Stage::LoginOperationalNegotiation, None), WHO)];
        let again = request(Stage::LoginOperationalNegotiation, None);
        requests.extend((0..REQUESTS_MAX).map(|_| (again, &b""[..])));
        assert_eq!(failure(&requests), LoginStatus::INITIATOR_ERROR);
    }
}
