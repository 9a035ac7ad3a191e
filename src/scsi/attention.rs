//! Unit attentions (SAM-5 5.14) and what a nexus remembers of each unit.

use super::Lun;
use super::sense::{Sense, SenseKey};
use super::unit::{Changes, View};

/// What an initiator port must be told of, in the order of precedence (SAM-5 5.14.2: resets first).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitAttention {
    /// 29/00: the array started, or the unit is new to this nexus.
    PowerOn,
    /// 29/03: LOGICAL UNIT RESET or target reset, by whichever nexus.
    BusDeviceReset,
    /// 29/07: the former session of this nexus was lost.
    NexusLoss,
    /// 2F/00: another nexus cleared the task set.
    CommandsCleared,
    /// 2A/06.
    AccessStateChanged,
    /// 2A/09.
    CapacityChanged,
    /// 2A/01.
    ModeParametersChanged,
    /// 3F/03.
    InquiryDataChanged,
    /// 3F/0E.
    ReportedLunsChanged,
    /// 38/07: thin provisioning soft threshold.
    ThinThreshold,
}

impl UnitAttention {
    const ALL: [Self; 10] = [
        Self::PowerOn,
        Self::BusDeviceReset,
        Self::NexusLoss,
        Self::CommandsCleared,
        Self::AccessStateChanged,
        Self::CapacityChanged,
        Self::ModeParametersChanged,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
        Self::ThinThreshold,
    ];

    pub const fn sense(self) -> Sense {
        let (asc, ascq) = match self {
            Self::PowerOn => (0x29, 0x00),
            Self::BusDeviceReset => (0x29, 0x03),
            Self::NexusLoss => (0x29, 0x07),
            Self::CommandsCleared => (0x2f, 0x00),
            Self::AccessStateChanged => (0x2a, 0x06),
            Self::CapacityChanged => (0x2a, 0x09),
            Self::ModeParametersChanged => (0x2a, 0x01),
            Self::InquiryDataChanged => (0x3f, 0x03),
            Self::ReportedLunsChanged => (0x3f, 0x0e),
            Self::ThinThreshold => (0x38, 0x07),
        };
        Sense::new(SenseKey::UnitAttention, asc, ascq)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Pending unit attentions of one nexus and unit: each kind at most once, so bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Pending(u16);

impl Pending {
    const fn add(&mut self, attention: UnitAttention) {
        self.0 |= attention.bit();
    }

    const fn remove(&mut self, attention: UnitAttention) {
        self.0 &= !attention.bit();
    }

    const fn has(self, attention: UnitAttention) -> bool {
        self.0 & attention.bit() != 0
    }

    fn take(&mut self) -> Option<UnitAttention> {
        let first = UnitAttention::ALL.into_iter().find(|attention| self.has(*attention))?;
        self.remove(first);
        Some(first)
    }
}

/// What was last shown to the nexus of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    changes: Changes,
    blocks: u64,
    /// Its access states are told.
    told: bool,
    /// Which unit it was: another one may have taken its LUN.
    naa: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    lun: Lun,
    pending: Pending,
    /// `None`: attentions were established before the first command.
    seen: Option<Seen>,
}

/// What the device server remembers of one I_T nexus.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nexus {
    /// Established for each unit at first sight.
    first: UnitAttention,
    /// Ascending by LUN; one for each unit the nexus sees.
    states: Vec<State>,
    inventory: Option<u64>,
}

impl Nexus {
    /// A nexus just made. `first` is what each unit tells it first: [`UnitAttention::PowerOn`], or
    /// [`UnitAttention::NexusLoss`] when its former session was reinstated or lost.
    pub const fn new(first: UnitAttention) -> Self {
        Self { first, states: Vec::new(), inventory: None }
    }

    /// Establishes a condition for one unit; one that is pending already stays once.
    pub fn establish(&mut self, lun: Lun, attention: UnitAttention) {
        self.state(lun).pending.add(attention);
    }

    /// Compares the view with what this nexus saw last, and establishes what it must be told.
    pub(super) fn observe(&mut self, view: &View<'_>) {
        if self.inventory != Some(view.inventory) {
            self.states.retain(|state| view.luns.binary_search(&state.lun).is_ok());
            if self.inventory.is_some() {
                // Units that come later were not there when the nexus was made.
                self.first = UnitAttention::PowerOn;
                for state in &mut self.states {
                    state.pending.add(UnitAttention::ReportedLunsChanged);
                }
            } else {
                for lun in view.luns {
                    self.state(*lun);
                }
            }
            self.inventory = Some(view.inventory);
        }
        let Some(addressed) = &view.unit else { return };
        let now = Seen {
            changes: addressed.changes,
            blocks: addressed.unit.blocks,
            told: addressed.access.told,
            naa: addressed.unit.identity.naa,
        };
        let state = self.state(addressed.lun);
        if let Some(before) = state.seen.replace(now) {
            if before.naa != now.naa {
                // Nothing that was pending for the unit before concerns this one; that the LUNs have changed
                // does.
                let luns = state.pending.has(UnitAttention::ReportedLunsChanged);
                state.pending = Pending::default();
                state.pending.add(UnitAttention::PowerOn);
                state.pending.add(UnitAttention::InquiryDataChanged);
                if luns {
                    state.pending.add(UnitAttention::ReportedLunsChanged);
                }
                return;
            }
            if before.changes.resets != now.changes.resets {
                state.pending.add(UnitAttention::BusDeviceReset);
            }
            if before.told != now.told {
                state.pending.add(UnitAttention::InquiryDataChanged);
            }
            if before.changes.access != now.changes.access && now.told {
                state.pending.add(UnitAttention::AccessStateChanged);
            }
            if before.blocks != now.blocks {
                state.pending.add(UnitAttention::CapacityChanged);
            }
        }
    }

    /// The condition to report now, which is thereby cleared.
    pub(super) fn take(&mut self, lun: Lun) -> Option<UnitAttention> {
        self.state(lun).pending.take()
    }

    /// REPORT LUNS told the nexus what has changed (SAM-5 5.14.6).
    pub(super) fn luns_reported(&mut self) {
        for state in &mut self.states {
            state.pending.remove(UnitAttention::ReportedLunsChanged);
        }
    }

    fn state(&mut self, lun: Lun) -> &mut State {
        let place = match self.states.binary_search_by_key(&lun, |state| state.lun) {
            Ok(place) => place,
            Err(place) => {
                let mut pending = Pending::default();
                pending.add(self.first);
                self.states.insert(place, State { lun, pending, seen: None });
                place
            }
        };
        // Found there, or inserted there.
        &mut self.states[place]
    }
}
