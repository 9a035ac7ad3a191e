//! Each block is a linearizable register. Every write carries a stamp of its own, so that the
//! operations on a block fall into clusters (a write and the reads that saw it), and a history is
//! linearizable exactly when no two clusters `u`, `v` must each precede the other: some operation
//! of `u` ended before one of `v` began, and the reverse (Gibbons and Korach's zones). That is
//! tested at each operation's end, against the few clusters still of interest.

use crate::layout::Stamp;

pub const NEVER: u64 = u64::MAX;

/// A write and those who saw it.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    stamp: Stamp,
    /// Latest start of an operation of the cluster.
    start_max: u64,
    /// Earliest end of an operation of the cluster; `NEVER` while nobody knows that it happened.
    end_min: u64,
    /// After this instant the write can no longer take effect (its end, if somebody sees it).
    deadline: u64,
    /// It was reported as certainly without effect.
    dead: bool,
    /// Its predecessor in the register's order (COMPARE AND WRITE that succeeded).
    predecessor: Option<Stamp>,
}

/// One block of one volume.
#[derive(Clone, Debug)]
pub struct Register {
    clusters: Vec<Cluster>,
}

/// Why a history is not that of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly(pub String);

/// Clusters kept before old ones are dropped; a bound for the cost of a check.
const CLUSTERS_KEPT: usize = 24;

impl Register {
    pub fn new() -> Self {
        Self {
            clusters: vec![Cluster {
                stamp: 0,
                start_max: 0,
                end_min: 0,
                deadline: 0,
                dead: false,
                predecessor: None,
            }],
        }
    }

    fn find(&self, stamp: Stamp) -> Option<usize> {
        self.clusters.iter().position(|c| c.stamp == stamp)
    }

    /// A write was issued; it may take effect from now on.
    pub fn write_begins(&mut self, stamp: Stamp, now: u64) {
        self.clusters.push(Cluster {
            stamp,
            start_max: now,
            end_min: NEVER,
            deadline: NEVER,
            dead: false,
            predecessor: None,
        });
    }

    /// The write was acknowledged.
    pub fn write_ends(&mut self, stamp: Stamp, now: u64) -> Result<(), Anomaly> {
        let Some(i) = self.find(stamp) else { return Err(Anomaly(format!("unknown write {stamp}"))) };
        if self.clusters[i].dead {
            return Err(Anomaly(format!("write {stamp} acknowledged after it was declared without effect")));
        }
        let cluster = &mut self.clusters[i];
        cluster.end_min = cluster.end_min.min(now);
        self.check(i)
    }

    /// COMPARE AND WRITE succeeded: it saw `expected` and replaced it by `stamp`.
    pub fn swap_ends(
        &mut self,
        stamp: Stamp,
        expected: Stamp,
        started: u64,
        now: u64,
    ) -> Result<(), Anomaly> {
        self.read_ends(expected, started, now)?;
        if let Some(i) = self.find(stamp) {
            self.clusters[i].predecessor = Some(expected);
        }
        self.write_ends(stamp, now)
    }

    /// The write's outcome is unknown to the host, but after `now` it may not take effect any more.
    pub fn write_deadline(&mut self, stamp: Stamp, now: u64) {
        if let Some(i) = self.find(stamp) {
            self.clusters[i].deadline = self.clusters[i].deadline.min(now);
        }
    }

    /// The array said that the write has had and will have no effect.
    pub fn write_dead(&mut self, stamp: Stamp) {
        if let Some(i) = self.find(stamp) {
            self.clusters[i].dead = true;
        }
    }

    /// A read that began at `started` ended now and saw `stamp`.
    pub fn read_ends(&mut self, stamp: Stamp, started: u64, now: u64) -> Result<(), Anomaly> {
        let Some(i) = self.find(stamp) else {
            return Err(Anomaly(format!("read of write {stamp}, overwritten long ago or never issued")));
        };
        let cluster = &mut self.clusters[i];
        if cluster.dead {
            return Err(Anomaly(format!("read of write {stamp}, declared without effect")));
        }
        cluster.end_min = cluster.end_min.min(now).min(cluster.deadline);
        cluster.start_max = cluster.start_max.max(started);
        self.check(i)
    }

    /// No cluster may have to come both before and after another.
    fn check(&self, i: usize) -> Result<(), Anomaly> {
        let v = self.clusters[i];
        for (j, u) in self.clusters.iter().enumerate() {
            if j != i && u.end_min < v.start_max && v.end_min < u.start_max {
                let (older, newer) =
                    if u.end_min < v.end_min { (u.stamp, v.stamp) } else { (v.stamp, u.stamp) };
                return Err(Anomaly(format!("write {older} came back after write {newer}")));
            }
        }
        for w in self.clusters.iter().filter(|w| w.end_min != NEVER) {
            let Some(p) = w.predecessor.and_then(|p| self.find(p)) else { continue };
            let p = self.clusters[p];
            for u in &self.clusters {
                if u.stamp != w.stamp
                    && u.stamp != p.stamp
                    && p.end_min < u.start_max
                    && u.end_min < w.start_max
                {
                    return Err(Anomaly(format!(
                        "write {} came between the compare ({}) and the write ({}) of one command",
                        u.stamp, p.stamp, w.stamp
                    )));
                }
            }
        }
        Ok(())
    }

