//! WSAPI resources of volumes, hosts, VLUNs, ports and the system.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, json};

use super::Json;
use super::error::ApiError;
use super::server::{Api, object};
use crate::array::NewVolume;
use crate::mirror::WritePromise;
use crate::store::objects::{Host, Objects, Provisioning, VirtualVolume, Vlun};

const MIB: u64 = 1 << 20;
/// Generic-ALUA.
const PERSONA: u64 = 2;

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/system", get(system))
        .route("/api/v1/volumes", get(volumes).post(create_volume))
        .route("/api/v1/volumes/{name}", get(volume).put(modify_volume).delete(remove_volume))
        .route("/api/v1/hosts", get(hosts).post(create_host))
        .route("/api/v1/hosts/{name}", get(host).put(modify_host).delete(remove_host))
        .route("/api/v1/vluns", get(vluns).post(create_vlun))
        .route("/api/v1/vluns/{id}", get(vlun).delete(remove_vlun))
        .route("/api/v1/ports", get(ports))
        .route("/api/twinlun/eventlog", get(events))
}

/// A collection as WSAPI tells it.
pub fn collection(members: Vec<Json>) -> axum::Json<Json> {
    axum::Json(json!({"total": members.len(), "members": members}))
}

pub type Members = Map<String, Json>;

pub fn text(members: &Members, name: &str) -> Result<String, ApiError> {
    optional_text(members, name)?.ok_or_else(|| ApiError::missing(name))
}

pub fn optional_text(members: &Members, name: &str) -> Result<Option<String>, ApiError> {
    match members.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::wrong_type(name)),
    }
}

fn number(members: &Members, name: &str) -> Result<Option<u64>, ApiError> {
    members.get(name).map(|value| value.as_u64().ok_or_else(|| ApiError::wrong_type(name))).transpose()
}

pub fn flag(members: &Members, name: &str) -> Result<Option<bool>, ApiError> {
    match members.get(name) {
        None => Ok(None),
        Some(Json::Bool(flag)) => Ok(Some(*flag)),
        // Some clients send 0 and 1.
        Some(Json::Number(number)) => Ok(Some(number.as_u64() != Some(0))),
        Some(_) => Err(ApiError::wrong_type(name)),
    }
}

fn names(members: &Members, name: &str) -> Result<Vec<String>, ApiError> {
    let Some(value) = members.get(name) else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or_else(|| ApiError::wrong_type(name))?;
    list.iter().map(|n| n.as_str().map(str::to_owned).ok_or_else(|| ApiError::wrong_type(name))).collect()
}

/// `?query="<member> EQ <value>"`.
#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    query: Option<String>,
}

impl Filter {
    /// The value asked for of `member`, by `EQ` or `==`. `None`: no such question.
    fn wanted(&self, member: &str) -> Option<String> {
        let query = self.query.as_deref()?.trim().trim_matches('"');
        let (name, value) = query.split_once(" EQ ").or_else(|| query.split_once("=="))?;
        (name.trim() == member).then(|| value.trim().to_owned())
    }

    /// The names asked for in `iSCSIPaths[name==<iqn> OR name==<iqn>]`.
    fn initiators(&self) -> Option<Vec<String>> {
        let query = self.query.as_deref()?.trim().trim_matches('"').trim();
        let inner = query.strip_prefix("iSCSIPaths[")?.strip_suffix(']')?;
        let one = |part: &str| {
            let (_, name) = part.split_once("==").or_else(|| part.split_once(" EQ "))?;
            Some(name.trim().to_owned())
        };
        inner.split(" OR ").map(one).collect()
    }
}

async fn system(State(api): State<Api>) -> axum::Json<Json> {
    let handle = &api.handle;
    let identity = handle.data_dir.identity();
    axum::Json(json!({
        "id": handle.system_id,
        "name": handle.name,
        "systemVersion": env!("CARGO_PKG_VERSION"),
        "model": "twinlun",
        "serialNumber": identity.uuid.simple().to_string().to_uppercase(),
        "totalNodes": 1,
        "masterNode": 0,
        "onlineNodes": [0],
        "clusterNodes": [0],
        "chunkletSizeMiB": 1,
    }))
}

