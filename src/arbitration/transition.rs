//! The transitions of the chain, their values and their quorums.

/// A change of configuration that an array may propose (DESIGN §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    Drop,
    Promote,
    Join,
    SwitchOver,
    HandOver,
    ReEnrol,
}
