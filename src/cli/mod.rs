//! The command line: the array's own verbs, spoken to the management API.

mod apply;
mod client;
mod pair;
mod show;
mod verbs;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{ArrayConfig, WitnessConfig};

/// Exit status: 0 done, 1 refused or failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(
    name = "twinlun",
    version,
    about = "One LUN, two arrays: an iSCSI target that mirrors itself and fails over",
    after_help = "Exit status: 0 done, 1 refused or failed (the reason is on standard error), 2 wrong usage."
)]
struct Arguments {
    /// Management address of the array that is meant (ADDRESS or ADDRESS:PORT, after http:// or
    /// https:// where it is not clear).
    #[arg(long, global = true, env = "TWINLUN_ARRAY", default_value = "127.0.0.1:8008")]
    array: String,
    /// The array's certificate (PEM), where its API is encrypted; an array on this machine needs none.
    #[arg(long, global = true, env = "TWINLUN_TRUST")]
    trust: Option<PathBuf>,
    /// Machine-readable output; a refusal too, as an object on standard error.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run an array in the foreground.
    Array {
        #[arg(long)]
        config: PathBuf,
        /// Takes the place of the file's `data_dir`.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
    /// Run a quorum witness in the foreground.
    Witness {
        #[arg(long)]
        config: PathBuf,
        /// Takes the place of the file's `data_dir`.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
    /// Make the objects of a TOML file, as far as they are not there yet.
    Apply {
        file: PathBuf,
        /// Wait until every group is in sync.
        #[arg(long)]
        wait: bool,
    },
    #[command(flatten)]
    Operator(verbs::Operator),
    /// Make this site's key, and exchange certificates with the other sites.
    Pair(pair::Pair),
    /// Add a user of the management API, or change a password (read from standard input).
    Setuser {
        name: String,
        /// The array's users file (default: `users` in its `data_dir`).
        #[arg(long)]
        file: PathBuf,
    },
}

impl Arguments {
    fn client(&self) -> Result<client::Client, Failure> {
        client::Client::new(&self.array, self.trust.as_deref())
    }
}

/// Anything that ends the program with status 1; its words are for a person.
type Failure = Box<dyn std::error::Error>;

/// Options that the real array's CLI spells with one dash.
const ONE_DASH: [&str; 6] = ["-tpvv", "-iscsi", "-persona", "-path", "-comment", "-repair"];

/// The arguments with those options spelled as here.
fn spelled(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.map(|argument| match argument.to_str() {
        Some(text) if ONE_DASH.contains(&text) => format!("-{text}").into(),
        _ => argument,
    })
}

/// Runs the program.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse_from(spelled(std::env::args_os()));
    match carry_out(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if arguments.json => {
            let refusal = error.downcast_ref::<client::Refusal>();
            let said = serde_json::json!({
                "error": error.to_string(),
                "code": refusal.map(|refusal| refusal.code),
                "status": refusal.map(|refusal| refusal.status),
                "ref": refusal.and_then(|refusal| refusal.reference.as_deref()),
            });
            eprintln!("{said}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("twinlun: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("TWINLUN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn carry_out(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.verb {
        Verb::Array { config, data_dir } => {
            let mut config = ArrayConfig::load(config)?;
            config.array.data_dir = data_dir.clone().unwrap_or(config.array.data_dir);
            log();
            end_on_panic();
            #[cfg(feature = "testing")]
            test_switches()?;
            let timers = config.timers.timers()?;
            Ok(crate::array::run(&config, timers)?)
        }
        Verb::Witness { config, data_dir } => {
            let mut config = WitnessConfig::load(config)?;
            config.witness.data_dir = data_dir.clone().unwrap_or(config.witness.data_dir);
            log();
            end_on_panic();
            #[cfg(feature = "testing")]
            test_switches()?;
            let timers = config.timers.timers()?;
            Ok(crate::witness::run(&config, timers)?)
        }
        Verb::Apply { file, wait } => apply::apply(&arguments.client()?, file, *wait, arguments.json),
        Verb::Operator(operator) => operator.carry_out(&arguments.client()?, arguments.json),
        Verb::Pair(pair) => pair.carry_out(arguments.json),
        Verb::Setuser { name, file } => {
            let mut password = String::new();
            std::io::stdin().read_line(&mut password)?;
            let password = password.trim_end_matches(['\n', '\r']);
            if password.is_empty() {
                return Err("no password on standard input".into());
            }
            Ok(crate::management::set_user(file, name, password)?)
        }
    }
}

/// Test builds: what the environment asks of a daemon.
#[cfg(feature = "testing")]
fn test_switches() -> Result<(), Failure> {
    if let Some(mutation) = crate::mutation::set_from_environment()? {
        tracing::warn!(?mutation, "this daemon breaks a rule on purpose");
    }
    crate::sys::volatile::seed_from_environment();
    Ok(crate::sys::trace::start_from_environment()?)
}

/// A daemon with a thread missing is worse than one that is gone: the other array takes over.
fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        std::process::abort();
    }));
}
