//! The target of a remote copy group as a resource of its own, as WSAPI has it: every group has one.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;

use super::Json;
use super::error::ApiError;
use super::objects::collection;
use super::remotecopy::{apply_policies, find, group_target_json};
use super::server::{Api, object};
use crate::store::objects::Group;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/remotecopygroups/{name}/targets", get(targets))
        .route("/api/v1/remotecopygroups/{name}/targets/{target}", get(target).put(modify))
}

async fn targets(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    let view = api.handle.view(group.group_id());
    Ok(collection(vec![group_target_json(&group, view.as_ref())]))
}

fn with_target(api: &Api, name: &str, target: &str) -> Result<Group, ApiError> {
    let group = find(api, &api.handle.snapshot(), name)?;
    if group.target == target {
        return Ok(group);
    }
    Err(ApiError::new(
        404,
        12,
        format!("remote copy group {name} has no target {target}; it has {}", group.target),
    ))
}

async fn target(
    State(api): State<Api>,
    Path((name, target)): Path<(String, String)>,
) -> Result<axum::Json<Json>, ApiError> {
    let group = with_target(&api, &name, &target)?;
    let view = api.handle.view(group.group_id());
    Ok(axum::Json(group_target_json(&group, view.as_ref())))
}

/// Policies; what belongs to periodic groups is not offered.
async fn modify(
    State(api): State<Api>,
    Path((name, target)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let members = object(&body)?;
    let group = with_target(&api, &name, &target)?;
    let Some(given) = members.get("policies").and_then(Json::as_object) else {
        return Err(ApiError::missing("policies"));
    };
    let mut policies = group.policies;
    apply_policies(&mut policies, given)?;
    api.handle.set_policies(&group.name, policies).await?;
    Ok(StatusCode::OK)
}
