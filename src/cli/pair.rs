//! `twinlun pair`: how sites come to know each other.

use std::io::{BufRead, IsTerminal, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use serde_json::json;

use super::Failure;
use crate::config::{ArrayConfig, ConfigError, WitnessConfig};
use crate::tls::{self, Card, CardError, Code, Directory, Site, Told, hexadecimal};

/// Longest line that may be a code.
const CODE_MAX: u64 = 256;

/// Without --listen, --join or --add: makes the key unless it is there, prints this site's
/// certificate, and whom the site believes.
///
/// Over the network: `--listen` on one site prints a code, `--join` on the others asks for it (or reads it
/// from its input) and brings everybody's certificate to everybody. The code is good for ten minutes and
/// as precious as a password: whoever has it meanwhile may join. All sites print the fingerprints that they
/// believe from then on; compare them. By hand: keep what each site prints in a file, and `--add` the files
/// of the others.
#[derive(Args, Debug)]
pub struct Pair {
    /// The site's file: an array's or the witness's, with `[tls] directory`.
    config: PathBuf,
    /// Listen here for the other sites, until all have joined.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["join", "add"])]
    listen: Option<SocketAddr>,
    /// The names of the other sites, e.g. array-a,array-b, and nobody else may join; or how many sites there
    /// are, this one included.
    #[arg(long, default_value = "3", requires = "listen", value_name = "NAMES or NUMBER")]
    sites: Expected,
    /// Join the site that listens, with the code it prints. No argument: those can be seen by every user.
    #[arg(long, conflicts_with = "add")]
    join: bool,
    /// Believe the sites whose certificates are in these files.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    add: Vec<PathBuf>,
    /// Another name or address by which clients reach the management API; for a new key.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Make a new key in the place of the old one. The others must be paired anew.
    #[arg(long)]
    replace: bool,
    /// Another certificate than before may stand for this site: it was replaced, or has a new key.
    #[arg(long, value_name = "NAME")]
    replace_site: Vec<String>,
}

/// Who is to join.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// Sites in all.
    Number(usize),
    /// The other ones.
    Names(Vec<String>),
}

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse() {
            return if (2..=128).contains(&number) {
                Ok(Self::Number(number))
            } else {
                Err("a pairing is of 2 to 128 sites".into())
            };
        }
        let mut names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.sort();
        let known = names.len();
        names.dedup();
        if names.len() < known || names.iter().any(String::is_empty) {
            return Err("name each other site once, e.g. array-a,array-b".into());
        }
        Ok(Self::Names(names))
    }
}

impl Expected {
    const fn others(&self) -> usize {
        match self {
            Self::Number(all) => all.saturating_sub(1),
            Self::Names(names) => names.len(),
        }
    }

    fn admits(&self, site: &Site) -> Result<(), String> {
        match self {
            Self::Names(names) if !names.contains(&site.name) => {
                Err(format!("{site} is not expected (--sites {})", names.join(",")))
            }
            _ => Ok(()),
        }
    }
}

/// What `pair` takes from a site's file.
struct Described {
    site: Site,
    directory: Directory,
    names: Vec<String>,
}

