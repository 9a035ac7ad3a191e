//! Disks that fail or hang while nothing is written, and disks and links that do so again and again.

use super::*;
use crate::mutation::{self, Mutation};

impl Rig {
    /// What probes say of the volume's disk from now on.
    fn probe(&mut self, at: usize, bad: Option<Trouble>) {
        let probed = match bad {
            Some(trouble) => Probed::Bad(trouble),
            None => Probed::Good { began: Time(self.now) },
        };
        self.event(at, Event::Disk(probed));
    }

    /// Seconds until both copies are in sync, in steps of 100 ms.
    #[track_caller]
    fn until_in_sync(&mut self, limit: u64) -> f64 {
        let start = self.now;
        while self.chosen(0).in_sync != InSync::Both || self.chosen(1).in_sync != InSync::Both {
            self.run(100);
            assert!(self.now - start < limit * 1000 * MS, "not in sync\n{}", self.tail());
        }
        (self.now - start) as f64 / 1e9
    }
}

fn with(mutation: Mutation, run: impl FnOnce()) {
    mutation::set(Some(mutation));
    run();
    mutation::set(None);
}

/// Who serves a while after a probe of the idle primary hung.
fn primary_after_a_probe_hung() -> usize {
    let mut rig = in_sync();
    rig.run(3000);
    rig.probe(0, Some(Trouble::Hangs));
    rig.run(500);
    if rig.serves(1) {
        assert_eq!(rig.view(0).reason, Some(Reason::DiskHangs));
        // No hope: nothing but a probe that ended well lets it back.
        rig.run(60_000);
        assert_eq!(rig.chosen(1).in_sync, InSync::Primary, "\n{}", rig.tail());
        assert!(!rig.view(1).session_up && rig.view(1).kept_out.is_some());
        rig.probe(0, None);
        rig.run(10_000);
        rig.is_well(1);
        assert_eq!(rig.view(1).kept_out, None);
    }
    usize::from(rig.serves(1))
}

#[test]
fn f22_an_idle_primary_whose_disk_hangs_hands_over() {
    assert_eq!(primary_after_a_probe_hung(), 1);
    with(Mutation::ProbeIgnored, || assert_eq!(primary_after_a_probe_hung(), 0));
}

/// The secondary's probe fails, then the primary dies. Does the secondary serve?
fn promoted_with_a_bad_disk(told: bool) -> bool {
    let mut rig = in_sync();
    if !told {
        rig.cut[0] = true;
        rig.break_link();
        rig.kill(0);
    }
    rig.probe(1, Some(Trouble::Fails));
    rig.run(500);
    if told {
        assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
        assert!(rig.serves(0));
        rig.kill(0);
    }
    rig.run(20_000);
    let serves = rig.serves(1);
    if !serves && !told {
        assert_eq!(rig.view(1).reason, Some(Reason::DiskFails));
        rig.command(1, 9, Command::FailOver);
        assert_eq!(rig.outcomes.pop(), Some((9, Err(Refused::DiskBad))));
        // The disk works again: nothing was lost, it takes office.
        rig.probe(1, None);
        rig.until_serves(1, 5000);
    }
    serves
}

#[test]
fn f23_an_idle_secondary_whose_disk_fails_is_dropped_and_never_promoted() {
    assert!(!promoted_with_a_bad_disk(true));
    assert!(!promoted_with_a_bad_disk(false));
    with(Mutation::BadDiskPromoted, || assert!(promoted_with_a_bad_disk(false)));
}

#[test]
fn f23_a_secondary_whose_data_dir_hangs_is_dropped() {
    let mut rig = in_sync();
    rig.data_dir_hangs(1, true);
    rig.run(500);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
    rig.data_dir_hangs(1, false);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn f22_roles_do_not_change_to_an_array_with_a_bad_disk() {
    let mut rig = in_sync();
    // Told, and not dropped yet.
    rig.event(
        0,
        Event::Session { connection: rig.arrays[0].link.unwrap(), message: SessionMessage::DiskBad(true) },
    );
    for (ticket, command) in [(1, Command::SwitchOver), (2, Command::HandOver)] {
        rig.command(0, ticket, command);
        let (answered, result) = rig.outcomes.pop().unwrap();
        assert_eq!(answered, ticket);
        assert!(matches!(result, Err(Refused::PeerDiskBad | Refused::NotInSync)), "{result:?}");
    }
}

/// An I/O error is not forgotten with the office: where disks are probed, a probe must have ended well.
#[test]
fn f22_a_disk_that_failed_is_caught_up_after_a_good_probe_only() {
    let mut rig = in_sync();
    rig.probe(0, None);
    rig.arrays[0].failing = true;
    rig.write(0, 1);
    rig.until_serves(1, 3000);
    rig.arrays[0].failing = false;
    rig.run(30_000);
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary, "\n{}", rig.tail());
    assert_eq!(rig.view(0).reason, Some(Reason::DiskFails));
    rig.probe(0, None);
    rig.run(8_000);
    rig.is_well(1);
}

