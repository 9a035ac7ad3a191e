//! Two arrays and a witness that are killed and started again, one and the same all the time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::site::{Array, BINARY, Daemon, INITIATOR, Place, port};

/// Bytes of the volume `v0`.
pub const SIZE: usize = 32 << 20;
/// How long a site may take to be whole again; a witness that was killed grants nothing for 10 s.
const SETTLE: Duration = Duration::from_secs(90);
/// So long all must look well: an array that has just come back is not always noticed at once.
const CALM: Duration = Duration::from_millis(400);
/// A failover in a third of the usual time, within the sums that `Timers::check` asks for.
const TIMERS: &str = "[timers]\nlease = \"1500ms\"\nrenewal = \"350ms\"\nheartbeat = \"100ms\"\n\
                      link_timeout = \"700ms\"\nrejoin_delay = \"100ms\"\nrejoin_delay_max = \"400ms\"\n";

/// One of the three daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    A,
    B,
    Witness,
}

pub const ALL: [Member; 3] = [Member::A, Member::B, Member::Witness];

#[derive(Debug)]
pub struct Rig {
    pub places: [Place; 2],
    arrays: [Option<Array>; 2],
    witness: Option<Daemon>,
    witness_config: PathBuf,
    pub witness_environment: Vec<(String, String)>,
    /// Broken only once the volume is there and in sync.
    pub broken_later: Option<(Member, String)>,
    /// Last, so that the daemons end before their directories go.
    pub directory: TempDir,
}

impl Rig {
    /// Places only; nothing runs yet. `engine` is that of the arrays.
    pub fn new(engine: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let witness_port = port();
        let mut places = ["a", "b"].map(|side| {
            let mut place = Place::new(directory.path(), &format!("array-{side}"), side);
            place.witness = Some(witness_port);
            place.engine = Some(engine);
            place.extra = TIMERS.to_owned();
            place
        });
        let known = [&places[0], &places[1]].map(|place| (place.name.clone(), place.replication));
        let [of_a, of_b] = known;
        (places[0].peer, places[1].peer) = (Some(of_b), Some(of_a));
        let witness_config = directory.path().join("witness.toml");
        let text = format!(
            "[witness]\nname = \"witness\"\nlisten = \"127.0.0.1:{witness_port}\"\ndata_dir = \"w\"\nrun_dir = \"w.run\"\n{TIMERS}"
        );
        fs::write(&witness_config, text).unwrap();
        Self {
            places,
            arrays: [None, None],
            witness: None,
            witness_config,
            witness_environment: Vec::new(),
            broken_later: None,
            directory,
        }
    }

    /// All three on disks that lose what was not flushed.
    pub fn volatile() -> Self {
        let mut rig = Self::new("volatile");
        rig.witness_environment.push(("TWINLUN_WITNESS_ENGINE".to_owned(), "volatile".to_owned()));
        rig
    }

    /// Lets one daemon break a rule from its next start on. Its volatile disks write nothing back
    /// by themselves: what is not flushed is lost for sure.
    pub fn break_rule(&mut self, member: Member, mutation: &str) {
        let environment = match member {
            Member::A => &mut self.places[0].environment,
            Member::B => &mut self.places[1].environment,
            Member::Witness => &mut self.witness_environment,
        };
        for (name, value) in [("TWINLUN_MUTATION", mutation), ("TWINLUN_WRITE_BACK", "0")] {
            environment.push((name.to_owned(), value.to_owned()));
        }
    }

    fn index(member: Member) -> Option<usize> {
        match member {
            Member::A => Some(0),
            Member::B => Some(1),
            Member::Witness => None,
        }
    }

    pub fn witness_log(&self) -> String {
        fs::read_to_string(self.directory.path().join("witness.log")).unwrap_or_default()
    }

    pub fn array(&self, member: Member) -> Option<&Array> {
        self.arrays[Self::index(member)?].as_ref()
    }

    pub fn pid(&self, member: Member) -> u32 {
        self.array(member).unwrap().daemon.pid()
    }

    pub fn is_up(&self, member: Member) -> bool {
        match Self::index(member) {
            Some(index) => self.arrays[index].is_some(),
            None => self.witness.is_some(),
        }
    }

    /// An array that was started has not ended by itself.
    pub fn lives(&mut self, member: Member) -> bool {
        let array = Self::index(member).and_then(|index| self.arrays[index].as_mut());
        array.is_some_and(|array| array.daemon.is_alive())
    }

