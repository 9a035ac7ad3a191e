//! `twinlun apply`: the objects of a TOML file, made as far as they are not there yet.

use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, Refusal, segment, vlun_path};
use super::verbs::size_mib;

/// Pause between looks at the groups while waiting.
const LOOK: Duration = Duration::from_millis(300);
/// How long requests that need the other array or the witness are tried: both may just be starting.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Objects {
    volume: Vec<Volume>,
    host: Vec<Host>,
    group: Vec<Group>,
    vlun: Vec<Vlun>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    name: String,
    size: String,
    path: Option<String>,
    comment: Option<String>,
    /// Write promise: stable (default) or memory.
    promise: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    name: String,
    iqns: Vec<String>,
    persona: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    target: String,
    volumes: Vec<String>,
    /// Default: true.
    started: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vlun {
    volume: String,
    host: String,
    lun: u16,
}

/// What was made, for `--json`.
#[derive(Debug, Default)]
struct Made(Vec<String>);

impl Made {
    fn add(&mut self, json: bool, what: String) {
        if !json {
            println!("made {what}");
        }
        self.0.push(what);
    }
}

pub fn apply(client: &Client, file: &Path, wait: bool, json: bool) -> Result<(), Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let objects: Objects = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut made = Made::default();
    for volume in &objects.volume {
        apply_volume(client, volume, json, &mut made)?;
    }
    for host in &objects.host {
        apply_host(client, host, json, &mut made)?;
    }
    for group in &objects.group {
        apply_group(client, group, json, &mut made)?;
    }
    for vlun in &objects.vlun {
        let Vlun { volume, host, lun } = vlun;
        if !client.exists(&vlun_path(volume, *lun, host)?)? {
            let body = json!({"volumeName": volume, "hostname": host, "lun": lun});
            client.post("/api/v1/vluns", &body)?;
            made.add(json, format!("VLUN {lun} of {volume} for {host}"));
        }
    }
    for group in objects.group.iter().filter(|group| group.started.unwrap_or(true)) {
        let path = format!("/api/v1/remotecopygroups/{}", segment(&group.name));
        if client.get(&path)?["targets"][0]["state"] != 3 {
            match client.put(&path, &json!({"action": 3})) {
                Err(error) if refusal(&error) == Some(215) => {}
                other => {
                    other?;
                    made.add(json, format!("start of group {}", group.name));
                }
            }
        }
    }
    if json {
        println!("{}", json!({"made": made.0}));
    } else if made.0.is_empty() {
        println!("everything is there already");
    }
    if wait {
        wait_for_sync(client, &objects.group, json)?;
    }
    Ok(())
}

fn refusal(error: &Failure) -> Option<u64> {
    error.downcast_ref::<Refusal>().map(|refusal| refusal.code)
}

fn apply_volume(client: &Client, volume: &Volume, json: bool, made: &mut Made) -> Result<(), Failure> {
    let mib = size_mib(&volume.size).map_err(|error| format!("volume {}: {error}", volume.name))?;
    let path = format!("/api/v1/volumes/{}", segment(&volume.name));
    if client.exists(&path)? {
        let known = client.get(&path)?;
        let has = known["sizeMiB"].as_u64().unwrap_or(0);
        if has != mib {
            return Err(format!(
                "volume {} is there with {has} MiB, the file says {mib} MiB; sizes are not changed by apply",
                volume.name
            )
            .into());
        }
        let promise = volume.promise.as_deref().unwrap_or("stable");
        if known["writePromise"] != promise {
            return Err(format!(
                "volume {} is there with the write promise {}, the file says {promise}; it is not changed by apply",
                volume.name, known["writePromise"]
            )
            .into());
        }
        return Ok(());
    }
    let body = json!({
        "writePromise": volume.promise, "name": volume.name, "sizeMiB": mib, "tpvv": true, "path": volume.path, "comment": volume.comment,
    });
    client.post("/api/v1/volumes", &body)?;
    made.add(json, format!("volume {}", volume.name));
    Ok(())
}