/// Seconds from the moment the secondary's disk works again until it is in sync, over and over.
fn waits_of_a_flapping_disk(times: usize, between_ms: u64) -> Vec<f64> {
    let mut rig = in_sync();
    let mut waits = Vec::new();
    for _ in 0..times {
        rig.run(between_ms);
        rig.probe(1, Some(Trouble::Fails));
        rig.run(1000);
        assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
        rig.probe(1, None);
        waits.push(rig.until_in_sync(100));
        rig.is_well(0);
    }
    waits
}

fn about(waits: &[f64], expected: &[f64]) {
    let close = waits.iter().zip(expected).all(|(wait, expected)| (wait - expected).abs() < 1.5);
    assert!(waits.len() == expected.len() && close, "{waits:?}, not {expected:?}");
}

#[test]
fn f23_a_disk_that_flaps_is_caught_up_ever_later() {
    // Each time in sync for longer than what ends the doubling of links.
    about(&waits_of_a_flapping_disk(6, 70_000), &[5.0, 10.0, 20.0, 40.0, 60.0, 60.0]);
    // Ten minutes in sync: as if it were the first time.
    about(&waits_of_a_flapping_disk(2, 601_000), &[5.0, 5.0]);
    with(Mutation::NoHysteresis, || about(&waits_of_a_flapping_disk(3, 70_000), &[5.0, 5.0, 5.0]));
}

#[test]
fn f22_a_primary_whose_disk_flaps_is_caught_up_ever_later_wherever_the_office_is() {
    let mut rig = in_sync();
    let mut waits = Vec::new();
    for turn in 0..4 {
        rig.run(70_000);
        rig.probe(0, Some(Trouble::Hangs));
        rig.until_serves(1, 1000);
        rig.run(1000);
        rig.probe(0, None);
        waits.push(rig.until_in_sync(100));
        rig.run(1000);
        rig.command(1, turn, Command::SwitchOver);
        rig.until_serves(0, 1000);
    }
    about(&waits, &[5.0, 10.0, 20.0, 40.0]);
}

#[test]
fn f23_an_operators_start_does_not_wait() {
    let mut rig = in_sync();
    for _ in 0..4 {
        rig.probe(1, Some(Trouble::Fails));
        rig.run(1000);
        rig.probe(1, None);
        rig.until_in_sync(100);
    }
    rig.probe(1, Some(Trouble::Fails));
    rig.run(1000);
    rig.probe(1, None);
    rig.run(1000);
    assert_eq!(rig.view(0).kept_out, Some(std::time::Duration::from_secs(60)));
    rig.command(0, 1, Command::Start);
    assert!(rig.until_in_sync(10) < 2.0);
}

/// Seconds from the link's return until in sync, over and over.
fn waits_of_a_flapping_link(times: usize, between_ms: u64) -> Vec<f64> {
    let mut rig = in_sync();
    let mut waits = Vec::new();
    for _ in 0..times {
        rig.run(between_ms);
        rig.cut[0] = true;
        rig.break_link();
        let start = rig.now;
        rig.run(1000);
        assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
        rig.cut[0] = false;
        rig.until_in_sync(100);
        waits.push((rig.now - start) as f64 / 1e9);
    }
    waits
}

#[test]
fn f24_the_delay_doubles_to_a_minute_and_falls_back_after_a_quiet_one() {
    about(&waits_of_a_flapping_link(6, 1000), &[5.0, 10.0, 20.0, 40.0, 60.0, 60.0]);
    about(&waits_of_a_flapping_link(3, 61_000), &[5.0, 5.0, 5.0]);
    with(Mutation::RejoinDelayStays, || about(&waits_of_a_flapping_link(3, 1000), &[5.0, 5.0, 5.0]));
}
