//! The files themselves: one shape for arrays, one for the witness.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

use crate::arbitration::{Side, TimerError, Timers};

use super::address;
use super::duration::Milliseconds;
use super::place::line_of;

/// Most data threads: one per core of a large machine.
const DATA_THREADS_MAX: u16 = 64;
/// Most lanes between two arrays.
const LANES_MAX: u16 = 64;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The parser's own words name the key, its line, and what was expected there.
    #[error("{path}: {problem}", path = path.display(), problem = in_words(source))]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path}, line {line}: {key}: {problem}", path = path.display())]
    Value { path: PathBuf, line: usize, key: &'static str, problem: String },
    #[error("{path}, line {line}: [timers]: {source}", path = path.display())]
    Timers { path: PathBuf, line: usize, source: TimerError },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SideName {
    A,
    B,
}

impl From<SideName> for Side {
    fn from(name: SideName) -> Self {
        match name {
            SideName::A => Self::A,
            SideName::B => Self::B,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The ring where the kernel allows it, else plain.
    #[default]
    Auto,
    Ring,
    Plain,
    /// Test builds only.
    Volatile,
}

/// `twinlun array --config FILE`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayConfig {
    pub array: ArrayIdentity,
    pub portal: Portal,
    #[serde(default)]
    pub peer: Option<Peer>,
    #[serde(default)]
    pub witness: Option<WitnessClient>,
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    #[serde(default)]
    pub management: Management,
    #[serde(default)]
    pub timers: TimersConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrayIdentity {
    pub name: String,
    pub side: SideName,
    /// WSAPI's system id; different on the two arrays of a pair.
    #[serde(default)]
    pub system_id: Option<u32>,
    pub data_dir: PathBuf,
    /// One per core given to the array; default: all cores.
    #[serde(default)]
    pub data_threads: Option<u16>,
    #[serde(default)]
    pub engine: EngineChoice,
    /// How long hosts are given after a hand over before the process ends.
    #[serde(default)]
    pub stop_linger: Option<Milliseconds>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Portal {
    /// Addresses hosts log in to, e.g. `["192.0.2.1:3260"]`; the port may be left out.
    #[serde(deserialize_with = "address::portals")]
    pub listen: Vec<SocketAddr>,
    /// Own target name; default: made from the array's name.
    #[serde(default)]
    pub target: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Name of the other array (its `[array] name`).
    pub name: String,
    /// Where this array listens for the other one.
    #[serde(deserialize_with = "address::socket")]
    pub listen: SocketAddr,
    /// Where the other array listens.
    #[serde(deserialize_with = "address::socket")]
    pub address: SocketAddr,
    #[serde(default)]
    pub lanes: Option<u16>,
    /// Replication without TLS is allowed off loopback.
    #[serde(default)]
    pub allow_plaintext: bool,
}

/// Who this site is and whom it believes; connections between sites and the management API are then
/// encrypted, unless their table says `allow_plaintext`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Own private key, and the certificates of the other sites: what `twinlun pair` makes.
    pub directory: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessClient {
    #[serde(deserialize_with = "address::socket")]
    pub address: SocketAddr,
    #[serde(default)]
    pub allow_plaintext: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Management {
    #[serde(deserialize_with = "address::socket")]
    pub listen: SocketAddr,
    pub allow_plaintext: bool,
    /// File with users and salted hashes, mode 0600; default: `users` in `data_dir`.
    pub users: Option<PathBuf>,
}

impl Default for Management {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8008)), allow_plaintext: false, users: None }
    }
}

/// The timers of DESIGN 3.3; a key left out keeps its default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimersConfig {
    pub lease: Option<Milliseconds>,
    pub renewal: Option<Milliseconds>,
    pub heartbeat: Option<Milliseconds>,
    pub voter_margin: Option<Milliseconds>,
    pub lane_timeout: Option<Milliseconds>,
    pub link_timeout: Option<Milliseconds>,
    pub mirror_timeout: Option<Milliseconds>,
    pub disk_timeout: Option<Milliseconds>,
    pub disk_probe: Option<Milliseconds>,
    pub switchover_hold: Option<Milliseconds>,
    pub promote_hold: Option<Milliseconds>,
    pub witness_lost_after: Option<Milliseconds>,
    pub start_wait: Option<Milliseconds>,
    pub rejoin_delay: Option<Milliseconds>,
    pub rejoin_delay_max: Option<Milliseconds>,
}

/// Longest names first, so that a rule that names `rejoin_delay_max` does not find `rejoin_delay`.
const TIMER_KEYS: [&str; 15] = [
    "rejoin_delay_max",
    "rejoin_delay",
    "lane_timeout",
    "link_timeout",
    "mirror_timeout",
    "disk_timeout",
    "disk_probe",
    "switchover_hold",
    "promote_hold",
    "witness_lost_after",
    "start_wait",
    "voter_margin",
    "heartbeat",
    "renewal",
    "lease",
];

