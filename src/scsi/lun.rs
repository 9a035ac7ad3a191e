//! LUN numbers and their eight bytes on the wire.

/// A single-level LUN (SAM-5 4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lun(u16);

impl Lun {
    /// The flat space addressing method has 14 bits (SAM-5 4.7.7.3).
    pub const MAX: u16 = 0x3fff;

    /// `None` past [`Lun::MAX`].
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Self::MAX { Some(Self(number)) } else { None }
    }

    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads the eight bytes of a command (big endian): peripheral device method on bus 0 or flat
    /// space method, one level only. `None`: no unit of ours can have this address.
    pub fn decode(wire: u64) -> Option<Self> {
        let [method, low, rest @ ..] = wire.to_be_bytes();
        if rest != [0; 6] {
            return None;
        }
        match method >> 6 {
            // Peripheral device addressing: the low six bits are the bus (SAM-5 4.7.7.2).
            0 if method == 0 => Some(Self(u16::from(low))),
            1 => Some(Self(u16::from_be_bytes([method & 0x3f, low]))),
            _ => None,
        }
    }

    /// As REPORT LUNS tells it: peripheral device method below 256, flat space above.
    pub fn encode(self) -> u64 {
        let method = if self.0 < 256 { 0 } else { 0x4000 };
        u64::from(method | self.0) << 48
    }
}

#[cfg(test)]
mod tests {
    use super::Lun;

    #[test]
    fn both_methods_name_the_same_unit() {
        assert_eq!(Lun::decode(0x0005_0000_0000_0000), Lun::new(5));
        assert_eq!(Lun::decode(0x4005_0000_0000_0000), Lun::new(5));
        assert_eq!(Lun::decode(0x4123_0000_0000_0000), Lun::new(0x123));
    }

    #[test]
    fn foreign_addresses_name_no_unit() {
        for wire in [0x0105_0000_0000_0000, 0x8000 << 48, 0xc101 << 48, 1, 0x0001_0001_0000_0000] {
            assert_eq!(Lun::decode(wire), None, "{wire:016x}");
        }
    }

    #[test]
    fn a_lun_reads_back() {
        for number in [0, 1, 255, 256, Lun::MAX] {
            let lun = Lun::new(number).unwrap();
            assert_eq!(Lun::decode(lun.encode()), Some(lun));
        }
        assert_eq!(Lun::new(Lun::MAX + 1), None);
        assert_eq!(Lun::new(256).unwrap().encode(), 0x4100_0000_0000_0000);
    }
}