impl Pair {
    pub fn carry_out(&self, json: bool) -> Result<(), Failure> {
        let Described { site, directory, mut names } = self.describe()?;
        names.extend(self.name.iter().cloned());
        let own = directory.make_own(&site, &names, self.replace)?;
        let say = |text: String| eprintln!("{text}");
        let replaced = &self.replace_site;
        let keep = |cards: &[Card]| keep(&directory, cards, replaced);
        if let Some(address) = self.listen {
            let told = |told| match told {
                Told::Ready(code) => {
                    say(format!(
                        "{site} waits ten minutes for {} other sites; run on each of them\n  twinlun pair CONFIG --join\n\
                         and give it this code, which nobody else may see:",
                        self.sites.others()
                    ));
                    println!("{code}");
                }
                Told::Joined(site) => say(format!("{site} has joined")),
                Told::Left(site) => say(format!("{site} has left before all were there")),
                Told::Refused(from, why) => say(format!("{from} is refused: {why}")),
            };
            let admit = |card: &Card| {
                self.sites.admits(&card.site)?;
                directory.admits(card, replaced).map_err(|error| error.to_string())
            };
            block_on(tls::host(address, own, self.sites.others(), admit, keep, told))??;
        } else if self.join {
            let code = ask_for_code()?;
            let joined = || say("joined; waiting until all sites are there".to_owned());
            block_on(tls::join(&code, own, keep, joined))??;
        } else if self.add.is_empty() {
            show(&directory, &own.card, json)?;
        } else {
            let cards: Vec<Card> =
                self.add.iter().map(|path| tls::read_card(path)).collect::<Result<_, _>>()?;
            if let Some(card) = cards.iter().find(|card| card.site == site) {
                return Err(
                    format!("{} is this site itself; add the certificates of the others", card.site).into()
                );
            }
            keep(&cards)?;
        }
        Ok(())
    }

    /// The file is an array's or a witness's.
    fn describe(&self) -> Result<Described, Failure> {
        let none = || {
            format!(
                "{}: no [tls] directory; add\n\n[tls]\ndirectory = \"tls\"\n\nfor the key and the certificates of the other sites",
                self.config.display()
            )
        };
        match ArrayConfig::load(&self.config) {
            Ok(config) => {
                let directory = config.tls.ok_or_else(none)?.directory;
                let listen = config.management.listen.ip();
                let names = if listen.is_unspecified() { Vec::new() } else { vec![listen.to_string()] };
                let site = Site::array(&config.array.name);
                Ok(Described { site, directory: Directory::new(&directory), names })
            }
            Err(as_array) => match WitnessConfig::load(&self.config) {
                Ok(config) => {
                    let directory = config.tls.ok_or_else(none)?.directory;
                    let site = Site::witness(&config.witness.name);
                    Ok(Described { site, directory: Directory::new(&directory), names: Vec::new() })
                }
                Err(as_witness) => Err(self.nearer(as_array, as_witness).into()),
            },
        }
    }

    /// Of two errors the one of the kind that the file is meant to be.
    fn nearer(&self, as_array: ConfigError, as_witness: ConfigError) -> ConfigError {
        let text = std::fs::read_to_string(&self.config).unwrap_or_default();
        if text.lines().any(|line| line.trim_start().starts_with("[array]")) { as_array } else { as_witness }
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

/// The code, from a terminal or another program: never an argument, which every user of the machine can see.
fn ask_for_code() -> Result<Code, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        eprint!("code: ");
    }
    let mut line = String::new();
    input.lock().take(CODE_MAX).read_line(&mut line)?;
    Ok(line.parse::<Code>()?)
}

fn keep(directory: &Directory, cards: &[Card], replaced: &[String]) -> Result<(), CardError> {
    // All or none.
    cards.iter().try_for_each(|card| directory.admits(card, replaced))?;
    for card in cards {
        let is_new = directory.add(card, replaced)?;
        let what = if is_new { "is believed by a new certificate" } else { "is believed" };
        eprintln!("{} {what}: SHA-256 {}", card.site, hexadecimal(&card.fingerprint()));
    }
    Ok(())
}

fn show(directory: &Directory, own: &Card, json: bool) -> Result<(), Failure> {
    let cards = directory.cards()?;
    if json {
        let line =
            |card: &Card| json!({"site": card.site.to_string(), "sha256": hexadecimal(&card.fingerprint())});
        let believed: Vec<_> = cards.iter().map(line).collect();
        println!("{}", json!({"own": line(own), "certificate": own.to_string(), "believes": believed}));
        return Ok(());
    }
    print!("{own}");
    eprintln!("{}: SHA-256 {}", own.site, hexadecimal(&own.fingerprint()));
    for card in cards {
        eprintln!("believes {}: SHA-256 {}", card.site, hexadecimal(&card.fingerprint()));
    }
    Ok(())
}
