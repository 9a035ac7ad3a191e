//! WSAPI resources of remote copy, and the whole picture for `showrcopy`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde_json::json;

use super::Json;
use super::error::ApiError;
use super::objects::{Members, collection, flag, optional_text, text};
use super::server::{Api, object};
use crate::arbitration::{InSync, Quorum};
use crate::array::Links;
use crate::group::{GroupState, PathView, Role, SyncStatus};
use crate::store::objects::{Group, Objects};
use crate::wire::Hello;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/remotecopy", get(remote_copy))
        .route("/api/v1/remotecopytargets", get(targets))
        .route("/api/v1/remotecopytargets/{name}", get(target))
        .route("/api/v1/remotecopylinks", get(links))
        .route("/api/v1/remotecopygroups", get(groups).post(create))
        .route("/api/v1/remotecopygroups/{name}", get(group).put(modify).post(disaster).delete(remove))
        .route("/api/v1/remotecopygroups/{name}/volumes", get(volumes).post(admit_by_post))
        .route("/api/v1/remotecopygroups/{name}/volumes/{volume}", get(member).delete(dismiss))
        .route("/api/twinlun/rcopy", get(picture))
        .route("/api/twinlun/rcopy/{name}", put(policies).post(own_action))
}

fn no_group(name: &str) -> ApiError {
    ApiError::new(404, 187, format!("there is no remote copy group {name}"))
}

/// WSAPI's number of a group's state.
const fn state(view: Option<&PathView>) -> u32 {
    match view {
        None => 8,
        Some(view) => match view.state {
            GroupState::Started | GroupState::SwitchingOver | GroupState::PromotionPending => 3,
            GroupState::Stopped | GroupState::Removed => 5,
            GroupState::Failsafe | GroupState::SplitBrain | GroupState::Diverged => 7,
        },
    }
}

const fn role_name(view: &PathView) -> &'static str {
    match (view.role, view.reversed) {
        (Role::Primary, false) => "Primary",
        (Role::Primary, true) => "Primary-Rev",
        (Role::Secondary, false) => "Secondary",
        (Role::Secondary, true) => "Secondary-Rev",
    }
}

const fn state_name(state: GroupState) -> &'static str {
    match state {
        GroupState::Started => "Started",
        GroupState::Stopped => "Stopped",
        GroupState::Failsafe => "Failsafe",
        GroupState::SwitchingOver => "Switching",
        GroupState::PromotionPending => "Promoting",
        GroupState::SplitBrain | GroupState::Diverged => "Diverged",
        GroupState::Removed => "Removed",
    }
}

const fn sync_name(view: &PathView) -> &'static str {
    match view.sync {
        SyncStatus::Synced => "Synced",
        SyncStatus::Syncing { .. } => "Syncing",
        SyncStatus::NotSynced if matches!(view.state, GroupState::Stopped) => "Stopped",
        SyncStatus::NotSynced => "NotSynced",
    }
}

/// WSAPI publishes 3 for synced; the others are this array's own, of a stopped group that of its state.
const fn sync_number(view: Option<&PathView>) -> u32 {
    let Some(view) = view else { return 1 };
    match view.sync {
        SyncStatus::NotSynced if matches!(view.state, GroupState::Stopped) => 5,
        SyncStatus::NotSynced => 1,
        SyncStatus::Syncing { .. } => 2,
        SyncStatus::Synced => 3,
    }
}

fn volumes_json(objects: &Objects, group: &Group, view: Option<&PathView>) -> Vec<Json> {
    group
        .members
        .iter()
        .filter_map(|member| Some((member, objects.volume(member.volume)?)))
        .map(|(member, volume)| {
            json!({
                "localVolumeName": volume.name,
                "localVolumeID": volume.id,
                "remoteVolumes": [{
                    "targetName": group.target,
                    "remoteVolumeName": member.remote_name,
                    "syncStatus": sync_number(view),
                }],
            })
        })
        .collect()
}

