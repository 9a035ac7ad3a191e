mod guest;
mod judge;
mod load;
mod network;
mod records;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
fn main() -> std::io::Result<()> {
    network::sweep();
    let net = network::Network::up()?;
    let dir = std::path::PathBuf::from("/tmp/labdev/job");
    let image = std::env::args().nth(1).unwrap();
    let t = Instant::now();
    let booting = guest::boot(
        &net,
        &dir,
        &guest::Contents {
            image: Path::new(&image),
            boot: Path::new("tests/lab/boot.sh"),
            agent: Path::new("target/debug/examples/twinlun-guest"),
            target_config: Path::new("target-config"),
        },
    )?;
    let mut kids = vec![];
    for (n, c) in [(network::Node::A, "81"), (network::Node::B, "82")] {
        let ns = net.namespace(n);
        kids.push(
            Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    &ns,
                    "setpriv",
                    "--pdeathsig",
                    "KILL",
                    "tgtd",
                    "-f",
                    "-C",
                    c,
                    "--iscsi",
                    &format!("portal={}:3260", n.ip(network::Plane::Host)),
                ])
                .stderr(Stdio::null())
                .spawn()?,
        );
        std::thread::sleep(Duration::from_secs(1));
        let adm = |a: &str| {
            let mut v = vec!["netns", "exec", &ns, "tgtadm", "-C", c, "--lld", "iscsi"];
            v.extend(a.split_whitespace());
            network::run("ip", &v)
        };
        adm(&format!("--op new --mode target --tid 1 -T iqn.2026-11.t:{c}"))?;
        for l in ["1", "2"] {
            adm(&format!("--op new --mode logicalunit --tid 1 --lun {l} -b /tmp/labdev/disk{l}.img"))?;
            adm(&format!(
                "--op update --mode logicalunit --tid 1 --lun {l} --params scsi_id=IET{l},scsi_sn=SN{l},vendor_id=TWINLUN,product_id=VV"
            ))?;
        }
        adm("--op bind --mode target --tid 1 -I ALL")?;
    }
    let mut guest = booting.ready()?;
    println!("guest ready {:?}", t.elapsed());
    let judge = judge::Judge::default();
    let (l, addr) = net.listen(network::Node::Host, "10.77.3.1")?;
    judge.listen(l);
    let mut load = match load::Load::start(&mut guest, 1234, addr, None) {
        Ok(l) => l,
        Err(e) => {
            println!("{e}");
            println!("{}", guest.sh("multipath -ll; iscsiadm -m session; cat /proc/partitions; dmesg | tail -30; multipathd show paths", Duration::from_secs(30))?);
            return Ok(());
        }
    };
    println!("load started {:?}", t.elapsed());
    load.run(&mut guest)?;
    std::thread::sleep(Duration::from_secs(8));
    println!("{:?}", load.phase(&mut guest)?);
    println!("{}", guest.sh("multipath -ll; top -bn1 | head -12", Duration::from_secs(30))?);
    load.wait_paths(&mut guest, Duration::from_secs(10))?;
    load.pause(&mut guest)?;
    println!("{:?} acked {} {:?}", load.scan(&mut guest, &judge)?, judge.acknowledged(), judge.take_stale());
    load.stop(&mut guest)?;
    println!("stopped {:?}", t.elapsed());
    for k in &mut kids {
        k.kill()?;
        k.wait()?;
    }
    Ok(())
}
