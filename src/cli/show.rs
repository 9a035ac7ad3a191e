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
    write_lines(&table, "");
}

/// The table's lines without the padding around them.
fn write_lines(table: &Table, indent: &str) {
    for line in table.to_string().lines() {
        println!("{indent}{}", line.strip_prefix(' ').unwrap_or(line).trim_end());
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
    let mut rows =
        table(&["Id", "Name", "Prov", "Type", "State", "Promise", "Usr_Used_MiB", "VSize_MiB", "RcopyGroup"]);
    for volume in members(value) {
        let prov = if volume["provisioningType"] == 2 { "tpvv" } else { "full" };
        rows.add_row([
            text(&volume["id"]),
            text(&volume["name"]),
            prov.into(),
            "base".into(),
            "normal".into(),
            text(&volume["writePromise"]),
            text(&volume["totalUsedMiB"]),
            text(&volume["sizeMiB"]),
            text(&volume["rcopyGroup"]),
        ]);
    }
    print(rows, &[0, 6, 7]);
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
    let mut rows = table(&["Time (UTC)", "Group", "Epoch", "Event"]);
    for event in members(value) {
        let time = event["time"].as_u64().map_or_else(|| "-".into(), calendar);
        let [group, epoch, said] = ["group", "epoch", "text"].map(|name| text(&event[name]));
        rows.add_row([time, group, epoch, said]);
    }
    print(rows, &[2]);
}

/// Date and time (UTC) of seconds since 1970.
pub fn calendar(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years of 366 or 365 days, counted from a 1 March, so that the leap day comes last: the days
    // since 1 March of year 0 are split into 400, 100, 4 and 1 years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The layout of the real array, with the reason in words whenever this array does not serve.
pub fn remote_copy(value: &Value, json: bool) {
    if raw(value, json) {
        return;
    }
    println!("Remote Copy System Information");
    println!("Status: {}", if value["target"].is_null() { "Not started" } else { "Started, Normal" });
    println!("\nTarget Information");
    let mut rows = table(&["Name", "ID", "Type", "Status", "Options", "Policy"]);
    let target = text(&value["target"]);
    if !value["target"].is_null() {
        let status = if value["targetUp"] == true { "ready" } else { "failed" };
        let id = text(&value["targetId"]);
        rows.add_row([target.as_str(), &id, "IP", status, "-", "mirror_config"]);
    }
    print(rows, &[1]);
    println!("\nLink Information");
    let mut rows = table(&["Target", "Node", "Address", "Status", "Options"]);
    for link in value["links"].as_array().into_iter().flatten() {
        let options = "-".to_owned();
        let [target, node, address, status] =
            ["target", "node", "address", "status"].map(|name| text(&link[name]));
        rows.add_row([target, node, address, status, options]);
    }
    if !value["witnessAddress"].is_null() {
        let status = if value["witnessUp"] == true { "Up" } else { "Down" };
        let address = text(&value["witnessAddress"]);
        rows.add_row(["witness", "-", &address, status, "-"]);
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
            rows.add_row([
                text(&volume["localVolume"]),
                text(&volume["id"]),
                text(&volume["remoteVolume"]),
                // The other array's own number of it is not known here.
                "-".into(),
                sync,
                "NA".into(),
            ]);
        }
        write_lines(&rows, "  ");
        for volume in group["volumes"].as_array().into_iter().flatten() {
            let name = text(&volume["localVolume"]);
            if volume["kept"].is_object() {
                let as_of = volume["kept"]["asOf"].as_u64();
                let as_of = as_of.map_or_else(|| "its last time in sync".into(), calendar);
                println!(
                    "  {name}: being brought up to date; what it held at {as_of} is kept for an override."
                );
            } else if volume["mixture"] == true {
                println!("  {name}: a mixture of old and new until it is in sync; do not override with it.");
            }
        }
        for volume in group["volumes"].as_array().into_iter().flatten() {
            if volume["verify"].is_object() {
                let name = text(&volume["localVolume"]);
                println!("  {name}: {}", super::verify::line(&volume["verify"]));
            }
        }
        if group["serves"] != true {
            println!("  This array does not serve: {}", text(&group["reason"]));
            if group["epoch"].is_null() {
                continue;
            }
        } else if group["witness"] != true && group["quorum"] == "majority" {
            println!("  The witness is not reached: no automatic failover until it is.");
        }
        if !group["declined"].is_null() {
            println!("  The other array is not mirrored to: {}.", text(&group["declined"]));
        }
        if let Some(seconds) = group["keptOutSeconds"].as_f64() {
            println!(
                "  The other array's disk failed, hung or was full: it is mirrored to once that disk has worked for {seconds} s."
            );
        }
        if group["promiseVoid"] == true {
            println!(
                "  Both arrays had lost their memory: what was acknowledged since the last flush of volumes with the write promise memory may be gone."
            );
        }
        if group["quorum"] == "primary alone" && group["witness"] != true {
            println!("  The primary may go on alone: no automatic failover until a witness is enrolled.");
        }
        println!("  Epoch {}, quorum {}", text(&group["epoch"]), text(&group["quorum"]));
    }
}

#[cfg(test)]
mod tests {
    use super::calendar;

    #[test]
    fn seconds_become_dates() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (951_868_800, "2000-03-01 00:00:00"),
            (1_795_430_781, "2026-11-23 10:46:21"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(calendar(seconds), date);
        }
    }
}
