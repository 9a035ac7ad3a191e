//! Test builds only: switches that break exactly one rule, so that a test can show that the
//! simulator notices. In an ordinary build [`on`] is the constant `false` and costs nothing.
//!
//! A mutation is named for the rule or trace it breaks; its place in a core reads
//! `if !mutation::on(Mutation::T2GrantAfterVote) && …`.

/// One broken rule. Grows with the cores; keep the numbers of ARBITRATION's traces in the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Mutation {
    /// T2: a voter grants a lease although its vote names another primary.
    T2GrantAfterVote,
}

#[cfg(feature = "testing")]
mod switch {
    use std::cell::Cell;

    thread_local! { static ACTIVE: Cell<Option<super::Mutation>> = const { Cell::new(None) }; }

    /// Breaks one rule on this thread until called again with `None`.
    pub fn set(mutation: Option<super::Mutation>) {
        ACTIVE.with(|active| active.set(mutation));
    }

    #[inline]
    pub fn on(mutation: super::Mutation) -> bool {
        ACTIVE.with(|active| active.get() == Some(mutation))
    }
}

#[cfg(feature = "testing")]
pub use switch::{on, set};

#[cfg(not(feature = "testing"))]
#[inline]
pub const fn on(_mutation: Mutation) -> bool {
    false
}
