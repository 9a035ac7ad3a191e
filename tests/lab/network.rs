//! The lab's network: a namespace for each array, the witness and the outside host, joined by a
//! switch namespace with one bridge per plane, so that any leg can be cut and healed by itself.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

pub use crate::site::Node;

pub const NODES: [Node; 4] = [Node::A, Node::B, Node::Witness, Node::Host];

impl Node {
    const fn address(self) -> u8 {
        match self {
            Self::Host => 1,
            Self::A => 11,
            Self::B => 12,
            Self::Witness => 13,
        }
    }

    /// The node's address on a plane.
    pub fn ip(self, plane: Plane) -> String {
        self.ip_on(plane as u8)
    }

    pub fn ip_on(self, plane: u8) -> String {
        format!("10.77.{plane}.{}", self.address())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    Host = 0,
    Replication = 1,
    Witness = 2,
    /// The judge's: guest to the outside, never cut.
    Log = 3,
}

const PLANES: [Plane; 4] = [Plane::Host, Plane::Replication, Plane::Witness, Plane::Log];
/// Start of the names of all namespaces this program makes; the maker's process id follows.
const PREFIX: &str = "twl";

#[derive(Debug)]
pub struct Network {
    prefix: String,
}

pub fn run(program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {}: {said}", arguments.join(" "))))
}

fn ip(arguments: &str) -> io::Result<()> {
    run("ip", &arguments.split_whitespace().collect::<Vec<_>>()).map(|_| ())
}

/// Removes what runs of this program that were killed have left behind.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists() {
            // Someone else may sweep at the same time.
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

impl Network {
    pub fn up() -> io::Result<Self> {
        let network = Self { prefix: format!("{PREFIX}{}", std::process::id()) };
        let p = &network.prefix;
        ip(&format!("netns add {p}-sw"))?;
        for plane in PLANES {
            let n = plane as u8;
            ip(&format!("-n {p}-sw link add br{n} type bridge"))?;
            ip(&format!("-n {p}-sw link set br{n} up"))?;
        }
        for node in NODES {
            let name = node.name();
            ip(&format!("netns add {p}-{name}"))?;
            ip(&format!("-n {p}-{name} link set lo up"))?;
            for plane in PLANES {
                let n = plane as u8;
                ip(&format!("-n {p}-sw link add {name}-{n} type veth peer name e{n} netns {p}-{name}"))?;
                ip(&format!("-n {p}-sw link set {name}-{n} master br{n} up"))?;
                ip(&format!("-n {p}-{name} addr add {}/24 dev e{n}", node.ip(plane)))?;
                ip(&format!("-n {p}-{name} link set e{n} up"))?;
            }
        }
        for plane in [Plane::Host, Plane::Log] {
            let n = plane as u8;
            ip(&format!("-n {p}-sw tuntap add tap{n} mode tap"))?;
            ip(&format!("-n {p}-sw link set tap{n} master br{n} up"))?;
        }
        Ok(network)
    }

    pub fn namespace(&self, node: Node) -> String {
        format!("{}-{}", self.prefix, node.name())
    }

    pub fn switch_namespace(&self) -> String {
        format!("{}-sw", self.prefix)
    }

    /// From now on that leg drops everything, silently.
    pub fn cut(&self, node: Node, plane: Plane) -> io::Result<()> {
        ip(&format!("-n {}-sw link set {}-{} nomaster", self.prefix, node.name(), plane as u8))
    }

    pub fn heal(&self, node: Node, plane: Plane) -> io::Result<()> {
        ip(&format!(
            "-n {}-sw link set {}-{} master br{}",
            self.prefix,
            node.name(),
            plane as u8,
            plane as u8
        ))
    }

    /// What `from` sends to `to` on that plane is dropped; the way back stays.
    pub fn cut_one_way(&self, from: Node, to: Node, plane: Plane) -> io::Result<()> {
        let namespace = self.namespace(to);
        for rule in [
            "add table ip lab".to_owned(),
            "add chain ip lab in { type filter hook input priority 0; }".to_owned(),
            format!("add rule ip lab in ip saddr {} drop", from.ip(plane)),
        ] {
            run("ip", &["netns", "exec", &namespace, "nft", &rule])?;
        }
        Ok(())
    }

    /// The TCP connection of `node` with that local port is answered with a reset from now on.
    pub fn break_connection(&self, node: Node, local_port: u16) -> io::Result<()> {
        let namespace = self.namespace(node);
        for rule in [
            "add table ip lab".to_owned(),
            "add chain ip lab in { type filter hook input priority 0; }".to_owned(),
            format!("add rule ip lab in tcp dport {local_port} reject with tcp reset"),
        ] {
            run("ip", &["netns", "exec", &namespace, "nft", &rule])?;
        }
        Ok(())
    }

    /// Local port of the connection of `node` to an address and port that has sent most.
    pub fn busiest_connection(&self, node: Node, to: &str) -> io::Result<u16> {
        let arguments =
            ["netns", "exec", &self.namespace(node), "ss", "-tniHO", "state", "established", "dst", to];
        let said = run("ip", &arguments)?;
        let connections = said.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let port: u16 = words.nth(2)?.rsplit(':').next()?.parse().ok()?;
            let sent: u64 = words.find_map(|word| word.strip_prefix("bytes_acked:"))?.parse().ok()?;
            Some((sent, port))
        });
        let busiest = connections.max();
        busiest
            .map(|(_, port)| port)
            .ok_or_else(|| io::Error::other(format!("no connection to {to}: {said}")))
    }

    pub fn heal_all(&self) -> io::Result<()> {
        for node in NODES {
            for plane in PLANES {
                self.heal(node, plane)?;
            }
            // Most often there is no such table.
            let _ = run("ip", &["netns", "exec", &self.namespace(node), "nft", "delete table ip lab"]);
        }
        Ok(())
    }

    /// A listener inside the namespace of `node`, on any port of `address`.
    pub fn listen(&self, node: Node, address: &str) -> io::Result<(TcpListener, SocketAddr)> {
        let namespace = fs::File::open(format!("/run/netns/{}", self.namespace(node)))?;
        let address = format!("{address}:0");
        // A thread of its own: a namespace belongs to a thread, a socket to where it was made.
        let made = std::thread::spawn(move || -> io::Result<TcpListener> {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
            TcpListener::bind(address)
        });
        let listener = made.join().map_err(|_| io::Error::other("the listening thread panicked"))??;
        let local = listener.local_addr()?;
        Ok((listener, local))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in NODES {
            // Gone already is as good.
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("netns del {}", self.switch_namespace()));
    }
}
