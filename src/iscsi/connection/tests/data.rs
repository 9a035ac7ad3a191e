//! Commands, their data both ways, and the window.

use super::*;

#[test]
fn a_read_with_status_in_its_data() {
    let mut rig = Rig::logged_in(b"MaxRecvDataSegmentLength=4096\0MaxBurstLength=8192\0");
    rig.read(5, 10_000);
    let command = rig.executed().remove(0);
    assert_eq!((command.lun, command.expected, command.cdb), (0, 10_000, READ_10));
    let data = pattern(10_000);
    rig.good(command.task, &data, 0);
    let received = rig.receive();
    let mut all = Vec::new();
    let mut shape = Vec::new();
    for Received { pdu, data } in received {
        let Pdu::DataIn(pdu) = pdu else { panic!("{pdu:?}") };
        assert_eq!(pdu.buffer_offset as usize, all.len());
        shape.push((pdu.data_sn, data.len(), pdu.last, pdu.status));
        all.extend(data);
    }
    assert_eq!(all, data);
    assert_eq!(
        shape,
        [(0, 4096, false, None), (1, 4096, true, None), (2, 1808, true, Some(0))],
        "segments, bursts and the status at the end"
    );
}

#[test]
fn residuals_of_reads() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.good(command.task, &pattern(1024), 0);
    let Received { pdu: Pdu::DataIn(pdu), data } = rig.one() else { panic!() };
    assert_eq!((data.len(), pdu.residual), (512, Residual::Overflow(512)));
    rig.read(6, 1024);
    let command = rig.executed().remove(0);
    rig.good(command.task, &pattern(36), 0);
    let Received { pdu: Pdu::DataIn(pdu), .. } = rig.one() else { panic!() };
    assert_eq!(pdu.residual, Residual::Underflow(988));
}

#[test]
fn check_condition_brings_its_sense() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    let sense = [0x70, 0, 5, 0, 0, 0, 0, 10];
    let reply = Reply { status: 2, sense: &sense, data: Data::None, wanted: 0, gives: 0 };
    rig.connection.complete(command.task, &reply, &mut rig.actions);
    let Received { pdu: Pdu::ScsiResponse(pdu), data } = rig.one() else { panic!() };
    assert_eq!((pdu.status, pdu.residual), (2, Residual::Underflow(512)));
    assert_eq!(data, [&[0, 8][..], &sense].concat());
}

#[test]
fn immediate_and_unsolicited_data_then_r2t() {
    let mut rig =
        Rig::logged_in(b"InitialR2T=No\0FirstBurstLength=8192\0MaxBurstLength=16384\0MaxOutstandingR2T=1\0");
    let data = pattern(40_000);
    let mut command = rig.command(5, WRITE_10, 40_000);
    command.last = false;
    rig.send(command.encode(), &data[..4096]);
    rig.data_out(5, NO_TAG, 0, 4096, &data[4096..6000], false);
    assert!(rig.receive().is_empty());
    rig.data_out(5, NO_TAG, 1, 6000, &data[6000..8192], true);
    let mut at = 8192;
    let mut r2t_sn = 0;
    while at < data.len() {
        assert!(rig.executed().is_empty());
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        assert_eq!((r2t.buffer_offset as usize, r2t.r2t_sn), (at, r2t_sn));
        let end = at + r2t.desired_length as usize;
        assert_eq!(end, data.len().min(at + 16_384));
        let half = at + 5000;
        rig.data_out(5, r2t.ttt, 0, u32::try_from(at).unwrap(), &data[at..half], false);
        rig.data_out(5, r2t.ttt, 1, u32::try_from(half).unwrap(), &data[half..end], true);
        at = end;
        r2t_sn += 1;
    }
    let command = rig.executed().remove(0);
    assert_eq!(command.data.as_slice(), data);
    rig.good(command.task, &[], 40_000);
    let Pdu::ScsiResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!((response.status, response.residual, response.exp_data_sn), (0, Residual::None, 2));
}

#[test]
fn several_r2ts_at_once_are_answered_in_order() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0MaxBurstLength=4096\0MaxOutstandingR2T=3\0");
    let command = rig.command(5, WRITE_10, 20_480);
    rig.send(command.encode(), &[]);
    let tags: Vec<u32> = rig
        .receive()
        .iter()
        .map(|received| match received.pdu {
            Pdu::R2t(r2t) => r2t.ttt,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tags.len(), 3);
    rig.data_out(5, tags[1], 0, 4096, &pattern(4096), true);
    assert!(matches!(rig.one().pdu, Pdu::Reject(Reject { reason: RejectReason::ProtocolError, .. })));
    assert!(rig.connection.is_closing());
}

