//! What the value of a key can be: how a type is read from TOML, written, and described.

use crate::{Error, range::Range, source_map::KeyPlace};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A type of values in a configuration.
pub(crate) trait Value: Sized {
    /// Reads `value`, which stands at `at`. Ranges are checked afterwards, by way of
    /// [`Value::numbers`].
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error>;

    /// Reads a list of them.
    fn read_list(values: &[toml::Value], at: &KeyPlace<'_>) -> Result<Vec<Self>, Error> {
        values.iter().map(|value| Self::read(value, at)).collect()
    }

    /// The value in TOML; `None` where a key is left out.
    fn write(&self) -> Option<toml::Value>;

    /// The valid values in words, where numbers are in `range`.
    fn valid(range: Range) -> String;

    /// The same as a JSON schema.
    fn schema(range: Range) -> Json;

    /// The numbers in it that a range is about.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }

    /// The names among which it chooses, each with its meaning.
    fn choices() -> &'static [(&'static str, &'static str)] {
        &[]
    }
}

impl Value for bool {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        value.as_bool().ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        Some((*self).into())
    }

    fn valid(_: Range) -> String {
        "true | false".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "boolean"})
    }
}

macro_rules! whole_numbers {
    ($($type:ident),+) => {$(
        impl Value for $type {
            fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
                value.as_integer().and_then(|number| number.try_into().ok()).ok_or_else(|| at.cannot_be(value))
            }

            fn write(&self) -> Option<toml::Value> {
                // What was read from TOML fits into its integers.
                Some(i64::try_from(*self).unwrap_or(i64::MAX).into())
            }

            fn valid(range: Range) -> String {
                let least = ($type::MIN == 0).then_some(0.0);
                format!("a whole number {}", range.words_of_whole(least)).trim_end().into()
            }

            fn schema(range: Range) -> Json {
                let mut schema = serde_json::Map::from_iter([("type".to_owned(), "integer".into())]);
                let range = if $type::MIN == 0 && range == Range::ANY { Range::at_least(0.0) } else { range };
                range.add_to_schema(&mut schema);
                schema.into()
            }

            fn numbers(&self) -> Vec<f64> {
                vec![*self as f64]
            }
        }
    )+};
}
whole_numbers!(u32, u64, i64, usize);

impl Value for f64 {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        number(value).ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        Some((*self).into())
    }

    fn valid(range: Range) -> String {
        format!("a number {}", range.words()).trim_end().into()
    }

    fn schema(range: Range) -> Json {
        let mut schema = serde_json::Map::from_iter([("type".to_owned(), "number".into())]);
        range.add_to_schema(&mut schema);
        schema.into()
    }

    fn numbers(&self) -> Vec<f64> {
        vec![*self]
    }
}

/// A number of either kind that TOML has.
pub(crate) fn number(value: &toml::Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

impl Value for String {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        value.as_str().map(str::to_owned).ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        Some(self.as_str().into())
    }

    fn valid(_: Range) -> String {
        "a text in quotes".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "string"})
    }
}

impl Value for PathBuf {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let path = String::read(value, at)?;
        if path.is_empty() { Err(at.error("must not be empty")) } else { Ok(path.into()) }
    }

    fn write(&self) -> Option<toml::Value> {
        // A path that is no UTF-8 was never read from TOML.
        Some(self.to_string_lossy().into_owned().into())
    }

    fn valid(_: Range) -> String {
        "a path, relative to the current directory".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "string", "minLength": 1})
    }
}

/// A key that may be left out, which then has no value.
impl<T: Value> Value for Option<T> {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        T::read(value, at).map(Some)
    }

    fn write(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::write)
    }

    fn valid(range: Range) -> String {
        T::valid(range)
    }

    fn schema(range: Range) -> Json {
        T::schema(range)
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_ref().map(T::numbers).unwrap_or_default()
    }

    fn choices() -> &'static [(&'static str, &'static str)] {
        T::choices()
    }
}

impl<T: Value> Value for Vec<T> {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        T::read_list(value.as_array().ok_or_else(|| at.cannot_be(value))?, at)
    }

    fn write(&self) -> Option<toml::Value> {
        Some(self.iter().filter_map(T::write).collect::<Vec<_>>().into())
    }

    fn valid(range: Range) -> String {
        format!("a list, each of it {}", T::valid(range))
    }

    fn schema(range: Range) -> Json {
        json!({"type": "array", "items": T::schema(range)})
    }

    fn numbers(&self) -> Vec<f64> {
        self.iter().flat_map(T::numbers).collect()
    }

    fn choices() -> &'static [(&'static str, &'static str)] {
        T::choices()
    }
}

impl Value for [f64; 2] {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        <[f64; 2]>::try_from(Vec::<f64>::read(value, at)?).map_err(|_| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        self.to_vec().write()
    }

    fn valid(range: Range) -> String {
        format!("two numbers, each {}", range.words())
    }

    fn schema(range: Range) -> Json {
        json!({"type": "array", "items": f64::schema(range), "minItems": 2, "maxItems": 2})
    }

    fn numbers(&self) -> Vec<f64> {
        self.to_vec()
    }
}

impl<T: Value> Value for BTreeMap<String, T> {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let entries = value.as_table().ok_or_else(|| at.cannot_be(value))?;
        entries.iter().map(|(name, value)| Ok((name.clone(), T::read(value, at)?))).collect()
    }

    fn write(&self) -> Option<toml::Value> {
        let entries = self.iter().filter_map(|(name, value)| Some((name.clone(), value.write()?)));
        (!self.is_empty()).then(|| toml::Value::Table(entries.collect()))
    }

    fn valid(range: Range) -> String {
        format!("a table, each value of it {}", T::valid(range))
    }

    fn schema(range: Range) -> Json {
        json!({"type": "object", "additionalProperties": T::schema(range)})
    }

    fn numbers(&self) -> Vec<f64> {
        self.values().flat_map(T::numbers).collect()
    }
}

/// Anything at all.
impl Value for toml::Table {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        value.as_table().cloned().ok_or_else(|| at.cannot_be(value))
    }

    fn write(&self) -> Option<toml::Value> {
        (!self.is_empty()).then(|| self.clone().into())
    }

    fn valid(_: Range) -> String {
        "a table".into()
    }

    fn schema(_: Range) -> Json {
        json!({"type": "object"})
    }
}
