//! Members that are being changed keep the group from coming in sync, and so does a state of its objects that the
//! secondary has by itself.

use super::*;
use crate::mutation::{self, Mutation};

/// Whether the group is in sync while its members are held, ten seconds after it was started again.
fn in_sync_while_held() -> bool {
    let mut rig = in_sync();
    rig.command(0, 1, Command::HoldMembers);
    if !mutation::on(Mutation::MembersNotHeld) {
        assert_eq!(
            rig.outcomes.pop(),
            Some((1, Err(Refused::InSync))),
            "of a group in sync nothing is changed"
        );
    }
    rig.command(0, 2, Command::Stop);
    rig.run(3000);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
    rig.command(1, 3, Command::HoldMembers);
    rig.command(0, 4, Command::HoldMembers);
    assert_eq!(rig.outcomes.pop(), Some((4, Ok(()))));
    if !mutation::on(Mutation::MembersNotHeld) {
        assert_eq!(rig.outcomes.pop(), Some((3, Err(Refused::NotPrimary))));
    }
    rig.command(0, 5, Command::Start);
    rig.run(10_000);
    let both = rig.chosen(0).in_sync == InSync::Both;
    rig.event(0, Event::MembersSettled);
    rig.run(10_000);
    rig.is_well(0);
    both
}

#[test]
fn a_group_whose_members_are_being_changed_does_not_come_in_sync() {
    assert!(!in_sync_while_held());
    mutation::set(Some(Mutation::MembersNotHeld));
    assert!(in_sync_while_held(), "found");
    mutation::set(None);
}

/// Whether B, which has counted further than A by itself and was told nothing, is joined.
fn joined_untold() -> bool {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(5000);
    rig.state_lost = true;
    rig.restart(1);
    rig.event(1, Event::GroupState { sequence: 5000 });
    rig.run(20_000);
    let both = rig.chosen(0).in_sync == InSync::Both;
    rig.state_lost = false;
    rig.run(10_000);
    rig.is_well(0);
    both
}

#[test]
fn a_secondary_with_a_higher_number_of_its_own_is_joined_when_it_was_told() {
    assert!(!joined_untold());
    mutation::set(Some(Mutation::JoinByOwnNumber));
    assert!(joined_untold(), "found");
    mutation::set(None);
}

#[test]
fn each_primary_tells_its_objects_once_on_each_link() {
    let mut rig = in_sync();
    assert_eq!(rig.state_told, 1);
    rig.command(0, 1, Command::SwitchOver);
    rig.run(5000);
    rig.is_well(1);
    assert_eq!(rig.state_told, 2, "in office anew");
    rig.break_link();
    rig.run(20_000);
    rig.is_well(1);
    assert_eq!(rig.state_told, 3, "on a new link");
}
