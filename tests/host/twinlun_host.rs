//! A small multipath host: speaks iSCSI over TCP to the portals of both arrays, writes stamped
//! blocks and checks what it reads. It knows nothing of the management API. Orders come on
//! standard input, one a line (`run`, `pause`, `phase NAME`, `verify`, `status`, `quit`); what it
//! finds goes to standard output, one JSON object a line.

mod driver;
mod initiator;
mod ledger;
mod stamp;

use clap::Parser;
use std::io::BufRead;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Parser)]
#[command(name = "twinlun-host", about = "A small multipath iSCSI host that checks what it wrote")]
struct Arguments {
    /// Portal of an array, ADDRESS:PORT; once for each path.
    #[arg(long = "portal", required = true)]
    portals: Vec<SocketAddr>,
    /// Name this host logs in with.
    #[arg(long, default_value = "iqn.2026-11.lab.twinlun:host")]
    initiator: String,
    #[arg(long, default_value_t = 0)]
    lun: u8,
    /// Commands in flight.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// Bytes written to, from the start of the LUN, in MiB.
    #[arg(long, default_value_t = 64)]
    span_mib: usize,
    /// Silence of one path after which a command is tried on the other.
    #[arg(long, default_value_t = 250)]
    timeout_ms: u64,
    /// Share of reads.
    #[arg(long, default_value_t = 30)]
    read_percent: u64,
    /// At most so many commands a second (0: as many as go).
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Start at once instead of waiting for `run`.
    #[arg(long)]
    run: bool,
    /// Say on standard error what happens to the paths.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.depth == 0 || arguments.span_mib == 0 {
        eprintln!("twinlun-host: --depth and --span-mib must be at least 1");
        return ExitCode::from(2);
    }
    let run =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| u64::try_from(t.as_nanos()).unwrap_or(1));
    let options = driver::Options {
        portals: arguments.portals,
        initiator: arguments.initiator,
        lun: arguments.lun,
        depth: arguments.depth,
        span_blocks: arguments.span_mib * (1 << 20) / stamp::BLOCK,
        timeout: Duration::from_millis(arguments.timeout_ms),
        read_percent: arguments.read_percent,
        rate: arguments.rate,
        stream: stamp::Stream { run, id: 1 },
        verbose: arguments.verbose,
    };
    let (sender, receiver) = std::sync::mpsc::channel();
    let orders = sender.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if orders.send(driver::Event::Order(line)).is_err() {
                return;
            }
        }
        // The receiver may have gone first.
        let _ = orders.send(driver::Event::Orphaned);
    });
    if arguments.run {
        // The receiver lives in this function.
        let _ = sender.send(driver::Event::Order(String::from("run")));
    }
    let mut driver = driver::Driver::new(options, sender);
    if driver.run(&receiver) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
