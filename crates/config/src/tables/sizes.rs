//! Amounts of memory, which have a unit.

use crate::{Error, range::Range, source_map::KeyPlace, value::Value};
use serde_json::{Value as Json, json};
use std::fmt;
use std::str::FromStr;

/// Bytes. In TOML and on a command line a number with a unit, such as `"32MiB"` or `"5GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const UNITS: [(&str, f64); 9] = [
    ("b", 1.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
];
const VALID: &str = "a size with a unit, such as \"500MB\", \"5GB\" or \"80GiB\"";

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    /// Reads `5GB`, `80GiB` or `1.5 TB`. A number without a unit is refused: nobody means `80`
    /// bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let end = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
        let number = text[..end]
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| *number > 0.0 && number.is_finite());
        let unit = UNITS.iter().find(|(name, _)| *name == &text[end..]);
        match (number, unit) {
            (Some(number), Some((_, size))) => Ok(Self((number * size) as u64)),
            (Some(_), None) if end == text.len() => {
                Err(format!("has no unit; write {text}MB, {text}MiB or {text}GiB"))
            }
            _ => Err("give a size with a unit, such as 500MB, 5GB or 80GiB".into()),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[5..]
            .iter()
            .rev()
            .find(|(_, size)| self.0 >= *size as u64 && self.0.is_multiple_of(*size as u64));
        match exact {
            Some((name, size)) => {
                write!(f, "{}{}iB", self.0 / *size as u64, name[..1].to_ascii_uppercase())
            }
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A size with a unit, or a whole number of bytes, for keys whose name says that it is bytes.
impl Value for ByteSize {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        match value {
            toml::Value::Integer(bytes) => match u64::try_from(*bytes) {
                Ok(bytes) if bytes > 0 => Ok(Self(bytes)),
                _ => Err(at.error("must be > 0")),
            },
            toml::Value::String(text) => text.parse().map_err(|_| at.cannot_be(value)),
            _ => Err(at.cannot_be(value)),
        }
    }

    fn write(&self) -> Option<toml::Value> {
        self.0.write()
    }

    fn valid(range: Range) -> String {
        format!("a whole number of bytes {}, or {VALID}", range.words_of_whole(Some(1.0)))
    }

    fn numbers(&self) -> Vec<f64> {
        vec![self.0 as f64]
    }

    fn schema(range: Range) -> Json {
        let mut whole = serde_json::Map::from_iter([
            ("type".to_owned(), "integer".into()),
            ("minimum".to_owned(), 1.into()),
        ]);
        range.add_to_schema(&mut whole);
        json!({"anyOf": [whole, {"type": "string", "pattern": "^[0-9.]+ ?([kKmMgGtT][iI]?)?[bB]$"}]})
    }
}

/// The memory of a machine, as schedulers write it: `"64G"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory(String);

impl Memory {
    /// As it is written: a whole number and K, M, G or T.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Memory {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let whole = |text: &str| text.parse::<u64>().is_ok_and(|number| number > 0);
        let text = match value {
            toml::Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        if value.is_str() && text.strip_suffix(['K', 'M', 'G', 'T']).is_some_and(whole) {
            Ok(Self(text))
        } else if whole(&text) {
            Err(at.error(&format!("has no unit; write \"{text}G\"")))
        } else {
            Err(at.cannot_be(value))
        }
    }

    fn write(&self) -> Option<toml::Value> {
        self.0.write()
    }

    fn valid(_: Range) -> String {
        "a whole number with the unit K, M, G or T (of 1024), such as \"64G\"".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "string", "pattern": "^[1-9][0-9]*[KMGT]$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units_and_refused_without() {
        let sizes = ["4096B", "5GB", "80GiB", "1.5 tb", " 500 MB "]
            .map(|text| text.parse().map(ByteSize::bytes));
        assert_eq!(sizes, [4096, 5_000_000_000, 80 << 30, 1_500_000_000_000, 500_000_000].map(Ok));
        for wrong in ["", "GB", "5 XB", "-1GB", "0B", "infB", "1e400B", "80"] {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong:?}");
        }
        assert_eq!("80".parse::<ByteSize>(), Err("has no unit; write 80MB, 80MiB or 80GiB".into()));
    }

    #[test]
    fn a_size_is_written_as_it_is_read() {
        for (bytes, text) in
            [(1, "1B"), (1 << 20, "1MiB"), (25 << 20, "25MiB"), (1_000_000, "1000000B")]
        {
            assert_eq!(ByteSize::new(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)));
        }
    }
}
