//! Serial numbers of RFC 1982, as CmdSN, StatSN, DataSN and R2TSN are (RFC 7143 4.2.2).

/// A 32-bit number that wraps; ordered only against numbers less than 2^31 away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Serial(pub u32);

impl Serial {
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    #[must_use]
    pub const fn plus(self, steps: u32) -> Self {
        Self(self.0.wrapping_add(steps))
    }

    #[must_use]
    pub const fn minus(self, steps: u32) -> Self {
        Self(self.0.wrapping_sub(steps))
    }

    /// `self < other` (RFC 1982 3.2). Numbers exactly 2^31 apart are in no order.
    pub const fn before(self, other: Self) -> bool {
        let ahead = other.0.wrapping_sub(self.0);
        ahead != 0 && ahead < 1 << 31
    }

    /// Steps from `self` forward to `other`.
    pub const fn until(self, other: Self) -> u32 {
        other.0.wrapping_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Serial;

    #[test]
    fn order_survives_the_wrap() {
        let last = Serial(u32::MAX);
        assert!(last.before(last.next()));
        assert!(!last.next().before(last));
        assert!(!last.before(last));
        assert_eq!(last.until(last.plus(7)), 7);
        assert_eq!(Serial(3).minus(5).plus(5), Serial(3));
    }

    #[test]
    fn half_the_circle_apart_is_no_order() {
        let far = Serial(1 << 31);
        assert!(!Serial(0).before(far) && !far.before(Serial(0)));
    }
}
