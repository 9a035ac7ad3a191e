//! Verify, for which WSAPI has no word: POST begins one, GET tells how it goes or went, DELETE gives it up.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;

use super::Json;
use super::error::ApiError;
use super::objects::{flag, optional_text};
use super::remotecopy::find;
use super::server::{Api, object};
use crate::array::finding;
use crate::mirror::VerifyEnd;
use crate::volume::Volume;

pub fn routes() -> Router<Api> {
    Router::new().route("/api/twinlun/rcopy/{name}/verify", get(show).post(begin).delete(cancel))
}

/// The newest verify of a volume since the array was started; `None`: there was none.
pub fn verify_json(volume: &Volume) -> Option<Json> {
    let verified = volume.verified()?;
    let report = verified.report;
    let state = match report.end {
        None => "running",
        Some(VerifyEnd::Complete) => "complete",
        Some(VerifyEnd::Cancelled) => "cancelled",
        Some(_) => "cut short",
    };
    let differences: Vec<_> = report
        .differences
        .iter()
        .map(|one| {
            json!({
                "lba": one.extent.lba, "blocks": one.extent.blocks, "finding": finding(one.finding),
                "repaired": one.repaired,
            })
        })
        .collect();
    Some(json!({
        "state": state,
        "said": report.end.map(|end| end.to_string()),
        "repair": report.repair,
        "began": verified.began,
        "ended": verified.ended,
        // Of 1 MiB each.
        "regions": report.regions,
        "compared": report.compared,
        "reachedLBA": report.reached,
        "differingBlocks": report.differing,
        "repairedBlocks": report.repaired,
        "mendedRegions": report.mended,
        "differences": differences,
        "differencesLeftOut": report.left_out,
    }))
}

async fn show(State(api): State<Api>, Path(name): Path<String>) -> Result<axum::Json<Json>, ApiError> {
    let objects = api.handle.snapshot();
    let group = find(&api, &objects, &name)?;
    let volumes: Vec<_> = group
        .members
        .iter()
        .filter_map(|member| {
            let volume = objects.volume(member.volume)?;
            let verify = verify_json(&api.handle.volumes.get(volume.volume_id())?)?;
            Some(json!({"localVolume": volume.name, "verify": verify}))
        })
        .collect();
    Ok(axum::Json(json!({"group": group.name, "volumes": volumes})))
}

/// `{"volumeName", "repair"}`, both optional: all volumes of the group, and only told what differs.
async fn begin(
    State(api): State<Api>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let members = object(&body)?;
    let group = find(&api, &api.handle.snapshot(), &name)?;
    let volume = optional_text(&members, "volumeName")?;
    let repair = flag(&members, "repair")? == Some(true);
    api.handle.verify(&group.name, volume.as_deref(), repair).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn cancel(State(api): State<Api>, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let group = find(&api, &api.handle.snapshot(), &name)?;
    api.handle.cancel_verify(&group.name).await?;
    Ok(StatusCode::OK)
}
