//! Every key of RFC 7143 section 13, each by its own rule, from the target's side.

use super::digest::Digests;
use super::header::DATA_SEGMENT_MAX;
use super::pdu::{LoginStatus, Stage};
use super::text::{self, Pair};

/// What a session is for (RFC 7143 13.21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionType {
    Discovery,
    #[default]
    Normal,
}

/// What both ends agreed on, from the target's point of view; starts with the standard's defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameters {
    pub digests: Digests,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// Longest data segment the initiator takes (its MaxRecvDataSegmentLength), in bytes.
    pub send_max: u32,
    /// MaxBurstLength in bytes.
    pub max_burst: u32,
    /// FirstBurstLength in bytes; never above `max_burst`.
    pub first_burst: u32,
    pub max_outstanding_r2t: u32,
    /// Seconds.
    pub time2wait: u16,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            digests: Digests::NONE,
            initial_r2t: true,
            immediate_data: true,
            send_max: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
            time2wait: 2,
        }
    }
}

/// Our MaxRecvDataSegmentLength: long enough that a 256 KiB write comes as one PDU.
pub const RECEIVE_MAX: u32 = 262_144;
/// Our MaxBurstLength: fewer R2Ts for the largest transfers; costs nothing, the payload's memory is
/// there already.
const MAX_BURST: u32 = 4 << 20;
/// Our FirstBurstLength: what every command may bring unasked.
const FIRST_BURST: u32 = 262_144;
/// Most R2Ts of one command on their way at once.
pub const OUTSTANDING_R2T: usize = 4;
/// Smallest of every length key.
const LENGTH_MIN: u32 = 512;
const LENGTH_MAX: u32 = (1 << 24) - 1;
const _: () = assert!(LENGTH_MAX as usize == DATA_SEGMENT_MAX);
/// Longest iSCSI name in bytes (RFC 7143 4.2.7.1).
const NAME_MAX: usize = 223;

/// Keys with a rule here. The order is only that of the bits in [`KeySet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Key {
    AuthMethod,
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    TargetName,
    InitiatorName,
    TargetAlias,
    InitiatorAlias,
    TargetAddress,
    TargetPortalGroupTag,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    SessionType,
    ProtocolLevel,
    TaskReporting,
    NodeArchitecture,
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
    RdmaExtensions,
}

const KEYS: &[(&str, Key)] = &[
    ("AuthMethod", Key::AuthMethod),
    ("HeaderDigest", Key::HeaderDigest),
    ("DataDigest", Key::DataDigest),
    ("MaxConnections", Key::MaxConnections),
    ("SendTargets", Key::SendTargets),
    ("TargetName", Key::TargetName),
    ("InitiatorName", Key::InitiatorName),
    ("TargetAlias", Key::TargetAlias),
    ("InitiatorAlias", Key::InitiatorAlias),
    ("TargetAddress", Key::TargetAddress),
    ("TargetPortalGroupTag", Key::TargetPortalGroupTag),
    ("InitialR2T", Key::InitialR2T),
    ("ImmediateData", Key::ImmediateData),
    ("MaxRecvDataSegmentLength", Key::MaxRecvDataSegmentLength),
    ("MaxBurstLength", Key::MaxBurstLength),
    ("FirstBurstLength", Key::FirstBurstLength),
    ("DefaultTime2Wait", Key::DefaultTime2Wait),
    ("DefaultTime2Retain", Key::DefaultTime2Retain),
    ("MaxOutstandingR2T", Key::MaxOutstandingR2T),
    ("DataPDUInOrder", Key::DataPduInOrder),
    ("DataSequenceInOrder", Key::DataSequenceInOrder),
    ("ErrorRecoveryLevel", Key::ErrorRecoveryLevel),
    ("SessionType", Key::SessionType),
    ("iSCSIProtocolLevel", Key::ProtocolLevel),
    ("TaskReporting", Key::TaskReporting),
    ("X#NodeArchitecture", Key::NodeArchitecture),
    ("IFMarker", Key::IfMarker),
    ("OFMarker", Key::OfMarker),
    ("IFMarkInt", Key::IfMarkInt),
    ("OFMarkInt", Key::OfMarkInt),
    ("RDMAExtensions", Key::RdmaExtensions),
];

impl Key {
    fn named(name: &str) -> Option<Self> {
        KEYS.iter().find(|(known, _)| *known == name).map(|(_, key)| *key)
    }

