//! A class, as a file names it.

use crate::error::{Error, Place, Result};
use crate::record::{Fault, fault};
use parquet::record::Field;
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    Number(u64),
    Name(String),
}

/// What is not a class.
const REMEDY: &str = "give a name, or a whole number from 0";

impl Label {
    /// A whole number is one, anything else a name.
    pub fn of_text(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number)
    }

    /// Of the key `key`.
    pub fn of_json(value: &Value, key: &str) -> std::result::Result<Self, Fault> {
        match value {
            Value::String(name) => Ok(Self::Name(name.clone())),
            Value::Bool(is) => Ok(Self::Name(is.to_string())),
            other => match other.as_u64() {
                Some(number) => Ok(Self::Number(number)),
                None => fault(format!("`{key}` is {other} and no class"), REMEDY),
            },
        }
    }

    /// Of the column `key`.
    pub fn of_field(value: &Field, key: &str) -> std::result::Result<Self, Fault> {
        let number = match value {
            Field::Str(name) => return Ok(Self::Name(name.clone())),
            Field::Bool(is) => return Ok(Self::Name(is.to_string())),
            Field::Byte(number) => u64::try_from(*number).ok(),
            Field::Short(number) => u64::try_from(*number).ok(),
            Field::Int(number) => u64::try_from(*number).ok(),
            Field::Long(number) => u64::try_from(*number).ok(),
            Field::UByte(number) => Some(u64::from(*number)),
            Field::UShort(number) => Some(u64::from(*number)),
            Field::UInt(number) => Some(u64::from(*number)),
            Field::ULong(number) => Some(*number),
            _ => None,
        };
        number.map_or_else(
            || fault(format!("`{key}` is {value} and no class"), REMEDY),
            |number| Ok(Self::Number(number)),
        )
    }

    /// As it is called among others.
    pub fn name(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }

    /// The class among `labels`: by its name, or, of a number that is no name, by that number.
    ///
    /// # Errors
    /// If it is none of them, with its place.
    pub fn number(&self, labels: &[String], place: impl FnOnce() -> Place) -> Result<u32> {
        let by_name = labels.iter().position(|label| *label == self.name());
        let by_number = || match self {
            Self::Number(number) => {
                usize::try_from(*number).ok().filter(|number| *number < labels.len())
            }
            Self::Name(_) => None,
        };
        let number = by_name.or_else(by_number).ok_or_else(|| Error::Record {
            place: place(),
            problem: format!("the label {:?} is not one of {}", self.name(), listed(labels)),
            remedy: "correct the record, or add the class to the labels".into(),
        })?;
        Ok(number as u32)
    }
}

/// The names of the classes that occur, numbers in their order before names in theirs.
pub(crate) fn occurring<'a>(labels: impl Iterator<Item = &'a Label>) -> Vec<String> {
    labels.collect::<BTreeSet<_>>().into_iter().map(Label::name).collect()
}

/// The names of the classes of a column, out of what Hugging Face's datasets write into a table
/// about its columns (`ClassLabel`).
pub(crate) fn described(description: &str, column: &str) -> Option<Vec<String>> {
    let description: Value = serde_json::from_str(description).ok()?;
    let names = description["info"]["features"][column]["names"].as_array()?;
    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The first names, and how many more.
fn listed(labels: &[String]) -> String {
    let shown: Vec<String> = labels.iter().take(8).map(|label| format!("{label:?}")).collect();
    let more = labels.len().saturating_sub(8);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