fn apply_host(client: &Client, host: &Host, json: bool, made: &mut Made) -> Result<(), Failure> {
    let path = format!("/api/v1/hosts/{}", segment(&host.name));
    if !client.exists(&path)? {
        let body = json!({"name": host.name, "iSCSINames": host.iqns, "persona": host.persona});
        client.post("/api/v1/hosts", &body)?;
        made.add(json, format!("host {}", host.name));
        return Ok(());
    }
    let known = client.get(&path)?;
    let known: Vec<_> = known["iSCSIPaths"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|path| path["name"].as_str())
        .collect();
    let new: Vec<_> = host.iqns.iter().filter(|iqn| !known.contains(&iqn.as_str())).collect();
    if !new.is_empty() {
        client.put(&path, &json!({"pathOperation": 1, "iSCSINames": new}))?;
        made.add(json, format!("{} initiator(s) of host {}", new.len(), host.name));
    }
    Ok(())
}

fn apply_group(client: &Client, group: &Group, json: bool, made: &mut Made) -> Result<(), Failure> {
    let path = format!("/api/v1/remotecopygroups/{}", segment(&group.name));
    if !client.exists(&path)? {
        let body = json!({"name": group.name, "targets": [{"targetName": group.target, "mode": 1}]});
        let end = std::time::Instant::now() + PATIENCE;
        while let Err(error) = client.post("/api/v1/remotecopygroups", &body) {
            let may_pass = error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == 403);
            if !may_pass || std::time::Instant::now() > end {
                return Err(error);
            }
            std::thread::sleep(LOOK);
        }
        made.add(json, format!("remote copy group {}", group.name));
    }
    for volume in &group.volumes {
        if !client.exists(&format!("{path}/volumes/{}", segment(volume)))? {
            let body = json!({
                "action": 1, "volumeName": volume, "volumeAutoCreation": true,
                "targets": [{"targetName": group.target, "secVolumeName": volume}],
            });
            client.put(&path, &body)?;
            made.add(json, format!("mirror of volume {volume} in group {}", group.name));
        }
    }
    Ok(())
}

/// Shows progress until every started group of the file is in sync.
fn wait_for_sync(client: &Client, wanted: &[Group], json: bool) -> Result<(), Failure> {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("copying {wide_bar} {pos}/{len} MiB");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut most = 0;
    loop {
        let picture = client.get("/api/twinlun/rcopy")?;
        let groups: Vec<&Value> = picture["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|group| wanted.iter().any(|wanted| group["name"] == wanted.name.as_str()))
            .collect();
        if groups.iter().all(|group| group["started"] != true || group["inSync"] == true) {
            bar.finish_and_clear();
            if !json {
                println!("in sync");
            }
            return Ok(());
        }
        let left: u64 = groups.iter().filter_map(|group| group["regionsLeft"].as_u64()).sum();
        most = most.max(left);
        bar.set_length(most);
        bar.set_position(most - left);
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::{Objects, size_mib};

    #[test]
    fn the_shipped_objects_are_read_and_fit_together() {
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target-config/objects.toml");
        let objects: Objects = toml::from_str(&std::fs::read_to_string(shipped).unwrap()).unwrap();
        let volume = |name: &String| objects.volume.iter().any(|volume| volume.name == *name);
        assert!(objects.volume.iter().all(|volume| size_mib(&volume.size).is_ok()));
        assert!(objects.group.iter().flat_map(|group| &group.volumes).all(volume));
        assert!(objects.vlun.iter().all(|vlun| volume(&vlun.volume)));
        assert!(objects.vlun.iter().all(|vlun| objects.host.iter().any(|host| host.name == vlun.host)));
    }

    #[test]
    fn a_key_that_does_not_exist_is_named_with_its_line() {
        let text = "[[volume]]\nname = \"v\"\nsize = \"1G\"\nsise = 1\n";
        let error = toml::from_str::<Objects>(text).unwrap_err().to_string();
        assert!(error.contains("line 4") && error.contains("`sise`") && error.contains("`size`"), "{error}");
    }
}
