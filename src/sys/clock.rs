//! The shell's two clocks (DESIGN 3.3), read together as a [`Now`].
//!
//! The *grantor*'s is CLOCK_MONOTONIC. The *holder*'s is CLOCK_BOOTTIME plus every advance that
//! another source saw and BOOTTIME did not: CLOCK_REALTIME (forward only), the invariant time
//! stamp counter, and, where the counter is of no use, the host's clock through /dev/ptp_kvm.
//! A virtual machine that was paused, restored or migrated may not see its pause in BOOTTIME.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::time::{ClockId, clock_gettime};

use crate::time::{Now, Time};

/// By how much a source must fall behind BOOTTIME before it is taken to have been set back. Less
/// is the noise of reading clocks one after the other.
const SET_BACK_NS: i64 = 1_000_000;

/// How far a source may run ahead before that is accounted for: clocks drift against each other
/// by some parts in a million all the time, and accounting takes a lock. Small against the margin
/// of 100 ms between a lease and its promise.
const DRIFT_NS: i64 = 100_000;

/// How often a suspicious reading is taken again.
const READINGS_MAX: usize = 4;

/// How long the counter's rate is measured at first use.
const CALIBRATION_NS: i64 = 20_000_000;

/// The process's clock.
pub fn now() -> Now {
    clock().now()
}

/// What the holder's clock is made of: for the log at start.
pub fn sources() -> Vec<&'static str> {
    let clock = clock();
    let mut names = vec!["CLOCK_BOOTTIME", "CLOCK_REALTIME"];
    if clock.counter.is_some() {
        names.push("invariant TSC");
    }
    if clock.host.is_some() {
        names.push("/dev/ptp_kvm");
    }
    names
}

/// This is a virtual machine with neither an invariant TSC nor /dev/ptp_kvm: a pause may go
/// unseen, and the operator is to be warned at start.
pub fn pauses_may_go_unseen() -> bool {
    let clock = clock();
    clock.counter.is_none() && clock.host.is_none() && is_virtual()
}

/// This boot of the machine, as the kernel names it.
///
/// # Errors
/// /proc is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(Clock::start)
}

#[derive(Debug)]
struct Clock {
    counter: Option<Counter>,
    host: Option<HostClock>,
    holder: Holder,
}

impl Clock {
    fn start() -> Self {
        let counter = Counter::start();
        let host = if counter.is_none() { HostClock::open() } else { None };
        Self { counter, host, holder: Holder::default() }
    }

    fn now(&self) -> Now {
        let (mut boot, mut witnesses) = self.read();
        if !self.holder.is_still(boot, witnesses) {
            // A source has jumped, or this thread lost its processor between the readings. Reading
            // again tells: a jump stays.
            for _ in 0..READINGS_MAX {
                (boot, witnesses) = self.read();
                if nanos(ClockId::CLOCK_BOOTTIME).saturating_sub(boot) < DRIFT_NS {
                    break;
                }
            }
        }
        let holder = self.holder.at(boot, witnesses);
        Now { grantor: time(nanos(ClockId::CLOCK_MONOTONIC)), holder: time(holder) }
    }

    fn read(&self) -> (i64, [Option<i64>; 3]) {
        let boot = nanos(ClockId::CLOCK_BOOTTIME);
        let witnesses = [
            Some(nanos(ClockId::CLOCK_REALTIME)),
            self.counter.as_ref().map(Counter::nanos),
            self.host.as_ref().and_then(HostClock::nanos),
        ];
        (boot, witnesses)
    }
}

fn nanos(clock: ClockId) -> i64 {
    // These clocks are there on every Linux that can run this program; a clock stuck at zero would
    // at worst end leases early.
    clock_gettime(clock)
        .map_or(0, |at| at.tv_sec().saturating_mul(1_000_000_000).saturating_add(at.tv_nsec()))
}

fn time(nanos: i64) -> Time {
    Time(u64::try_from(nanos).unwrap_or(0))
}

/// BOOTTIME plus what it missed.
#[derive(Debug, Default)]
struct Holder {
    /// Advances that BOOTTIME did not see, in nanoseconds.
    missed: AtomicI64,
    sources: [Source; 3],
    /// Taken only when a source has moved against BOOTTIME.
    moving: Mutex<()>,
}