/// What a Data-Out must not do.
#[test]
fn data_out_outside_its_place_ends_the_connection() {
    type Case = fn(&mut Rig, u32);
    let cases: [(&str, Case); 4] = [
        ("beyond", |rig, ttt| rig.data_out(5, ttt, 0, 0, &[0; 5000], true)),
        ("foreign tag", |rig, ttt| rig.data_out(5, ttt + 9, 0, 0, &[0; 512], false)),
        ("unsolicited", |rig, _| rig.data_out(5, NO_TAG, 0, 0, &[0; 512], false)),
        ("same task tag", |rig, _| {
            let command = rig.command(5, READ_10, 0);
            rig.send(command.encode(), &[]);
        }),
    ];
    for (name, case) in cases {
        let mut rig = Rig::logged_in(b"ImmediateData=No\0");
        let command = rig.command(5, WRITE_10, 4096);
        rig.send(command.encode(), &[]);
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        case(&mut rig, r2t.ttt);
        assert!(matches!(rig.one().pdu, Pdu::Reject(_)), "{name}");
        assert!(rig.connection.is_closing(), "{name}");
        assert!(rig.executed().is_empty(), "{name}");
    }
}

/// A gap in the data fails the command, after all that was asked for; the connection goes on.
#[test]
fn a_data_out_out_of_sequence_fails_its_command() {
    type Case = fn(&mut Rig, u32);
    let cases: [(&str, Case); 5] = [
        ("offset", |rig, ttt| rig.data_out(5, ttt, 0, 512, &[0; 3584], true)),
        ("data sn", |rig, ttt| rig.data_out(5, ttt, 1, 0, &[0; 4096], true)),
        ("twice", |rig, ttt| {
            rig.data_out(5, ttt, 0, 0, &[0; 512], false);
            rig.data_out(5, ttt, 0, 0, &[0; 512], false);
            rig.data_out(5, ttt, 1, 512, &[0; 3584], true);
        }),
        ("early end", |rig, ttt| rig.data_out(5, ttt, 0, 0, &[0; 512], true)),
        ("no end", |rig, ttt| {
            rig.data_out(5, ttt, 0, 0, &[0; 4096], false);
            assert!(rig.receive().is_empty(), "not before the end");
            rig.data_out(5, ttt, 1, 4096, &[], true);
        }),
    ];
    for (name, case) in cases {
        let mut rig = Rig::logged_in(b"ImmediateData=No\0");
        let command = rig.command(5, WRITE_10, 4096);
        rig.send(command.encode(), &[]);
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        case(&mut rig, r2t.ttt);
        let Received { pdu: Pdu::ScsiResponse(response), data } = rig.one() else { panic!("{name}") };
        assert_eq!((response.status, data[4], data[14]), (2, 0x0b, 0x47), "{name}");
        assert!(!rig.connection.is_closing() && rig.connection.is_quiet(), "{name}");
        assert!(rig.executed().is_empty(), "{name}");
    }
}

#[test]
fn a_damaged_data_out_fails_its_command() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0DataDigest=CRC32C\0");
    let command = rig.command(5, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
    let pdu = DataOut { last: true, itt: 5, ttt: r2t.ttt, ..DataOut::default() };
    let mut bytes = Vec::new();
    frame::append(&mut bytes, pdu.encode(), &pattern(4096), rig.digests);
    bytes[99] ^= 4;
    rig.send_raw(&bytes);
    let received = rig.receive();
    assert!(matches!(received[0].pdu, Pdu::Reject(Reject { reason: RejectReason::DataDigestError, .. })));
    assert!(matches!(received[1].pdu, Pdu::ScsiResponse(ScsiResponse { status: 2, .. })));
    assert!(rig.executed().is_empty() && !rig.connection.is_closing());
    rig.read(6, 512);
    assert_eq!(rig.executed().len(), 1, "the stream is still in step");
}

#[test]
fn announced_data_must_be_allowed() {
    for (keys, last, len) in [
        (&b"ImmediateData=No\0"[..], true, 512),
        (b"FirstBurstLength=512\0", true, 1024),
        (b"", true, 8192),
        (b"", false, 0),
    ] {
        let mut rig = Rig::logged_in(keys);
        let mut command = rig.command(5, WRITE_10, 4096);
        command.last = last;
        rig.send(command.encode(), &vec![0; len]);
        assert!(matches!(rig.one().pdu, Pdu::Reject(_)));
        assert!(rig.connection.is_closing());
    }
}