    /// Both caches that held the newest writes are lost (write promise *memory*): the block holds `stamp`, and
    /// its history begins anew with that. `floor`: the start of the last acknowledged flush.
    pub fn fall_back(&mut self, stamp: Stamp, floor: u64, now: u64) -> Result<(), Anomaly> {
        if let Some(i) = self.find(stamp) {
            let c = self.clusters[i];
            // `w` was acknowledged before that flush began, and came after what is back.
            let passed = |w: &&Cluster| {
                w.stamp != stamp && w.end_min < floor && c.end_min < w.start_max && c.start_max <= w.end_min
            };
            if c.dead {
                return Err(Anomaly(format!("write {stamp}, declared without effect, is back")));
            }
            if let Some(w) = self.clusters.iter().find(passed) {
                return Err(Anomaly(format!("write {} is gone, {stamp} is back", w.stamp)));
            }
        } else {
            return Err(Anomaly(format!("write {stamp}, overwritten long ago, is back")));
        }
        self.clusters.retain(|c| c.end_min == NEVER && c.stamp != stamp);
        let dead = false;
        self.clusters.push(Cluster {
            stamp,
            start_max: 0,
            end_min: now,
            deadline: now,
            dead,
            predecessor: None,
        });
        Ok(())
    }

    /// The write was acknowledged before `instant`, as far as its host knows.
    pub fn acknowledged_before(&self, stamp: Stamp, instant: u64) -> bool {
        self.find(stamp).is_some_and(|i| self.clusters[i].end_min < instant)
    }

    /// Whether old clusters should be dropped (`prune`).
    pub fn crowded(&self) -> bool {
        self.clusters.len() > CLUSTERS_KEPT
    }

    /// Drops clusters whose sight would be an anomaly anyway: wholly before another whose write was
    /// acknowledged before any operation still running began (`oldest_start`).
    pub fn prune(&mut self, oldest_start: u64) {
        let horizon =
            self.clusters.iter().filter(|w| w.end_min < oldest_start).map(|w| w.start_max).max().unwrap_or(0);
        self.clusters.retain(|u| {
            let end = u.end_min.min(u.deadline);
            !(u.dead || (end != NEVER && end.max(u.start_max) < horizon))
        });
    }

    /// At rest: may the block hold `stamp`? A read over the end of everything.
    pub fn final_value(&mut self, stamp: Stamp, now: u64) -> Result<(), Anomaly> {
        self.read_ends(stamp, now, now + 1)
    }
}

/// The checker is checked: histories that are and are not those of a register.
pub fn self_test() -> Result<(), String> {
    type History = fn(&mut Register) -> Result<(), Anomaly>;
    let good: [(&str, History); 4] = [
        ("a read beside a write sees either", |r| {
            r.write_begins(1, 10);
            r.read_ends(1, 11, 12)?;
            r.read_ends(1, 13, 14)?;
            r.write_ends(1, 20)
        }),
        ("an unacknowledged write may never happen", |r| {
            r.write_begins(1, 10);
            r.read_ends(0, 30, 31)
        }),
        ("an unacknowledged write may happen late", |r| {
            r.write_begins(1, 10);
            r.read_ends(0, 30, 31)?;
            r.read_ends(1, 40, 41)
        }),
        ("a swap takes the place after what it saw", |r| {
            r.write_begins(1, 10);
            r.write_ends(1, 11)?;
            r.write_begins(2, 20);
            r.swap_ends(2, 1, 20, 21)?;
            r.read_ends(2, 30, 31)
        }),
    ];
    let bad: [(&str, History); 7] = [
        ("an acknowledged write is lost", |r| {
            r.write_begins(1, 10);
            r.write_ends(1, 11)?;
            r.read_ends(0, 12, 13)
        }),
        ("a read goes back", |r| {
            r.write_begins(1, 10);
            r.read_ends(1, 11, 12)?;
            r.read_ends(0, 13, 14)
        }),
        ("a ghost lands over a later write", |r| {
            r.write_begins(1, 10);
            r.write_begins(2, 20);
            r.write_ends(2, 21)?;
            r.write_deadline(1, 21);
            r.write_begins(3, 30);
            r.write_ends(3, 31)?;
            r.read_ends(1, 40, 41)
        }),
        ("a write declared dead is seen", |r| {
            r.write_begins(1, 10);
            r.write_dead(1);
            r.read_ends(1, 40, 41)
        }),
        ("a swap overwrites what it did not see", |r| {
            r.write_begins(1, 10);
            r.write_ends(1, 11)?;
            r.write_begins(2, 20);
            r.swap_ends(2, 0, 20, 21)
        }),
        ("a write comes between the halves of a swap", |r| {
            r.write_begins(1, 10);
            r.read_ends(0, 5, 6)?;
            r.write_begins(2, 10);
            r.write_ends(1, 12)?;
            r.read_ends(1, 13, 14)?;
            r.swap_ends(2, 0, 10, 30)?;
            r.read_ends(2, 40, 41)
        }),
        ("a value nobody wrote", |r| r.read_ends(9, 1, 2)),
    ];
    for (name, history) in good {
        history(&mut Register::new()).map_err(|anomaly| format!("{name}: refused, {}", anomaly.0))?;
    }
    for (name, history) in bad {
        if history(&mut Register::new()).is_ok() {
            return Err(format!("{name}: not noticed"));
        }
    }
    // Dropping old clusters loses no anomaly.
    let mut register = Register::new();
    for n in 1..100 {
        register.write_begins(n, u64::from(n) * 10);
        register.write_ends(n, u64::from(n) * 10 + 5).map_err(|a| a.0)?;
        register.prune(u64::from(n) * 10 + 5);
    }
    if register.clusters.len() > 3 {
        return Err(format!("{} clusters are kept", register.clusters.len()));
    }
    if register.read_ends(50, 2000, 2001).is_ok() {
        return Err("a dropped cluster comes back unnoticed".into());
    }
    Ok(())
}
