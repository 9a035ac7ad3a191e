//! Key=value text (RFC 7143 6.1): reading, writing, and pieces over several PDUs.

/// Longest key name (RFC 7143 6.1).
pub const KEY_MAX: usize = 63;
/// Longest value accepted. The standard's limit for most is 255; names reach 223, a list of
/// addresses in SendTargets never comes from an initiator. CHAP's binary values reach 1,024 bytes,
/// in hexadecimal with its prefix twice that and two.
pub const VALUE_MAX: usize = 2 * 1024 + 2;
/// Longest text of one exchange over all its PDUs. Far more than all keys together take.
pub const TEXT_MAX: usize = 16 * 1024;
/// Most pairs in one text; the standard knows some thirty keys.
pub const PAIRS_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum TextError {
    #[error("text does not end with a zero byte")]
    Unterminated,
    #[error("no '=' in a key=value pair")]
    NoValue,
    #[error("key name is not of the standard's form")]
    BadKey,
    #[error("value is too long or not text")]
    BadValue,
    #[error("text is longer than {TEXT_MAX} bytes or has more than {PAIRS_MAX} pairs")]
    TooLong,
}

/// One pair, borrowed from the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair<'a> {
    pub key: &'a str,
    pub value: &'a str,
}

/// `standard-label`: a letter, then letters, digits and `.-+@_` ("#" for X keys). The standard asks
/// for upper case first, and breaks that itself with `iSCSIProtocolLevel`.
fn is_key(key: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
    key.len() <= KEY_MAX
        && key.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && key.bytes().all(good)
}

/// Names are UTF-8 (RFC 7143 4.2.7.2), everything else is ASCII; control characters are in neither.
fn is_value(value: &str) -> bool {
    value.len() <= VALUE_MAX && !value.chars().any(char::is_control)
}

fn pair(bytes: &[u8]) -> Result<Pair<'_>, TextError> {
    let text = core::str::from_utf8(bytes).map_err(|_| TextError::BadValue)?;
    let (key, value) = text.split_once('=').ok_or(TextError::NoValue)?;
    if !is_key(key) {
        return Err(TextError::BadKey);
    }
    if !is_value(value) {
        return Err(TextError::BadValue);
    }
    Ok(Pair { key, value })
}

/// All pairs of a complete text, in order. Empty pairs (zero bytes in a row, as some initiators
/// pad) are skipped.
pub fn parse(text: &[u8]) -> Result<Vec<Pair<'_>>, TextError> {
    if text.len() > TEXT_MAX {
        return Err(TextError::TooLong);
    }
    if text.last().is_some_and(|last| *last != 0) {
        return Err(TextError::Unterminated);
    }
    let mut pairs = Vec::new();
    for bytes in text.split(|byte| *byte == 0).filter(|bytes| !bytes.is_empty()) {
        if pairs.len() == PAIRS_MAX {
            return Err(TextError::TooLong);
        }
        pairs.push(pair(bytes)?);
    }
    Ok(pairs)
}

/// Appends one pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend_from_slice(key.as_bytes());
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    text.push(0);
}

/// A text that comes in several PDUs (C bit, RFC 7143 6.2): pieces may be cut anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector(Vec<u8>);

impl Collector {
    pub fn add(&mut self, piece: &[u8]) -> Result<(), TextError> {
        if self.0.len() + piece.len() > TEXT_MAX {
            return Err(TextError::TooLong);
        }
        self.0.extend_from_slice(piece);
        Ok(())
    }

    pub fn take(&mut self) -> Vec<u8> {
        core::mem::take(&mut self.0)
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A numerical value (RFC 7143 6.1): decimal, or hexadecimal with `0x`.
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_in_order() {
        let pairs = parse(b"InitiatorName=iqn.2026-01.a:b\0SessionType=Normal\0\0X-com.a.b=\0").unwrap();
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs[1], Pair { key: "SessionType", value: "Normal" });
        assert_eq!(pairs[2].value, "");
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn bad_text_is_named() {
        assert_eq!(parse(b"A=b"), Err(TextError::Unterminated));
        assert_eq!(parse(b"A\0"), Err(TextError::NoValue));
        assert_eq!(parse(b"1=b\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"A =b\0"), Err(TextError::BadKey));
        assert_eq!(parse(b"A=\x01\0"), Err(TextError::BadValue));
        assert_eq!(parse(b"A=\xff\0"), Err(TextError::BadValue));
        let long = [b'A'; KEY_MAX + 1];
        assert_eq!(parse(&[&long[..], b"=b\0"].concat()), Err(TextError::BadKey));
        assert_eq!(parse(&b"A=b\0".repeat(PAIRS_MAX + 1)), Err(TextError::TooLong));
        assert_eq!(parse(&vec![0; TEXT_MAX + 1]), Err(TextError::TooLong));
    }

    #[test]
    fn numbers() {
        assert_eq!(number("8192"), Some(8192));
        assert_eq!(number("0x2000"), Some(8192));
        for bad in ["", "+1", "-1", "1 ", "0x", "0x+1", "99999999999", "1K"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_collector_is_bounded() {
        let mut collector = Collector::default();
        assert_eq!(collector.add(&vec![b'a'; TEXT_MAX]), Ok(()));
        assert_eq!(collector.add(b"a"), Err(TextError::TooLong));
    }

    proptest! {
        #[test]
        fn what_was_pushed_reads_back(pairs in proptest::collection::vec(("[A-Z][A-Za-z0-9.]{0,20}", "[ -~]{0,40}"), 0..20)) {
            let mut text = Vec::new();
            for (key, value) in &pairs {
                push(&mut text, key, value);
            }
            let read: Vec<_> = parse(&text).unwrap().iter().map(|pair| (pair.key.to_owned(), pair.value.to_owned())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
