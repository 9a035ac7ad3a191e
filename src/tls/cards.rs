//! Certificates with the site they stand for, and the directory that holds them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::mutation::{self, Mutation};

/// A card is about 1 KiB; more is no card.
pub const CARD_MAX: u64 = 16 << 10;
/// Cards of one directory that are read: two for each pair of the largest witness.
const CARDS_MAX: usize = 4096;
/// What a card begins with, before the PEM.
const TITLE: &str = "twinlun";
const OWN: &str = "own.key";

#[derive(Debug, Error)]
pub enum CardError {
    #[error("{path}: {source}; `twinlun pair CONFIG` makes a key", path = path.display())]
    NoKey { path: PathBuf, source: io::Error },
    #[error("{path} can be read by others (mode {mode:o}); it holds a private key: chmod 600 {path}, or make a new one with `twinlun pair CONFIG --replace` if somebody may have read it", path = path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path} is no certificate of a site: {why}; `twinlun pair CONFIG` on that site prints one", path = path.display())]
    NoCard { path: PathBuf, why: String },
    #[error("another certificate of {site} is believed here already ({path}); if that site was replaced or has a new key, say --replace-site {name}; else give each array of the pairs on one witness a name of its own", path = path.display(), name = site.name)]
    Known { site: Site, path: PathBuf },
    #[error("{first} and {second} are both certificates of {site}; remove the one that is not", first = first.display(), second = second.display())]
    Two { site: Site, first: PathBuf, second: PathBuf },
    #[error("{path} {what}, so that somebody else may decide who is believed here; {advice}", path = path.display())]
    Open { path: PathBuf, what: String, advice: String },
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("a key cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Array,
    Witness,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::Array => "array",
            Self::Witness => "witness",
        }
    }
}

/// Who a certificate stands for, e.g. `array array-a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub role: Role,
    pub name: String,
}

impl Site {
    pub fn array(name: &str) -> Self {
        Self { role: Role::Array, name: name.to_owned() }
    }

    pub fn witness(name: &str) -> Self {
        Self { role: Role::Witness, name: name.to_owned() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (role, name) = text.trim().split_once(' ')?;
        let role = [Role::Array, Role::Witness].into_iter().find(|known| known.word() == role)?;
        let fits = (1..=24).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        fits.then(|| Self { role, name: name.to_owned() })
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.word(), self.name)
    }
}

/// A certificate and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    pub site: Site,
    pub certificate: CertificateDer<'static>,
}

impl Card {
    /// # Errors
    /// What the text lacks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let title =
            text.lines().find_map(|line| line.strip_prefix(TITLE)).ok_or("it does not say whose it is")?;
        let site = Site::parse(title).ok_or_else(|| {
            format!("`{TITLE}{title}` names no site (`{TITLE} array NAME` or `{TITLE} witness NAME`)")
        })?;
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Self { site, certificate })
    }

    /// SHA-256 of the certificate, as other tools show it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }

    /// Its PEM alone, for clients that verify by a file.
    pub fn pem(&self) -> String {
        let text = self.to_string();
        text.split_once('\n').map_or(text.clone(), |(_, pem)| pem.to_owned())
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pem = pem::encode(&pem::Pem::new("CERTIFICATE", self.certificate.to_vec()));
        write!(f, "{TITLE} {}\n{}", self.site, pem.replace("\r\n", "\n"))
    }
}

/// Own card and private key.
#[derive(Debug)]
pub struct Own {
    pub card: Card,
    pub key: PrivateKeyDer<'static>,
}

