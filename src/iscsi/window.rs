//! The command window of a session: ExpCmdSN, MaxCmdSN, and commands received ahead of their turn
//! (RFC 7143 4.2.2.1).

use super::serial::Serial;

/// Most non-immediate commands of a session in progress. Linux asks for 32 to 128 of a LUN.
pub const WINDOW: u32 = 128;

/// What becomes of a non-immediate command's CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arrival {
    /// It is taken; every command before [`CommandWindow::expected`] may start.
    Taken,
    /// Outside the window, or there already: ignored without an answer.
    Ignored,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandWindow {
    expected: Serial,
    max: Serial,
    /// Bit n: `expected` + n has arrived.
    arrived: u128,
}

const _: () = assert!(WINDOW <= u128::BITS);

impl CommandWindow {
    /// A window whose first command has the number `first`.
    pub fn new(first: Serial) -> Self {
        Self { expected: first, max: first.plus(WINDOW - 1), arrived: 0 }
    }

    /// ExpCmdSN: all commands before it have arrived.
    pub const fn expected(&self) -> Serial {
        self.expected
    }

    /// MaxCmdSN.
    pub const fn max(&self) -> Serial {
        self.max
    }

    /// True when commands were taken ahead of one that is missing.
    pub const fn has_gap(&self) -> bool {
        self.arrived != 0
    }

    /// Is `number` between ExpCmdSN and MaxCmdSN?
    pub const fn holds(&self, number: Serial) -> bool {
        !number.before(self.expected) && !self.max.before(number)
    }

    pub fn arrive(&mut self, number: Serial) -> Arrival {
        let ahead = self.expected.until(number);
        if ahead >= WINDOW || !self.holds(number) || self.arrived & 1 << ahead != 0 {
            return Arrival::Ignored;
        }
        self.arrived |= 1 << ahead;
        let in_order = self.arrived.trailing_ones();
        self.expected = self.expected.plus(in_order);
        // A shift by the whole width is no shift at all.
        self.arrived = self.arrived.checked_shr(in_order).unwrap_or(0);
        Arrival::Taken
    }

    /// Moves MaxCmdSN to what `in_progress` commands (of those before ExpCmdSN) leave room for. It
    /// never goes back.
    pub fn set_in_progress(&mut self, in_progress: u32) {
        let room = WINDOW.saturating_sub(in_progress);
        let max = self.expected.minus(1).plus(room);
        if self.max.before(max) {
            self.max = max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn in_order_commands_move_the_window_when_they_end() {
        let mut window = CommandWindow::new(Serial(u32::MAX));
        assert_eq!(window.arrive(Serial(u32::MAX)), Arrival::Taken);
        assert_eq!(window.expected(), Serial(0));
        window.set_in_progress(1);
        assert_eq!(window.max(), Serial(WINDOW - 2));
        window.set_in_progress(0);
        assert_eq!(window.max(), Serial(WINDOW - 1));
    }

    #[test]
    fn a_full_window_takes_no_more() {
        let mut window = CommandWindow::new(Serial(0));
        for number in 0..WINDOW {
            assert_eq!(window.arrive(Serial(number)), Arrival::Taken);
            window.set_in_progress(number + 1);
        }
        assert_eq!(window.max(), Serial(WINDOW - 1));
        assert_eq!(window.arrive(Serial(WINDOW)), Arrival::Ignored);
        assert_eq!(window.arrive(Serial(0)), Arrival::Ignored);
    }

    #[test]
    fn a_gap_is_filled() {
        let mut window = CommandWindow::new(Serial(5));
        assert_eq!(window.arrive(Serial(7)), Arrival::Taken);
        assert_eq!(window.arrive(Serial(7)), Arrival::Ignored);
        assert_eq!(window.arrive(Serial(6)), Arrival::Taken);
        assert!(window.has_gap() && window.expected() == Serial(5));
        assert_eq!(window.arrive(Serial(5)), Arrival::Taken);
        assert!(!window.has_gap() && window.expected() == Serial(8));
    }

    proptest! {
        #[test]
        fn each_number_is_taken_once_and_the_edges_only_advance(steps in proptest::collection::vec((0..200_u32, 0..200_u32), 1..300)) {
            let mut window = CommandWindow::new(Serial(u32::MAX - 50));
            let mut taken = std::collections::BTreeSet::new();
            for (ahead, busy) in steps {
                let (expected, max) = (window.expected(), window.max());
                let number = expected.minus(20).plus(ahead);
                if window.arrive(number) == Arrival::Taken {
                    prop_assert!(taken.insert(number.0));
                }
                window.set_in_progress(busy);
                prop_assert!(!window.expected().before(expected) && !window.max().before(max));
                prop_assert!(expected.until(window.max()) < 2 * WINDOW + 1);
            }
        }
    }
}
