//! Durations as operators write them: `"250ms"`, `"3s"`, `"2m"`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A duration in whole milliseconds, at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milliseconds(pub Duration);

/// Longest duration any key takes.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Milliseconds {
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no duration; write e.g. \"250ms\", \"3s\" or \"2m\"");
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(at);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = match unit.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            _ => return Err(wrong()),
        };
        let duration = number.checked_mul(unit).map(Duration::from_millis);
        match duration.filter(|duration| *duration <= LONGEST) {
            Some(duration) => Ok(Self(duration)),
            None => Err(format!("`{text}` is longer than a day")),
        }
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Milliseconds;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in quotes, e.g. \"250ms\" or \"3s\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Milliseconds, E> {
                Milliseconds::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}
