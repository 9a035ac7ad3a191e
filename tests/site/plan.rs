//! What a site is made of: where each process runs, its configuration file, the objects.

use super::Node;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// Initiator name and LUN of the first export of the objects.
    pub host: Option<(String, u64)>,
    /// Where relative paths in the configurations start.
    pub directory: PathBuf,
}

impl Plan {
    /// The same with TLS between all sites, which are paired by hand.
    pub fn secured(self) -> io::Result<Self> {
        let mut cards = Vec::new();
        for part in &self.parts {
            let text = fs::read_to_string(&part.configuration)?.replace("allow_plaintext = true\n", "");
            let keys = self.directory.join(format!("{}.tls", part.node.name()));
            create(&part.configuration, &format!("{text}\n[tls]\ndirectory = \"{}\"\n", keys.display()))?;
            let card = create(&self.directory.join(format!("{}.card", part.node.name())), "")?;
            self.pair(part, &[], fs::File::create(&card)?.into())?;
            cards.push(card);
        }
        for (at, part) in self.parts.iter().enumerate() {
            let others: Vec<&Path> = cards
                .iter()
                .enumerate()
                .filter(|(card, _)| *card != at)
                .map(|(_, card)| card.as_path())
                .collect();
            self.pair(part, &others, Stdio::null())?;
        }
        Ok(self)
    }

    fn pair(&self, part: &Part, add: &[&Path], output: Stdio) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("pair").arg(&part.configuration).stdout(output).stderr(Stdio::null());
        if !add.is_empty() {
            command.arg("--add").args(add);
        }
        if command.status()?.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("`twinlun pair {}` fails", part.configuration.display())))
    }
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
        iqn: String::from("iqn.2026-11.io.twinlun:array-") + node.name(),
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
    /// More keys of `[array]`.
    array_keys: &'static str,
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
    let names = ["array-a", "array-b"];
    let mut text = format!(
        "[array]\nname = \"{}\"\nside = \"{}\"\ndata_dir = \"{}\"\n{}\n[portal]\nlisten = [\"{}\"]\n\n[management]\nlisten = \"{}\"\n",
        names[me],
        node.name(),
        own.display(),
        address.array_keys,
        address.portal[me],
        address.management[me],
    );
    if address.pair {
        text += &format!(
            "\n[peer]\nname = \"{}\"\nlisten = \"{}\"\naddress = \"{}\"\nallow_plaintext = true\n",
            names[other], address.replication[me], address.replication[other]
        );
        text += &format!("\n[witness]\naddress = \"{}\"\nallow_plaintext = true\n", address.witness);
        // Rows follow each other within a minute, which is no flapping link: the delay must not double.
        text += "\n[timers]\nrejoin_delay_max = \"5s\"\n";
    }
    text
}

fn witness_toml(own: &Path, address: &Addresses) -> String {
    format!(
        "[witness]\nname = \"witness\"\nlisten = \"{}\"\ndata_dir = \"{}\"\nrun_dir = \"{}\"\nallow_plaintext = true\n",
        address.witness,
        own.display(),
        // Not with the rest: what a backup would not hold.
        own.with_extension("run").display()
    )
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
        management: [String::from("127.0.0.1:8008"), String::from("127.0.0.1:8008")],
        witness: format!("{}:5786", ip(Node::Witness, 2)),
        pair: true,
        array_keys: "",
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
        host: None,
        directory: directory.to_owned(),
    })
}

const LAB_OBJECTS: &str = r#"
volume = [{ name = "lab.raw", size = "10G" }, { name = "lab.file", size = "1G" }, { name = "lab.out", size = "1G" }]
host = [
  { name = "guest", iqns = ["iqn.2026-11.lab.twinlun:guest"] },
  { name = "outside", iqns = ["iqn.2026-11.lab.twinlun:outside"] },
]
group = [{ name = "lab", target = "array-b", volumes = ["lab.raw", "lab.file", "lab.out"] }]
vlun = [
  { volume = "lab.raw", host = "guest", lun = 1 },
  { volume = "lab.file", host = "guest", lun = 2 },
  { volume = "lab.out", host = "outside", lun = 3 },
]
"#;

