//! What must hold between any two calls, counted anew from the commands themselves.

use std::collections::BTreeMap;

use super::super::command::{Command, Stage};
use super::super::regions::regions_of;
use super::super::volume::COMMAND_BASE;
use super::Volume;
use crate::arbitration::InSync;

/// # Panics
/// When something does not hold.
pub fn check(volume: &Volume) {
    let commands = volume.commands.all();
    let held: Vec<&Command> = commands.iter().filter(|command| command.in_ledger).collect();
    let copies: Vec<_> = volume.copies.held().collect();
    assert_eq!(volume.ledger.len(), held.len() + copies.len());
    for command in &held {
        assert!(command.is_live() && command.stage != Stage::Failed && command.stage != Stage::Parked);
        let started = command.started != 0;
        assert_eq!(started, command.stage != Stage::Queued);
        let before = held.iter().filter(|other| {
            other.arrived < command.arrived
                && other.held.overlaps(command.held)
                && (other.op.writes() || command.op.writes())
        });
        let under = copies.iter().filter(|(slot, region, ..)| {
            volume.region_extent(*region).overlaps(command.held)
                && volume.copies.excludes(*slot, command.op.writes())
        });
        let blockers = before.count() + under.count();
        if !started {
            assert_eq!(command.blockers as usize, blockers, "{command:?}");
        }
    }
    for (slot, region, blockers, inserted) in &copies {
        let before = held.iter().filter(|command| {
            command.started != 0
                && command.started < *inserted
                && volume.region_extent(*region).overlaps(command.held)
                && volume.copies.excludes(*slot, command.op.writes())
        });
        let before = before.count();
        match blockers {
            Some(blockers) => assert_eq!(*blockers as usize, before),
            None => assert_eq!(before, 0, "copied under a started command"),
        }
    }
    let mut in_flight: BTreeMap<u64, u32> = BTreeMap::new();
    for command in commands.iter().filter(|command| command.marked) {
        let (first, end) = regions_of(command.extent);
        for region in first..end {
            *in_flight.entry(region).or_default() += 1;
            assert!(volume.map.activity().contains(region), "in flight and not marked");
            let sure = volume.map.sure_activity().contains(region);
            assert!(command.stage != Stage::Running || sure, "running and not durable");
        }
    }
    for region in 0..volume.map.activity().regions() {
        assert_eq!(volume.active.in_flight(region), in_flight.get(&region).copied().unwrap_or(0));
        let doubtful = volume.recovering.contains(region);
        assert!(!doubtful || volume.map.activity().contains(region), "in doubt and not marked");
    }
    if let Some(group) = volume.group
        && group.config.primary == group.me
        && group.config.in_sync == InSync::Primary
    {
        let mut from = 0;
        while let Some(region) = volume.must_copy.next_from(from) {
            assert!(volume.map.out_of_sync().contains(region), "dirty and not marked");
            from = region + 1;
        }
    }
    assert!(volume.ready.is_empty(), "something was left undone");
    assert_eq!(volume.commands.live() as usize, commands.iter().filter(|command| command.is_live()).count());
    assert_eq!(COMMAND_BASE, super::Limits::COPIES_MAX);
}
