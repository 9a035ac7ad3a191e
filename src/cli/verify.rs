//! `checkrcopygroup`: both copies compared on line, with what was found.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, segment};
use super::show::calendar;

/// Pause between looks at a verify under way.
const LOOK: Duration = Duration::from_millis(200);

/// What an operator asks for.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    group: String,
    /// Write what differs anew on the other array, from this one: the primary's copy is what hosts read.
    #[arg(long)]
    repair: bool,
    /// Only this volume of the group.
    #[arg(long)]
    volume: Option<String>,
    /// Do not wait for the end; showrcopy and showeventlog tell it.
    #[arg(long)]
    background: bool,
    /// Give up the verify that is under way.
    #[arg(long, conflicts_with_all = ["repair", "volume", "background"])]
    cancel: bool,
}

impl Check {
    /// # Errors
    /// Refused; or waited for, and not everything was compared, or something is not alike.
    pub fn carry_out(&self, client: &Client, json: bool) -> Result<(), Failure> {
        let path = format!("/api/twinlun/rcopy/{}/verify", segment(&self.group));
        if self.cancel {
            client.delete(&path)?;
        } else {
            client.post(&path, &json!({"repair": self.repair, "volumeName": self.volume}))?;
        }
        if self.cancel || self.background {
            if json {
                println!("{{}}");
            }
            return Ok(());
        }
        let found = wait(client, &path, json)?;
        let mine = |row: &&Value| self.volume.as_ref().is_none_or(|name| row["localVolume"] == name.as_str());
        let rows: Vec<&Value> = rows(&found).iter().filter(mine).collect();
        if json {
            println!("{found}");
        } else {
            print(&rows);
        }
        verdict(&self.group, &rows)
    }
}

fn rows(value: &Value) -> &[Value] {
    value["volumes"].as_array().map_or(&[], Vec::as_slice)
}

fn number(verify: &Value, name: &str) -> u64 {
    verify[name].as_u64().unwrap_or(0)
}

/// Shows progress until none of the group's verifies runs.
fn wait(client: &Client, path: &str, json: bool) -> Result<Value, Failure> {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let style = ProgressStyle::with_template("comparing {wide_bar} {pos}/{len} MiB");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        let value = client.get(path)?;
        let all = rows(&value);
        let sum = |name| all.iter().map(|row| number(&row["verify"], name)).sum();
        bar.set_length(sum("regions"));
        bar.set_position(sum("compared"));
        if all.iter().all(|row| row["verify"]["state"] != "running") {
            bar.finish_and_clear();
            return Ok(value);
        }
        std::thread::sleep(LOOK);
    }
}

fn print(rows: &[&Value]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["LocalVV", "Compared_MiB", "Differ_Blks", "Repaired_Blks", "Result"]);
    for row in rows {
        let verify = &row["verify"];
        let [compared, differing, repaired] =
            ["compared", "differingBlocks", "repairedBlocks"].map(|name| number(verify, name).to_string());
        let name = row["localVolume"].as_str().unwrap_or("-");
        table.add_row([name, &compared, &differing, &repaired, verify["said"].as_str().unwrap_or("-")]);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for line in table.to_string().lines() {
        println!("{}", line.strip_prefix(' ').unwrap_or(line).trim_end());
    }
    for row in rows {
        for line in differences(&row["verify"]) {
            println!("  {}: {line}", row["localVolume"].as_str().unwrap_or("-"));
        }
    }
}

/// What is not alike, a line for each extent.
fn differences(verify: &Value) -> Vec<String> {
    let line = |one: &Value| {
        let (lba, blocks) = (number(one, "lba"), number(one, "blocks"));
        let repaired = if one["repaired"] == true { ", repaired" } else { "" };
        let last = lba.saturating_add(blocks).saturating_sub(1);
        format!("LBA {lba} to {last} {}{repaired}", one["finding"].as_str().unwrap_or("differs"))
    };
    let mut lines: Vec<_> = verify["differences"].as_array().into_iter().flatten().map(line).collect();
    match number(verify, "differencesLeftOut") {
        0 => {}
        more => lines.push(format!("and {more} more")),
    }
    lines
}

/// Everything compared and alike now, or what is not.
fn verdict(group: &str, rows: &[&Value]) -> Result<(), Failure> {
    for row in rows {
        let (name, verify) = (row["localVolume"].as_str().unwrap_or("-"), &row["verify"]);
        if verify["state"] != "complete" {
            let said = verify["said"].as_str().unwrap_or("-");
            let lba = number(verify, "reachedLBA");
            return Err(format!("verify of {name} {said}; everything before LBA {lba} was compared").into());
        }
        let left = number(verify, "differingBlocks").saturating_sub(number(verify, "repairedBlocks"));
        if left > 0 && verify["repair"] != true {
            return Err(format!(
                "{left} blocks of {name} are not alike on both arrays; write them anew on the other one with \
                 checkrcopygroup --repair {group}"
            )
            .into());
        }
        if left > 0 {
            return Err(format!(
                "{left} blocks of {name} cannot be read on either array; a host that writes them mends them"
            )
            .into());
        }
    }
    Ok(())
}

/// One line on the newest verify of a volume, for `showrcopy`.
pub fn line(verify: &Value) -> String {
    let (compared, regions) = (number(verify, "compared"), number(verify, "regions"));
    if verify["state"] == "running" {
        return format!("verify under way, {compared} of {regions} MiB compared");
    }
    let ended = verify["ended"].as_u64().map_or_else(|| "-".into(), calendar);
    let said = verify["said"].as_str().unwrap_or("-");
    let (differing, repaired) = (number(verify, "differingBlocks"), number(verify, "repairedBlocks"));
    let found = match differing {
        0 => "no block differs".to_owned(),
        _ => format!("{differing} blocks not alike, {repaired} of them repaired"),
    };
    let mut line = format!("verify of {ended}: {said}, {compared} of {regions} MiB compared, {found}");
    for difference in differences(verify) {
        line += &format!("\n    {difference}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(state: &str, repair: bool, differing: u64, repaired: u64) -> Value {
        let differences = json!([{"lba": 2048, "blocks": 8, "finding": "differs", "repaired": repaired > 0}]);
        json!({"localVolume": "v0", "verify": {
            "state": state, "said": state, "repair": repair, "ended": 0, "regions": 64, "compared": 64,
            "reachedLBA": 4096, "differingBlocks": differing, "repairedBlocks": repaired,
            "differences": if differing > 0 { differences } else { json!([]) }, "differencesLeftOut": 0,
        }})
    }

    #[test]
    fn only_copies_that_are_alike_are_a_success() {
        verdict("g", &[&verify("complete", false, 0, 0)]).unwrap();
        verdict("g", &[&verify("complete", true, 8, 8)]).unwrap();
        let refused = |row: Value| verdict("g", &[&row]).unwrap_err().to_string();
        assert!(refused(verify("complete", false, 8, 0)).contains("checkrcopygroup --repair g"));
        assert!(refused(verify("complete", true, 8, 0)).contains("cannot be read on either array"));
        assert!(refused(verify("cancelled", false, 0, 0)).contains("everything before LBA 4096"));
    }

    #[test]
    fn one_line_for_showrcopy() {
        let row = verify("complete", true, 8, 8);
        assert_eq!(
            line(&row["verify"]),
            "verify of 1970-01-01 00:00:00: complete, 64 of 64 MiB compared, 8 blocks not alike, 8 of them \
             repaired\n    LBA 2048 to 2055 differs, repaired"
        );
    }
}
