//! Task management, logout, resets from elsewhere.

use super::*;

#[test]
fn an_abort_waits_for_its_command() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.task(TaskFunction::AbortTask, 5, 1);
    assert!(matches!(rig.actions[..], [Action::Abort(task)] if task == command.task));
    assert!(rig.receive().is_empty(), "not before the command is over");
    rig.connection.aborted(command.task, &mut rig.actions);
    assert_eq!(rig.task_result(), TaskResult::Complete);
    assert!(rig.connection.is_quiet());
}

#[test]
fn an_aborted_command_that_finished_is_not_answered() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.task(TaskFunction::AbortTask, 5, 1);
    rig.good(command.task, &[0; 512], 0);
    assert_eq!(rig.task_result(), TaskResult::Complete);
}

#[test]
fn abort_of_what_is_not_there() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.good(command.task, &[0; 512], 0);
    rig.receive();
    rig.task(TaskFunction::AbortTask, 5, 1);
    assert_eq!(rig.task_result(), TaskResult::Complete, "finished");
    rig.task(TaskFunction::AbortTask, 6, 5000);
    assert_eq!(rig.task_result(), TaskResult::TaskDoesNotExist, "outside the window");
    // A command that was never received: its number counts as received, and it is dead.
    let lost = rig.command(8, READ_10, 512);
    rig.task(TaskFunction::AbortTask, 8, lost.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Complete, "not received");
    rig.send(lost.encode(), &[]);
    assert!(rig.executed().is_empty(), "an aborted command never starts");
}

#[test]
fn abort_of_a_command_of_another_unit_is_no_success() {
    let mut rig = Rig::logged_in(b"");
    let command = ScsiCommand { lun: 1 << 48, ..rig.command(5, READ_10, 512) };
    rig.send(command.encode(), &[]);
    rig.executed();
    rig.task(TaskFunction::AbortTask, 5, command.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Rejected);
    assert!(rig.actions.is_empty());
}

#[test]
fn a_write_aborted_while_its_data_come_never_starts() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    let command = rig.command(5, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
    rig.task(TaskFunction::AbortTask, 5, command.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Complete);
    rig.data_out(5, r2t.ttt, 0, 0, &[0; 4096], true);
    assert!(rig.executed().is_empty() && rig.receive().is_empty());
    assert!(rig.connection.is_quiet());
}

#[test]
fn a_reset_waits_for_both_sides() {
    for inside_first in [true, false] {
        let mut rig = Rig::logged_in(b"");
        rig.read(5, 512);
        let command = rig.executed().remove(0);
        rig.task(TaskFunction::LogicalUnitReset, NO_TAG, 0);
        let [Action::Abort(_), Action::Manage { id, function: TaskFunction::LogicalUnitReset, lun: 0 }] =
            rig.actions[..]
        else {
            panic!("{:?}", rig.actions)
        };
        if inside_first {
            rig.connection.aborted(command.task, &mut rig.actions);
            assert!(rig.receive().is_empty());
            rig.connection.managed(id, TaskResult::Complete, &mut rig.actions);
        } else {
            rig.connection.managed(id, TaskResult::Complete, &mut rig.actions);
            assert!(rig.receive().is_empty());
            rig.connection.aborted(command.task, &mut rig.actions);
        }
        assert_eq!(rig.task_result(), TaskResult::Complete);
    }
}

#[test]
fn a_set_is_that_of_its_unit() {
    let mut rig = Rig::logged_in(b"");
    for (itt, lun) in [(1, 0), (2, 1 << 48), (3, 0x4001 << 48)] {
        let command = ScsiCommand { lun, ..rig.command(itt, READ_10, 512) };
        rig.send(command.encode(), &[]);
    }
    rig.executed();
    let request = TaskRequest {
        immediate: true,
        function: TaskFunction::AbortTaskSet,
        lun: 1 << 48,
        itt: 900,
        referenced_task_tag: NO_TAG,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
        ref_cmd_sn: Serial(0),
        exp_data_sn: 0,
    };
    rig.send(request.encode(), &[]);
    let aborted: Vec<_> = rig.actions.iter().filter(|action| matches!(action, Action::Abort(_))).collect();
    assert_eq!(aborted.len(), 2, "peripheral and flat addressing name the same unit");
}

#[test]
fn a_reset_from_another_session() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.connection.abort_outside(Some(0), |_| None, 42, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(_)]));
    rig.connection.aborted(command.task, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(_), Action::AbortsOver { token: 42 }]));
    assert!(rig.receive().is_empty());
    rig.connection.abort_all_outside(43, &mut rig.actions);
    assert!(matches!(rig.actions.last(), Some(Action::AbortsOver { token: 43 })), "nothing to wait for");
}

#[test]
fn a_reset_from_another_session_while_data_arrive() {
    let mut rig = Rig::logged_in(b"");
    let command = rig.command(5, WRITE_10, 4096);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &pattern(4096), Digests::NONE);
    rig.send_raw(&bytes[..1000]);
    rig.connection.abort_all_outside(1, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::AbortsOver { token: 1 }]));
    rig.send_raw(&bytes[1000..]);
    assert!(rig.executed().is_empty());
    rig.read(6, 512);
    assert_eq!(rig.executed().len(), 1, "the stream is still in step");
}

#[test]
fn logout_waits_for_the_commands() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    let logout = LogoutRequest {
        immediate: true,
        reason: LogoutReason::CloseSession,
        itt: 8,
        cid: 0,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
    };
    rig.send(logout.encode(), &[]);
    assert!(rig.receive().is_empty() && !rig.connection.is_closing());
    rig.connection.aborted(command.task, &mut rig.actions);
    let Pdu::LogoutResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!(response.result, LogoutResult::Success);
    assert!(rig.connection.is_closing() && rig.connection.is_quiet());
}

#[test]
fn terminate_aborts_everything_and_says_nothing() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    rig.read(5, 512);
    let command = rig.command(6, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let running = rig.executed().remove(0);
    rig.connection.terminate(&mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(task)] if task == running.task));
    assert!(rig.connection.is_closing() && !rig.connection.is_quiet());
    rig.good(running.task, &[0; 512], 0);
    assert!(rig.connection.is_quiet() && rig.receive().is_empty());
}

/// The LUN of a command that has started may name another unit by now, or none.
#[test]
fn a_reset_goes_by_the_unit_of_what_runs() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    rig.read(6, 512);
    let started: Vec<TaskId> = rig.executed().iter().map(|command| command.task).collect();
    let [first, second] = started[..] else { panic!() };
    let runs = |task| Some(task == second);
    assert!(rig.connection.abort_outside(Some(0), runs, 1, &mut rig.actions));
    assert!(matches!(rig.actions[..], [Action::Abort(task)] if task == second));
    rig.actions.clear();
    assert!(!rig.connection.abort_outside(None, |_| Some(false), 2, &mut rig.actions));
    assert!(matches!(rig.actions[..], [Action::AbortsOver { token: 2 }]));
    rig.connection.aborted(second, &mut rig.actions);
    assert!(matches!(rig.actions[1..], [Action::AbortsOver { token: 1 }]));
    rig.good(first, &[0; 512], 0);
    assert_eq!(rig.receive().len(), 1);
}

#[test]
fn a_discovery_session_ends_by_itself() {
    let mut rig = Rig::logged_in(b"SessionType=Discovery\0");
    let end = Time::ZERO + Limits::default().discovery_lifetime;
    assert!(rig.connection.next_timeout() <= end);
    rig.connection.handle_timeout(end);
    assert!(rig.connection.is_closing());
}