impl TimersConfig {
    /// The timers with the defaults filled in, and their sums checked.
    ///
    /// # Errors
    /// The first sum that breaks a gap.
    pub fn timers(&self) -> Result<Timers, TimerError> {
        let mut timers = Timers::default();
        let set = [
            (self.lease, &mut timers.lease),
            (self.renewal, &mut timers.renewal),
            (self.heartbeat, &mut timers.heartbeat),
            (self.voter_margin, &mut timers.voter_margin),
            (self.lane_timeout, &mut timers.lane_timeout),
            (self.link_timeout, &mut timers.link_timeout),
            (self.mirror_timeout, &mut timers.mirror_timeout),
            (self.disk_timeout, &mut timers.disk_timeout),
            (self.disk_probe, &mut timers.disk_probe),
            (self.switchover_hold, &mut timers.switchover_hold),
            (self.promote_hold, &mut timers.promote_hold),
            (self.witness_lost_after, &mut timers.witness_lost_after),
            (self.start_wait, &mut timers.start_wait),
            (self.rejoin_delay, &mut timers.rejoin_delay),
            (self.rejoin_delay_max, &mut timers.rejoin_delay_max),
        ];
        for (given, timer) in set {
            if let Some(Milliseconds(given)) = given {
                *timer = given;
            }
        }
        timers.check()?;
        Ok(timers)
    }
}

/// `twinlun witness --config FILE`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    pub witness: WitnessIdentity,
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    #[serde(default)]
    pub timers: TimersConfig,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessIdentity {
    pub name: String,
    #[serde(deserialize_with = "address::socket")]
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// Where the proof of continuity lies: a file system that a reboot empties.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    #[serde(default)]
    pub allow_plaintext: bool,
}

/// A file's text, kept to tell lines by.
struct Source<'a> {
    path: &'a Path,
    text: String,
}

