//! The operator's verbs, spelled as on the real array.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Failure;
use super::client::{Client, segment, vlun_path};
use super::show;

#[derive(Debug, Subcommand)]
pub enum Operator {
    /// Make a virtual volume.
    #[command(
        after_help = "Examples:\n  twinlun createvv -tpvv vmfs.0 10G\n  twinlun createvv raw.1 2T --path /dev/disk/by-id/nvme-X"
    )]
    Createvv {
        /// Thin provisioned (always so here).
        #[arg(long)]
        tpvv: bool,
        name: String,
        /// Size with a unit: 512M, 10G, 2T. A multiple of 1 MiB.
        size: String,
        /// Data file or block device on the array; default: a file in its `data_dir`.
        #[arg(long)]
        path: Option<String>,
        #[arg(long)]
        comment: Option<String>,
        /// What an answered write is: `stable` on the disks of both arrays, or held in the `memory` of both
        /// (faster; hosts flush it). Lost only if both arrays lose power at once.
        #[arg(long, value_parser = ["stable", "memory"], default_value = "stable")]
        promise: String,
    },
    /// Grow a virtual volume, both copies of a mirrored one; hosts see the new size at once.
    #[command(after_help = "Example:\n  twinlun growvv vmfs.0 10G    makes it 10 GiB larger")]
    Growvv {
        name: String,
        /// By how much, with a unit: 512M, 10G. A multiple of 1 MiB.
        size: String,
    },
    /// Remove a virtual volume that is neither exported nor mirrored.
    Removevv {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        name: String,
    },
    /// List virtual volumes.
    Showvv,
    /// Make a host of initiator names.
    #[command(
        after_help = "Example:\n  twinlun createhost -iscsi -persona 8 esx1 iqn.1998-01.com.vmware:esx1"
    )]
    Createhost {
        #[arg(long)]
        iscsi: bool,
        /// Persona number (2 is Generic-ALUA, 8 VMware).
        #[arg(long, default_value_t = 2)]
        persona: u8,
        name: String,
        iqns: Vec<String>,
    },
    /// Remove a host that sees no volume.
    Removehost {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        name: String,
    },
    /// List hosts and their initiators.
    Showhost,
    /// Export a volume to a host; `auto` takes the lowest free LUN.
    #[command(
        after_help = "Examples:\n  twinlun createvlun vmfs.0 1 esx1\n  twinlun createvlun vmfs.0 auto esx1"
    )]
    Createvlun { volume: String, lun: String, host: String },
    /// Take an export back.
    Removevlun {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        volume: String,
        lun: u16,
        host: String,
    },
    /// List exports and the paths that are logged in.
    Showvlun,
    /// List iSCSI ports.
    Showport,
    /// Name, model and serial number of the array.
    Showsys,
    /// Make a remote copy group; this array becomes its natural primary.
    #[command(after_help = "Example:\n  twinlun creatercopygroup vmfs array-b:sync")]
    Creatercopygroup { group: String, target: String },
    /// Remove a stopped remote copy group, on both arrays.
    Removercopygroup {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// Mirror a volume in a group; it is made on the other array if need be.
    #[command(after_help = "Example:\n  twinlun admitrcopyvv vmfs.0 vmfs array-b:vmfs.0")]
    Admitrcopyvv { volume: String, group: String, target: String },
    /// Take a volume out of a stopped group.
    Dismissrcopyvv {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        volume: String,
        group: String,
    },
    /// Begin to mirror a group.
    Startrcopygroup { group: String },
    /// Mirror a group no longer.
    Stoprcopygroup {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// Compare both copies of a group in sync while hosts work, and tell what differs; on the primary.
    #[command(
        after_help = "Examples:\n  twinlun checkrcopygroup vmfs\n  twinlun checkrcopygroup --repair vmfs\n  \
                      twinlun checkrcopygroup --cancel vmfs"
    )]
    Checkrcopygroup(super::verify::Check),
    /// Show remote copy: target, links, groups, roles, and why an array does not serve.
    Showrcopy,
    /// Change roles or policies of a group.
    #[command(
        subcommand,
        after_help = "Examples:\n  twinlun setrcopygroup switchover vmfs           on the primary\n  \
                      twinlun setrcopygroup failover vmfs.r1         on the secondary of a stopped group\n  \
                      twinlun setrcopygroup override -f vmfs.r1      the other array is off for good\n  \
                      twinlun setrcopygroup pol no_auto_failover vmfs"
    )]
    Setrcopygroup(Setrcopygroup),
    /// Show what happened, arbitration with its epochs.
    Showeventlog,
    /// Print the Prometheus metrics.
    Metrics,
}

