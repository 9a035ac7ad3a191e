//! Members that are being changed keep the group from coming in sync.

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