/// A directory with `own.key` and a card for each other site.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn own_path(&self) -> PathBuf {
        self.0.join(OWN)
    }

    fn card_path(&self, site: &Site) -> PathBuf {
        self.0.join(format!("{}.{}.pem", site.name, site.role.word()))
    }

    /// The own key, whosever it is.
    ///
    /// # Errors
    /// None there, open to others, or something else: by name, with advice.
    fn own(&self) -> Result<Own, CardError> {
        let path = self.own_path();
        let failed = |source| CardError::NoKey { path: path.clone(), source };
        // What is checked is what is read, whatever comes to the name meanwhile.
        let file = fs::File::open(&path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CardError::Mode { path, mode });
        }
        must_be_ours(&path, &found)?;
        let text = read_short(file).map_err(failed)?;
        let bad = |why| CardError::NoCard { path: path.clone(), why };
        let card = Card::parse(&text).map_err(bad)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| bad(error.to_string()))?;
        Ok(Own { card, key })
    }

    /// The own key; made where there is none, or where it is to be replaced. `names` are those that
    /// clients of the management API may call this site by.
    ///
    /// # Errors
    /// As [`Self::own`]; a key of another site; the system's.
    pub fn make_own(&self, site: &Site, names: &[String], replace: bool) -> Result<Own, CardError> {
        let path = self.own_path();
        if replace || !path.exists() {
            let made: Vec<_> = self
                .0
                .ancestors()
                .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
                .collect();
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.0)
                .map_err(|source| CardError::File { path: self.0.clone(), source })?;
            for directory in made {
                sync(
                    directory.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new(".")),
                )?;
            }
            let mut all = vec![site.name.clone(), "localhost".into(), "127.0.0.1".into(), "::1".into()];
            all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
            let mut wanted = rcgen::CertificateParams::new(all)?;
            wanted.distinguished_name = rcgen::DistinguishedName::new();
            wanted.distinguished_name.push(rcgen::DnType::CommonName, format!("{TITLE} {site}"));
            let key = rcgen::KeyPair::generate()?;
            let made = wanted.self_signed(&key)?;
            let card = Card { site: site.clone(), certificate: made.der().clone() };
            self.write(&path, &format!("{}{card}", key.serialize_pem()), 0o600)?;
        }
        self.own_of(site)
    }

    /// The own key of `site`, which nobody else may read.
    ///
    /// # Errors
    /// As [`Self::own`]; another site's.
    pub fn own_of(&self, site: &Site) -> Result<Own, CardError> {
        let own = self.own()?;
        if own.card.site != *site {
            let why = format!(
                "it is the key of {}, and this is {site}; give each site its own directory",
                own.card.site
            );
            return Err(CardError::NoCard { path: self.own_path(), why });
        }
        Ok(own)
    }

    /// The cards of other sites, in the order of their names.
    ///
    /// # Errors
    /// A file that ends in `.pem` and is no card; the system's.
    pub fn cards(&self) -> Result<Vec<Card>, CardError> {
        let failed = |source| CardError::File { path: self.0.clone(), source };
        must_be_ours(&self.0, &fs::metadata(&self.0).map_err(failed)?)?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)?.take(CARDS_MAX) {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|kind| kind == "pem") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut cards: Vec<Card> = Vec::with_capacity(paths.len());
        let mut of_site: BTreeMap<Site, &Path> = BTreeMap::new();
        for path in &paths {
            let (card, found) = open_card(path)?;
            must_be_ours(path, &found)?;
            if let Some(first) = of_site.insert(card.site.clone(), path) {
                let (first, second) = (first.to_owned(), path.clone());
                return Err(CardError::Two { site: card.site, first, second });
            }
            cards.push(card);
        }
        Ok(cards)
    }

    /// May this card be believed, as far as those that are there go? `replaced`: sites that are to have
    /// another certificate.
    ///
    /// # Errors
    /// Another certificate of that site is believed already.
    pub fn admits(&self, card: &Card, replaced: &[String]) -> Result<(), CardError> {
        let path = self.card_path(&card.site);
        if replaced.contains(&card.site.name) || !path.exists() {
            return Ok(());
        }
        match read_card(&path) {
            Ok(known) if known == *card => Ok(()),
            _ => Err(CardError::Known { site: card.site.clone(), path }),
        }
    }

    /// Keeps a card; returns whether another one of that site was replaced, which `replaced` must say.
    ///
    /// # Errors
    /// As [`Self::admits`]; the system's.
    pub fn add(&self, card: &Card, replaced: &[String]) -> Result<bool, CardError> {
        self.admits(card, replaced)?;
        let path = self.card_path(&card.site);
        let former = path.exists().then(|| read_card(&path).ok()).flatten();
        if former.as_ref() == Some(card) {
            return Ok(false);
        }
        self.write(&path, &card.to_string(), 0o644)?;
        Ok(former.is_some())
    }

    /// Beside it first: a crash leaves the old file or the new one, never half of one.
    fn write(&self, path: &Path, text: &str, mode: u32) -> Result<(), CardError> {
        let failed = |source| CardError::File { path: path.to_owned(), source };
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        if !mutation::on(Mutation::CardNotFlushed) {
            file.sync_all().map_err(failed)?;
        }
        fs::rename(&beside, path).map_err(failed)?;
        sync(&self.0)
    }
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> Result<(), CardError> {
    if mutation::on(Mutation::CardNameNotSynced) {
        return Ok(());
    }
    let failed = |source| CardError::File { path: directory.to_owned(), source };
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// A card in a file of its own.
///
/// # Errors
/// No such file, too long, or no card.
pub fn read_card(path: &Path) -> Result<Card, CardError> {
    open_card(path).map(|(card, _)| card)
}

fn open_card(path: &Path) -> Result<(Card, fs::Metadata), CardError> {
    let failed = |source| CardError::File { path: path.to_owned(), source };
    let bad = |why| CardError::NoCard { path: path.to_owned(), why };
    let file = fs::File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if found.len() > CARD_MAX {
        return Err(bad(format!("it is longer than {CARD_MAX} bytes")));
    }
    Ok((Card::parse(&read_short(file).map_err(failed)?).map_err(bad)?, found))
}

/// A text of a few cards at most, whatever the file becomes meanwhile.
fn read_short(file: fs::File) -> io::Result<String> {
    let mut text = String::new();
    file.take(2 * CARD_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Nobody but root and this user may change what decides who is believed.
fn must_be_ours(path: &Path, found: &fs::Metadata) -> Result<(), CardError> {
    let mode = found.permissions().mode() & 0o777;
    let (what, advice) = if found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw() {
        (
            format!("belongs to user {}", found.uid()),
            format!("chown it to the user who runs twinlun: {}", path.display()),
        )
    } else if mode & 0o022 != 0 {
        (format!("can be written by others (mode {mode:o})"), format!("chmod go-w {}", path.display()))
    } else {
        return Ok(());
    };
    Err(CardError::Open { path: path.to_owned(), what, advice })
}
