//! What an initiator may and may not do, and what it gets.

use std::net::TcpStream;
use std::time::Duration;

use twinlun::iscsi::Pdu;
use twinlun::iscsi::pdu::*;

use crate::initiator::Initiator;
use crate::memory::{TARGET, Target};

const MOMENT: Duration = Duration::from_millis(100);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect()
}

#[test]
fn discovery_tells_both_arrays() {
    let target = Target::start();
    let mut host = Initiator::connect(target.address);
    host.send_login(1, 0, "InitiatorName=iqn.h\0SessionType=Discovery\0");
    assert!(
        matches!(host.receive().unwrap().pdu, Pdu::LoginResponse(response) if response.status.is_success())
    );
    let answer = host.text("SendTargets=All\0");
    let expected = format!(
        "TargetName={TARGET}\0TargetAddress={},1\0TargetName=iqn.2026-01.test:array-b\0TargetAddress=192.0.2.2:3260,256\0",
        target.address
    );
    assert_eq!(answer, expected);
    assert_eq!(host.logout(), LogoutResult::Success);
    assert!(host.receive().is_none());
    assert!(target.sessions.list().is_empty());
}

#[test]
fn what_is_written_in_every_way_is_read_in_every_way() {
    let target = Target::start();
    for (at, keys) in [
        "",
        "InitialR2T=No ImmediateData=No",
        "ImmediateData=No MaxBurstLength=8192 MaxOutstandingR2T=4",
        "FirstBurstLength=4096 MaxBurstLength=4096 MaxRecvDataSegmentLength=512",
        "HeaderDigest=CRC32C DataDigest=CRC32C MaxRecvDataSegmentLength=65536",
        "DataDigest=CRC32C ImmediateData=No MaxBurstLength=65536",
    ]
    .into_iter()
    .enumerate()
    {
        let mut host = Initiator::login(target.address, 1, keys);
        let data = pattern(128 * 1024, u8::try_from(at).unwrap());
        let immediate = if keys.contains("ImmediateData=No") { 0 } else { 4096 };
        let r2ts = host.write(64, &data, immediate, 4096);
        assert!(r2ts > 0);
        assert_eq!(host.read(64, 256), data, "{keys}");
        host.write(3, &data[..512], immediate.min(512), 512);
        assert_eq!(host.read(3, 1), data[..512]);
        host.ping(b"still there?");
        assert_eq!(host.logout(), LogoutResult::Success);
    }
}

#[test]
fn many_commands_at_once() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "MaxRecvDataSegmentLength=65536");
    host.write(0, &pattern(64 * 1024, 9), 65_536, 65_536);
    let commands: Vec<_> = (0..100).map(|n| host.start_read(n, 8)).collect();
    for command in commands {
        let data = host.finish_read(command.itt);
        assert_eq!(data.len(), 4096);
    }
}

#[test]
fn refused_logins_say_why() {
    let target = Target::start();
    let cases = [
        ("InitiatorName=iqn.h\0TargetName=iqn.nobody\0", LoginStatus::NOT_FOUND),
        ("TargetName=iqn.2026-01.test:array-a\0", LoginStatus::MISSING_PARAMETER),
        (
            "InitiatorName=iqn.2026-01.host:banned\0TargetName=iqn.2026-01.test:array-a\0",
            LoginStatus::AUTHORIZATION_FAILURE,
        ),
    ];
    for (text, status) in cases {
        let mut host = Initiator::connect(target.address);
        host.send_login(1, 0, text);
        let Pdu::LoginResponse(response) = host.receive().unwrap().pdu else { panic!() };
        assert_eq!(response.status, status);
        assert!(host.receive().is_none(), "the connection is closed");
    }
    let mut host = Initiator::connect(target.address);
    assert_eq!(host.try_login(1, 4711, "").status, LoginStatus::SESSION_DOES_NOT_EXIST);
}

/// Rule 9: the new session begins when the old one's commands are over, not before.
#[test]
fn reinstatement_waits_for_the_old_commands() {
    let target = Target::start();
    let mut old = Initiator::login(target.address, 1, "");
    target.steering.hold(true);
    old.start_read(0, 8);
    target.steering.wait_held(1, 0);
    let mut new = Initiator::connect(target.address);
    let text = format!("InitiatorName={}\0TargetName={TARGET}\0", crate::initiator::NAME);
    new.send_login(1, 0, &text);
    target.steering.wait_held(1, 1);
    assert!(new.is_silent(MOMENT), "the old command is not over");
    assert!(old.receive().is_none(), "the old connection is closed");
    target.steering.hold(false);
    target.steering.release();
    let Pdu::LoginResponse(response) = new.receive().unwrap().pdu else { panic!() };
    assert!(response.status.is_success());
    assert_eq!(target.steering.effects(), 0, "the aborted command never took effect");
    assert_eq!(target.sessions.list().len(), 1);
}

/// Another ISID is another session, and disturbs nobody.
#[test]
fn another_isid_is_another_session() {
    let target = Target::start();
    let mut one = Initiator::login(target.address, 1, "");
    let mut two = Initiator::login(target.address, 2, "");
    assert_ne!(one.tsih, two.tsih);
    one.ping(b"1");
    two.ping(b"2");
    assert_eq!(target.sessions.list().len(), 2);
}

