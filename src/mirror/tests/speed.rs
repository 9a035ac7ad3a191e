//! What the core costs per command. Run with `cargo test --release mirror::tests::speed -- --ignored
//! --nocapture`.

use std::time::Instant;

use super::*;

const ROUNDS: u32 = 200_000;

/// Nanoseconds per command, from arrival to release, `depth` in flight.
fn cost(grouped: bool, depth: usize, op: Op, next: impl Fn(u64) -> u64) -> f64 {
    let geometry = Geometry { id: VolumeId([1; 16]), blocks: 1024 * REGION_BLOCKS };
    let mut rig = Rig::bare();
    rig.volume = Volume::new(geometry, Limits { active_regions: 2048, ..Limits::default() });
    if grouped {
        rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Both), false, at(0), &mut rig.out);
        rig.gate(Mode::Both);
        rig.open(SESSION);
    }
    let (volume, mut out, cx) = (&mut rig.volume, Vec::new(), at(1));
    let mut round = |volume: &mut Volume, n: u64| {
        for at in 0..depth as u64 {
            let _ = volume.submit(request(op, next(n * depth as u64 + at), 8), cx, &mut out);
        }
        let mut at = 0;
        while let Some(&action) = out.get(at) {
            at += 1;
            match action {
                VolumeAction::Local { command, .. } => {
                    volume.local_done(command, StoreResult::Done, cx, &mut out)
                }
                VolumeAction::Mirror { header, .. } => {
                    volume.mirror_acked(
                        header.session,
                        header.sequence,
                        Some(StoreResult::Done),
                        cx,
                        &mut out,
                    );
                }
                VolumeAction::PersistMap => {
                    let generation = volume.map_pages(&mut Vec::new()).unwrap();
                    volume.map_durable(generation, cx, &mut out);
                }
                VolumeAction::Free { command } => volume.release(command),
                _ => {}
            }
        }
        out.clear();
    };
    for n in 0..1000 {
        round(volume, n);
    }
    let start = Instant::now();
    let rounds = u64::from(ROUNDS) / depth as u64;
    for n in 0..rounds {
        round(volume, n);
    }
    start.elapsed().as_secs_f64() * 1e9 / (rounds as f64 * depth as f64)
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_command() {
    let random = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (1000 * 256) * 8;
    let sequential = |n: u64| n % (1000 * 256) * 8;
    for depth in [1, 32, 256] {
        println!(
            "depth {depth:3}: read {:.0} ns, write {:.0} ns, mirrored write {:.0} ns random, {:.0} ns sequential",
            cost(false, depth, Op::Read, random),
            cost(false, depth, Op::Write, random),
            cost(true, depth, Op::Write, random),
            cost(true, depth, Op::Write, sequential),
        );
    }
}
