//! Pings, texts, login, time.

use super::*;

#[test]
fn pings_both_ways() {
    let mut rig = Rig::logged_in(b"MaxRecvDataSegmentLength=512\0");
    let ping = NopOut {
        immediate: true,
        lun: 0,
        itt: 6,
        ttt: NO_TAG,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
    };
    rig.send(ping.encode(), &pattern(700));
    let Received { pdu: Pdu::NopIn(answer), data } = rig.one() else { panic!() };
    assert_eq!((answer.itt, answer.ttt), (6, NO_TAG));
    assert_eq!(data, pattern(512), "as much as the initiator takes");

    rig.now = rig.connection.next_timeout();
    rig.connection.handle_timeout(rig.now);
    let Pdu::NopIn(ours) = rig.one().pdu else { panic!() };
    assert_eq!(ours.itt, NO_TAG);
    assert_eq!(ours.numbers.stat_sn, answer.numbers.stat_sn.next());
    rig.send(NopOut { itt: NO_TAG, ttt: ours.ttt, ..ping }.encode(), &[]);
    rig.connection.handle_timeout(rig.now);
    assert!(!rig.connection.is_closing() && rig.receive().is_empty());

    for _ in 0..2 {
        rig.now = rig.connection.next_timeout();
        rig.connection.handle_timeout(rig.now);
    }
    assert!(rig.connection.is_closing(), "an initiator that does not answer is gone");
}

#[test]
fn a_login_that_takes_too_long() {
    let mut connection = Connection::new(target(), Limits::default(), Time::ZERO);
    let due = connection.next_timeout();
    connection.handle_timeout(due - Duration::from_nanos(1));
    assert!(!connection.is_closing());
    connection.handle_timeout(due);
    assert!(connection.is_closing());
}

#[test]
fn logout_is_asked_for_once_and_enforced() {
    let mut rig = Rig::logged_in(b"");
    rig.connection.request_logout(Duration::from_secs(3), rig.now);
    rig.connection.request_logout(Duration::from_secs(3), rig.now);
    let Pdu::AsyncMessage(message) = rig.one().pdu else { panic!() };
    assert_eq!((message.event, message.parameters), (AsyncEvent::LogoutRequest, [0, 0, 3]));
    rig.connection.handle_timeout(Time::from_millis(2999));
    assert!(!rig.connection.is_closing());
    rig.connection.handle_timeout(Time::from_millis(3000));
    assert!(rig.connection.is_closing());
}

#[test]
fn what_error_recovery_level_0_does_not_have() {
    let mut rig = Rig::logged_in(b"");
    let snack =
        Snack { kind: 0, lun: 0, itt: 1, ttt: NO_TAG, exp_stat_sn: Serial(0), beg_run: 0, run_length: 0 };
    rig.send(snack.encode(), &[]);
    let received = rig.one();
    let Pdu::Reject(reject) = received.pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::SnackReject);
    assert_eq!(received.data, snack.encode().0, "the offending header comes back");
    assert!(!rig.connection.is_closing());
    rig.send(Header([0x0f; 48].map(|byte| byte & 0x0f).map(|_| 0)), &[]);
    rig.receive();
    let mut unknown = Header::new(Opcode::NopOut);
    unknown.0[0] = 0x1c;
    rig.send(unknown, &[]);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::CommandNotSupported);
    rig.task(TaskFunction::TaskReassign, 0, 0);
    assert_eq!(rig.task_result(), TaskResult::ReassignmentNotSupported);
}

fn discovery() -> Rig {
    let mut rig = Rig::new();
    let request = LoginRequest {
        transit: true,
        current: Stage::LoginOperationalNegotiation,
        next: Stage::FullFeaturePhase,
        cmd_sn: Serial(1),
        ..LoginRequest::default()
    };
    rig.send(request.encode(), b"InitiatorName=iqn.h\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0");
    let own = TargetRecord { name: target().name, portals: vec![("10.0.0.1:3260".into(), 1)] };
    let other = TargetRecord {
        name: "iqn.2026-01.t:b".into(),
        portals: (0..40).map(|n| (format!("10.0.1.{n}:3260"), 1)).collect(),
    };
    rig.connection.established(1, vec![own, other]);
    assert!(matches!(rig.one().pdu, Pdu::LoginResponse(_)));
    rig.actions.clear();
    rig
}