#[test]
fn a_lost_connection_aborts_its_commands() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "");
    target.steering.hold(true);
    host.start_read(0, 8);
    target.steering.wait_held(1, 0);
    drop(host);
    target.steering.wait_held(1, 1);
    assert_eq!(target.sessions.list().len(), 1, "kept until the command is over");
    target.steering.release();
    wait_for(|| target.sessions.list().is_empty());
}

fn wait_for(condition: impl Fn() -> bool) {
    for _ in 0..5000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it does not happen");
}

#[test]
fn abort_task_is_confirmed_when_it_is_true() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "");
    target.steering.hold(true);
    let command = host.start_read(0, 8);
    target.steering.wait_held(1, 0);
    host.manage(TaskFunction::AbortTask, Some(&command));
    target.steering.wait_held(1, 1);
    assert!(host.is_silent(MOMENT));
    target.steering.release();
    assert_eq!(host.task_result(), TaskResult::Complete);
    target.steering.hold(false);
    assert_eq!(target.steering.effects(), 0);
    let finished = host.start_read(0, 8);
    host.finish_read(finished.itt);
    host.manage(TaskFunction::AbortTask, Some(&finished));
    assert_eq!(host.task_result(), TaskResult::Complete, "a finished task is no reason for a reset");
}

#[test]
fn a_unit_reset_reaches_other_sessions() {
    let target = Target::start();
    let mut one = Initiator::login(target.address, 1, "");
    let mut two = Initiator::login(target.address, 2, "");
    target.steering.hold(true);
    one.start_read(0, 8);
    two.start_read(0, 8);
    target.steering.wait_held(2, 0);
    one.manage(TaskFunction::LogicalUnitReset, None);
    target.steering.wait_held(2, 2);
    assert!(one.is_silent(MOMENT));
    target.steering.release();
    assert_eq!(one.task_result(), TaskResult::Complete);
    assert_eq!(target.steering.resets(), [TaskFunction::LogicalUnitReset]);
    assert!(two.is_silent(MOMENT), "an aborted command is not answered");
    target.steering.hold(false);
    two.ping(b"alive");
}

/// An export that is taken away takes no command with it: a reset still waits for them.
#[test]
fn a_reset_reaches_commands_of_a_session_that_lost_the_unit() {
    let target = Target::start();
    let mut one = Initiator::login(target.address, 1, "");
    let mut two = Initiator::login(target.address, 2, "");
    target.steering.hold(true);
    two.start_read(0, 8);
    target.steering.wait_held(1, 0);
    target.steering.hide(true);
    one.manage(TaskFunction::LogicalUnitReset, None);
    target.steering.wait_held(1, 1);
    assert!(one.is_silent(MOMENT));
    target.steering.release();
    assert_eq!(one.task_result(), TaskResult::Complete);
}

/// Strangers that discover and stay do not keep hosts out, and do not stay.
#[test]
fn discovery_sessions_have_places_of_their_own() {
    let limits =
        twinlun::iscsi::Limits { discovery_lifetime: MOMENT * 20, ..twinlun::iscsi::Limits::default() };
    let target = Target::with_limits(limits);
    let mut strangers = Vec::new();
    let refused = (0..256).find(|_| {
        let mut stranger = Initiator::connect(target.address);
        stranger.send_login(1, 0, "InitiatorName=iqn.s\0SessionType=Discovery\0");
        let Some(Pdu::LoginResponse(response)) = stranger.receive().map(|received| received.pdu) else {
            panic!("closed without a word")
        };
        strangers.push(stranger);
        !response.status.is_success()
    });
    assert_eq!(refused, Some(twinlun::portal::DISCOVERIES_PER_ADDRESS));
    Initiator::login(target.address, 1, "").ping(b"in");
    for stranger in &mut strangers {
        assert!(stranger.receive().is_none(), "its time is over");
    }
    let mut late = Initiator::connect(target.address);
    late.send_login(1, 0, "InitiatorName=iqn.s\0SessionType=Discovery\0");
    assert!(late.receive().is_some());
}

/// Initiators that ping and never read what comes back hold no more memory together than all may.
#[test]
fn echoes_that_nobody_reads_are_bounded() {
    const MOST: usize = 1 << 20;
    let sessions = twinlun::portal::Sessions::with_memory_max(MOST);
    let target = Target::with_sessions(twinlun::iscsi::Limits::default(), sessions);
    let mut greedy: Vec<_> = (1..5).map(|isid| Initiator::login(target.address, isid, "")).collect();
    let mut most = 0;
    for host in &mut greedy {
        host.flood(&pattern(8192, 1), 32 << 20, || most = most.max(target.sessions.memory()));
    }
    assert!(most > MOST / 2, "{most}: nothing was held");
    assert!(most < MOST + greedy.len() * (512 << 10), "{most}");
    Initiator::login(target.address, 9, "").ping(b"alive");
}

