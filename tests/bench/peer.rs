//! The peer: Debian's `tgt`, an own instance on ports of its own, ended by its process id.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.lab.twinlun:peer";
const START_LIMIT: Duration = Duration::from_secs(10);
/// Mode page 08h with WCE = 0: each write is followed by a flush of its range.
const WRITE_CACHE_OFF: &str =
    "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0";

#[derive(Debug)]
pub struct Peer {
    child: Child,
    control: String,
    portal: String,
}

/// A TCP port that nobody listens on now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Peer {
    pub fn start() -> io::Result<Self> {
        let portal = format!("127.0.0.1:{}", free_port()?);
        // tgt's control port only names its socket: as free as a TCP port that was free just now.
        let control = (u32::from(free_port()?) % 30_000 + 1_000).to_string();
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "tgtd",
                "-f",
                "-C",
                &control,
                "--iscsi",
                &format!("portal={portal}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let peer = Self { child, control, portal };
        let limit = Instant::now() + START_LIMIT;
        while TcpStream::connect(&peer.portal).is_err()
            || peer.tell(&["--mode", "target", "--op", "show"]).is_err()
        {
            if Instant::now() > limit {
                return Err(io::Error::other("tgtd does not come up"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        peer.tell(&["--mode", "target", "--op", "new", "--tid", "1", "-T", TARGET])?;
        peer.tell(&["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"])?;
        Ok(peer)
    }

    fn tell(&self, arguments: &[&str]) -> io::Result<()> {
        let output =
            Command::new("tgtadm").args(["-C", &self.control, "--lld", "iscsi"]).args(arguments).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "tgtadm {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }

    /// A LUN on `file`. `durable`: no page cache under it and no write cache, as our own volumes.
    pub fn add(&self, lun: u8, file: &Path, durable: bool) -> io::Result<crate::clients::Target> {
        let (number, path) = (lun.to_string(), file.display().to_string());
        let mut new =
            vec!["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", &number, "-b", &path];
        if durable {
            new.extend(["--bsoflags", "direct"]);
        }
        self.tell(&new)?;
        if durable {
            self.tell(&[
                "--mode",
                "logicalunit",
                "--op",
                "update",
                "--tid",
                "1",
                "--lun",
                &number,
                "--params",
                WRITE_CACHE_OFF,
            ])?;
        }
        Ok(crate::clients::Target {
            portal: self.portal.clone(),
            iqn: TARGET.to_owned(),
            lun,
            initiator: String::from("iqn.2026-11.lab.twinlun:bench"),
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
