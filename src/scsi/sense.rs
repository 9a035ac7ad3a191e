//! Sense data (SPC-5 4.4) in fixed and descriptor format.

/// Sense key (SPC-5 4.4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SenseKey {
    NoSense = 0x0,
    NotReady = 0x2,
    MediumError = 0x3,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    Miscompare = 0xe,
}

/// Which field of CDB or parameter list is wrong (SPC-5 4.4.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FieldPointer {
    /// In the CDB; otherwise in the parameter list.
    pub in_cdb: bool,
    pub byte: u16,
    /// Leftmost bit of the field, where it is not the whole byte.
    pub bit: Option<u8>,
}

/// One condition, as sense data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sense {
    pub key: SenseKey,
    /// Additional sense code and its qualifier.
    pub code: (u8, u8),
    pub information: Option<u64>,
    pub field: Option<FieldPointer>,
}

/// Bytes of fixed format sense data.
pub const FIXED_LEN: usize = 18;

impl Sense {
    pub const NO_SENSE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    pub const UNIT_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    pub const PARAMETER_LIST_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// The transport brought another amount of data than the CDB asks for.
    pub const WRONG_DATA_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x0e, 0x03);
    pub const STANDBY: Self = Self::new(SenseKey::NotReady, 0x04, 0x0b);
    pub const TRANSITION: Self = Self::new(SenseKey::NotReady, 0x04, 0x0a);
    pub const READ_ERROR: Self = Self::new(SenseKey::MediumError, 0x11, 0x00);
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MediumError, 0x0c, 0x00);
    pub const NO_SPACE: Self = Self::new(SenseKey::DataProtect, 0x27, 0x07);
    pub const MISCOMPARE: Self = Self::new(SenseKey::Miscompare, 0x1d, 0x00);

    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, code: (asc, ascq), information: None, field: None }
    }

    #[must_use]
    pub const fn with_information(self, information: u64) -> Self {
        Self { information: Some(information), ..self }
    }

    /// INVALID FIELD IN CDB; `bit` is the leftmost one of a field that is not whole bytes.
    pub const fn invalid_in_cdb(byte: u16, bit: Option<u8>) -> Self {
        let field = Some(FieldPointer { in_cdb: true, byte, bit });
        Self { field, ..Self::new(SenseKey::IllegalRequest, 0x24, 0x00) }
    }

    /// INVALID FIELD IN PARAMETER LIST.
    pub const fn invalid_in_list(byte: u16, bit: Option<u8>) -> Self {
        let field = Some(FieldPointer { in_cdb: false, byte, bit });
        Self { field, ..Self::new(SenseKey::IllegalRequest, 0x26, 0x00) }
    }

    /// The three sense key specific bytes.
    const fn specific(&self) -> [u8; 3] {
        let Some(FieldPointer { in_cdb, byte, bit }) = self.field else { return [0; 3] };
        let flags = 0x80 | if in_cdb { 0x40 } else { 0 };
        let bits = match bit {
            Some(bit) => 0x08 | (bit & 7),
            None => 0,
        };
        let [high, low] = byte.to_be_bytes();
        [flags | bits, high, low]
    }

    /// Fixed format (SPC-5 4.4.3). An INFORMATION that does not fit four bytes is left out.
    pub fn fixed(&self) -> [u8; FIXED_LEN] {
        let information = self.information.and_then(|information| u32::try_from(information).ok());
        let [i0, i1, i2, i3] = information.unwrap_or(0).to_be_bytes();
        let valid = if information.is_some() { 0x80 } else { 0 };
        let [s0, s1, s2] = self.specific();
        let (asc, ascq) = self.code;
        [valid | 0x70, 0, self.key as u8, i0, i1, i2, i3, 10, 0, 0, 0, 0, asc, ascq, 0, s0, s1, s2]
    }

    /// Descriptor format (SPC-5 4.4.2), appended to `into`.
    pub(super) fn descriptor(&self, into: &mut Vec<u8>) {
        let start = into.len();
        let (asc, ascq) = self.code;
        into.extend_from_slice(&[0x72, self.key as u8, asc, ascq, 0, 0, 0, 0]);
        if let Some(information) = self.information {
            into.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
            into.extend_from_slice(&information.to_be_bytes());
        }
        if self.field.is_some() {
            let [s0, s1, s2] = self.specific();
            into.extend_from_slice(&[0x02, 0x06, 0, 0, s0, s1, s2, 0]);
        }
        // At most 8 + 12 + 8 bytes.
        let additional = u8::try_from(into.len() - start - 8).unwrap_or(0);
        if let Some(length) = into.get_mut(start + 7) {
            *length = additional;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sense;

    #[test]
    fn fixed_format_points_at_the_field() {
        let sense = Sense::invalid_in_cdb(2, Some(7)).fixed();
        assert_eq!(sense, [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 2]);
        let sense = Sense::invalid_in_list(0x102, None).fixed();
        assert_eq!(sense[12..], [0x26, 0, 0, 0x80, 1, 2]);
    }

    #[test]
    fn information_that_does_not_fit_is_not_valid() {
        let sense = Sense::MISCOMPARE.with_information(0x0102_0304).fixed();
        assert_eq!(sense[..8], [0xf0, 0, 0x0e, 1, 2, 3, 4, 10]);
        let sense = Sense::READ_ERROR.with_information(1 << 32).fixed();
        assert_eq!(sense[..8], [0x70, 0, 3, 0, 0, 0, 0, 10]);
    }

    #[test]
    fn descriptor_format_carries_both() {
        let mut bytes = Vec::new();
        Sense::invalid_in_cdb(1, Some(4)).with_information(9).descriptor(&mut bytes);
        assert_eq!(
            bytes,
            [
                0x72, 5, 0x24, 0, 0, 0, 0, 20, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 9, 2, 6, 0, 0, 0xcc, 0,
                1, 0
            ]
        );
    }
}