/// One array, or a mirrored pair, on loopback, with a volume for the benchmark.
pub fn bench_plan(program: &Path, directory: &Path, pair: bool) -> io::Result<Plan> {
    loopback_plan(program, directory, pair, &bench_objects(pair))
}

/// One array, or a mirrored pair, on loopback, with the objects of a TOML text.
pub fn loopback_plan(program: &Path, directory: &Path, pair: bool, objects: &str) -> io::Result<Plan> {
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
        array_keys: "",
    };
    let nodes: &[Node] = if pair { &[Node::Witness, Node::A, Node::B] } else { &[Node::A] };
    let parts =
        nodes.iter().map(|&node| part(node, directory, None, &address)).collect::<io::Result<Vec<_>>>()?;
    let objects = create(&directory.join("objects.toml"), objects)?;
    Ok(Plan { program: program.to_owned(), parts, objects, host: None, directory: directory.to_owned() })
}

/// `pair`: mirrored.
fn bench_objects(pair: bool) -> String {
    let group = if pair {
        "group = [{ name = \"bench\", target = \"array-b\", volumes = [\"bench.0\"] }]"
    } else {
        ""
    };
    format!(
        "volume = [{{ name = \"bench.0\", size = \"1G\" }}]\nhost = [{{ name = \"bench\", iqns = [\"{BENCH_IQN}\"] }}]\n{group}\n\
         vlun = [{{ volume = \"bench.0\", host = \"bench\", lun = {BENCH_LUN} }}]\n"
    )
}

/// The demo: the files of `target-config` as they are, copied to where their data may lie.
pub fn demo_plan(target_config: &Path, binaries: &Path, directory: &Path) -> io::Result<Plan> {
    let mut parts = Vec::new();
    for (node, name) in [(Node::Witness, "witness"), (Node::A, "array-a"), (Node::B, "array-b")] {
        let file = format!("{name}.toml");
        let configuration = directory.join(&file);
        let text = fs::read_to_string(target_config.join(&file))?;
        create(&configuration, &text)?;
        let table: toml::Table =
            text.parse().map_err(|error| io::Error::other(format!("{file}: {error}")))?;
        let mut listening = Vec::new();
        for (section, key) in
            [("portal", "listen"), ("peer", "listen"), ("witness", "listen"), ("management", "listen")]
        {
            match table.get(section).and_then(|section| section.get(key)) {
                Some(toml::Value::String(address)) => listening.push(address.clone()),
                Some(toml::Value::Array(list)) => {
                    listening.extend(list.iter().filter_map(|a| a.as_str().map(str::to_owned)))
                }
                _ => {}
            }
        }
        for address in &listening {
            TcpListener::bind(address).map_err(|error| {
                io::Error::other(format!("{file} asks for {address}, which cannot be had ({error}); end what listens there, or change the file"))
            })?;
        }
        let first = |section: &str| {
            let value = table.get(section).and_then(|section| section.get("listen"))?;
            value.as_str().or_else(|| value.get(0)?.as_str()).map(str::to_owned)
        };
        parts.push(Part {
            node,
            namespace: None,
            configuration,
            data: vec![directory.join(format!("{name}.data"))],
            log: directory.join(format!("{name}.log")),
            management: first("management").unwrap_or_default(),
            portal: first("portal").unwrap_or_default(),
            iqn: format!("iqn.2026-11.io.twinlun:{name}"),
        });
    }
    let text = fs::read_to_string(target_config.join("objects.toml"))?;
    let objects = create(&directory.join("objects.toml"), &text)?;
    let table: toml::Table =
        text.parse().map_err(|error| io::Error::other(format!("objects.toml: {error}")))?;
    let first = |section: &str| table.get(section).and_then(|list| list.get(0));
    let initiator = first("host").and_then(|host| host.get("iqns")?.get(0)?.as_str());
    let lun = first("vlun").and_then(|vlun| vlun.get("lun")?.as_integer());
    let host = initiator.map(str::to_owned).zip(lun.and_then(|lun| u64::try_from(lun).ok()));
    Ok(Plan { program: binaries.join("twinlun"), parts, objects, host, directory: directory.to_owned() })
}

impl Plan {
    pub fn portal(&self, node: Node) -> Option<String> {
        self.parts.iter().find(|part| part.node == node).map(|part| part.portal.clone())
    }
}