#[test]
fn abort_task_set_leaves_other_sessions_alone() {
    let target = Target::start();
    let mut one = Initiator::login(target.address, 1, "");
    let mut two = Initiator::login(target.address, 2, "");
    target.steering.hold(true);
    one.start_read(0, 8);
    let other = two.start_read(0, 8);
    target.steering.wait_held(2, 0);
    one.manage(TaskFunction::AbortTaskSet, None);
    target.steering.wait_held(2, 1);
    target.steering.release();
    assert_eq!(one.task_result(), TaskResult::Complete);
    two.finish_read(other.itt);
}

#[test]
fn a_function_for_no_unit() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "");
    let request = TaskRequest {
        immediate: true,
        function: TaskFunction::LogicalUnitReset,
        lun: 9 << 48,
        itt: 5,
        referenced_task_tag: 0,
        cmd_sn: twinlun::iscsi::Serial(host.cmd_sn),
        exp_stat_sn: twinlun::iscsi::Serial(0),
        ref_cmd_sn: twinlun::iscsi::Serial(0),
        exp_data_sn: 0,
    };
    host.send(request.encode(), &[]);
    assert_eq!(host.task_result(), TaskResult::LunDoesNotExist);
}

#[test]
fn logout_waits_for_its_commands() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "");
    target.steering.hold(true);
    host.start_read(0, 8);
    target.steering.wait_held(1, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            target.steering.wait_held(1, 1);
            target.steering.release();
        });
        assert_eq!(host.logout(), LogoutResult::Success);
    });
    wait_for(|| target.sessions.list().is_empty());
}

#[test]
fn logout_is_requested_and_then_enforced() {
    let target = Target::start();
    let mut host = Initiator::login(target.address, 1, "");
    target.sessions.request_logout(Duration::from_millis(300));
    let Pdu::AsyncMessage(message) = host.receive().unwrap().pdu else { panic!() };
    assert_eq!(message.event, AsyncEvent::LogoutRequest);
    assert!(host.receive().is_none());
    wait_for(|| target.sessions.list().is_empty());
    assert!(TcpStream::connect(target.address).is_ok(), "still listening, but no login is taken");
    let mut late = Initiator::connect(target.address);
    late.send_login(1, 0, "InitiatorName=iqn.h\0SessionType=Discovery\0");
    assert!(late.receive().is_none());
}

#[test]
fn idle_initiators_are_pinged_and_dead_ones_dropped() {
    let limits = twinlun::iscsi::Limits {
        idle_before_ping: MOMENT,
        ping_timeout: MOMENT * 3,
        ..twinlun::iscsi::Limits::default()
    };
    let target = Target::with_limits(limits);
    let mut host = Initiator::login(target.address, 1, "");
    let Pdu::NopIn(ping) = host.receive().unwrap().pdu else { panic!() };
    let answer = NopOut {
        immediate: true,
        lun: 0,
        itt: u32::MAX,
        ttt: ping.ttt,
        cmd_sn: twinlun::iscsi::Serial(host.cmd_sn),
        exp_stat_sn: ping.numbers.stat_sn,
    };
    host.send(answer.encode(), &[]);
    assert!(matches!(host.receive().unwrap().pdu, Pdu::NopIn(_)), "alive, so pinged again");
    assert!(host.receive().is_none(), "no answer this time");
    wait_for(|| target.sessions.list().is_empty());
}

#[test]
fn a_login_that_stalls_is_dropped() {
    let limits = twinlun::iscsi::Limits { login_timeout: MOMENT, ..twinlun::iscsi::Limits::default() };
    let target = Target::with_limits(limits);
    let mut host = Initiator::connect(target.address);
    host.send_raw(&[0x43; 10]);
    assert!(host.receive().is_none());
}

/// Garbage of every kind, before and after login; the target lives on and other sessions with it.
#[test]
fn garbage_harms_only_its_sender() {
    let target = Target::start();
    let mut good = Initiator::login(target.address, 1, "");
    good.write(0, &pattern(4096, 3), 4096, 4096);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..200_u8 {
        let bytes: Vec<u8> = (0..random() % 600).map(|_| random().to_le_bytes()[0]).collect();
        if round % 2 == 0 {
            let mut bad = Initiator::connect(target.address);
            bad.send_raw(&bytes);
        } else {
            let mut bad = Initiator::login(target.address, 2, "InitialR2T=No");
            let mut bytes = bytes;
            // Plausible opcodes and lengths reach deeper.
            for (at, byte) in bytes.iter_mut().enumerate() {
                match at % 48 {
                    0 => *byte &= 0x47,
                    4..7 => *byte = 0,
                    7 => *byte &= 0x0c,
                    _ => {}
                }
            }
            bad.send_raw(&bytes);
        }
    }
    assert_eq!(good.read(0, 8).len(), 4096);
    good.ping(b"alive");
}

/// For measurements by hand, with a client of one's own choice.
#[test]
#[ignore = "serves until SERVE_SECONDS are over"]
fn serve() {
    let target = Target::disk();
    println!("iscsi://{}/{TARGET}/0", target.address);
    let seconds = std::env::var("SERVE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    std::thread::sleep(Duration::from_secs(seconds));
}