fn group_json(api: &Api, objects: &Objects, group: &Group) -> Json {
    let view = api.handle.view(group.group_id());
    let view = view.as_ref();
    let primary = view.is_some_and(|view| view.role == Role::Primary);
    json!({
        "id": group.id,
        "name": group.name,
        "uuid": group.uuid.to_string(),
        "role": if primary { 1 } else { 2 },
        "remoteGroupName": remote_name(api, group),
        "targets": [group_target_json(group, view)],
        "volumes": volumes_json(objects, group, view),
    })
}

/// The group's one target.
pub fn group_target_json(group: &Group, view: Option<&PathView>) -> Json {
    let policies = group.policies;
    json!({
        "targetName": group.target, "target": group.target, "mode": 1, "state": state(view),
        "roleReversed": view.is_some_and(|view| view.reversed),
        "policies": {
            "autoRecover": policies.auto_recover, "overPeriodAlert": policies.over_period_alert,
            "autoFailover": policies.auto_failover, "pathManagement": policies.path_management,
            "autoSynchronize": policies.auto_synchronize, "multiTargetPeerPersistence": false,
        },
    })
}

/// The group's name at the other array: `NAME` on its natural primary, `NAME.rID` on the other.
fn remote_name(api: &Api, group: &Group) -> String {
    if group.natural == api.handle.side {
        return format!("{}.r{}", group.name, api.handle.system_id);
    }
    group.name.rsplit_once(".r").map_or_else(|| group.name.clone(), |(name, _)| name.to_owned())
}

/// The group an operator means: by its name here, or by its name at the other array.
pub fn find(api: &Api, objects: &Objects, name: &str) -> Result<Group, ApiError> {
    let by_name = objects.group_named(name);
    by_name
        .or_else(|| objects.groups().find(|group| remote_name(api, group) == name))
        .cloned()
        .ok_or_else(|| no_group(name))
}

async fn groups(State(api): State<Api>) -> axum::Json<Json> {
    let objects = api.handle.snapshot();
    let mut all: Vec<_> = objects.groups().collect();
    all.sort_by_key(|group| group.id);
    collection(all.into_iter().map(|group| group_json(&api, &objects, group)).collect())
}

async fn group(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let group = find(&api, &objects, &name)?;
    Ok(axum::Json(group_json(&api, &objects, &group)))
}

async fn volumes(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let group = find(&api, &objects, &name)?;
    Ok(collection(volumes_json(&objects, &group, api.handle.view(group.group_id()).as_ref())))
}

async fn member(
    State(api): State<Api>,
    Path((name, volume)): Path<(String, String)>,
) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let group = find(&api, &objects, &name)?;
    let view = api.handle.view(group.group_id());
    let members = volumes_json(&objects, &group, view.as_ref());
    let found = members.into_iter().find(|member| member["localVolumeName"] == volume);
    found
        .map(axum::Json)
        .ok_or_else(|| ApiError::new(404, 11, format!("volume {volume} is not in remote copy group {name}")))
}

/// `targets[0].targetName`, or the only target there is.
fn target_of(api: &Api, members: &Members) -> Result<String, ApiError> {
    let given = members.get("targets").and_then(|targets| targets.get(0)?.get("targetName"));
    match given.filter(|name| !name.is_null()) {
        Some(Json::String(name)) => Ok(name.clone()),
        Some(_) => Err(ApiError::wrong_type("targetName")),
        None => api.handle.peer_name.clone().ok_or_else(|| ApiError::missing("targetName")),
    }
}