impl<'a> Source<'a> {
    fn read(path: &'a Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self { path, text })
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ConfigError> {
        toml::from_str(&self.text)
            .map_err(|source| ConfigError::Syntax { path: self.path.to_owned(), source: Box::new(source) })
    }

    /// A value that parses and is wrong all the same.
    fn wrong(&self, (key, problem): Wrong) -> ConfigError {
        let line = line_of(&self.text, key).unwrap_or(1);
        ConfigError::Value { path: self.path.to_owned(), line, key, problem }
    }

    /// A sum of timers; the line is that of the first timer in the sum that the file sets.
    fn wrong_timers(&self, source: TimerError) -> ConfigError {
        let rule = source.to_string();
        let table = line_of(&self.text, "timers");
        let set =
            |key: &&&str| rule.contains(**key) && line_of(&self.text, &format!("timers.{key}")) != table;
        let line = match TIMER_KEYS.iter().find(set) {
            Some(key) => line_of(&self.text, &format!("timers.{key}")),
            None => table,
        };
        ConfigError::Timers { path: self.path.to_owned(), line: line.unwrap_or(1), source }
    }
}

/// The parser's message with an operator's words for the types of this program.
fn in_words(error: &toml::de::Error) -> String {
    let mut message = error.to_string();
    for integer in ["u8", "u16", "u32"] {
        message = message.replace(&format!("expected {integer}"), "expected a whole number without quotes");
    }
    message
}

/// A key and what is wrong with its value.
type Wrong = (&'static str, String);

/// Paths in a file are relative to the file.
fn beside(file: &Path, path: &mut PathBuf) {
    if path.is_relative() {
        *path = file.parent().unwrap_or(Path::new(".")).join(&*path);
    }
}

/// Off loopback a connection is encrypted, or somebody has said that it need not be.
fn secured(
    key: &'static str,
    address: SocketAddr,
    tls: Option<&TlsConfig>,
    allowed: bool,
) -> Result<(), Wrong> {
    if tls.is_some() || allowed || address.ip().is_loopback() {
        return Ok(());
    }
    let problem = format!(
        "{address} is not a loopback address and the connection is not encrypted; give all sites [tls] \
         and run `twinlun pair`, or set allow_plaintext = true here if that network is trusted"
    );
    Err((key, problem))
}

fn tls_beside(file: &Path, tls: Option<&mut TlsConfig>) {
    if let Some(tls) = tls {
        beside(file, &mut tls.directory);
    }
}

/// The directory of a connection that is encrypted.
fn secures(tls: Option<&TlsConfig>, allow_plaintext: bool) -> Option<&Path> {
    tls.filter(|_| !allow_plaintext).map(|tls| tls.directory.as_path())
}

impl ArrayConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Unknown keys, bad values, sums of timers that break a gap: with key, line and advice.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = Source::read(path)?;
        let mut config: Self = source.parse()?;
        beside(path, &mut config.array.data_dir);
        tls_beside(path, config.tls.as_mut());
        if let Some(users) = &mut config.management.users {
            beside(path, users);
        }
        config.check().map_err(|wrong| source.wrong(wrong))?;
        config.timers.timers().map_err(|error| source.wrong_timers(error))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Wrong> {
        name("array.name", &self.array.name)?;
        if let Some(threads) = self.array.data_threads
            && !(1..=DATA_THREADS_MAX).contains(&threads)
        {
            return Err(("array.data_threads", format!("{threads} is not between 1 and {DATA_THREADS_MAX}")));
        }
        if cfg!(not(feature = "testing")) && self.array.engine == EngineChoice::Volatile {
            let problem = "`volatile` loses data by design and exists in test builds only; use \"auto\"";
            return Err(("array.engine", problem.into()));
        }
        if self.portal.listen.is_empty() {
            return Err(("portal.listen", "name at least one address, e.g. [\"192.0.2.1:3260\"]".into()));
        }
        if let Some(any) = self.portal.listen.iter().find(|address| address.ip().is_unspecified()) {
            let problem = format!(
                "{any} names no address that hosts could be told (SendTargets); list each address, e.g. \"192.0.2.1:3260\""
            );
            return Err(("portal.listen", problem));
        }
        let listen = &self.portal.listen;
        if let Some(twice) = listen.iter().enumerate().find(|(at, portal)| listen[..*at].contains(portal)) {
            return Err(("portal.listen", format!("{} is listed twice; leave one out", twice.1)));
        }
        if let Some(target) = &self.portal.target
            && !(target.starts_with("iqn.") && target.len() <= 223)
        {
            let problem =
                format!("`{target}` is no iSCSI name; it begins with iqn. and has at most 223 characters");
            return Err(("portal.target", problem));
        }
        if let Some(peer) = &self.peer {
            name("peer.name", &peer.name)?;
            if peer.name == self.array.name {
                let problem = format!("both arrays are called {}; give each its own name", peer.name);
                return Err(("peer.name", problem));
            }
            if let Some(lanes) = peer.lanes
                && !(1..=LANES_MAX).contains(&lanes)
            {
                return Err(("peer.lanes", format!("{lanes} is not between 1 and {LANES_MAX}")));
            }
            if peer.listen == peer.address {
                let problem = format!(
                    "{} is where this array listens (peer.listen); give the address the other array listens on",
                    peer.address
                );
                return Err(("peer.address", problem));
            }
            secured("peer.listen", peer.listen, self.tls.as_ref(), peer.allow_plaintext)?;
            secured("peer.address", peer.address, self.tls.as_ref(), peer.allow_plaintext)?;
        }
        if let Some(witness) = &self.witness {
            secured("witness.address", witness.address, self.tls.as_ref(), witness.allow_plaintext)?;
        }
        let management = &self.management;
        secured("management.listen", management.listen, self.tls.as_ref(), management.allow_plaintext)
    }

    /// The directory of keys for a connection whose table says `allow_plaintext` or not.
    pub fn secures(&self, allow_plaintext: bool) -> Option<&Path> {
        secures(self.tls.as_ref(), allow_plaintext)
    }

    pub fn side(&self) -> Side {
        self.array.side.into()
    }

    /// WSAPI's system id: as configured, else 1 for side A and 2 for side B.
    pub fn system_id(&self) -> u32 {
        self.array.system_id.unwrap_or(match self.array.side {
            SideName::A => 1,
            SideName::B => 2,
        })
    }

    /// The own iSCSI target name.
    pub fn target_name(&self) -> String {
        self.portal.target.clone().unwrap_or_else(|| format!("iqn.2026-11.io.twinlun:{}", self.array.name))
    }
}

impl WitnessConfig {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// As [`ArrayConfig::load`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = Source::read(path)?;
        let mut config: Self = source.parse()?;
        beside(path, &mut config.witness.data_dir);
        if let Some(run_dir) = &mut config.witness.run_dir {
            beside(path, run_dir);
        }
        tls_beside(path, config.tls.as_mut());
        let witness = &config.witness;
        name("witness.name", &witness.name)
            .and_then(|()| {
                secured("witness.listen", witness.listen, config.tls.as_ref(), witness.allow_plaintext)
            })
            .map_err(|wrong| source.wrong(wrong))?;
        config.timers.timers().map_err(|error| source.wrong_timers(error))?;
        Ok(config)
    }
}

impl WitnessConfig {
    /// The directory of keys, where the witness's port is encrypted.
    pub fn secures(&self) -> Option<&Path> {
        secures(self.tls.as_ref(), self.witness.allow_plaintext)
    }
}

/// Names of arrays and witnesses: 1 to 24 letters, digits and hyphens (an iSCSI name is made of it).
fn name(key: &'static str, name: &str) -> Result<(), Wrong> {
    let fits = (1..=24).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(());
    }
    Err((key, format!("`{name}` is no name; use 1 to 24 lower-case letters, digits and hyphens")))
}
