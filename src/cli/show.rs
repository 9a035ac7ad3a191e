//! Tables in the columns of the real array, or the API's JSON as it is.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

/// The JSON as it is, when asked for; else false.
fn raw(value: &Value, json: bool) -> bool {
    if json {
        println!("{value}");
    }
    json
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(head.to_vec());
    table
}

fn print(mut table: Table, numbers: &[usize]) {
    for column in numbers {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.to_string().lines() {
        println!("{}", line.trim_end());
    }
}

fn members(value: &Value) -> &[Value] {
    value["members"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn total(count: usize) {
    println!("{count} total");
}

pub fn volumes(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    let mut rows = table(&["Id", "Name", "Prov", "Type", "State", "Usr_Used_MiB", "VSize_MiB", "RcopyGroup"]);
    for volume in members(value) {
        let prov = if volume["provisioningType"] == 2 { "tpvv" } else { "full" };
        rows.add_row([
            text(&volume["id"]),
            text(&volume["name"]),
            prov.into(),
            "base".into(),
            "normal".into(),
            text(&volume["totalUsedMiB"]),
            text(&volume["sizeMiB"]),
            text(&volume["rcopyGroup"]),
        ]);
    }
    print(rows, &[0, 5, 6]);
    total(members(value).len());
}

pub fn hosts(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    let mut rows = table(&["Id", "Name", "Persona", "iSCSI_Name", "Port", "IP_addr"]);
    for host in members(value) {
        let paths = host["iSCSIPaths"].as_array().map_or(&[][..], Vec::as_slice);
        let head = [text(&host["id"]), text(&host["name"]), text(&host["persona"])];
        if paths.is_empty() {
            rows.add_row(head.iter().cloned().chain(["-", "-", "-"].map(String::from)).collect::<Vec<_>>());
        }
        for path in paths {
            let port = if path["portPos"].is_null() { "---" } else { "0:0:1" };
            let tail = [text(&path["name"]), port.into(), text(&path["IPAddr"])];
            rows.add_row(head.iter().cloned().chain(tail).collect::<Vec<_>>());
        }
    }
    print(rows, &[0]);
    total(members(value).len());
}

pub fn vluns(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    for (title, active) in [("Active VLUNs", true), ("VLUN Templates", false)] {
        let shown: Vec<_> = members(value).iter().filter(|row| row["active"] == active).collect();
        println!("{title}");
        let mut rows = table(&["Lun", "VVName", "HostName", "Host_iSCSI_Name", "Type"]);
        for row in &shown {
            let kind = if active { "matched set" } else { "host" };
            let name = if active { text(&row["remoteName"]) } else { "---".into() };
            rows.add_row([
                text(&row["lun"]),
                text(&row["volumeName"]),
                text(&row["hostname"]),
                name,
                kind.into(),
            ]);
        }
        print(rows, &[0]);
        total(shown.len());
    }
}

pub fn ports(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    let mut rows = table(&["N:S:P", "State", "IPAddr", "iSCSI_Port", "iSCSI_Name"]);
    for port in members(value) {
        rows.add_row([
            format!("0:0:{}", port["portPos"]["cardPort"]),
            "ready".into(),
            text(&port["IPAddr"]),
            text(&port["iSCSIPortInfo"]["port"]),
            text(&port["iSCSIName"]),
        ]);
    }
    print(rows, &[3]);
}

pub fn system(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    let mut rows = table(&["ID", "Name", "Model", "Serial", "Version"]);
    rows.add_row(["id", "name", "model", "serialNumber", "systemVersion"].map(|name| text(&value[name])));
    print(rows, &[0]);
}

pub fn events(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    let mut rows = table(&["Time", "Group", "Epoch", "Event"]);
    for event in members(value) {
        rows.add_row(["time", "group", "epoch", "text"].map(|name| text(&event[name])));
    }
    print(rows, &[0, 2]);
}

/// The layout of the real array, with the reason in words whenever this array does not serve.
pub fn remote_copy(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    println!("Remote Copy System Information");
    println!("Status: Started, Normal");
    println!("\nTarget Information");
    let mut rows = table(&["Name", "ID", "Type", "Status", "Options", "Policy"]);
    let target = text(&value["target"]);
    if !value["target"].is_null() {
        let status = if value["targetUp"] == true { "ready" } else { "failed" };
        rows.add_row([target.as_str(), "2", "IP", status, "-", "mirror_config"]);
    }
    print(rows, &[1]);
    println!("\nLink Information");
    let mut rows = table(&["Target", "Node", "Status", "Options"]);
    for lane in value["lanes"].as_array().into_iter().flatten() {
        rows.add_row([target.clone(), format!("lane{lane}"), "Up".into(), "-".into()]);
    }
    if !value["witnessAddress"].is_null() {
        let status = if value["witnessUp"] == true { "Up" } else { "Down" };
        rows.add_row(["witness".into(), text(&value["witnessAddress"]), status.to_owned(), "-".into()]);
    }
    print(rows, &[]);
    println!("\nGroup Information");
    for group in value["groups"].as_array().into_iter().flatten() {
        let mut options: Vec<_> = ["auto_failover", "path_management"]
            .into_iter()
            .filter(|policy| group["policies"][policy] == true)
            .collect();
        if options.is_empty() {
            options.push("-");
        }
        let mut rows = table(&["Name", "Target", "Status", "Role", "Mode", "Options"]);
        rows.add_row([
            text(&group["name"]),
            text(&group["target"]),
            text(&group["status"]),
            text(&group["role"]),
            "Sync".into(),
            options.join(","),
        ]);
        print(rows, &[]);
        let mut rows = table(&["LocalVV", "ID", "RemoteVV", "ID", "SyncStatus", "LastSyncTime"]);
        for volume in group["volumes"].as_array().into_iter().flatten() {
            let sync = match &group["regionsLeft"] {
                Value::Number(left) => format!("{} ({left} MiB left)", text(&group["sync"])),
                _ => text(&group["sync"]),
            };
            let id = text(&volume["id"]);
            rows.add_row([
                text(&volume["localVolume"]),
                id.clone(),
                text(&volume["remoteVolume"]),
                id,
                sync,
                "NA".into(),
            ]);
        }
        for line in rows.to_string().lines() {
            println!("  {}", line.trim_end());
        }
        if group["serves"] != true {
            println!("  This array does not serve: {}", text(&group["reason"]));
        } else if group["witness"] != true && group["quorum"] == "majority" {
            println!("  The witness is not reached: no automatic failover until it is.");
        }
        println!("  Epoch {}, quorum {}", text(&group["epoch"]), text(&group["quorum"]));
    }
}
