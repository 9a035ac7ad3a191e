//! The transitions of the chain, the values they propose, and the quorums that decide them.
//!
//! The quorum of epoch e+1 is that of the *chosen* configuration of epoch e (T1): a value never
//! decides by which quorum it is itself read.

use crate::mutation::{self, Mutation};

use super::{Config, Epoch, InSync, Incarnation, Quorum, Side};

/// A change of configuration that an array may propose (DESIGN §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    Drop,
    Promote,
    Join,
    SwitchOver,
    HandOver,
    ReEnrol,
    /// The witness is lost to both arrays: the primary goes on without anybody (DESIGN §3.5).
    PreElect,
}

/// Who must have answered before a value may be chosen for proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase1 {
    TwoOfThree,
    Primary,
}

/// Who must have accepted before a value is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase2 {
    TwoOfThree,
    BothArrays,
    PrimaryAndOne,
    Primary,
}

impl Transition {
    /// The value this transition proposes from `chosen`. `witness`: the incarnation to enrol.
    #[must_use]
    pub fn value(self, chosen: &Config, me: Side, witness: Option<Incarnation>) -> Config {
        let epoch = Epoch(chosen.epoch.0.saturating_add(1));
        let next = Config { epoch, ..*chosen };
        match self {
            Self::Drop => Config { in_sync: InSync::Primary, ..next },
            Self::Join => Config { in_sync: InSync::Both, ..next },
            Self::Promote => Config { primary: me, tenure_epoch: epoch, in_sync: InSync::Primary, ..next },
            Self::SwitchOver => {
                Config { primary: me.other(), tenure_epoch: epoch, in_sync: InSync::Both, ..next }
            }
            Self::HandOver => {
                Config { primary: me.other(), tenure_epoch: epoch, in_sync: InSync::Primary, ..next }
            }
            Self::ReEnrol => Config { quorum: Quorum::Majority, witness, ..next },
            Self::PreElect => Config { quorum: Quorum::PrimaryAlone, ..next },
        }
    }
}

/// ARBITRATION *quorums*, phase 1.
pub(super) fn phase1(chosen: &Config) -> Phase1 {
    if mutation::on(Mutation::R4StaleCopyPromoted) && chosen.quorum == Quorum::Majority {
        return Phase1::TwoOfThree;
    }
    match (chosen.quorum, chosen.in_sync) {
        (Quorum::Majority, InSync::Both) => Phase1::TwoOfThree,
        (Quorum::Majority, InSync::Primary) | (Quorum::PrimaryAlone, _) => Phase1::Primary,
    }
}

/// ARBITRATION *quorums*, phase 2. What no transition produces needs the primary and another.
pub(super) fn phase2(chosen: &Config, value: &Config) -> Phase2 {
    if mutation::on(Mutation::T1ValueDecidesQuorum) && value.in_sync == InSync::Primary {
        return Phase2::Primary;
    }
    if mutation::on(Mutation::T1PreElectDecidesItself) && pre_elects(value, chosen) {
        return Phase2::Primary;
    }
    if mutation::on(Mutation::R4StaleCopyPromoted) && value.primary != chosen.primary {
        return Phase2::TwoOfThree;
    }
    let enrols = value.quorum == Quorum::Majority
        && (value.witness != chosen.witness || chosen.quorum == Quorum::PrimaryAlone);
    let alone = pre_elects(value, chosen);
    match (chosen.quorum, chosen.in_sync) {
        (Quorum::Majority, InSync::Both) if enrols && mutation::on(Mutation::R12ReEnrolByOneArray) => {
            Phase2::Primary
        }
        (Quorum::Majority, InSync::Both) if enrols || alone => Phase2::BothArrays,
        (Quorum::Majority, InSync::Both) => Phase2::TwoOfThree,
        // T7: nobody but the primary can change a configuration in which it is alone.
        (Quorum::Majority, InSync::Primary) if enrols && mutation::on(Mutation::T7ReEnrolNeedsBoth) => {
            Phase2::BothArrays
        }
        (Quorum::Majority, InSync::Primary) if enrols => Phase2::Primary,
        (Quorum::Majority, InSync::Primary) => Phase2::PrimaryAndOne,
        (Quorum::PrimaryAlone, InSync::Both) if enrols => Phase2::BothArrays,
        (Quorum::PrimaryAlone, _) if value.primary != chosen.primary => Phase2::BothArrays,
        (Quorum::PrimaryAlone, _) => Phase2::Primary,
    }
}

