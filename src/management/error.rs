//! Errors as WSAPI tells them: status, `{"code", "desc", "ref"}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::array::CommandError;
use crate::array::rpc::PeerRefusal;
use crate::group::Refused;
use crate::store::VolumeFileError;
use crate::store::objects::{Kind, ObjectError};

use crate::array::volumes::OpenError;

/// An answer that is a refusal.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: u32,
    desc: String,
    reference: Option<String>,
}

impl ApiError {
    pub fn new(status: u16, code: u32, desc: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, desc: desc.into(), reference: None }
    }

    /// Names the offending member of the request.
    #[must_use]
    pub fn about(self, member: &str) -> Self {
        Self { reference: Some(member.to_owned()), ..self }
    }

    pub fn missing(member: &str) -> Self {
        Self::new(400, 40, format!("invalid input: {member} is required")).about(member)
    }

    pub fn wrong_type(member: &str) -> Self {
        Self::new(400, 39, format!("invalid input: {member} has the wrong type")).about(member)
    }

    pub fn not_found() -> Self {
        Self::new(404, 11, "the URI names no resource of this array")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({"code": self.code, "desc": self.desc});
        if let Some(reference) = self.reference {
            body["ref"] = reference.into();
        }
        (self.status, axum::Json(body)).into_response()
    }
}

const fn exists(kind: Kind) -> u32 {
    match kind {
        Kind::Volume => 22,
        Kind::Host => 16,
        Kind::Vlun => 18,
        Kind::Group => 237,
        Kind::Member => 59,
    }
}

const fn not_there(kind: Kind) -> u32 {
    match kind {
        Kind::Volume => 23,
        Kind::Host => 17,
        Kind::Vlun => 19,
        Kind::Group => 187,
        Kind::Member => 11,
    }
}

impl From<ObjectError> for ApiError {
    fn from(error: ObjectError) -> Self {
        let desc = error.to_string();
        match error {
            ObjectError::Exists { kind, .. } => Self::new(409, exists(kind), desc),
            ObjectError::Missing { kind, .. } => Self::new(404, not_there(kind), desc),
            ObjectError::InUse { kind: Kind::Volume, by, .. } if by.starts_with("remote copy") => {
                Self::new(403, 120, desc)
            }
            ObjectError::InUse { .. } => Self::new(409, 26, desc),
            ObjectError::LunTaken { .. } => Self::new(409, 18, desc),
            ObjectError::NoLunFree { .. } | ObjectError::TooMany { .. } => Self::new(400, 28, desc),
            ObjectError::BadLun(_) => Self::new(400, 28, desc).about("lun"),
            ObjectError::InitiatorTaken { .. } => Self::new(409, 73, desc),
            ObjectError::BadName { name, .. } if name.is_empty() => Self::new(400, 45, desc).about("name"),
            ObjectError::BadName { why, .. } if why.contains("characters") => {
                Self::new(400, 57, desc).about("name")
            }
            ObjectError::BadName { .. } => Self::new(400, 69, desc).about("name"),
            ObjectError::GroupStarted { .. } => Self::new(403, 215, desc),
        }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let desc = error.to_string();
        match error {
            CommandError::Object(error) => error.into(),
            CommandError::Open(OpenError::Data(VolumeFileError::TooLarge { .. })) => {
                Self::new(400, 28, desc).about("sizeMiB")
            }
            CommandError::Open(OpenError::Data(VolumeFileError::NoSpace { .. })) => Self::new(400, 24, desc),
            CommandError::BadSize(_) => Self::new(400, 43, desc).about("sizeMiB"),
            CommandError::NoSuchTarget(_) => Self::new(404, 12, desc).about("targetName"),
            CommandError::Group(Refused::Started) => Self::new(403, 215, desc),
            CommandError::Peer { code: PeerRefusal::Missing, .. } => Self::new(404, 12, desc),
            CommandError::Peer { .. }
            | CommandError::SizeMismatch { .. }
            | CommandError::PromiseMismatch { .. } => Self::new(409, 12, desc),
            // WSAPI refuses these with 403 (RCOPY_*); their numbers are not public, 13 is the
            // general one.
            CommandError::Group(_)
            | CommandError::Verify(_)
            | CommandError::InSync(_)
            | CommandError::NotServing(_)
            | CommandError::NotPrimary(_)
            | CommandError::PeerUnreachable
            | CommandError::PrimaryUnreachable(_)
            | CommandError::StaleGroupState(_)
            | CommandError::MayHoldMore(_)
            | CommandError::Absent { .. }
            | CommandError::WitnessUnreachable => Self::new(403, 13, desc),
            CommandError::ShuttingDown => Self::new(503, 1, desc),
            CommandError::GrowsInSync { .. } => Self::new(409, 215, desc),
            CommandError::Store(_)
            | CommandError::Open(_)
            | CommandError::RollBack { .. }
            | CommandError::CutNotWritten
            | CommandError::Disown(_)
            | CommandError::DataDir(_) => Self::new(500, 1, desc),
        }
    }
}