#[derive(Debug, Subcommand)]
pub enum Setrcopygroup {
    /// Swap roles; nothing failed, nothing is lost.
    Switchover {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// Take the secondary of a stopped group, or of a lost primary, into office.
    Failover {
        /// Your word that the other array is off: a copy in sync takes office without a majority.
        #[arg(short = 'f')]
        force: bool,
        group: String,
    },
    /// Let an array serve what it holds, in sync or not, when the other one is gone.
    Override {
        /// Your word that the other array is off and stays so until it is linked with this one.
        #[arg(short = 'f')]
        force: bool,
        group: String,
    },
    /// Give up what this array wrote alone before an override, so that it can be mirrored to.
    Discard {
        /// Those writes are lost.
        #[arg(short = 'f')]
        force: bool,
        group: String,
    },
    /// After a failover, on the array that took over: mirror to the former primary.
    Recover {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// After `recover`, in sync again: back to the natural roles.
    Restore {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// Swap the direction of a group in sync.
    Reverse {
        /// As on the real array: do not ask. Nothing is asked here.
        #[arg(short = 'f', hide = true)]
        force: bool,
        group: String,
    },
    /// Switch policies on or off.
    Pol(Policies),
}

#[derive(Debug, Args)]
pub struct Policies {
    /// auto_failover, path_management, auto_recover, auto_synchronize, several with commas between; `no_` before: off.
    policy: String,
    group: String,
}

/// Bytes of a size with a unit, as a multiple of 1 MiB.
pub fn size_mib(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size; write e.g. 512M, 10G or 2T");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "m" | "mib" => 1,
        "g" | "gib" => 1 << 10,
        "t" | "tib" => 1 << 20,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).filter(|size| *size > 0).ok_or_else(wrong)
}

/// `TARGET:what`.
fn target(text: &str) -> Result<(&str, &str), String> {
    text.split_once(':').ok_or_else(|| format!("`{text}`: write TARGET:VOLUME, or TARGET:sync for a group"))
}

impl Operator {
    pub fn carry_out(&self, client: &Client, json: bool) -> Result<(), Failure> {
        let done = |_: Value| {
            if json {
                println!("{{}}");
            }
        };
        match self {
            Self::Createvv { tpvv: _, name, size, path, comment, promise } => {
                let mib = size_mib(size)?;
                let body = json!({
                    "name": name, "sizeMiB": mib, "path": path, "comment": comment, "tpvv": true,
                    "writePromise": promise,
                });
                done(client.post("/api/v1/volumes", &body)?);
            }
            Self::Growvv { name, size } => {
                let body = json!({"action": 3, "sizeMiB": size_mib(size)?});
                done(client.put(&format!("/api/v1/volumes/{}", segment(name)), &body)?);
            }
            Self::Removevv { name, .. } => {
                done(client.delete(&format!("/api/v1/volumes/{}", segment(name)))?)
            }
            Self::Showvv => show::volumes(&client.get("/api/v1/volumes")?, json),
            Self::Createhost { iscsi: _, persona, name, iqns } => {
                let body = json!({"name": name, "iSCSINames": iqns, "persona": persona});
                done(client.post("/api/v1/hosts", &body)?);
            }
            Self::Removehost { name, .. } => {
                done(client.delete(&format!("/api/v1/hosts/{}", segment(name)))?)
            }
            Self::Showhost => show::hosts(&client.get("/api/v1/hosts")?, json),
            Self::Createvlun { volume, lun, host } => {
                let mut body = json!({"volumeName": volume, "hostname": host});
                if lun == "auto" {
                    body["autoLun"] = true.into();
                } else {
                    let lun: u16 =
                        lun.parse().map_err(|_| format!("`{lun}` is no LUN; write a number or auto"))?;
                    body["lun"] = lun.into();
                }
                done(client.post("/api/v1/vluns", &body)?);
            }
            Self::Removevlun { volume, lun, host, .. } => {
                done(client.delete(&vlun_path(volume, *lun, host)?)?);
            }
            Self::Showvlun => show::vluns(&client.get("/api/v1/vluns")?, json),
            Self::Showport => show::ports(&client.get("/api/v1/ports")?, json),
            Self::Showsys => show::system(&client.get("/api/v1/system")?, json),
            Self::Creatercopygroup { group, target: to } => {
                let (target, mode) = target(to)?;
                if mode != "sync" {
                    return Err(format!("mode `{mode}` is not offered; use {target}:sync").into());
                }
                let body = json!({"name": group, "targets": [{"targetName": target, "mode": 1}]});
                done(client.post("/api/v1/remotecopygroups", &body)?);
            }
            Self::Removercopygroup { group, .. } => {
                done(client.delete(&format!("/api/v1/remotecopygroups/{}", segment(group)))?);
            }
            Self::Admitrcopyvv { volume, group, target: to } => {
                let (target, remote) = target(to)?;
                let body = json!({
                    "action": 1, "volumeName": volume, "volumeAutoCreation": true,
                    "targets": [{"targetName": target, "secVolumeName": remote}],
                });
                done(client.put(&format!("/api/v1/remotecopygroups/{}", segment(group)), &body)?);
            }
            Self::Dismissrcopyvv { volume, group, .. } => {
                let body = json!({"action": 2, "volumeName": volume});
                done(client.put(&format!("/api/v1/remotecopygroups/{}", segment(group)), &body)?);
            }
            Self::Startrcopygroup { group } => {
                done(
                    client.put(
                        &format!("/api/v1/remotecopygroups/{}", segment(group)),
                        &json!({"action": 3}),
                    )?,
                );
            }
            Self::Stoprcopygroup { group, .. } => {
                done(
                    client.put(
                        &format!("/api/v1/remotecopygroups/{}", segment(group)),
                        &json!({"action": 4}),
                    )?,
                );
            }
            Self::Checkrcopygroup(check) => check.carry_out(client, json)?,
            Self::Showrcopy => show::remote_copy(&client.get("/api/twinlun/rcopy")?, json),
            Self::Setrcopygroup(set) => done(set.carry_out(client)?),
            Self::Showeventlog => show::events(&client.get("/api/twinlun/eventlog")?, json),
            Self::Metrics => print!("{}", client.text("GET", "/metrics", None)?),
        }
        Ok(())
    }
}

/// One of WSAPI's actions of disaster recovery; what it says about the data is shown.
fn act(client: &Client, group: &str, action: u32, force: bool) -> Result<Value, Failure> {
    let mut body = json!({"action": action});
    if force {
        body["force"] = true.into();
    }
    let answer = client.post(&format!("/api/v1/remotecopygroups/{}", segment(group)), &body)?;
    if let Some(desc) = answer["desc"].as_str() {
        eprintln!("{group}: {desc}");
    }
    Ok(answer)
}

impl Setrcopygroup {
    fn carry_out(&self, client: &Client) -> Result<Value, Failure> {
        match self {
            Self::Switchover { group, .. } => act(client, group, 8, false),
            Self::Reverse { group, .. } => act(client, group, 6, false),
            Self::Recover { group, .. } => act(client, group, 9, false),
            Self::Restore { group, .. } => act(client, group, 10, false),
            Self::Failover { group, force } => act(client, group, 7, *force),
            Self::Override { force: false, group } => Err(format!(
                "override makes this array serve `{group}` as it holds it; what the other array acknowledged \
                 alone is missing here. It is safe only if that array is off and stays off until it is linked \
                 with this one. If you give your word for that: setrcopygroup override -f {group}"
            )
            .into()),
            Self::Override { force: true, group } => act(client, group, 11, true),
            Self::Discard { force: false, group } => Err(format!(
                "discard gives up what this array wrote alone to `{group}`, for good. If that is what you want: \
                 setrcopygroup discard -f {group}"
            )
            .into()),
            Self::Discard { force: true, group } => client
                .post(&format!("/api/twinlun/rcopy/{}", segment(group)), &json!({"action": "discard"})),
            Self::Pol(Policies { policy, group }) => {
                let mut body = serde_json::Map::new();
                for policy in policy.split(',') {
                    let (on, name) = match policy.strip_prefix("no_") {
                        Some(name) => (false, name),
                        None => (true, policy),
                    };
                    let member = match name {
                        "auto_failover" => "autoFailover",
                        "path_management" => "pathManagement",
                        "auto_recover" => "autoRecover",
                        "auto_synchronize" => "autoSynchronize",
                        _ => {
                            let known =
                                "auto_failover, path_management, auto_recover, auto_synchronize (no_ before: off)";
                            return Err(format!("there is no policy `{name}`; there are {known}").into());
                        }
                    };
                    body.insert(member.into(), on.into());
                }
                client.put(&format!("/api/twinlun/rcopy/{}", segment(group)), &body.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size_mib;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size_mib("512M"), Ok(512));
        assert_eq!(size_mib("10G"), Ok(10 << 10));
        assert_eq!(size_mib("2TiB"), Ok(2 << 20));
        for bad in ["10", "G", "0G", "1.5G", "10K", "99999999999999999999G"] {
            assert!(size_mib(bad).is_err(), "{bad}");
        }
    }
}