fn text_request(rig: &mut Rig, ttt: u32, last: bool, more: bool, data: &[u8]) {
    let request = TextRequest {
        immediate: false,
        last,
        more,
        lun: 0,
        itt: 3,
        ttt,
        cmd_sn: rig.next_sn(),
        exp_stat_sn: Serial(0),
    };
    rig.send(request.encode(), data);
}

#[test]
fn send_targets_over_several_responses() {
    let mut rig = discovery();
    text_request(&mut rig, NO_TAG, true, false, b"SendTargets=All\0");
    let mut all = Vec::new();
    loop {
        let Received { pdu: Pdu::TextResponse(response), data } = rig.one() else { panic!() };
        assert!(data.len() <= 512);
        all.extend(data);
        if response.last {
            assert_eq!(response.ttt, NO_TAG);
            break;
        }
        assert!(response.more);
        text_request(&mut rig, response.ttt, true, false, b"");
    }
    let pairs = text::parse(&all).unwrap();
    assert_eq!(pairs.len(), 43);
    assert_eq!(pairs[1].value, "10.0.0.1:3260,1");
}

#[test]
fn send_targets_asked_in_pieces_and_by_name() {
    let mut rig = discovery();
    text_request(&mut rig, NO_TAG, false, true, b"SendTargets=iqn.20");
    let Pdu::TextResponse(response) = rig.one().pdu else { panic!() };
    assert!(!response.last && !response.more && response.ttt != NO_TAG);
    text_request(&mut rig, response.ttt, true, false, b"26-01.t:A\0");
    let Received { pdu: Pdu::TextResponse(_), data } = rig.one() else { panic!() };
    assert_eq!(data, b"TargetName=iqn.2026-01.t:a\0TargetAddress=10.0.0.1:3260,1\0");
    text_request(&mut rig, 77, true, false, b"");
    assert!(matches!(rig.one().pdu, Pdu::Reject(_)), "an unknown tag");
    rig.read(4, 512);
    assert!(rig.connection.is_closing(), "no commands in a discovery session");
}

#[test]
fn text_in_a_normal_session() {
    let mut rig = Rig::logged_in(b"");
    text_request(&mut rig, NO_TAG, true, false, b"SendTargets=All\0X-a=b\0MaxBurstLength=512\0");
    assert_eq!(rig.one().data, b"SendTargets=Reject\0X-a=NotUnderstood\0MaxBurstLength=Reject\0");
    text_request(&mut rig, NO_TAG, true, false, b"MaxRecvDataSegmentLength=1024\0");
    assert_eq!(rig.one().data, b"");
    assert_eq!(rig.connection.parameters.send_max, 1024);
}

#[test]
fn a_session_is_refused_with_the_shells_reason() {
    let mut rig = Rig::new();
    let request = LoginRequest {
        transit: true,
        current: Stage::LoginOperationalNegotiation,
        next: Stage::FullFeaturePhase,
        ..LoginRequest::default()
    };
    rig.send(request.encode(), b"InitiatorName=iqn.h\0TargetName=iqn.2026-01.t:a\0");
    rig.connection.refused(LoginStatus::AUTHORIZATION_FAILURE);
    let Pdu::LoginResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!(response.status, LoginStatus::AUTHORIZATION_FAILURE);
    assert!(!response.transit && rig.connection.is_closing());
}

#[test]
fn commands_that_are_answered_at_once_leave_the_window_open() {
    let mut rig = Rig::logged_in(b"");
    for itt in 0..200 {
        let command = ScsiCommand { read: true, write: true, ..rig.command(itt, [0; 16], 512) };
        rig.send(command.encode(), &[]);
    }
    rig.receive();
    rig.read(1000, 512);
    assert_eq!(rig.executed().len(), 1, "the window is closed for good");
}

#[test]
fn a_text_exchange_does_not_grow_for_ever() {
    let mut rig = discovery();
    let many: Vec<u8> = (0..100).flat_map(|n| format!("X-{n:040}=1\0").into_bytes()).collect();
    text_request(&mut rig, NO_TAG, false, false, &many);
    let mut ttt = match rig.one().pdu {
        Pdu::TextResponse(response) => response.ttt,
        other => panic!("{other:?}"),
    };
    for _ in 0..200 {
        text_request(&mut rig, ttt, false, false, &many);
        match rig.one().pdu {
            Pdu::TextResponse(response) => ttt = response.ttt,
            Pdu::Reject(_) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("200 requests were answered, and what is left of the answers was kept");
}