/// How far a source is ahead of BOOTTIME as far as `missed` accounts for it; `UNSEEN` before its
/// first reading.
#[derive(Debug)]
struct Source {
    ahead: AtomicI64,
}

const UNSEEN: i64 = i64::MIN;

impl Default for Source {
    fn default() -> Self {
        Self { ahead: AtomicI64::new(UNSEEN) }
    }
}

impl Holder {
    /// No source has moved against BOOTTIME since it was last accounted for.
    fn is_still(&self, boot: i64, witnesses: [Option<i64>; 3]) -> bool {
        let still = |(source, at): (&Source, Option<i64>)| {
            let known = source.ahead.load(Ordering::Acquire);
            at.is_none_or(|at| {
                let moved = at.saturating_sub(boot).saturating_sub(known);
                known != UNSEEN && (-SET_BACK_NS..=DRIFT_NS).contains(&moved)
            })
        };
        self.sources.iter().zip(witnesses).all(still)
    }

    fn at(&self, boot: i64, witnesses: [Option<i64>; 3]) -> i64 {
        if !self.is_still(boot, witnesses) {
            self.account(&witnesses.map(|at| at.map(|at| at.saturating_sub(boot))));
        }
        boot.saturating_add(self.missed.load(Ordering::Acquire))
    }

    /// A source has moved against BOOTTIME: forward counts, backward only shifts its base.
    fn account(&self, ahead: &[Option<i64>; 3]) {
        let _one = self.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missed_now = 0;
        for (source, ahead) in self.sources.iter().zip(ahead) {
            let Some(ahead) = *ahead else { continue };
            let known = source.ahead.load(Ordering::Relaxed);
            if known != UNSEEN && ahead > known {
                missed_now = missed_now.max(ahead.saturating_sub(known));
            }
        }
        // What one source saw first, the others will have seen too: their bases move along, so
        // that one pause is counted once.
        self.missed.fetch_add(missed_now, Ordering::Release);
        for (source, ahead) in self.sources.iter().zip(ahead) {
            let Some(ahead) = *ahead else { continue };
            let known = source.ahead.load(Ordering::Relaxed);
            if known == UNSEEN || ahead > known || known.saturating_sub(ahead) > SET_BACK_NS {
                source.ahead.store(ahead, Ordering::Release);
            }
        }
    }
}

/// The processor's time stamp counter, where it runs at one rate in all power states and on all
/// cores.
#[derive(Debug)]
struct Counter {
    origin: u64,
    /// Nanoseconds for 2^32 ticks.
    rate: u64,
}

#[cfg(target_arch = "x86_64")]
impl Counter {
    fn start() -> Option<Self> {
        use core::arch::x86_64::__cpuid;

        let highest = __cpuid(0x8000_0000).eax;
        // Intel SDM 17.17.1, AMD APM 13.2.4: CPUID.80000007H:EDX[8], invariant TSC.
        if highest < 0x8000_0007 || __cpuid(0x8000_0007).edx & (1 << 8) == 0 {
            return None;
        }
        let pair = || (nanos(ClockId::CLOCK_BOOTTIME), Self::ticks());
        let (start, first) = pair();
        let mut end = pair();
        while end.0.saturating_sub(start) < CALIBRATION_NS {
            std::thread::sleep(std::time::Duration::from_millis(5));
            end = pair();
        }
        let ticks = end.1.checked_sub(first).filter(|&ticks| ticks > 0)?;
        let elapsed = u128::try_from(end.0.saturating_sub(start)).ok()?;
        let rate = u64::try_from((elapsed << 32) / u128::from(ticks)).ok()?;
        Some(Self { origin: first, rate })
    }

    fn ticks() -> u64 {
        // SAFETY: every x86-64 processor has the instruction.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Counter {
    fn start() -> Option<Self> {
        None
    }

    fn ticks() -> u64 {
        0
    }
}

impl Counter {
    fn nanos(&self) -> i64 {
        let ticks = Self::ticks().saturating_sub(self.origin);
        i64::try_from((u128::from(ticks) * u128::from(self.rate)) >> 32).unwrap_or(i64::MAX)
    }
}

/// The host's clock as a KVM guest may read it.
#[derive(Debug)]
struct HostClock(File);

impl HostClock {
    fn open() -> Option<Self> {
        if let Ok(file) = File::open("/dev/ptp_kvm") {
            return Some(Self(file));
        }
        // Without udev's link: the PTP clock that says it is KVM's.
        let found = fs::read_dir("/sys/class/ptp").ok()?.flatten().find(|entry| {
            fs::read_to_string(entry.path().join("clock_name")).is_ok_and(|name| name.contains("KVM"))
        })?;
        File::open(Path::new("/dev").join(found.file_name())).ok().map(Self)
    }