fn volume_json(objects: &Objects, volume: &VirtualVolume, used: u64) -> Json {
    let thin = volume.provisioning == Provisioning::Thin;
    json!({
        "id": volume.id,
        "name": volume.name,
        "uuid": volume.uuid.to_string(),
        "wwn": volume.naa.iter().map(|byte| format!("{byte:02X}")).collect::<String>(),
        "sizeMiB": volume.size_bytes / MIB,
        "comment": volume.comment,
        "copyType": 1,
        "readOnly": false,
        "provisioningType": if thin { 2 } else { 1 },
        "state": 1,
        "failedStates": [], "degradedStates": [], "additionalStates": [],
        "policies": {"staleSS": false, "oneHost": false, "zeroDetect": false, "system": false, "caching": true},
        "userSpace": {"reservedMiB": used / MIB, "usedMiB": used / MIB},
        "totalUsedMiB": used / MIB,
        "creationTimeSec": volume.created,
        "writePromise": if volume.promise == WritePromise::Memory { "memory" } else { "stable" },
        "rcopyGroup": objects.group_of_volume(volume.uuid).map(|group| group.name.clone()),
    })
}

fn used(api: &Api, volume: &VirtualVolume) -> u64 {
    let open = api.handle.volumes.get(volume.volume_id());
    open.and_then(|volume| volume.file().allocated().ok()).unwrap_or(0)
}

async fn volumes(State(api): State<Api>) -> axum::Json<Json> {
    let objects = api.handle.snapshot();
    let mut all: Vec<_> = objects.volumes().collect();
    all.sort_by_key(|volume| volume.id);
    collection(all.into_iter().map(|volume| volume_json(&objects, volume, used(&api, volume))).collect())
}

async fn volume(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let volume = objects
        .volume_named(&name)
        .ok_or_else(|| ApiError::new(404, 23, format!("there is no virtual volume {name}")))?;
    Ok(axum::Json(volume_json(&objects, volume, used(&api, volume))))
}

fn created(location: String) -> Response {
    (StatusCode::CREATED, [(header::LOCATION, location)]).into_response()
}

async fn create_volume(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let size = number(&members, "sizeMiB")?.ok_or_else(|| ApiError::missing("sizeMiB"))?;
    let size_bytes = size
        .checked_mul(MIB)
        .ok_or_else(|| ApiError::new(400, 28, "the volume is too large").about("sizeMiB"))?;
    let new = NewVolume {
        name: text(&members, "name")?,
        size_bytes,
        path: optional_text(&members, "path")?.map(Into::into),
        full: flag(&members, "tpvv")? == Some(false),
        comment: optional_text(&members, "comment")?.unwrap_or_default(),
        promise: match optional_text(&members, "writePromise")?.as_deref() {
            None | Some("stable") => WritePromise::Stable,
            Some("memory") => WritePromise::Memory,
            Some(_) => {
                let why = "the write promise is \"stable\" or \"memory\"";
                return Err(ApiError::new(400, 12, why).about("writePromise"));
            }
        },
    };
    let volume = api.handle.create_volume(new).await?;
    Ok(created(format!("/api/v1/volumes/{}", volume.name)))
}

