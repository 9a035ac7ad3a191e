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

    /// The TCP connection of `node` with that local port stands still, both ways, until all is healed.
    pub fn stall_connection(&self, node: Node, local_port: u16) -> io::Result<()> {
        let namespace = self.namespace(node);
        for rule in [
            "add table ip lab".to_owned(),
            "add chain ip lab in { type filter hook input priority 0; }".to_owned(),
            "add chain ip lab out { type filter hook output priority 0; }".to_owned(),
            format!("add rule ip lab in tcp dport {local_port} drop"),
            format!("add rule ip lab out tcp sport {local_port} drop"),
        ] {
            run("ip", &["netns", "exec", &namespace, "nft", &rule])?;
        }
        Ok(())
    }

    /// The leg of a node on a plane, for a [`Wire`](crate::wire::Wire).
    pub fn leg(&self, node: Node, plane: Plane) -> Leg {
        let n = plane as u8;
        Leg {
            switch: self.switch_namespace(),
            port: format!("{}-{n}", node.name()),
            bridge: format!("br{n}"),
        }
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
        let address = format!("{address}:0");
        let listener = in_namespace(&self.namespace(node), move || TcpListener::bind(address))?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    }
}

/// Makes something inside a namespace, on a thread of its own: a namespace belongs to a thread, a
/// socket or tap to where it was made.
pub fn in_namespace<T: Send + 'static>(
    name: &str,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = fs::File::open(format!("/run/netns/{name}"))?;
    let made = std::thread::spawn(move || -> io::Result<T> {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
        make()
    });
    made.join().map_err(|_| io::Error::other("the thread in the namespace panicked"))?
}

/// Where a node is plugged into the switch of a plane.
#[derive(Clone, Debug)]
pub struct Leg {
    switch: String,
    port: String,
    bridge: String,
}

impl Leg {
    pub fn switch_namespace(&self) -> &str {
        &self.switch
    }

    /// Names of the two taps: at the switch, and at the node.
    pub fn taps(&self) -> [String; 2] {
        [format!("n{}", self.port), format!("f{}", self.port)]
    }

    fn far_bridge(&self) -> String {
        format!("b{}", self.port)
    }

    /// Unplugs the node and puts a tap at each end.
    pub fn open_up(&self) -> io::Result<()> {
        let Self { switch, port, bridge } = self;
        let ([near, far], far_bridge) = (self.taps(), self.far_bridge());
        ip(&format!("-n {switch} link add {far_bridge} type bridge"))?;
        ip(&format!("-n {switch} link set {far_bridge} up"))?;
        for (tap, bridge) in [(&near, bridge), (&far, &far_bridge)] {
            ip(&format!("-n {switch} tuntap add {tap} mode tap"))?;
            ip(&format!("-n {switch} link set {tap} master {bridge} up"))?;
        }
        ip(&format!("-n {switch} link set {port} master {far_bridge}"))
    }

    /// Plugs the node in again.
    pub fn close_up(&self) -> io::Result<()> {
        let Self { switch, port, bridge } = self;
        ip(&format!("-n {switch} link set {port} master {bridge}"))?;
        for tap in self.taps() {
            ip(&format!("-n {switch} link del {tap}"))?;
        }
        ip(&format!("-n {switch} link del {}", self.far_bridge()))
    }
}

#[allow(unsafe_code, reason = "there is no other way to attach to a tap")]
mod tap {
    // TUNSETIFF of linux/if_tun.h, with a struct ifreq.
    nix::ioctl_write_ptr_bad!(set_interface, 0x4004_54ca, [u8; 40]);

    pub fn attach(name: &str) -> std::io::Result<std::fs::File> {
        use std::os::fd::AsRawFd;
        // IFF_TAP | IFF_NO_PI: whole frames and nothing else.
        const FLAGS: u16 = 0x0002 | 0x1000;
        let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
        let mut request = [0; 40];
        for (place, byte) in request[..15].iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
        // SAFETY: the descriptor is open, and the request is as long as a struct ifreq.
        unsafe { set_interface(file.as_raw_fd(), &raw const request) }?;
        Ok(file)
    }
}

pub use tap::attach as attach_tap;

impl Drop for Network {
    fn drop(&mut self) {
        for node in NODES {
            // Gone already is as good.
            let _ = ip(&format!("netns del {}", self.namespace(node)));
        }
        let _ = ip(&format!("netns del {}", self.switch_namespace()));
    }
}