async fn create(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let mode = members.get("targets").and_then(|targets| targets.get(0)?.get("mode")?.as_u64());
    if mode.is_some_and(|mode| mode != 1) {
        return Err(ApiError::new(400, 46, "only mode 1 (synchronous) is offered").about("mode"));
    }
    let group = api.handle.create_group(&text(&members, "name")?, &target_of(&api, &members)?).await?;
    let location = format!("/api/v1/remotecopygroups/{}", group.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

async fn admit(api: &Api, group: &Group, members: &Members) -> Result<(), ApiError> {
    let volume = text(members, "volumeName")?;
    let remote = members.get("targets").and_then(|targets| targets.get(0)?.get("secVolumeName"));
    let remote = remote.and_then(Json::as_str).unwrap_or(&volume).to_owned();
    Ok(api.handle.admit(&volume, &group.name, &remote).await?)
}

async fn admit_by_post(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    admit(&api, &group, &object(&body)?).await?;
    Ok(StatusCode::OK)
}

async fn dismiss(
    State(api): State<Api>,
    Path((name, volume)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    api.handle.dismiss(&volume, &group.name).await?;
    Ok(StatusCode::OK)
}

fn bad_action() -> ApiError {
    ApiError::new(400, 46, "this group takes no such action (1 admit, 2 dismiss, 3 start, 4 stop, 5 synchronize by PUT; 6 reverse, 7 failover, 8 switchover, 9 recover, 10 restore, 11 override by POST)").about("action")
}

/// PUT: 1 admit, 2 dismiss, 3 start, 4 stop, 5 synchronize; without an action, policies.
async fn modify(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let members = object(&body)?;
    let group = find(&api, &api.handle.snapshot(), &name)?;
    match members.get("action").map(Json::as_u64) {
        None => set_policies(&api, &group, &members).await?,
        Some(Some(1)) => admit(&api, &group, &members).await?,
        Some(Some(2)) => api.handle.dismiss(&text(&members, "volumeName")?, &group.name).await?,
        Some(Some(3)) if group.started => {
            let desc = format!("remote copy group {} is started already", group.name);
            return Err(ApiError::new(403, 215, desc));
        }
        Some(Some(3)) => api.handle.set_started(&group.name, true).await?,
        Some(Some(4)) => api.handle.set_started(&group.name, false).await?,
        // What is behind in a started group is being copied: nothing is to be asked for.
        Some(Some(5)) if group.started => {}
        Some(Some(5)) => {
            let desc =
                format!("remote copy group {} is stopped; start it, and it is synchronized", group.name);
            return Err(ApiError::new(403, 13, desc));
        }
        Some(_) => return Err(bad_action()),
    }
    Ok(StatusCode::OK)
}

async fn set_policies(api: &Api, group: &Group, members: &Members) -> Result<(), ApiError> {
    let mut policies = group.policies;
    // Some clients send one target with one member each: all of them count.
    for target in members.get("targets").and_then(Json::as_array).into_iter().flatten() {
        if let Some(given) = target.get("policies").and_then(Json::as_object) {
            apply_policies(&mut policies, given)?;
        }
    }
    Ok(api.handle.set_policies(&group.name, policies).await?)
}

pub fn apply_policies(
    policies: &mut crate::store::objects::Policies,
    given: &Members,
) -> Result<(), ApiError> {
    for (name, policy) in [
        ("autoRecover", &mut policies.auto_recover),
        ("overPeriodAlert", &mut policies.over_period_alert),
        ("autoSynchronize", &mut policies.auto_synchronize),
        ("autoFailover", &mut policies.auto_failover),
        ("pathManagement", &mut policies.path_management),
    ] {
        if let Some(value) = flag(given, name)? {
            *policy = value;
        }
    }
    Ok(())
}

async fn policies(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    let mut policies = group.policies;
    apply_policies(&mut policies, &object(&body)?)?;
    api.handle.set_policies(&group.name, policies).await?;
    Ok(StatusCode::OK)
}

/// The operator's word that the other array is off, given by `force`.
fn word(members: &Members) -> Result<(), ApiError> {
    if flag(members, "force")? == Some(true) {
        return Ok(());
    }
    let desc = "an override is safe only if the other array is off; give your word for that: force = true";
    Err(ApiError::new(400, 40, desc).about("force"))
}

/// POST: 6 reverse, 7 failover (with `force` an override of a copy in sync), 8 switchover, 9 recover, 10
/// restore, 11 override (with `force`).
async fn disaster(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let group = find(&api, &api.handle.snapshot(), &name)?;
    optional_text(&members, "targetName")?;
    let forced = flag(&members, "force")? == Some(true);
    match members.get("action").and_then(Json::as_u64) {
        Some(7) if forced => return overridden(&api, &group, false).await,
        Some(7) => api.handle.fail_over(&group.name).await?,
        Some(6 | 8) => api.handle.switch_over(&group.name).await?,
        Some(9) => api.handle.recover(&group.name).await?,
        Some(10) => api.handle.restore(&group.name).await?,
        Some(11) => {
            word(&members)?;
            return overridden(&api, &group, true).await;
        }
        _ => return Err(bad_action()),
    }
    Ok(StatusCode::OK.into_response())
}

async fn overridden(api: &Api, group: &Group, stale: bool) -> Result<Response, ApiError> {
    let desc = api.handle.override_group(&group.name, stale).await?;
    Ok(axum::Json(json!({"desc": desc})).into_response())
}

/// What WSAPI has no word for: `discard`.
async fn own_action(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let members = object(&body)?;
    let group = find(&api, &api.handle.snapshot(), &name)?;
    match text(&members, "action")?.as_str() {
        "discard" => api.handle.discard(&group.name).await?,
        _ => return Err(ApiError::new(400, 46, "the only action here is discard").about("action")),
    }
    Ok(StatusCode::OK)
}

async fn remove(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    api.handle.remove_group(&group.name).await?;
    Ok(StatusCode::ACCEPTED)
}

fn target_json(api: &Api, name: &str, peer: Option<&Hello>) -> Json {
    json!({
        // Not known before the other array was reached: absent then.
        "id": peer.map(|peer| peer.system),
        "name": name,
        "type": 1,
        // 3 is ready; the numbers of other states are not public.
        "status": if peer.is_some() { 3 } else { 4 },
        "policies": {"mirrorConfig": true},
        "quorumIpAddress": api.handle.witness_address.map(|address| address.ip().to_string()),
    })
}

async fn target_list(api: &Api) -> Result<Vec<Json>, ApiError> {
    let links = api.handle.links().await?;
    Ok(api.handle.peer_name.iter().map(|name| target_json(api, name, links.peer.as_ref())).collect())
}

async fn targets(State(api): State<Api>) -> Result<axum::Json<Json>, ApiError> {
    Ok(collection(target_list(&api).await?))
}

async fn target(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let found = target_list(&api).await?.into_iter().find(|target| target["name"] == name);
    let missing = || ApiError::new(404, 12, format!("there is no remote copy target {name}"));
    found.map(axum::Json).ok_or_else(missing)
}

/// Every lane there should be, and whether it is up.
fn links_json(api: &Api, links: &Links) -> Vec<Json> {
    let Some(peer) = &api.handle.peer_name else { return Vec::new() };
    let wanted = links.peer.as_ref().map_or(api.handle.lanes, |peer| peer.lanes.min(api.handle.lanes));
    let address = api.handle.peer_address.map(|address| address.ip().to_string());
    (0..wanted)
        .map(|lane| {
            let up = links.lanes.iter().any(|open| open.0 == lane);
            let status = if up { "Up" } else { "Down" };
            json!({"target": peer, "node": format!("lane{lane}"), "address": address, "status": status})
        })
        .collect()
}

async fn links(State(api): State<Api>) -> Result<axum::Json<Json>, ApiError> {
    let links = api.handle.links().await?;
    Ok(collection(links_json(&api, &links)))
}

async fn remote_copy(State(api): State<Api>) -> Result<axum::Json<Json>, ApiError> {
    let links = api.handle.links().await?;
    let links = links_json(&api, &links);
    // 1: none, without another array; 2: started.
    let mode = if api.handle.peer_name.is_some() { 2 } else { 1 };
    Ok(axum::Json(json!({"mode": mode, "status": 1, "asyncEnabled": false, "links": links})))
}

/// Everything `showrcopy` shows.
async fn picture(State(api): State<Api>) -> Result<axum::Json<Json>, ApiError> {
    let handle = &api.handle;
    let links = handle.links().await?;
    let objects = handle.snapshot();
    let mut all: Vec<_> = objects.groups().collect();
    all.sort_by_key(|group| group.id);
    let groups: Vec<_> = all
        .into_iter()
        .map(|group| {
            let view = handle.view(group.group_id());
            let mut row = json!({
                "name": group.name, "target": group.target, "started": group.started,
                "volumes": group.members.iter().filter_map(|member| {
                    let volume = objects.volume(member.volume)?;
                    let open = handle.volumes.get(volume.volume_id());
                    let kept = open.as_ref().and_then(crate::volume::Volume::kept_image);
                    Some(json!({
                        "localVolume": volume.name, "id": volume.id, "remoteVolume": member.remote_name,
                        "mixture": open.as_ref().is_some_and(crate::volume::Volume::is_mixture),
                        "verify": open.as_ref().and_then(super::verify::verify_json),
                        "kept": kept.map(|kept| json!({
                            "asOf": kept.as_of, "regions": kept.regions, "checkpoint": kept.checkpoint,
                        })),
                    }))
                }).collect::<Vec<_>>(),
                "policies": {
                    "auto_failover": group.policies.auto_failover,
                    "path_management": group.policies.path_management,
                    "auto_recover": group.policies.auto_recover,
                    "auto_synchronize": group.policies.auto_synchronize,
                },
            });
            if let (Some(copy), Some(members)) = (handle.absent.get(group.uuid), row.as_object_mut()) {
                let reason =
                    format!("it takes no part in the group until the primary has enrolled it: {}", copy.why);
                members.extend([
                    ("role".into(), "Absent".into()),
                    ("status".into(), state_name(crate::group::GroupState::Stopped).into()),
                    ("serves".into(), false.into()),
                    ("inSync".into(), false.into()),
                    ("reason".into(), reason.into()),
                ]);
            }
            if let (Some(view), Some(members)) = (view, row.as_object_mut()) {
                let left = match view.sync {
                    SyncStatus::Syncing { left } => Some(left),
                    _ => None,
                };
                members.extend([
                    ("role".into(), role_name(&view).into()),
                    ("status".into(), state_name(view.state).into()),
                    ("serves".into(), view.reason.is_none().into()),
                    ("reason".into(), view.reason.map(|reason| reason.to_string()).into()),
                    ("promiseVoid".into(), view.promise_void.into()),
                    ("inSync".into(), (view.in_sync == InSync::Both).into()),
                    ("sync".into(), sync_name(&view).into()),
                    ("regionsLeft".into(), left.into()),
                    ("epoch".into(), view.epoch.0.into()),
                    (
                        "quorum".into(),
                        match view.quorum {
                            Quorum::Majority => "majority",
                            Quorum::PrimaryAlone => "primary alone",
                        }
                        .into(),
                    ),
                    ("witness".into(), view.witness_heard.into()),
                    ("sessionUp".into(), view.session_up.into()),
                    ("lineage".into(), view.tenure.lineage.counter.into()),
                    ("declined".into(), view.declined.map(|why| why.to_string()).into()),
                    ("keptOutSeconds".into(), view.kept_out.map(|delay| delay.as_secs_f64()).into()),
                ]);
            }
            row
        })
        .collect();
    Ok(axum::Json(json!({
        "name": handle.name,
        "target": handle.peer_name,
        "targetId": links.peer.as_ref().map(|peer| peer.system),
        "targetUp": links.peer.is_some(),
        "links": links_json(&api, &links),
        "lanes": links.lanes.iter().map(|lane| lane.0).collect::<Vec<_>>(),
        "witnessAddress": handle.witness_address.map(|address| address.to_string()),
        "witnessUp": links.witness.is_some(),
        "groups": groups,
    })))
}
