//! A group's configuration: the value that each epoch of the chain decides.

use core::cmp::Ordering;
use core::fmt;

/// UUID of a remote copy group; the key in every vote file. Names are only labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

/// One of the two arrays of a pair. Fixed in each array's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    A,
    B,
}

impl Side {
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// One of the three voters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Voter {
    Array(Side),
    Witness,
}

/// Number of a committed configuration; grows by one with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// The history a configuration belongs to; changed by *override* alone. Equal counters with
/// different ids are two overrides and are never merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lineage {
    pub counter: u32,
    pub id: u64,
}

/// Identity of a witness's life: new at each start unless it proves continuity (rule 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub [u8; 16]);

/// The term of office of a primary: lineage and the epoch at which it took office.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tenure {
    pub lineage: Lineage,
    pub epoch: Epoch,
}

/// Which copies hold every acknowledged write and the group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InSync {
    /// The primary alone.
    Primary,
    /// A and B.
    Both,
}

/// By which quorum the *next* epoch is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quorum {
    /// Two of A, B, witness.
    Majority,
    /// Agreed beforehand while the witness was lost (§3.5), or a pair without a witness.
    PrimaryAlone,
}

/// A committed (or voted) group configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    pub lineage: Lineage,
    pub epoch: Epoch,
    /// Epoch at which the present primary took office; see [`Config::tenure`].
    pub tenure_epoch: Epoch,
    pub primary: Side,
    pub in_sync: InSync,
    pub quorum: Quorum,
    /// The incarnation of the witness that takes part; `None`: none enrolled.
    pub witness: Option<Incarnation>,
    /// The array that is primary by design.
    pub natural: Side,
}

impl Config {
    /// Genesis: epoch 1 of a group made on `me`. `id` is random; `witness`: the incarnation that it
    /// just told, `None` for a pair without one (which decides by its primary alone).
    #[must_use]
    pub const fn genesis(me: Side, id: u64, witness: Option<Incarnation>) -> Self {
        Self {
            lineage: Lineage { counter: 1, id },
            epoch: Epoch(1),
            tenure_epoch: Epoch(1),
            primary: me,
            in_sync: InSync::Primary,
            quorum: if witness.is_some() { Quorum::Majority } else { Quorum::PrimaryAlone },
            witness,
            natural: me,
        }
    }

    pub const fn tenure(&self) -> Tenure {
        Tenure { lineage: self.lineage, epoch: self.tenure_epoch }
    }

    /// Whether `side` holds every acknowledged write under this configuration.
    pub fn holds(&self, side: Side) -> bool {
        self.in_sync == InSync::Both || self.primary == side
    }

    /// Order of the chain: lineage counter, then epoch. `None`: the two lineages have equal
    /// counters and different ids (two overrides), and nothing may choose between them.
    pub fn chain_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.lineage.counter.cmp(&other.lineage.counter) {
            Ordering::Equal if self.lineage.id != other.lineage.id => None,
            Ordering::Equal => Some(self.epoch.cmp(&other.epoch)),
            unequal => Some(unequal),
        }
    }
}
