//! Processes on loopback with ports and directories of their own; all end with their handles.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_twinlun");
/// The initiator all tests use.
pub const INITIATOR: &str = "iqn.2026-11.test.twinlun:host";
/// How long any step may take on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(100);

/// A port of loopback that no other test of this process was given.
pub fn port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        if given.insert(port) {
            return port;
        }
    }
}

/// Looks until `found` says something.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A running twinlun, killed with this handle.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub fn start(kind: &str, config: &Path, log: &Path) -> Self {
        let mut command = Command::new(BINARY);
        command.arg(kind).arg("--config").arg(config);
        Self::spawn(command, log)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub fn says(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        loop {
            // In this order: the last words of one that ended are there.
            let alive = self.is_alive();
            let log = self.log();
            if log.contains(text) {
                return;
            }
            assert!(alive, "ended without `{text}`:\n{log}");
            assert!(Instant::now() < end, "does not say `{text}`:\n{log}");
            std::thread::sleep(LOOK);
        }
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    /// SIGTERM, and the orderly end.
    #[track_caller]
    pub fn terminate(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = until("an orderly end", LIMIT, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }

    fn end(&mut self) {
        // Gone already: nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// One array's place: ports, directory, configuration.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub side: &'static str,
    pub directory: PathBuf,
    pub data_dir: PathBuf,
    pub portal: u16,
    pub replication: u16,
    pub management: u16,
    /// Name and replication port of the other array.
    pub peer: Option<(String, u16)>,
    pub witness: Option<u16>,
    /// How the array does its I/O; none: as it thinks best.
    pub engine: Option<&'static str>,
    /// More of the configuration.
    pub extra: String,
    pub environment: Vec<(String, String)>,
    /// Program and arguments that the array is started through; none: by itself.
    pub wrapper: Vec<String>,
}

impl Place {
    pub fn new(directory: &Path, name: &str, side: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            side,
            directory: directory.to_owned(),
            data_dir: directory.join(format!("{name}.data")),
            portal: port(),
            replication: port(),
            management: port(),
            peer: None,
            witness: None,
            engine: None,
            extra: String::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    pub fn iqn(&self) -> String {
        format!("iqn.2026-11.io.twinlun:{}", self.name)
    }

    pub fn config(&self) -> String {
        let engine = self.engine.map_or(String::new(), |engine| format!("engine = \"{engine}\"\n"));
        let Self { name, side, portal, replication, management, .. } = self;
        let mut text = format!(
            "[array]\nname = \"{name}\"\nside = \"{side}\"\ndata_dir = \"{}\"\ndata_threads = 1\n\
             stop_linger = \"100ms\"\n{engine}\
             [portal]\nlisten = [\"127.0.0.1:{portal}\"]\n[management]\nlisten = \"127.0.0.1:{management}\"\n",
            self.data_dir.display()
        );
        if let Some((peer, address)) = &self.peer {
            text += &format!(
                "[peer]\nname = \"{peer}\"\nlisten = \"127.0.0.1:{replication}\"\naddress = \"127.0.0.1:{address}\"\n"
            );
        }
        if let Some(witness) = self.witness {
            text += &format!("[witness]\naddress = \"127.0.0.1:{witness}\"\n");
        }
        text + &self.extra
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.toml", self.name, self.management))
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.log", self.name, self.management))
    }

    /// Starts the array without waiting.
    pub fn spawn(&self) -> Daemon {
        fs::write(self.config_path(), self.config()).unwrap();
        let words: Vec<_> = self.wrapper.iter().map(String::as_str).chain([BINARY]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("array").arg("--config").arg(self.config_path());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        Daemon::spawn(command, &self.log_path())
    }

    /// Starts the array and waits until it serves.
    #[track_caller]
    pub fn start(&self) -> Array {
        let _ = fs::remove_file(self.log_path());
        let mut daemon = self.spawn();
        daemon.says("array ready");
        Array { daemon, place: self.clone() }
    }

    /// An attempt to start that must end with status 1; what it said.
    #[track_caller]
    pub fn start_refused(&self) -> String {
        fs::write(self.config_path(), self.config()).unwrap();
        refused(Command::new(BINARY).arg("array").arg("--config").arg(self.config_path()))
    }
}

/// Runs what must end by itself with status 1; what it said.
#[track_caller]
pub fn refused(command: &mut Command) -> String {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (status, said) = finish(child);
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// Waits for a process, and ends it if it does not end.
#[track_caller]
fn finish(mut child: Child) -> (ExitStatus, String) {
    use std::io::Read;
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(LOOK);
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status.unwrap_or_else(|| panic!("does not end: {said}")), said)
}

/// A running array.
#[derive(Debug)]
pub struct Array {
    pub daemon: Daemon,
    pub place: Place,
}

/// One answer of the management API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub location: Option<String>,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> (u16, u64) {
        (self.status, self.body["code"].as_u64().unwrap_or(0))
    }
}

/// One request to the management API at `port`.
pub fn request(port: u16, method: &str, path: &str, key: Option<&str>, body: &str) -> Answer {
    let mut config = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).http_status_as_error(false);
    let certificate = twinlun::management::certificate_path(SocketAddr::from(([127, 0, 0, 1], port)));
    let scheme = match fs::read(certificate) {
        Ok(pem) => {
            let trusted = vec![ureq::tls::Certificate::from_pem(&pem).unwrap()];
            let tls = ureq::tls::TlsConfig::builder()
                .root_certs(ureq::tls::RootCerts::Specific(trusted.into()))
                .unversioned_rustls_crypto_provider(
                    tokio_rustls::rustls::crypto::ring::default_provider().into(),
                );
            config = config.tls_config(tls.build());
            "https"
        }
        Err(_) => "http",
    };
    let agent = config.build().new_agent();
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("{scheme}://127.0.0.1:{port}{path}"))
        .header("Content-Type", "application/json");
    if let Some(key) = key {
        request = request.header("X-HP3PAR-WSAPI-SessionKey", key);
    }
    let mut answer = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    Answer {
        status: answer.status().as_u16(),
        location: answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
    }
}