/// WSAPI: `action` 3 grows a volume by `sizeMiB`.
async fn modify_volume(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<axum::Json<Json>, ApiError> {
    const GROW: u64 = 3;
    let members = object(&body)?;
    if number(&members, "action")? != Some(GROW) {
        return Err(ApiError::new(400, 12, "the only action here is 3, grow").about("action"));
    }
    let size = number(&members, "sizeMiB")?.ok_or_else(|| ApiError::missing("sizeMiB"))?;
    let by = size
        .checked_mul(MIB)
        .ok_or_else(|| ApiError::new(400, 28, "the volume is too large").about("sizeMiB"))?;
    let volume = api.handle.grow_volume(&name, by).await?;
    let objects = api.handle.snapshot();
    Ok(axum::Json(volume_json(&objects, &volume, used(&api, &volume))))
}

async fn remove_volume(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.handle.remove_volume(&name).await?;
    Ok(StatusCode::OK)
}

fn host_json(api: &Api, host: &Host) -> Json {
    let sessions = api.handle.sessions.list();
    let paths: Vec<_> = host
        .iqns
        .iter()
        .map(|iqn| {
            let session = sessions.iter().find(|session| session.initiator == *iqn);
            json!({
                "name": iqn,
                "IPAddr": session.map_or_else(|| "0.0.0.0".to_owned(), |s| s.peer.ip().to_string()),
                "portPos": session.map(|_| json!({"node": 0, "slot": 0, "cardPort": 1})),
            })
        })
        .collect();
    json!({
        "id": host.id,
        "name": host.name,
        "persona": host.persona,
        "FCPaths": [],
        "iSCSIPaths": paths,
        "descriptors": {"comment": host.comment},
        "initiatorChapEnabled": false,
        "targetChapEnabled": false,
    })
}

async fn hosts(State(api): State<Api>, Query(filter): Query<Filter>) -> axum::Json<Json> {
    let objects = api.handle.snapshot();
    let wanted = filter.initiators();
    let mut all: Vec<_> = objects.hosts().collect();
    all.sort_by_key(|host| host.id);
    let shown = all
        .into_iter()
        .filter(|host| wanted.as_ref().is_none_or(|iqns| host.iqns.iter().any(|iqn| iqns.contains(iqn))));
    collection(shown.map(|host| host_json(&api, host)).collect())
}

fn no_host(name: &str) -> ApiError {
    ApiError::new(404, 17, format!("there is no host {name}"))
}

async fn host(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let host = objects.host_named(&name).ok_or_else(|| no_host(&name))?;
    Ok(axum::Json(host_json(&api, host)))
}

fn persona(members: &Members) -> Result<u8, ApiError> {
    let persona = number(members, "persona")?.unwrap_or(PERSONA);
    u8::try_from(persona)
        .ok()
        .filter(|persona| (1..=12).contains(persona))
        .ok_or_else(|| ApiError::new(400, 46, "persona is a number from 1 to 12").about("persona"))
}

async fn create_host(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let iqns = names(&members, "iSCSINames")?;
    let host = api.handle.create_host(&text(&members, "name")?, iqns, persona(&members)?).await?;
    Ok(created(format!("/api/v1/hosts/{}", host.name)))
}

async fn modify_host(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let members = object(&body)?;
    let objects = api.handle.snapshot();
    let host = objects.host_named(&name).ok_or_else(|| no_host(&name))?;
    let given = names(&members, "iSCSINames")?;
    let mut iqns = host.iqns.clone();
    match number(&members, "pathOperation")? {
        Some(1) => iqns.extend(given),
        Some(2) => iqns.retain(|iqn| !given.contains(iqn)),
        None if given.is_empty() => {}
        _ => {
            let desc = "pathOperation is 1 (add) or 2 (remove)";
            return Err(ApiError::new(400, 46, desc).about("pathOperation"));
        }
    }
    let persona = if members.contains_key("persona") { persona(&members)? } else { host.persona };
    api.handle.set_host(&name, iqns, persona).await?;
    Ok(StatusCode::OK)
}

async fn remove_host(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    api.handle.remove_host(&name).await?;
    Ok(StatusCode::OK)
}

/// The rule ("template") of an export, and one row for each path that is logged in.
fn vlun_rows(api: &Api, objects: &Objects, vlun: &Vlun) -> Vec<Json> {
    let (Some(volume), Some(host)) = (objects.volume(vlun.volume), objects.host(vlun.host)) else {
        return Vec::new();
    };
    let wwn: String = volume.naa.iter().map(|byte| format!("{byte:02X}")).collect();
    let row = |active: bool, remote: &str| {
        let mut row = json!({
            "lun": vlun.lun, "volumeName": volume.name, "hostname": host.name, "volumeWWN": wwn,
            "remoteName": remote, "type": if active { 4 } else { 3 }, "active": active,
            "multipathing": 1, "failedPathPol": 1, "failedPathInterval": 0, "Subsystem_NQN": "",
        });
        if active {
            row["portPos"] = json!({"node": 0, "slot": 0, "cardPort": 1});
        }
        row
    };
    let sessions = api.handle.sessions.list();
    let active = sessions.iter().filter(|session| host.iqns.contains(&session.initiator));
    std::iter::once(row(false, "")).chain(active.map(|session| row(true, &session.initiator))).collect()
}

async fn vluns(State(api): State<Api>, Query(filter): Query<Filter>) -> axum::Json<Json> {
    let objects = api.handle.snapshot();
    let (host, volume) = (filter.wanted("hostname"), filter.wanted("volumeName"));
    let mut all: Vec<_> = objects.vluns().collect();
    // In the order an operator reads them; the store's own is that of random UUIDs.
    all.sort_by_key(|vlun| (objects.host(vlun.host).map(|host| host.id), vlun.lun));
    let rows = all.into_iter().flat_map(|vlun| vlun_rows(&api, &objects, vlun));
    let is = |row: &Json, member: &str, wanted: &Option<String>| {
        wanted.as_ref().is_none_or(|wanted| row[member] == wanted.as_str())
    };
    collection(rows.filter(|row| is(row, "hostname", &host) && is(row, "volumeName", &volume)).collect())
}

/// `vol,lun,host[,port]`.
fn vlun_id(id: &str) -> Result<(String, u16, String), ApiError> {
    let mut parts = id.split(',');
    let parsed = (|| {
        let volume = parts.next()?.to_owned();
        let lun = parts.next()?.parse().ok()?;
        Some((volume, lun, parts.next()?.to_owned()))
    })();
    parsed.ok_or_else(|| ApiError::new(400, 12, "a VLUN is named volume,lun,host"))
}

async fn vlun(State(api): State<Api>, Path(id): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let (volume, lun, host) = vlun_id(&id)?;
    let objects = api.handle.snapshot();
    let rows = objects.vluns().flat_map(|vlun| vlun_rows(&api, &objects, vlun));
    let mut found =
        rows.filter(|row| row["volumeName"] == volume && row["lun"] == lun && row["hostname"] == host);
    found.next().map(axum::Json).ok_or_else(|| ApiError::new(404, 19, format!("there is no VLUN {id}")))
}

async fn create_vlun(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let members = object(&body)?;
    let (volume, host) = (text(&members, "volumeName")?, text(&members, "hostname")?);
    let lun = match flag(&members, "autoLun")? {
        Some(true) => None,
        _ => Some(number(&members, "lun")?.ok_or_else(|| ApiError::missing("lun"))?),
    };
    let lun = lun
        .map(|lun| u16::try_from(lun).map_err(|_| ApiError::new(400, 28, "LUN out of range").about("lun")))
        .transpose()?;
    let vlun = api.handle.create_vlun(&volume, &host, lun).await?;
    Ok(created(format!("/api/v1/vluns/{volume},{},{host}", vlun.lun)))
}

async fn remove_vlun(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let (volume, lun, host) = vlun_id(&id)?;
    api.handle.remove_vlun(&volume, &host, lun).await?;
    Ok(StatusCode::OK)
}

async fn ports(State(api): State<Api>) -> axum::Json<Json> {
    let handle = &api.handle;
    let ports = handle.portals.iter().zip(1..).map(|(portal, number)| {
        json!({
            "portPos": {"node": 0, "slot": 0, "cardPort": number},
            "mode": 2, "linkState": 4, "protocol": 2, "type": 8,
            "IPAddr": portal.ip().to_string(),
            "iSCSIName": handle.target_name,
            "iSCSIPortInfo": {
                "IPAddr": portal.ip().to_string(), "iSCSIName": handle.target_name,
                "port": portal.port(), "vlan": 0, "tpgt": 1,
            },
        })
    });
    collection(ports.collect())
}

async fn events(State(api): State<Api>) -> axum::Json<Json> {
    let entries = api.handle.log.entries();
    let rows = entries.into_iter().map(|entry| {
        json!({
            "id": entry.id, "time": entry.time, "group": entry.group, "epoch": entry.epoch,
            "text": entry.text,
        })
    });
    collection(rows.collect())
}