#[test]
fn data_of_a_command_that_is_over_is_skipped() {
    let mut rig = Rig::logged_in(b"");
    rig.data_out(77, 3, 0, 0, &[1; 600], true);
    rig.read(5, 512);
    assert_eq!(rig.executed().len(), 1);
    assert!(rig.receive().is_empty());
}

#[test]
fn commands_start_in_the_order_of_their_numbers() {
    let mut rig = Rig::logged_in(b"");
    let first = rig.command(1, READ_10, 512);
    let second = rig.command(2, READ_10, 512);
    let third = rig.command(3, READ_10, 512);
    rig.send(third.encode(), &[]);
    rig.send(second.encode(), &[]);
    rig.send(second.encode(), &[]);
    assert!(rig.executed().is_empty());
    rig.send(first.encode(), &[]);
    let order: Vec<Serial> =
        rig.executed().iter().map(|command| rig.connection.tasks.get(command.task).unwrap().cmd_sn).collect();
    assert_eq!(order, [first.cmd_sn, second.cmd_sn, third.cmd_sn]);
}

#[test]
fn numbers_outside_the_window_are_ignored() {
    let mut rig = Rig::logged_in(b"");
    for wrong in [0, 1 + 128] {
        let command = ScsiCommand { cmd_sn: Serial(wrong), ..rig.command(9, READ_10, 512) };
        rig.cmd_sn -= 1;
        rig.send(command.encode(), &[]);
    }
    assert!(rig.executed().is_empty() && rig.receive().is_empty());
    rig.read(9, 512);
    assert_eq!(rig.executed().len(), 1);
}

#[test]
fn the_window_is_as_wide_as_what_is_free() {
    let mut rig = Rig::logged_in(b"");
    for itt in 0..128 {
        rig.read(itt, 512);
    }
    assert_eq!(rig.executed().len(), 128);
    rig.read(200, 512);
    assert!(rig.executed().is_empty(), "the window is full");
    rig.cmd_sn -= 1;
    rig.good(TaskId(3), &[0; 512], 0);
    let Pdu::DataIn(pdu) = rig.one().pdu else { panic!() };
    assert_eq!(pdu.numbers.exp_cmd_sn.until(pdu.numbers.max_cmd_sn), 0);
    rig.read(200, 512);
    assert_eq!(rig.executed().len(), 1);
}

#[test]
fn immediate_commands_are_limited() {
    let mut rig = Rig::logged_in(b"");
    for itt in 0..17 {
        let command = ScsiCommand { immediate: true, ..rig.command(itt, READ_10, 512) };
        rig.cmd_sn -= 1;
        rig.send(command.encode(), &[]);
    }
    assert_eq!(rig.executed().len(), 16);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::TooManyImmediateCommands);
    assert!(!rig.connection.is_closing());
}

#[test]
fn memory_is_bounded_by_task_set_full() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    let mut full = 0;
    for itt in 0..40 {
        let command = rig.command(itt, WRITE_10, 8 << 20);
        rig.send(command.encode(), &[]);
        for received in rig.receive() {
            match received.pdu {
                Pdu::ScsiResponse(response) => {
                    assert_eq!(response.status, 0x28);
                    full += 1;
                }
                Pdu::R2t(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(full, 32);
    assert!(rig.connection.tasks.charged() <= Limits::default().connection_bytes);
}

#[test]
fn digests_both_ways_and_a_broken_one() {
    let mut rig = Rig::logged_in(b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
    let data = pattern(4097);
    let command = rig.command(5, WRITE_10, 4097);
    rig.send(command.encode(), &data);
    let command = rig.executed().remove(0);
    assert_eq!(command.data.as_slice(), data);
    rig.good(command.task, &[], 4097);
    rig.one();
    let command = rig.command(6, WRITE_10, 4096);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &pattern(4096), rig.digests);
    bytes[1000] ^= 1;
    rig.send_raw(&bytes);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::DataDigestError);
    assert!(rig.connection.is_closing() && rig.executed().is_empty());
}

#[test]
fn large_data_goes_straight_to_its_place() {
    let mut rig = Rig::logged_in(b"");
    let data = pattern(50_000);
    let command = rig.command(5, WRITE_10, 50_000);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &data, Digests::NONE);
    rig.send_raw(&bytes[..148]);
    let place = rig.connection.direct().unwrap();
    assert_eq!(place.len(), 49_900);
    place.copy_from_slice(&data[100..]);
    rig.connection.received_directly(20_000, rig.now, &mut rig.actions);
    assert!(rig.executed().is_empty());
    rig.connection.received_directly(29_900, rig.now, &mut rig.actions);
    assert_eq!(rig.executed().remove(0).data.as_slice(), data);
}