/// `value` ends the majority of `chosen`.
pub(super) fn pre_elects(value: &Config, chosen: &Config) -> bool {
    chosen.quorum == Quorum::Majority && value.quorum == Quorum::PrimaryAlone
}

/// A value that some transition could have produced from `chosen`: nothing else is voted for.
pub(super) fn follows(value: &Config, chosen: &Config) -> bool {
    let epoch = chosen.epoch.0.checked_add(1).map(Epoch);
    let same_office = value.primary == chosen.primary;
    let tenure = if same_office { chosen.tenure_epoch } else { value.epoch };
    Some(value.epoch) == epoch
        && value.lineage == chosen.lineage
        && value.natural == chosen.natural
        && value.tenure_epoch == tenure
        && (value.quorum == Quorum::PrimaryAlone || value.witness.is_some())
        // *pre-elect* starts from {A,B} and changes nothing else.
        && (!pre_elects(value, chosen)
            || (chosen.in_sync == InSync::Both
                && *value == Transition::PreElect.value(chosen, chosen.primary, None)))
        // Rule 4: only a copy in sync takes office.
        && (same_office
            || chosen.in_sync == InSync::Both
            || mutation::on(Mutation::R4StaleCopyPromoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Option<Incarnation> = Some(Incarnation([1; 16]));
    const W2: Option<Incarnation> = Some(Incarnation([2; 16]));

    #[test]
    fn quorums_are_those_of_the_chosen_configuration() {
        use Phase2::{BothArrays, Primary, PrimaryAndOne, TwoOfThree};
        use Transition::{Drop, HandOver, Join, PreElect, Promote, ReEnrol, SwitchOver};
        let solo = Config::genesis(Side::A, 7, W);
        let both = Join.value(&solo, Side::A, None);
        let alone = Config { quorum: Quorum::PrimaryAlone, ..both };
        let alone_solo = Config { quorum: Quorum::PrimaryAlone, ..solo };
        assert_eq!(phase1(&both), Phase1::TwoOfThree);
        for chosen in [solo, alone, alone_solo] {
            assert_eq!(phase1(&chosen), Phase1::Primary);
        }
        let table = [
            (both, Side::A, Drop, TwoOfThree),
            (both, Side::B, Promote, TwoOfThree),
            (both, Side::A, SwitchOver, TwoOfThree),
            (both, Side::A, HandOver, TwoOfThree),
            (both, Side::A, ReEnrol, BothArrays),
            (both, Side::A, PreElect, BothArrays),
            (solo, Side::A, Join, PrimaryAndOne),
            (solo, Side::A, ReEnrol, Primary),
            (alone, Side::A, Drop, Primary),
            (alone, Side::A, SwitchOver, BothArrays),
            (alone, Side::A, HandOver, BothArrays),
            (alone, Side::A, ReEnrol, BothArrays),
            (alone_solo, Side::A, Join, Primary),
            (alone_solo, Side::A, ReEnrol, Primary),
        ];
        for (chosen, me, transition, quorum) in table {
            let value = transition.value(&chosen, me, W2);
            assert_eq!(phase2(&chosen, &value), quorum, "{transition:?} from {chosen:?}");
            assert!(follows(&value, &chosen), "{transition:?} from {chosen:?}");
        }
    }

    #[test]
    fn what_no_transition_produces_does_not_follow() {
        let solo = Config::genesis(Side::A, 7, W);
        let next = Transition::Join.value(&solo, Side::A, None);
        assert!(follows(&next, &solo));
        let stale = Transition::Promote.value(&solo, Side::B, None);
        assert!(!follows(&stale, &solo), "rule 4");
        assert!(!follows(&Config { epoch: Epoch(3), ..next }, &solo));
        assert!(!follows(&Config { natural: Side::B, ..next }, &solo));
        assert!(!follows(&Config { tenure_epoch: Epoch(2), ..next }, &solo));
        assert!(!follows(&Config { witness: None, ..next }, &solo));
        let alone = Transition::PreElect.value(&solo, Side::A, None);
        assert!(!follows(&alone, &solo), "pre-elect starts from {{A,B}}");
        let both = Config { in_sync: InSync::Both, ..solo };
        let promoted = Transition::Promote.value(&both, Side::B, None);
        assert!(!follows(&Config { quorum: Quorum::PrimaryAlone, ..promoted }, &both));
    }
}
