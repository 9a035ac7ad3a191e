//! Probes of the disks under this array (F22, F23): a thread for each device that holds volumes of groups, and
//! one for `data_dir`, writes something small now and then and may wait for it for ever. None is
//! written to a volume's device while hosts' or mirrored writes become stable there anyway. What it means
//! is decided by [`Probe`] and the groups' controls.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::arbitration::{GroupId, Timers};
use crate::group::{Probe, Probed};
use crate::store::{DirectoryProbe, WeakDataFile};
use crate::sys::clock;
use crate::time::Time;
use crate::volume::Volume;

use super::control::Input;

/// What a probing thread and the control share.
#[derive(Debug, Default)]
struct Target {
    probe: Mutex<Probe>,
    /// Open volumes of the device, by their addresses; any of them stands for it.
    files: Mutex<BTreeMap<usize, WeakDataFile>>,
    /// The next probe is a real one, whatever else is written.
    wanted: AtomicBool,
}

impl Target {
    fn probe(&self) -> MutexGuard<'_, Probe> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<usize, WeakDataFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes are becoming stable there without any probe.
    fn is_in_use(&self) -> bool {
        let files: Vec<_> = self.files().values().filter_map(WeakDataFile::upgrade).collect();
        // Every flag is taken, so that none stands for the next interval.
        let mut any = false;
        for file in files {
            any |= file.was_written();
        }
        any
    }

    fn look(&self, now: Time, timers: &Timers) -> Option<Probed> {
        self.probe().look(now, timers)
    }

    /// One probe after the other, until the process ends.
    fn run(
        &self,
        interval: Duration,
        inputs: &mpsc::UnboundedSender<Input>,
        mut write: impl FnMut() -> Option<io::Result<()>>,
    ) {
        let mut failed = false;
        loop {
            std::thread::sleep(interval);
            let in_use = self.is_in_use();
            if in_use && !self.wanted.swap(false, Ordering::Relaxed) && !self.probe().is_bad() {
                continue;
            }
            self.probe().begin(clock::now().grantor);
            let Some(written) = write() else {
                *self.probe() = Probe::default(); // nothing is left to be probed
                continue;
            };
            if let Err(error) = &written
                && !failed
            {
                tracing::error!(%error, "a disk fails a probe");
            }
            failed = written.is_err();
            self.probe().end(written.is_ok());
            if inputs.send(Input::Probed).is_err() {
                return;
            }
        }
    }
}

/// The probes of one array.
#[derive(Debug)]
pub struct Probes {
    timers: Timers,
    inputs: mpsc::UnboundedSender<Input>,
    data_dir: Arc<Target>,
    /// By device.
    disks: BTreeMap<u64, Arc<Target>>,
    /// What each group was told last.
    told: BTreeMap<GroupId, Probed>,
    /// When to look again, unless a probe ends before.
    due: Time,
}

impl Probes {
    /// `probe`: the file of `data_dir` that is written.
    pub fn new(timers: Timers, inputs: mpsc::UnboundedSender<Input>, probe: &Path) -> Self {
        let this = Self {
            timers,
            inputs,
            data_dir: Arc::default(),
            disks: BTreeMap::new(),
            told: BTreeMap::new(),
            due: Time::ZERO,
        };
        match DirectoryProbe::open(probe) {
            Ok(mut directory) => {
                let (target, interval, inputs) =
                    (Arc::clone(&this.data_dir), timers.disk_probe, this.inputs.clone());
                let run = move || target.run(interval, &inputs, || Some(directory.write()));
                Self::start("probe-data-dir".into(), run);
            }
            Err(error) => tracing::warn!(path = %probe.display(), %error, "data_dir is not probed"),
        }
        this
    }

    fn start(name: String, run: impl FnOnce() + Send + 'static) {
        if let Err(error) = std::thread::Builder::new().name(name).spawn(run) {
            tracing::error!(%error, "no thread for probes of a disk: a disk that hangs while idle goes unnoticed");
        }
    }

    /// A probe has ended: there may be news.
    pub const fn has_ended(&mut self) {
        self.due = Time::ZERO;
    }

    /// It is time to look; every heartbeat at least.
    pub fn is_due(&mut self, now: Time) -> bool {
        let due = now >= self.due;
        if due {
            self.due = now + self.timers.heartbeat;
        }
        due
    }

    /// Sees to it that the disks of these volumes are probed. `wanted`: something is wrong, as far as is known.
    pub fn watch(&mut self, members: &[Volume], wanted: bool) {
        for volume in members {
            let device = volume.file().device();
            let target = match self.disks.get(&device) {
                Some(target) => Arc::clone(target),
                None => {
                    let target = Arc::<Target>::default();
                    self.disks.insert(device, Arc::clone(&target));
                    let (interval, inputs, probed) =
                        (self.timers.disk_probe, self.inputs.clone(), Arc::clone(&target));
                    let write = move || {
                        let file = probed.files().values().find_map(WeakDataFile::upgrade)?;
                        Some(file.probe())
                    };
                    let running = Arc::clone(&target);
                    Self::start(format!("probe-{device:x}"), move || running.run(interval, &inputs, write));
                    target
                }
            };
            if wanted {
                target.wanted.store(true, Ordering::Relaxed);
            }
            let mut files = target.files();
            let address = volume.file().address();
            if !files.contains_key(&address) {
                files.retain(|_, file| file.is_open());
                files.insert(address, volume.file().downgrade());
            }
        }
    }

    /// What the probes say of the disks of a group, where that is not what it was told last.
    pub fn news_of(&mut self, group: GroupId, members: &[Volume], now: Time) -> Option<Probed> {
        let mut devices: Vec<_> = members.iter().map(|volume| volume.file().device()).collect();
        devices.sort_unstable();
        devices.dedup();
        let mut all: Option<Probed> = None;
        for device in devices {
            // One without a word yet is taken for what the others are.
            let Some(probed) = self.disks.get(&device).and_then(|target| target.look(now, &self.timers))
            else {
                continue;
            };
            all = Some(all.map_or(probed, |all| all.and(probed)));
        }
        let all = all?;
        let news = self.told.insert(group, all) != Some(all);
        news.then_some(all)
    }

    /// `data_dir` lies on a disk that fails or hangs.
    pub fn data_dir_is_bad(&self, now: Time) -> bool {
        matches!(self.data_dir.look(now, &self.timers), Some(Probed::Bad(_)))
    }

    pub fn forget(&mut self, group: GroupId) {
        self.told.remove(&group);
    }
}
