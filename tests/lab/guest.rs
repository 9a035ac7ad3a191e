//! The guest from outside: QEMU in the switch's namespace, and the agent inside it that carries
//! out orders over the log network.

use crate::network::{Network, Node, Plane};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Software emulation on a loaded machine: boots in about 20 s alone.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

#[derive(Debug)]
pub struct Guest {
    child: Child,
    directory: PathBuf,
    agent: TcpStream,
    next_id: u64,
    answers: Arc<Mutex<HashMap<u64, Sender<Value>>>>,
}

/// Files the guest needs in its shared folder.
#[derive(Debug)]
pub struct Contents<'a> {
    pub image: &'a Path,
    pub boot: &'a Path,
    pub agent: &'a Path,
    pub target_config: &'a Path,
}

/// QEMU starting, until [`Booting::ready`].
#[derive(Debug)]
pub struct Booting {
    child: Child,
    directory: PathBuf,
    listener: TcpListener,
}

impl Drop for Booting {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // Both fail only if it has ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

/// Starts the guest; the arrays can be brought up meanwhile.
pub fn boot(network: &Network, directory: &Path, contents: &Contents<'_>) -> io::Result<Booting> {
    fs::create_dir_all(directory)?;
    fs::copy(contents.boot, directory.join("boot.sh"))?;
    fs::copy(contents.agent, directory.join("twinlun-guest"))?;
    for name in ["multipath.conf", "iscsid.conf"] {
        fs::copy(contents.target_config.join(name), directory.join(name))?;
    }
    let (listener, address) = network.listen(Node::Host, &Node::Host.ip(Plane::Log))?;
    fs::write(directory.join("agent"), address.to_string())?;
    let accelerator = std::env::var("TWINLUN_LAB_ACCEL").unwrap_or_else(|_| String::from("tcg"));
    let (accelerator, cpu) = if accelerator == "kvm" { ("kvm", "host") } else { ("tcg,thread=multi", "max") };
    let image = |name: &str| contents.image.join(name).display().to_string();
    let console = File::create(directory.join("console.log"))?;
    let child = Command::new("ip")
        .args(["netns", "exec", &network.switch_namespace()])
        // The guest is the heaviest of all: the arrays go first, as they would with hosts of their own.
        .args(["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(["-accel", accelerator, "-cpu", cpu, "-m", "1024", "-smp", "2", "-nographic", "-no-reboot"])
        .args(["-kernel", &image("vmlinuz"), "-initrd", &image("initrd")])
        .args(["-append", "console=ttyS0 root=/dev/vda rw init=/labinit mitigations=off quiet"])
        .args(["-drive", &format!("file={},if=virtio,format=raw,snapshot=on", image("guest.img"))])
        .args(["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"])
        .args(["-device", "virtio-net-pci,netdev=n0,romfile=,mac=52:54:00:77:00:01"])
        .args(["-netdev", "tap,id=n3,ifname=tap3,script=no,downscript=no"])
        .args(["-device", "virtio-net-pci,netdev=n3,romfile=,mac=52:54:00:77:00:03"])
        .args(["-virtfs", &format!("local,path={},mount_tag=job,security_model=none", directory.display())])
        .stdin(Stdio::null())
        .stderr(console.try_clone()?)
        .stdout(console)
        .spawn()?;
    Ok(Booting { child, directory: directory.to_owned(), listener })
}

impl Booting {
    /// Waits for the agent to call.
    pub fn ready(mut self) -> io::Result<Guest> {
        self.listener.set_nonblocking(true)?;
        let limit = Instant::now() + BOOT_LIMIT;
        let agent = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "QEMU ended ({status}); see {}/console.log",
                    self.directory.display()
                )));
            }
            if Instant::now() > limit {
                return Err(io::Error::other(format!(
                    "the guest does not come up; see {}/console.log",
                    self.directory.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        agent.set_nonblocking(false)?;
        agent.set_nodelay(true)?;
        let answers: Arc<Mutex<HashMap<u64, Sender<Value>>>> = Arc::default();
        let (reader, table) = (agent.try_clone()?, Arc::clone(&answers));
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines() {
                let Ok(line) = line else { return };
                let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
                let waiting = answer["id"].as_u64().and_then(|id| table.lock().ok()?.remove(&id));
                if let Some(waiting) = waiting {
                    // Whoever asked may have given up.
                    let _ = waiting.send(answer);
                }
            }
        });
        // `self` is taken apart by swapping in a child that has ended: its drop must not kill QEMU.
        let idle = Command::new("true").spawn()?;
        let child = std::mem::replace(&mut self.child, idle);
        Ok(Guest { child, directory: self.directory.clone(), agent, next_id: 1, answers })
    }
}

impl Guest {
    /// Sends an order; the answer comes through the receiver.
    pub fn order(&mut self, mut request: Value) -> io::Result<Receiver<Value>> {
        let id = self.next_id;
        self.next_id += 1;
        request["id"] = json!(id);
        let (sender, receiver) = channel();
        self.answers.lock().expect("no holder panics").insert(id, sender);
        writeln!(self.agent, "{request}")?;
        Ok(receiver)
    }

    pub fn ask(&mut self, request: Value, limit: Duration) -> io::Result<Value> {
        let what = request.to_string();
        let answer = self
            .order(request)?
            .recv_timeout(limit)
            .map_err(|_| io::Error::other(format!("no answer from the guest to {what}")))?;
        match answer["error"].as_str() {
            Some(error) => Err(io::Error::other(format!("guest: {what}: {error}"))),
            None => Ok(answer),
        }
    }

    /// Runs a script; its output if it succeeded.
    pub fn sh(&mut self, script: &str, limit: Duration) -> io::Result<String> {
        let answer = self.ask(json!({ "op": "sh", "script": script }), limit)?;
        let out = answer["out"].as_str().unwrap_or_default().to_owned();
        if answer["rc"] == 0 {
            Ok(out)
        } else {
            Err(io::Error::other(format!("guest: {script}: {} {out}", answer["rc"])))
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