    /// Starts a daemon that is not up.
    ///
    /// # Errors
    /// It ended instead; its last words.
    pub fn start(&mut self, member: Member) -> Result<(), String> {
        if self.is_up(member) {
            return Ok(());
        }
        let Some(index) = Self::index(member) else {
            let mut command = Command::new(BINARY);
            command.arg("witness").arg("--config").arg(&self.witness_config);
            command.envs(self.witness_environment.iter().map(|(key, value)| (key, value)));
            let log = self.directory.path().join("witness.log");
            let _ = fs::remove_file(&log);
            self.witness = Some(ready(Daemon::spawn(command, &log), "witness ready")?);
            return Ok(());
        };
        let place = &self.places[index];
        let _ = fs::remove_file(place.log_path());
        let daemon = ready(place.spawn(), "array ready")?;
        self.arrays[index] = Some(Array { daemon, place: place.clone() });
        Ok(())
    }

    /// SIGKILL to all of `members` at about the same moment.
    pub fn kill(&mut self, members: &[Member]) {
        for &member in members {
            match Self::index(member) {
                Some(index) => {
                    if let Some(array) = self.arrays[index].take() {
                        array.daemon.kill();
                    }
                }
                None => {
                    if let Some(witness) = self.witness.take() {
                        witness.kill();
                    }
                }
            }
        }
    }

    /// Starts everything, and makes the volume `v0`, mirrored, LUN 1 of the tests' host.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn make(&mut self) -> Result<(), String> {
        self.start(Member::Witness)?;
        self.start(Member::A)?;
        self.start(Member::B)?;
        let path = self.directory.path().join("objects.toml");
        let text = format!(
            "[[volume]]\nname = \"v0\"\nsize = \"{}M\"\n[[host]]\nname = \"h\"\niqns = [\"{INITIATOR}\"]\n\
             [[group]]\nname = \"g\"\ntarget = \"array-b\"\nvolumes = [\"v0\"]\n\
             [[vlun]]\nvolume = \"v0\"\nhost = \"h\"\nlun = 1\n",
            SIZE >> 20
        );
        fs::write(&path, text).unwrap();
        self.array(Member::A).unwrap().cli(&["apply", path.to_str().unwrap(), "--wait"]);
        self.settle()?;
        if let Some((member, mutation)) = self.broken_later.take() {
            // What an admission marked, and what a host wrote, is off the map, and that on disk.
            std::thread::sleep(Duration::from_secs(6));
            self.kill(&[member]);
            self.break_rule(member, &mutation);
            self.settle()?;
        }
        Ok(())
    }

    /// The array that serves, if exactly one does.
    pub fn serving(&self) -> Option<Member> {
        let serves =
            |member: &Member| self.array(*member).is_some_and(|array| array.group()["serves"] == true);
        match [Member::A, Member::B].into_iter().filter(serves).collect::<Vec<_>>()[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// Starts what is down and waits until one array serves and both are in sync; the primary.
    ///
    /// # Errors
    /// A daemon does not start, dies, or they do not come in sync.
    pub fn settle(&mut self) -> Result<Member, String> {
        for member in ALL {
            self.start(member)?;
        }
        let end = Instant::now() + SETTLE;
        let mut held = None;
        loop {
            for array in self.arrays.iter_mut().flatten() {
                if !array.daemon.is_alive() {
                    return Err(format!("{} died: {}", array.place.name, array.daemon.log()));
                }
            }
            for array in self.arrays.iter().flatten() {
                if array.group().is_null() {
                    return Err(format!("{} has forgotten its group", array.place.name));
                }
            }
            let groups: Vec<_> = self.arrays.iter().flatten().map(Array::group).collect();
            let whole = groups.iter().all(|group| group["inSync"] == true && group["sync"] == "Synced");
            match (whole, self.serving()) {
                (true, Some(primary)) => {
                    let now = (primary, groups[0]["epoch"].clone(), groups[1]["epoch"].clone());
                    if held.as_ref().is_none_or(|(_, what)| *what != now) {
                        held = Some((Instant::now(), now));
                    }
                    if held.as_ref().is_some_and(|(since, _)| since.elapsed() >= CALM) {
                        return Ok(primary);
                    }
                }
                _ => held = None,
            }
            if Instant::now() > end {
                return Err(format!("not in sync again within {SETTLE:?}: {groups:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The data file of `v0` on an array.
    pub fn data_file(&self, member: Member) -> PathBuf {
        self.places[Self::index(member).unwrap()].data_dir.join("volumes/v0")
    }

    /// What is on the two disks, without any cache of the arrays.
    pub fn copies(&self) -> [Vec<u8>; 2] {
        [Member::A, Member::B].map(|member| {
            let mut bytes = fs::read(self.data_file(member)).unwrap();
            bytes.truncate(SIZE);
            bytes
        })
    }
}

/// Waits until a daemon says that it is up.
fn ready(mut daemon: Daemon, word: &str) -> Result<Daemon, String> {
    let end = Instant::now() + crate::site::LIMIT;
    loop {
        let alive = daemon.is_alive();
        let log = daemon.log();
        if log.contains(word) {
            return Ok(daemon);
        }
        if !alive || Instant::now() > end {
            return Err(format!("does not say `{word}`: {log}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
