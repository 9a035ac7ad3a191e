//! Whose a group is at the witness: one array on each side of one pair, by the names that their
//! certificates bear. Nobody else votes in it, asks, tells or ends it.

use core::fmt;
use std::collections::BTreeMap;

use super::fields::{Reader, Writer};
use super::{GroupId, Side};

/// The name of an array: 1 to [`SiteName::LEN_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteName {
    length: u8,
    bytes: [u8; Self::LEN_MAX],
}

impl SiteName {
    /// Longest name in bytes.
    pub const LEN_MAX: usize = 24;

    /// `None`: empty, or too long to be any array's name.
    pub fn new(name: &str) -> Option<Self> {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0)?;
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { length, bytes })
    }

    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default() // made of a str
    }

    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let length = usize::from(r.u8()?);
        core::str::from_utf8(r.slice(length)?).ok().and_then(Self::new)
    }

    fn write(w: &mut Writer<'_>, name: &Self) {
        w.u8(name.length);
        w.bytes(name.as_str().as_bytes());
    }
}

impl fmt::Debug for SiteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An array that speaks to the witness, as its certificate and its hello say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub side: Side,
    pub name: SiteName,
    /// The other array of its pair, if it says.
    pub peer: Option<SiteName>,
}

#[cfg(any(test, feature = "testing"))]
impl Caller {
    /// An array of the pair that most tests are about.
    pub fn of(side: Side) -> Self {
        let name = |side| match side {
            Side::A => SiteName::new("array-a"),
            Side::B => SiteName::new("array-b"),
        };
        #[expect(clippy::unwrap_used, reason = "both are names")]
        Self { side, name: name(side).unwrap(), peer: name(side.other()) }
    }
}

/// The owners of one group; `None`: nobody has spoken for that side yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owners {
    names: [Option<SiteName>; 2],
    /// Who has removed the group. Once both have, its tombstone protects nothing any more.
    removed: [bool; 2],
}

const fn at(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}

impl Owners {
    pub const fn name(&self, side: Side) -> Option<SiteName> {
        self.names[at(side)]
    }

    /// The owners once `caller` has spoken for its side; `None`: the group is somebody else's.
    #[must_use]
    pub fn with(mut self, caller: &Caller) -> Option<Self> {
        let (own, other) = (at(caller.side), at(caller.side.other()));
        let is_own = self.names[own].is_none_or(|owner| owner == caller.name);
        let is_pair = match (self.names[other], caller.peer) {
            (Some(owner), Some(peer)) => owner == peer,
            (Some(owner), None) => owner != caller.name,
            (None, _) => true,
        };
        if !is_own || !is_pair || caller.peer == Some(caller.name) {
            return None;
        }
        self.names[own] = Some(caller.name);
        self.names[other] = self.names[other].or(caller.peer);
        Some(self)
    }

    pub const fn remove(&mut self, side: Side) {
        self.removed[at(side)] = true;
    }

    pub const fn have_both_removed(&self) -> bool {
        self.removed[0] && self.removed[1]
    }

    fn is_of(&self, name: SiteName) -> bool {
        self.names.contains(&Some(name))
    }
}

/// The owners of all groups.
pub type OwnerMap = BTreeMap<GroupId, Owners>;

/// How many groups `name` takes part in that are not over on both sides.
pub(super) fn groups_of(owners: &OwnerMap, name: SiteName) -> usize {
    owners.values().filter(|owners| owners.is_of(name) && !owners.have_both_removed()).count()
}

pub(super) fn write_all(w: &mut Writer<'_>, owners: &OwnerMap) {
    w.u32(u32::try_from(owners.len()).unwrap_or(u32::MAX)); // bounded by GROUPS_MAX
    for (group, owners) in owners {
        w.group(*group);
        for (name, removed) in owners.names.iter().zip(owners.removed) {
            w.option(name.as_ref(), SiteName::write);
            w.bool(removed);
        }
    }
}

pub(super) fn read_all(r: &mut Reader<'_>) -> Option<OwnerMap> {
    let mut all = OwnerMap::new();
    for _ in 0..r.u32()? {
        let group = r.group()?;
        let mut owners = Owners::default();
        for (name, removed) in owners.names.iter_mut().zip(&mut owners.removed) {
            *name = r.option(SiteName::read)?;
            *removed = r.bool()?;
        }
        all.insert(group, owners);
    }
    Some(all)
}
