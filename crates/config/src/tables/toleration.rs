//! Taints of Kubernetes nodes that a job tolerates, written as `kubectl taint` writes them.

use crate::{Error, range::Range, source_map::KeyPlace, value::Value};
use serde::Serialize;
use serde_json::{Value as Json, json};
use std::fmt;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const VALID: &str =
    "a taint as kubectl writes it: \"key=value:NoSchedule\", \"key:NoExecute\" or \"key\"";

/// A taint that pods of a job tolerate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Toleration {
    /// The taint's key.
    pub key: String,
    /// Its value; `None` tolerates every value.
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; `None` tolerates each.
    pub effect: Option<String>,
}

impl Toleration {
    /// Reads `key[=value][:effect]`.
    fn parse(text: &str) -> Option<Self> {
        let (taint, effect) = match text.split_once(':') {
            Some((taint, effect)) => (taint, Some(effect)),
            None => (text, None),
        };
        let (key, value) = match taint.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (taint, None),
        };
        let is_sound = is_name(key)
            && value.is_none_or(|value| value.is_empty() || is_name(value))
            && effect.is_none_or(|effect| EFFECTS.contains(&effect));
        is_sound.then(|| Self {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            effect: effect.map(str::to_owned),
        })
    }
}

impl fmt::Display for Toleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |sign: &str, text: &Option<String>| {
            text.as_ref().map(|text| format!("{sign}{text}")).unwrap_or_default()
        };
        write!(f, "{}{}{}", self.key, part("=", &self.value), part(":", &self.effect))
    }
}

/// The letters of a label's or a taint's key, which may have a domain before it.
pub(super) fn is_name(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
    let outer = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
    text.len() <= 253
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

impl Value for Toleration {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        value.as_str().and_then(Self::parse).ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }

    fn valid(_: Range) -> String {
        VALID.into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "string", "minLength": 1})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_taint_is_written_as_it_is_read() {
        for text in [
            "gpu",
            "nvidia.com/gpu=present:NoSchedule",
            "spot:NoExecute",
            "team=a",
            "a=:NoSchedule",
        ] {
            assert_eq!(Toleration::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "=a", "gpu:Never", "a b", "gpu:", "-a", "a=b=c", "a\n"] {
            assert_eq!(Toleration::parse(wrong), None, "{wrong:?}");
        }
    }
}
