//! Arrays and a witness of the real program in a directory of their own, and those who talk to them.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinlun");
/// Until a daemon answers, or what was asked for is so. Generous: other tests run beside.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines as a program prints them.
pub fn said(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The daemons; they end with it.
pub struct Rig {
    directory: tempfile::TempDir,
    running: Vec<Child>,
    management: Vec<(&'static str, String)>,
    witness: String,
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Free addresses on loopback; all held until all are known, so that they differ.
fn addresses<const N: usize>() -> [String; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|n| held[n].local_addr().unwrap().to_string())
}

impl Rig {
    /// One array called array-a, without another and without a witness.
    pub fn array() -> Self {
        let [portal, management] = addresses();
        let mut rig = Self::empty(String::new());
        let config = format!(
            "[array]\nname = \"array-a\"\nside = \"a\"\ndata_dir = \"a.data\"\ndata_threads = 1\n\
             [portal]\nlisten = [\"{portal}\"]\n[management]\nlisten = \"{management}\"\nusers = \"users\"\n"
        );
        rig.start("a", "array", &config, Some(management));
        rig
    }

    /// array-a and array-b with their witness.
    pub fn pair() -> Self {
        let [portal_a, portal_b, management_a, management_b, replication_a, replication_b, witness] =
            addresses();
        let mut rig = Self::empty(witness.clone());
        let config = format!(
            "[witness]\nname = \"witness\"\nlisten = \"{witness}\"\ndata_dir = \"w.data\"\nrun_dir = \"w.run\"\n"
        );
        rig.start("w", "witness", &config, None);
        for (side, other, portal, management, own, theirs) in [
            ("a", "b", portal_a, management_a, &replication_a, &replication_b),
            ("b", "a", portal_b, management_b, &replication_b, &replication_a),
        ] {
            let config = format!(
                "[array]\nname = \"array-{side}\"\nside = \"{side}\"\ndata_dir = \"{side}.data\"\ndata_threads = 1\n\
                 [portal]\nlisten = [\"{portal}\"]\n\
                 [peer]\nname = \"array-{other}\"\nlisten = \"{own}\"\naddress = \"{theirs}\"\n\
                 [witness]\naddress = \"{witness}\"\n\
                 [management]\nlisten = \"{management}\"\nusers = \"users\"\n"
            );
            rig.start(side, "array", &config, Some(management));
        }
        rig
    }

    fn empty(witness: String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let users = directory.path().join("users");
        let mut setuser = Command::new(PROGRAM)
            .args(["setuser", "admin", "--file"])
            .arg(users)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut setuser.stdin.take().unwrap(), b"secret\n").unwrap();
        assert!(setuser.wait().unwrap().success());
        Self { directory, running: Vec::new(), management: Vec::new(), witness }
    }

    fn start(&mut self, name: &'static str, kind: &str, config: &str, management: Option<String>) {
        let file = self.path().join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(self.path().join(format!("{name}.log"))).unwrap();
        let child = Command::new(PROGRAM)
            .args([kind, "--config"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.push(child);
        if let Some(address) = management {
            self.management.push((name, address.clone()));
            self.until("the array answers", || TcpStream::connect(&address).is_ok());
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn management(&self, array: &str) -> String {
        let found = self.management.iter().find(|(name, _)| *name == array);
        found.expect("an array of this rig").1.clone()
    }

    pub fn witness(&self) -> String {
        self.witness.clone()
    }

    pub fn replication_ip(&self) -> String {
        "127.0.0.1".into()
    }

    pub fn cli(&self, array: &str) -> Cli {
        Cli { array: self.management(array), directory: self.path().to_owned() }
    }

    pub fn http(&self, array: &str) -> Http {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .new_agent();
        Http { agent, base: format!("http://{}", self.management(array)) }
    }

    /// Waits until it is so.
    pub fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so() {
            if Instant::now() > end {
                for name in ["a", "b", "w"] {
                    let log = std::fs::read_to_string(self.path().join(format!("{name}.log")));
                    eprintln!("--- {name}\n{}", log.unwrap_or_default());
                }
                panic!("not within {PATIENCE:?}: {what}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The command line, for one array.
pub struct Cli {
    array: String,
    directory: PathBuf,
}

impl Cli {
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .current_dir(&self.directory)
            .env("TWINLUN_ARRAY", &self.array)
            .env_remove("TWINLUN_USER")
            .env_remove("TWINLUN_PASSWORD")
            .output()
            .unwrap()
    }

    /// What it prints; it must succeed and say nothing on standard error.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "twinlun {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same with `--json`, read.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        serde_json::from_str(&self.ok(&all)).unwrap()
    }

    /// What it says when it must fail, with exit status 1 and nothing printed.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "twinlun {arguments:?}");
        assert_eq!(output.stdout, b"", "twinlun {arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// A WSAPI client that keeps nothing.
pub struct Http {
    agent: ureq::Agent,
    base: String,
}

impl Http {
    /// Status, Location and body of one request.
    pub fn bare(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, Option<String>, Value) {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("X-HP3PAR-WSAPI-SessionKey", key);
        }
        let request = request.body(body.map(Value::to_string).unwrap_or_default()).unwrap();
        let mut answer = self.agent.run(request).unwrap();
        let location = answer.headers().get("Location").map(|l| l.to_str().unwrap().to_owned());
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), location, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// A session of the user the rig has made.
    pub fn login(&self) -> String {
        let user = json!({"user": "admin", "password": "secret"});
        let (status, _, body) = self.bare("POST", "/api/v1/credentials", None, Some(&user));
        assert_eq!(status, 201);
        body["key"].as_str().unwrap().to_owned()
    }
}
