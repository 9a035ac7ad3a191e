//! What a site is made of: where each process runs, its configuration file, the objects.

use super::Node;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

pub const OUTSIDE_IQN: &str = "iqn.2026-11.lab.twinlun:outside";
pub const OUTSIDE_LUN: u8 = 3;
pub const BENCH_IQN: &str = "iqn.2026-11.lab.twinlun:bench";
pub const BENCH_LUN: u8 = 1;

/// One process to be.
#[derive(Clone, Debug)]
pub struct Part {
    pub node: Node,
    pub namespace: Option<String>,
    pub configuration: PathBuf,
    /// What it keeps; emptied when the site is renewed.
    pub data: Vec<PathBuf>,
    pub log: PathBuf,
    /// Address of its management API, seen from its own namespace.
    pub management: String,
    pub portal: String,
    pub iqn: String,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub program: PathBuf,
    pub parts: Vec<Part>,
    /// Objects, applied on the first array.
    pub objects: PathBuf,
    pub group: Option<String>,
    /// Where relative paths in the configurations start.
    pub directory: PathBuf,
}

fn create(path: &Path, content: &str) -> io::Result<PathBuf> {
    fs::write(path, content)?;
    Ok(path.to_owned())
}

/// Users file and so on are the plan's own business; the caller gets files that are ready.
fn part(node: Node, directory: &Path, namespace: Option<String>, address: &Addresses) -> io::Result<Part> {
    let own = directory.join(node.name());
    fs::create_dir_all(&own)?;
    let configuration = directory.join(format!("{}.toml", node.name()));
    let text = match node {
        Node::Witness => witness_toml(&own, address),
        _ => array_toml(node, &own, address),
    };
    create(&configuration, &text)?;
    Ok(Part {
        node,
        namespace,
        configuration,
        data: vec![own],
        log: directory.join(format!("{}.log", node.name())),
        management: address.management(node),
        portal: address.portal(node),
        iqn: String::from("iqn.2026-11.lab.twinlun:array-") + node.name(),
    })
}

/// Who listens where.
#[derive(Clone, Debug)]
struct Addresses {
    /// One address per node and plane in the lab, one port per node on loopback.
    portal: [String; 2],
    replication: [String; 2],
    management: [String; 2],
    witness: String,
    pair: bool,
}

impl Addresses {
    fn portal(&self, node: Node) -> String {
        self.portal[usize::from(node == Node::B)].clone()
    }

    fn management(&self, node: Node) -> String {
        self.management[usize::from(node == Node::B)].clone()
    }
}

fn array_toml(node: Node, own: &Path, address: &Addresses) -> String {
    let (me, other) = if node == Node::B { (1, 0) } else { (0, 1) };
    let name = ["array-a", "array-b"];
    let mut text = format!(
        "name = \"{}\"\nside = \"{}\"\ndata_dir = \"{}\"\nportals = [\"{}\"]\n\n[management]\nlisten = \"{}\"\n",
        name[me],
        node.name(),
        own.display(),
        address.portal[me],
        address.management[me],
    );
    if address.pair {
        text += &format!(
            "\n[replication]\nlisten = \"{}\"\npeer = \"{}\"\nallow_plaintext = true\n\n[witness]\naddress = \"{}\"\nallow_plaintext = true\n",
            address.replication[me], address.replication[other], address.witness
        );
    }
    text
}

fn witness_toml(own: &Path, address: &Addresses) -> String {
    format!("data_dir = \"{}\"\nlisten = \"{}\"\nallow_plaintext = true\n", own.display(), address.witness)
}

/// The lab: each process in its namespace, one address per plane.
pub fn lab_plan(
    namespace: impl Fn(Node) -> String,
    ip: impl Fn(Node, u8) -> String,
    binaries: &Path,
    directory: &Path,
) -> io::Result<Plan> {
    let both = |plane: u8, port: u16| [Node::A, Node::B].map(|node| format!("{}:{port}", ip(node, plane)));
    let address = Addresses {
        portal: both(0, 3260),
        replication: both(1, 5785),
        management: [String::from("127.0.0.1:8080"), String::from("127.0.0.1:8080")],
        witness: format!("{}:5786", ip(Node::Witness, 2)),
        pair: true,
    };
    fs::create_dir_all(directory)?;
    let mut parts = Vec::new();
    for node in [Node::Witness, Node::A, Node::B] {
        parts.push(part(node, directory, Some(namespace(node)), &address)?);
    }
    let objects = create(&directory.join("objects.toml"), LAB_OBJECTS)?;
    Ok(Plan {
        program: binaries.join("twinlun"),
        parts,
        objects,
        group: Some(String::from("lab")),
        directory: directory.to_owned(),
    })
}

const LAB_OBJECTS: &str = r#"
"#;

/// One array, or a mirrored pair, on loopback, with a volume for the benchmark.
pub fn bench_plan(program: &Path, directory: &Path, pair: bool) -> io::Result<Plan> {
    fs::create_dir_all(directory)?;
    let mut ports = Vec::new();
    for _ in 0..7 {
        ports.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let mut free = ports.iter().map(|listener| listener.local_addr().map(|address| address.to_string()));
    let mut next = || free.next().unwrap_or_else(|| Err(io::Error::other("too few ports")));
    let address = Addresses {
        portal: [next()?, next()?],
        replication: [next()?, next()?],
        management: [next()?, next()?],
        witness: next()?,
        pair,
    };
    let nodes: &[Node] = if pair { &[Node::Witness, Node::A, Node::B] } else { &[Node::A] };
    let parts =
        nodes.iter().map(|&node| part(node, directory, None, &address)).collect::<io::Result<Vec<_>>>()?;
    let objects = create(&directory.join("objects.toml"), BENCH_OBJECTS)?;
    Ok(Plan {
        program: program.to_owned(),
        parts,
        objects,
        group: pair.then(|| String::from("bench")),
        directory: directory.to_owned(),
    })
}

const BENCH_OBJECTS: &str = "";