impl Array {
    fn key(&self) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], self.place.management));
        fs::read_to_string(twinlun::management::token_path(address)).unwrap()
    }

    pub fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        request(self.place.management, method, path, Some(&self.key()), &body)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.api("GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.body
    }

    /// A verb of the command line.
    pub fn try_cli(&self, verb: &[&str]) -> Output {
        let address = format!("127.0.0.1:{}", self.place.management);
        Command::new(BINARY).args(verb).env("TWINLUN_ARRAY", address).stdin(Stdio::null()).output().unwrap()
    }

    /// A verb that must succeed; what it printed.
    #[track_caller]
    pub fn cli(&self, verb: &[&str]) -> String {
        let output = self.try_cli(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{verb:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A verb that must be refused; the reason.
    #[track_caller]
    pub fn cli_refused(&self, verb: &[&str]) -> String {
        let output = self.try_cli(verb);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{verb:?}: {said}");
        said
    }

    /// The first group of `showrcopy --json`.
    pub fn group(&self) -> Value {
        self.get("/api/twinlun/rcopy")["groups"][0].clone()
    }

    #[track_caller]
    pub fn until_in_sync(&self) {
        until("in sync", LIMIT, || {
            let group = self.group();
            (group["inSync"] == true && group["sync"] == "Synced").then_some(())
        });
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.cli(&["metrics"]);
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {text}"))
    }
}

/// Two arrays and a witness.
#[derive(Debug)]
pub struct Pair {
    pub a: Place,
    pub b: Place,
    pub witness: Daemon,
    pub witness_port: u16,
    pub witness_config: PathBuf,
    /// Last, so that the daemons end before their directories go.
    pub directory: TempDir,
}

impl Pair {
    /// Places for a pair; the witness runs already.
    #[track_caller]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mut a, mut b) =
            (Place::new(directory.path(), "array-a", "a"), Place::new(directory.path(), "array-b", "b"));
        let witness_port = port();
        a.peer = Some((b.name.clone(), b.replication));
        b.peer = Some((a.name.clone(), a.replication));
        a.witness = Some(witness_port);
        b.witness = Some(witness_port);
        let witness_config = directory.path().join("witness.toml");
        let text = format!(
            "[witness]\nname = \"witness\"\nlisten = \"127.0.0.1:{witness_port}\"\ndata_dir = \"w\"\nrun_dir = \"w.run\"\n"
        );
        fs::write(&witness_config, text).unwrap();
        let mut witness = Daemon::start("witness", &witness_config, &directory.path().join("witness.log"));
        witness.says("witness ready");
        Self { a, b, witness, witness_port, witness_config, directory }
    }

    /// Places for another pair that asks the same witness.
    pub fn beside(&self, name: &str) -> (Place, Place) {
        let directory = self.directory.path().join(name);
        fs::create_dir(&directory).unwrap();
        let (mut a, mut b) = (Place::new(&directory, "array-a", "a"), Place::new(&directory, "array-b", "b"));
        a.peer = Some((b.name.clone(), b.replication));
        b.peer = Some((a.name.clone(), a.replication));
        a.witness = Some(self.witness_port);
        b.witness = Some(self.witness_port);
        (a, b)
    }

    /// Writes the usual objects: `v0` of 64 MiB in group `g`, seen by the tests' host as LUN 1.
    pub fn objects(&self) -> String {
        let path = self.directory.path().join("objects.toml");
        let text = format!(
            "[[volume]]\nname = \"v0\"\nsize = \"64M\"\n[[host]]\nname = \"h\"\niqns = [\"{INITIATOR}\"]\n\
             [[group]]\nname = \"g\"\ntarget = \"array-b\"\nvolumes = [\"v0\"]\n\
             [[vlun]]\nvolume = \"v0\"\nhost = \"h\"\nlun = 1\n"
        );
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Both arrays, in sync.
    #[track_caller]
    pub fn in_sync(&self) -> (Array, Array) {
        let (a, b) = (self.a.start(), self.b.start());
        a.cli(&["apply", &self.objects(), "--wait"]);
        b.until_in_sync();
        (a, b)
    }
}

/// qemu-io on LUN 1 of an array. `None`, with a note: it is not installed.
pub fn qemu_io(place: &Place, command: &str) -> Option<Result<String, String>> {
    qemu_io_on(place, 1, command)
}

/// The same on another LUN.
pub fn qemu_io_on(place: &Place, lun: u8, command: &str) -> Option<Result<String, String>> {
    let image = format!(
        "driver=raw,cache.direct=on,file.driver=iscsi,file.transport=tcp,file.portal=127.0.0.1:{},\
         file.target={},file.lun={lun},file.initiator-name={INITIATOR}",
        place.portal,
        place.iqn()
    );
    let output =
        Command::new("timeout").args(["30", "qemu-io", "--image-opts", &image, "-c", command]).output();
    let output = match output {
        Ok(output) if output.status.code() != Some(127) => output,
        _ => {
            println!("skipped: I/O by qemu-io (apt-get install qemu-utils qemu-block-extra)");
            return None;
        }
    };
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("Unknown driver 'iscsi'") {
        println!("skipped: I/O by qemu-io (apt-get install qemu-block-extra)");
        return None;
    }
    let failed = !output.status.success() || said.contains("failed") || said.contains("error");
    Some(if failed { Err(said) } else { Ok(said) })
}

/// Writes a pattern through `to` and reads it through `from`.
#[track_caller]
pub fn write_and_read(to: &Place, from: &Place, pattern: u8) {
    if let Some(written) = qemu_io(to, &format!("write -P {pattern} 1M 256k")) {
        written.unwrap();
        read_back(from, pattern);
    }
}

#[track_caller]
pub fn read_back(from: &Place, pattern: u8) {
    if let Some(read) = qemu_io(from, &format!("read -P {pattern} 1M 256k")) {
        read.unwrap();
    }
}
