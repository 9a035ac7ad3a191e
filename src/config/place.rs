//! Where a key stands in a file, for errors that are found after parsing.

use toml::de::{DeTable, DeValue};

/// Line (from 1) of the dotted `key`'s value; of the nearest table around it when it is not given.
pub fn line_of(text: &str, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut table = document.get_ref();
    let mut found = None;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part) else {
            break;
        };
        found = Some(match value.get_ref() {
            // A table's span does not begin at its name in every spelling; its name's does.
            DeValue::Table(_) => name.span().start,
            _ => value.span().start,
        });
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    let before = text.get(..found?)?;
    Some(before.bytes().filter(|byte| *byte == b'\n').count() + 1)
}
