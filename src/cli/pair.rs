//! `twinlun pair`: how sites come to know each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Failure;
use crate::config::{ArrayConfig, ConfigError, WitnessConfig};
use crate::tls::{self, Card, CardError, Code, Directory, Site, Told, hexadecimal};

/// Without --listen, --join or --add: makes the key unless it is there, prints this site's
/// certificate, and whom the site believes.
///
/// Over the network: `--listen` on one site prints a code, `--join CODE` on the others brings
/// everybody's certificate to everybody. By hand: keep what each site prints in a file, and `--add`
/// the files of the others.
#[derive(Args, Debug)]
pub struct Pair {
    /// The site's file: an array's or the witness's, with `[tls] directory`.
    config: PathBuf,
    /// Listen here for the other sites, until all have joined.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["join", "add"])]
    listen: Option<SocketAddr>,
    /// How many sites there are, this one included.
    #[arg(long, default_value_t = 3, requires = "listen", value_parser = clap::value_parser!(u16).range(2..=128))]
    sites: u16,
    /// Join the site that listens, with the code it prints.
    #[arg(long, value_name = "CODE", conflicts_with = "add")]
    join: Option<Code>,
    /// Believe the sites whose certificates are in these files.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    add: Vec<PathBuf>,
    /// Another name or address by which clients reach the management API; for a new key.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Make a new key in the place of the old one. The others must be paired anew.
    #[arg(long)]
    replace: bool,
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
        let keep = |cards: &[Card]| keep(&directory, cards);
        if let Some(address) = self.listen {
            let told = |told| match told {
                Told::Ready(code) => {
                    say(format!("{site} waits for {} other sites; run on each of them:", self.sites - 1));
                    println!("twinlun pair CONFIG --join {code}");
                }
                Told::Joined(site) => say(format!("{site} has joined")),
                Told::Left(site) => say(format!("{site} has left before all were there")),
                Told::Refused(from, why) => say(format!("{from} is refused: {why}")),
            };
            block_on(tls::host(address, own, usize::from(self.sites) - 1, keep, told))??;
        } else if let Some(code) = &self.join {
            let joined = || say("joined; waiting until all sites are there".to_owned());
            block_on(tls::join(code, own, keep, joined))??;
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

fn keep(directory: &Directory, cards: &[Card]) -> Result<(), CardError> {
    for card in cards {
        let replaced = directory.add(card)?;
        let what = if replaced { "is believed by a new certificate" } else { "is believed" };
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