    fn nanos(&self) -> Option<i64> {
        // Dynamic clock ids: the descriptor's complement and the type CLOCKFD (clock_gettime(2)).
        let id = (!self.0.as_raw_fd() << 3) | 3;
        let at = clock_gettime(ClockId::from_raw(id)).ok()?;
        Some(at.tv_sec().saturating_mul(1_000_000_000).saturating_add(at.tv_nsec()))
    }
}

#[cfg(target_arch = "x86_64")]
fn is_virtual() -> bool {
    // CPUID.1:ECX[31]: set by hypervisors, zero on hardware.
    core::arch::x86_64::__cpuid(1).ecx & (1 << 31) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn is_virtual() -> bool {
    Path::new("/sys/hypervisor").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn both_clocks_move_on() {
        let first = now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let second = now();
        let grantor = second.grantor.since(first.grantor).as_millis();
        let holder = second.holder.since(first.holder).as_millis();
        assert!((30..2000).contains(&grantor), "{grantor}");
        assert!(holder >= grantor.saturating_sub(1) && holder < 2000, "{holder}");
    }

    #[test]
    fn rates_agree_within_what_is_trusted() {
        let (first, start) = (now(), std::time::Instant::now());
        while start.elapsed().as_millis() < 300 {
            let _ = now(); // many readings: noise must not add up
        }
        let second = now();
        let grantor = second.grantor.since(first.grantor).as_nanos();
        let holder = second.holder.since(first.holder).as_nanos();
        assert!(holder + 1_000_000 >= grantor, "holder {holder} behind grantor {grantor}");
        // 0.8 % is trusted; a preempted reading may add its wait.
        assert!(holder < grantor + grantor / 125 + 100_000_000, "holder {holder}, grantor {grantor}");
    }

    #[test]
    fn a_pause_that_only_one_source_saw_counts_once() {
        let holder = Holder::default();
        let at = |boot: i64, real: i64, tsc: Option<i64>| {
            holder.at(boot * S, [Some(real * S), tsc.map(|t| t * S), None])
        };
        assert_eq!(at(10, 1000, Some(1)), 10 * S);
        assert_eq!(at(11, 1001, Some(2)), 11 * S);
        // Paused for 5 s: the counter saw it, the clocks did not.
        assert_eq!(at(12, 1002, Some(8)), 17 * S);
        assert_eq!(at(13, 1003, Some(9)), 18 * S);
        // 60 s suspended, seen by both others at once: counted once.
        assert_eq!(at(14, 1064, Some(70)), 79 * S);
    }

    #[test]
    fn a_date_set_back_does_not_take_time_back_nor_hide_a_later_pause() {
        let holder = Holder::default();
        let at = |boot: i64, real: i64| holder.at(boot * S, [Some(real * S), None, None]);
        assert_eq!(at(10, 1000), 10 * S);
        assert_eq!(at(11, 500), 11 * S);
        assert_eq!(at(12, 501), 12 * S);
        assert_eq!(at(13, 505), 16 * S);
        // A date set forward can only end a lease early.
        assert_eq!(at(14, 2000), 14 * S + 3 * S + 1494 * S);
    }

    #[test]
    fn noise_does_not_add_up() {
        let holder = Holder::default();
        let mut last = 0;
        for n in 0..10_000_i64 {
            let noise = [0, 700_000, 300_000, 900_000][usize::try_from(n % 4).unwrap()];
            last = holder.at(n * 1_000_000, [Some(n * 1_000_000 + noise), None, None]);
        }
        assert!(last < 9_999 * 1_000_000 + 1_000_000, "{last}");
    }

    #[test]
    fn a_boot_has_a_name() {
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(sources().len() >= 2);
    }
}