    /// Keys whose value says who speaks to whom; allowed in every stage of login.
    const fn names_a_party(self) -> bool {
        matches!(
            self,
            Self::InitiatorName
                | Self::TargetName
                | Self::InitiatorAlias
                | Self::SessionType
                | Self::NodeArchitecture
                | Self::AuthMethod
        )
    }

    /// Keys that mean nothing in a discovery session (RFC 7143 13.2, 13.10, 13.11, 13.13, 13.14,
    /// 13.17-13.19).
    const fn irrelevant_in_discovery(self) -> bool {
        matches!(
            self,
            Self::MaxConnections
                | Self::InitialR2T
                | Self::ImmediateData
                | Self::MaxBurstLength
                | Self::FirstBurstLength
                | Self::MaxOutstandingR2T
                | Self::DataPduInOrder
                | Self::DataSequenceInOrder
                | Self::TaskReporting
        )
    }
}

/// Keys met so far: none is negotiated twice in one login (RFC 7143 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct KeySet(u64);

impl KeySet {
    /// False when it was there.
    fn insert(&mut self, key: Key) -> bool {
        let bit = 1 << key as u8;
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    const fn has(self, key: Key) -> bool {
        self.0 & 1 << key as u8 != 0
    }
}

/// What a pair is answered with.
enum Answer {
    Value(&'static str),
    Number(u32),
    /// A declaration: no answer.
    Silent,
    Reject,
    Irrelevant,
}

/// The initiator's keys as they come in, and what they agree to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Negotiation {
    pub parameters: Parameters,
    pub session_type: SessionType,
    pub initiator_name: String,
    pub initiator_alias: String,
    pub target_name: String,
    /// The initiator offered AuthMethod without a method that is acceptable here.
    pub authentication_refused: bool,
    met: KeySet,
}

impl Negotiation {
    /// Takes the pairs of one login request and appends the answers to `reply`.
    ///
    /// Errors are those that end the login; a value that is merely not acceptable is answered with
    /// `Reject` (RFC 7143 6.2).
    pub fn login(
        &mut self,
        pairs: &[Pair<'_>],
        stage: Stage,
        reply: &mut Vec<u8>,
    ) -> Result<(), LoginStatus> {
        // The answer to FirstBurstLength depends on MaxBurstLength, InitialR2T and ImmediateData,
        // and an initiator may send them in any order: it is answered last.
        let (first_burst, others): (Vec<&Pair<'_>>, Vec<&Pair<'_>>) =
            pairs.iter().partition(|pair| Key::named(pair.key) == Some(Key::FirstBurstLength));
        // SessionType decides what is irrelevant, so it is looked at first.
        for pair in others.iter().filter(|pair| pair.key == "SessionType") {
            self.session_type = match pair.value {
                "Discovery" => SessionType::Discovery,
                "Normal" => SessionType::Normal,
                _ => return Err(LoginStatus::SESSION_TYPE_NOT_SUPPORTED),
            };
        }
        for pair in others.into_iter().chain(first_burst) {
            self.one(pair, stage, reply)?;
        }
        self.parameters.first_burst = self.parameters.first_burst.min(self.parameters.max_burst);
        Ok(())
    }

    /// The keys that may come in full feature phase besides SendTargets: only a new
    /// MaxRecvDataSegmentLength (RFC 7143 13.12) means anything then.
    pub fn full_feature(parameters: &mut Parameters, pair: &Pair<'_>, reply: &mut Vec<u8>) {
        match Key::named(pair.key) {
            Some(Key::MaxRecvDataSegmentLength) => match length(pair.value) {
                Some(bytes) => parameters.send_max = bytes,
                None => text::push(reply, pair.key, "Reject"),
            },
            Some(Key::InitiatorAlias | Key::NodeArchitecture) => {}
            Some(_) => text::push(reply, pair.key, "Reject"),
            None => text::push(reply, pair.key, "NotUnderstood"),
        }
    }

    pub fn has_initiator_name(&self) -> bool {
        self.met.has(Key::InitiatorName)
    }

    pub fn has_target_name(&self) -> bool {
        self.met.has(Key::TargetName)
    }

    /// Has the initiator negotiated anything operational yet?
    pub const fn has_receive_max(&self) -> bool {
        self.met.has(Key::MaxRecvDataSegmentLength)
    }

    fn one(&mut self, pair: &Pair<'_>, stage: Stage, reply: &mut Vec<u8>) -> Result<(), LoginStatus> {
        let Some(key) = Key::named(pair.key) else {
            text::push(reply, pair.key, "NotUnderstood");
            return Ok(());
        };
        if !self.met.insert(key) {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        // Operational keys belong to the operational stage (RFC 7143 6.3.2).
        if stage == Stage::SecurityNegotiation && !key.names_a_party() {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        let answer = if self.session_type == SessionType::Discovery && key.irrelevant_in_discovery() {
            Answer::Irrelevant
        } else {
            self.answer(key, pair.value)?
        };
        match answer {
            Answer::Value(value) => text::push(reply, pair.key, value),
            Answer::Number(value) => text::push(reply, pair.key, &value.to_string()),
            Answer::Silent => {}
            Answer::Reject => text::push(reply, pair.key, "Reject"),
            Answer::Irrelevant => text::push(reply, pair.key, "Irrelevant"),
        }
        Ok(())
    }

    fn answer(&mut self, key: Key, value: &str) -> Result<Answer, LoginStatus> {
        let parameters = &mut self.parameters;
        Ok(match key {
            Key::InitiatorName => {
                self.initiator_name = name(value)?;
                Answer::Silent
            }
            Key::TargetName => {
                self.target_name = name(value)?;
                Answer::Silent
            }
            Key::InitiatorAlias => {
                value.clone_into(&mut self.initiator_alias);
                Answer::Silent
            }
            Key::SessionType | Key::NodeArchitecture => Answer::Silent,
            // 13.1, 12.1: no method but None yet; CHAP is answered here when it comes.
            Key::AuthMethod => match select(value, &["None"]) {
                Some(method) => Answer::Value(method),
                None => {
                    self.authentication_refused = true;
                    Answer::Reject
                }
            },
            Key::HeaderDigest => digest(value, &mut parameters.digests.header),
            Key::DataDigest => digest(value, &mut parameters.digests.data),
            Key::MaxConnections => least(value, 1, 65_535, 1, |_| ()),
            Key::InitialR2T => boolean(value, |offer| {
                parameters.initial_r2t = offer;
                offer
            }),
            Key::ImmediateData => boolean(value, |offer| {
                parameters.immediate_data = offer;
                offer
            }),
            Key::MaxRecvDataSegmentLength => match length(value) {
                Some(bytes) => {
                    parameters.send_max = bytes;
                    Answer::Silent
                }
                None => Answer::Reject,
            },
            Key::MaxBurstLength => {
                least(value, LENGTH_MIN, LENGTH_MAX, MAX_BURST, |agreed| parameters.max_burst = agreed)
            }
            Key::FirstBurstLength if parameters.initial_r2t && !parameters.immediate_data => {
                Answer::Irrelevant
            }
            Key::FirstBurstLength => {
                let ours = FIRST_BURST.min(parameters.max_burst);
                least(value, LENGTH_MIN, LENGTH_MAX, ours, |agreed| parameters.first_burst = agreed)
            }
            // The larger of both; this target asks for none, its sessions may come back at once.
            Key::DefaultTime2Wait => match ranged(value, 0, 3600) {
                Some(seconds) => {
                    parameters.time2wait = u16::try_from(seconds).unwrap_or(u16::MAX);
                    Answer::Number(seconds)
                }
                None => Answer::Reject,
            },
            // No task outlives its connection at error recovery level 0.
            Key::DefaultTime2Retain => least(value, 0, 3600, 0, |_| ()),
            Key::MaxOutstandingR2T => {
                let ours = u32::try_from(OUTSTANDING_R2T).unwrap_or(1);
                least(value, 1, 65_535, ours, |agreed| parameters.max_outstanding_r2t = agreed)
            }
            // OR, and this target takes data in order only.
            Key::DataPduInOrder | Key::DataSequenceInOrder => boolean(value, |_| true),
            Key::ErrorRecoveryLevel => least(value, 0, 2, 0, |_| ()),
            Key::ProtocolLevel => least(value, 0, 31, 1, |_| ()),
            Key::TaskReporting => match select(value, &["RFC3720"]) {
                Some(behaviour) => Answer::Value(behaviour),
                None => Answer::Reject,
            },
            // 13.23: obsolete, but never NotUnderstood.
            Key::IfMarker | Key::OfMarker => boolean(value, |_| false),
            Key::IfMarkInt | Key::OfMarkInt => Answer::Reject,
            Key::RdmaExtensions => boolean(value, |_| false),
            // The target's own to declare, or not for login at all.
            Key::TargetAlias | Key::TargetAddress | Key::TargetPortalGroupTag | Key::SendTargets => {
                return Err(LoginStatus::INITIATOR_ERROR);
            }
        })
    }
}

fn name(value: &str) -> Result<String, LoginStatus> {
    // The three forms of RFC 7143 4.2.7.2; what follows the prefix is only compared, never parsed.
    let known = ["iqn.", "eui.", "naa."].iter().any(|form| value.starts_with(form));
    if known && value.len() <= NAME_MAX {
        // Names compare without case (4.2.7.2: prepared strings are in lower case).
        Ok(value.to_lowercase())
    } else {
        Err(LoginStatus::INITIATOR_ERROR)
    }
}

/// A list value: the first of the initiator's choices that is among ours (RFC 7143 6.2.1).
fn select(value: &str, ours: &[&'static str]) -> Option<&'static str> {
    value.split(',').find_map(|choice| ours.iter().find(|known| **known == choice).copied())
}

fn digest(value: &str, on: &mut bool) -> Answer {
    match select(value, &["CRC32C", "None"]) {
        Some(choice) => {
            *on = choice == "CRC32C";
            Answer::Value(choice)
        }
        None => Answer::Reject,
    }
}

/// A boolean value; `agree` turns the offer into the result (RFC 7143 6.2.2).
fn boolean(value: &str, agree: impl FnOnce(bool) -> bool) -> Answer {
    let offer = match value {
        "Yes" => true,
        "No" => false,
        _ => return Answer::Reject,
    };
    Answer::Value(if agree(offer) { "Yes" } else { "No" })
}

fn ranged(value: &str, low: u32, high: u32) -> Option<u32> {
    text::number(value).filter(|number| (low..=high).contains(number))
}

fn length(value: &str) -> Option<u32> {
    ranged(value, LENGTH_MIN, LENGTH_MAX)
}

/// A numerical value whose result is the smaller one.
fn least(value: &str, low: u32, high: u32, ours: u32, agree: impl FnOnce(u32)) -> Answer {
    match ranged(value, low, high) {
        Some(offer) => {
            agree(offer.min(ours));
            Answer::Number(offer.min(ours))
        }
        None => Answer::Reject,
    }
}

/// Appends `key=value` with a number.
pub fn push_number(reply: &mut Vec<u8>, key: &str, value: u32) {
    text::push(reply, key, &value.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn negotiate(offer: &str) -> (Negotiation, Result<(), LoginStatus>, String) {
        let bytes: Vec<u8> = offer.split(' ').flat_map(|pair| [pair.as_bytes(), b"\0"].concat()).collect();
        let mut negotiation = Negotiation::default();
        let mut reply = Vec::new();
        let pairs = text::parse(&bytes).unwrap();
        let result = negotiation.login(&pairs, Stage::LoginOperationalNegotiation, &mut reply);
        let reply = String::from_utf8(reply).unwrap().trim_end_matches('\0').replace('\0', " ");
        (negotiation, result, reply)
    }

    #[test]
    fn each_key_by_its_rule() {
        for (offer, reply) in [
            ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
            ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
            ("DataDigest=X-secret", "DataDigest=Reject"),
            ("MaxConnections=8", "MaxConnections=1"),
            ("MaxConnections=0", "MaxConnections=Reject"),
            ("InitialR2T=No", "InitialR2T=No"),
            ("InitialR2T=Yes", "InitialR2T=Yes"),
            ("InitialR2T=yes", "InitialR2T=Reject"),
            ("ImmediateData=Yes", "ImmediateData=Yes"),
            ("ImmediateData=No", "ImmediateData=No"),
            ("MaxRecvDataSegmentLength=65536", ""),
            ("MaxRecvDataSegmentLength=511", "MaxRecvDataSegmentLength=Reject"),
            ("MaxBurstLength=16776192", "MaxBurstLength=4194304"),
            ("MaxBurstLength=16777216", "MaxBurstLength=Reject"),
            ("FirstBurstLength=0x2000", "FirstBurstLength=8192"),
            ("FirstBurstLength=16777215", "FirstBurstLength=262144"),
            // The order of keys does not matter.
            ("FirstBurstLength=262144 MaxBurstLength=65536", "MaxBurstLength=65536 FirstBurstLength=65536"),
            (
                "FirstBurstLength=262144 InitialR2T=Yes ImmediateData=No",
                "InitialR2T=Yes ImmediateData=No FirstBurstLength=Irrelevant",
            ),
            ("DefaultTime2Wait=2", "DefaultTime2Wait=2"),
            ("DefaultTime2Retain=20", "DefaultTime2Retain=0"),
            ("MaxOutstandingR2T=1", "MaxOutstandingR2T=1"),
            ("MaxOutstandingR2T=65535", "MaxOutstandingR2T=4"),
            ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
            ("DataSequenceInOrder=No", "DataSequenceInOrder=Yes"),
            ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=0"),
            ("ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject"),
            ("iSCSIProtocolLevel=2", "iSCSIProtocolLevel=1"),
            ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720"),
            ("IFMarker=Yes OFMarkInt=1~2", "IFMarker=No OFMarkInt=Reject"),
            ("RDMAExtensions=Yes", "RDMAExtensions=No"),
            ("AuthMethod=CHAP,None", "AuthMethod=None"),
            ("X-org.example.hop=3", "X-org.example.hop=NotUnderstood"),
            ("Frobnicate=Yes", "Frobnicate=NotUnderstood"),
            ("SessionType=Discovery MaxBurstLength=512", "MaxBurstLength=Irrelevant"),
        ] {
            let (_, result, said) = negotiate(offer);
            assert_eq!(result, Ok(()), "{offer}");
            assert_eq!(said, reply, "{offer}");
        }
    }

    #[test]
    fn what_ends_a_login() {
        for (offer, status) in [
            ("HeaderDigest=None HeaderDigest=None", LoginStatus::INITIATOR_ERROR),
            ("TargetAddress=1.2.3.4", LoginStatus::INITIATOR_ERROR),
            ("SessionType=Both", LoginStatus::SESSION_TYPE_NOT_SUPPORTED),
            ("InitiatorName=fred", LoginStatus::INITIATOR_ERROR),
        ] {
            assert_eq!(negotiate(offer).1, Err(status), "{offer}");
        }
        let (negotiation, _, reply) = negotiate("AuthMethod=KRB5");
        assert!(negotiation.authentication_refused);
        assert_eq!(reply, "AuthMethod=Reject");
    }

    #[test]
    fn results_are_kept() {
        let (negotiation, ..) = negotiate(
            "HeaderDigest=CRC32C DataDigest=CRC32C InitialR2T=No MaxBurstLength=65536 MaxRecvDataSegmentLength=4096",
        );
        let agreed = negotiation.parameters;
        assert_eq!(agreed.digests, Digests { header: true, data: true });
        assert!(!agreed.initial_r2t && agreed.immediate_data);
        assert_eq!((agreed.max_burst, agreed.first_burst, agreed.send_max), (65_536, 65_536, 4096));
    }

    #[test]
    fn operational_keys_wait_for_their_stage() {
        let mut negotiation = Negotiation::default();
        let pair = Pair { key: "MaxBurstLength", value: "65536" };
        assert_eq!(
            negotiation.login(&[pair], Stage::SecurityNegotiation, &mut Vec::new()),
            Err(LoginStatus::INITIATOR_ERROR)
        );
    }

    proptest! {
        #[test]
        fn no_value_breaks_a_rule(
            at in 0..KEYS.len(),
            value in prop_oneof!["[ -~]{0,30}", "[0-9]{1,12}", "0x[0-9a-f]{1,9}", "(Yes|No|None|CRC32C)(,[A-Z]{1,4})?"],
        ) {
            let mut negotiation = Negotiation::default();
            let pair = Pair { key: KEYS[at].0, value: &value };
            let _ = negotiation.login(&[pair], Stage::LoginOperationalNegotiation, &mut Vec::new());
            let agreed = negotiation.parameters;
            prop_assert!(agreed.first_burst <= agreed.max_burst && agreed.first_burst >= LENGTH_MIN);
            prop_assert!((LENGTH_MIN..=LENGTH_MAX).contains(&agreed.send_max));
            prop_assert!((1..=4).contains(&agreed.max_outstanding_r2t));
        }
    }
}
