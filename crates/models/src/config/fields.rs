//! Typed reading of a table of values, with errors that name the file and the key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A table (of `config.json`, or of GGUF metadata) and the file it comes from. A null value counts
/// as absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    file: &'a Path,
    table: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(file: &'a Path, table: &'a Map<String, Value>) -> Self {
        Fields { file, table }
    }

    pub fn file(&self) -> &'a Path {
        self.file
    }

    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.table.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is written at all, be it with null.
    pub fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether a value is itself a table.
    pub fn is_nested(&self) -> bool {
        self.table.values().any(Value::is_object)
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "an integer", as_integer)
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn table(&self, key: &str) -> Result<Option<Fields<'a>>> {
        Ok(self.object(key)?.map(|table| Fields { file: self.file, table }))
    }

    /// A table of other values than [`Fields`] reads.
    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.typed(key, "a table", Value::as_object)
    }

    /// A token id; negative ones stand for 'none' in older files.
    pub fn token(&self, key: &str) -> Result<Option<i64>> {
        Ok(self.integer(key)?.filter(|&id| id >= 0))
    }

    /// One token id or a list of them.
    pub fn tokens(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(as_integer).collect(),
            id => as_integer(id).map(|id| if id < 0 { vec![] } else { vec![id] }),
        })
    }

    /// A list of integers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "a list of integers", |value| {
            value.as_array()?.iter().map(as_integer).collect()
        })
    }

    /// A list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.typed(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// Like [`Fields::integer`], for a key that has no default.
    pub fn needed(&self, key: &str) -> Result<i64> {
        self.integer(key)?.ok_or_else(|| self.invalid(key, "it is absent"))
    }

    pub fn invalid(&self, key: &str, why: impl Into<String>) -> Error {
        Error::InvalidConfig { file: self.file.to_owned(), key: key.to_owned(), why: why.into() }
    }

    pub fn unsupported(
        &self,
        key: &str,
        value: impl std::fmt::Display,
        supported: impl Into<String>,
    ) -> Error {
        Error::UnsupportedOption {
            file: self.file.to_owned(),
            option: key.to_owned(),
            value: value.to_string(),
            supported: supported.into(),
        }
    }

    /// Refuses `key` unless it is absent or has the one value that is implemented.
    pub fn only(&self, key: &str, neutral: impl Into<Value>) -> Result<()> {
        let neutral = neutral.into();
        let same = |value: &Value| match (value.as_f64(), neutral.as_f64()) {
            (Some(value), Some(neutral)) => value == neutral,
            _ => *value == neutral,
        };
        match self.value(key) {
            Some(value) if !same(value) => Err(self.unsupported(key, value, neutral.to_string())),
            _ => Ok(()),
        }
    }

    /// Refuses `key` unless it is absent, null or an empty list or table.
    pub fn none(&self, key: &str) -> Result<()> {
        match self.value(key) {
            None => Ok(()),
            Some(Value::Array(items)) if items.is_empty() => Ok(()),
            Some(Value::Object(items)) if items.is_empty() => Ok(()),
            Some(value) => Err(self.unsupported(key, value, "null")),
        }
    }

    fn typed<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(typed) => Ok(Some(typed)),
                None => Err(self.invalid(key, format!("{value} is not {what}"))),
            },
        }
    }
}

/// Writers in other languages sometimes turn integers into `8192.0`.
fn as_integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64))
}
