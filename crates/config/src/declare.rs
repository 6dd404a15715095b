//! The declaration of a table: every key of it once, with its type, default, valid values, help and
//! example.
//!
//! [`table!`] makes of it the struct that a program reads, its reading and writing in TOML, and the
//! list of its keys from which the reference, the JSON schema and the messages come:
//!
//! ```text
//! table! {
//!     /// What the table is about.
//!     Gradients: "gradients" {
//!         /// Columns of a compressed gradient's factors.
//!         rank: usize = 4,
//!             within Range::above(0.0),
//!             when reads!(gradients.method in [GradientMethod::PowerSgd]),
//!             example "8";
//!     }
//! }
//! ```
//!
//! `name: type = default`, then in this order, each but the last optional:
//! - `default "…"`: the default in words, where it is computed from other keys (by the table's
//!   `resolve`);
//! - `valid "…"`: the valid values in words, where the type and the range do not say all;
//! - `within …`: the range of its numbers;
//! - `when …`: the condition under which the key is read; given otherwise, it is an error;
//! - `example "…"`: a value in TOML, which a test loads.
//!
//! A key without a default must be given. Conditions between keys stand in the `check` or `resolve`
//! of the table's file. A new type of values implements [`Value`]; a new choice among names is
//! declared with `choice!`.

use crate::{
    Error,
    place::TableId,
    range::Range,
    source_map::{KeyPlace, SourceMap},
    value::Value,
};
use serde_json::{Map, Value as Json, json};
use std::any::Any;

/// A key, as the reference describes it.
pub(crate) struct Key {
    pub name: &'static str,
    pub help: String,
    /// In TOML or in words; `None` where the key must be given.
    pub default: Option<String>,
    pub valid: String,
    /// The names that are valid, each with its meaning.
    pub choices: &'static [(&'static str, &'static str)],
    pub schema: serde_json::Value,
    pub when: Option<When>,
    /// In TOML.
    pub example: &'static str,
}

/// What must be configured for a key to be read.
pub(crate) struct When {
    /// The keys that decide about it, as `table.key`.
    pub by: &'static [&'static str],
    /// The condition in words.
    pub text: String,
    rule: Rule,
}

/// A condition on a part of the configuration: a table, or how one site is compressed. `None` on
/// any other part.
type Rule = Box<dyn Fn(&dyn Any) -> Option<bool> + Send + Sync>;

impl When {
    /// The condition that `rule` holds for a part of the configuration, about which the keys `by`
    /// decide.
    pub fn new<T: 'static>(
        by: &'static [&'static str],
        text: impl Into<String>,
        rule: fn(&T) -> bool,
    ) -> Self {
        Self { by, text: text.into(), rule: Box::new(move |part| part.downcast_ref().map(rule)) }
    }

    /// Whether it holds for one of these parts of the configuration.
    pub fn holds<'a>(&self, parts: impl IntoIterator<Item = &'a dyn Any>) -> bool {
        parts.into_iter().any(|part| (self.rule)(part) == Some(true))
    }
}

/// The condition that a choice has one of these values.
macro_rules! reads {
    ($table:ident: $name:ident.$key:ident in [$($value:path),+]) => {
        $crate::declare::When::new(
            &[concat!(stringify!($name), ".", stringify!($key))],
            $crate::declare::one_of(concat!("[", stringify!($name), "] ", stringify!($key)), &[$($value.as_str()),+]),
            |table: &$table| [$($value),+].contains(&table.$key),
        )
    };
}
pub(crate) use reads;

/// `key = "a", "b" or "c"`.
pub(crate) fn one_of(key: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => {
            format!("{key} = {} or {last}", first.join(", "))
        }
        _ => format!("{key} = {}", names.concat()),
    }
}

/// What [`table!`] makes of a declaration.
pub(crate) trait Declared: Sized {
    /// The name of the table, or of the list that it stands in.
    const NAME: &'static str;
    /// What the table is about.
    fn about() -> String;
    /// Its keys, in the order of the declaration.
    fn keys() -> Vec<Key>;
    /// Reads every key; conditions between keys are checked by the table itself.
    fn read(table: &Table<'_>) -> Result<Self, Error>;
    /// Every key that has a value, in the same order.
    fn write(&self) -> Vec<(&'static str, toml::Value)>;
}

/// A table that is being read.
pub(crate) struct Table<'a> {
    pub sources: &'a SourceMap,
    pub id: TableId,
    pub entries: &'a toml::Table,
    keys: fn() -> Vec<Key>,
}

impl<'a> Table<'a> {
    /// The table of these entries, whose keys `T` declares.
    pub fn new<T: Declared>(sources: &'a SourceMap, id: TableId, entries: &'a toml::Table) -> Self {
        Self { sources, id, entries, keys: T::keys }
    }

    /// The `index`-th table of the list that is the value of the key at `list`.
    pub fn item<T: Declared>(list: &KeyPlace<'a>, index: usize, entries: &'a toml::Table) -> Self {
        Self::new::<T>(
            list.sources,
            TableId::item(&format!("{}.{}", list.table.name, list.key), index),
            entries,
        )
    }

    /// The tables in the list that is the value of `key`.
    pub fn items<T: Declared>(&self, key: &'static str) -> impl Iterator<Item = Table<'a>> {
        let list = self
            .entries
            .get(key)
            .and_then(toml::Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let list = list.iter().filter_map(toml::Value::as_table).enumerate();
        let (sources, name) = (self.sources, format!("{}.{key}", self.id.name));
        list.map(move |(index, entries)| {
            Table::new::<T>(sources, TableId::item(&name, index), entries)
        })
    }

    /// The value of a key whose numbers must be in `range`, if it is given.
    pub fn read<T: Value>(&self, key: &'static str, range: Range) -> Result<Option<T>, Error> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        let valid = || self.valid(key);
        let at = KeyPlace { sources: self.sources, table: &self.id, key, valid: &valid };
        let value = T::read(value, &at)?;
        if value.numbers().iter().all(|number| range.contains(*number)) {
            Ok(Some(value))
        } else {
            Err(at.error(&range.must()))
        }
    }

    /// The same for a key that must be given.
    pub fn required<T: Value>(&self, key: &'static str, range: Range) -> Result<T, Error> {
        self.read(key, range)?.ok_or_else(|| self.error(key, "is missing and has no default"))
    }

    /// Whether the key is given.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The error for a key that is invalid for the reason `what`.
    pub fn error(&self, key: &str, what: &str) -> Error {
        self.sources.error_at(&self.id, key, &format!("{what} (valid: {})", self.valid(key)))
    }

    /// Refuses `key` unless `holds`.
    pub fn require(&self, key: &str, holds: bool, what: &str) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.error(key, what)) }
    }

    /// The valid values of a key, in words.
    fn valid(&self, key: &str) -> String {
        (self.keys)()
            .into_iter()
            .find(|known| known.name == key)
            .map(|key| key.valid)
            .unwrap_or_default()
    }
}

/// The JSON schema of a table that has these keys and no others.
pub(crate) fn table_schema(keys: &[Key]) -> Json {
    let properties: Map<String, Json> = keys
        .iter()
        .map(|key| (key.name.to_owned(), described(key.schema.clone(), &key.description())))
        .collect();
    let required: Vec<&str> =
        keys.iter().filter(|key| key.default.is_none()).map(|key| key.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

/// A schema with its description.
pub(crate) fn described(mut schema: Json, description: &str) -> Json {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".into(), description.into());
    }
    schema
}

/// Declares a table; see the documentation of this module.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $name:ident: $table:literal {
            $(
                $(#[doc = $help:literal])+
                $key:ident: $type:ty $(= $default:expr)?
                    $(, default $words:literal)? $(, valid $valid:literal)? $(, within $range:expr)? $(, when $when:expr)?, example $example:literal;
            )+
        }
        $(with $flat:ident: $flat_type:ty)?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $key: $type,)+
            $(#[doc = "The other keys of the table."] pub $flat: $flat_type,)?
        }

        impl $crate::declare::Declared for $name {
            const NAME: &'static str = $table;

            fn about() -> String {
                [$($about),+].concat().trim().to_owned()
            }

            fn keys() -> Vec<$crate::declare::Key> {
                let keys = vec![$($crate::declare::Key {
                    name: stringify!($key),
                    help: [$($help),+].concat().trim().to_owned(),
                    default: $crate::declare::table!(@default $type, [$($default)?], [$($words)?]),
                    valid: $crate::declare::table!(@valid $type, [$($valid)?], [$($range)?]),
                    choices: <$type as $crate::value::Value>::choices(),
                    schema: <$type as $crate::value::Value>::schema($crate::declare::table!(@range $($range)?)),
                    when: $crate::declare::table!(@when $($when)?),
                    example: $example,
                }),+];
                $(let keys = keys.into_iter().chain(<$flat_type as $crate::declare::Declared>::keys()).collect();)?
                keys
            }

            fn read(table: &$crate::declare::Table<'_>) -> Result<Self, $crate::Error> {
                Ok(Self {
                    $($key: $crate::declare::table!(@read table, $key, $type, [$($default)?], [$($range)?]),)+
                    $($flat: <$flat_type as $crate::declare::Declared>::read(table)?,)?
                })
            }

            fn write(&self) -> Vec<(&'static str, toml::Value)> {
                let written = [$((stringify!($key), $crate::value::Value::write(&self.$key))),+];
                let written = written.into_iter().filter_map(|(key, value)| Some((key, value?)));
                $(let written = written.chain($crate::declare::Declared::write(&self.$flat));)?
                written.collect()
            }
        }
    };
    (@range) => { $crate::range::Range::ANY };
    (@range $range:expr) => { $range };
    (@when) => { None };
    (@when $when:expr) => { Some($when) };
    (@default $type:ty, [$($default:expr)?], [$words:literal]) => { Some($words.to_owned()) };
    (@default $type:ty, [], []) => { None };
    (@default $type:ty, [$default:expr], []) => {{
        let default: $type = $default;
        Some($crate::value::Value::write(&default).map_or_else(|| "none".to_owned(), |value| value.to_string()))
    }};
    (@valid $type:ty, [$valid:literal], [$($range:expr)?]) => { $valid.to_owned() };
    (@valid $type:ty, [], [$($range:expr)?]) => { <$type as $crate::value::Value>::valid($crate::declare::table!(@range $($range)?)) };
    (@read $table:ident, $key:ident, $type:ty, [], [$($range:expr)?]) => {
        $table.required::<$type>(stringify!($key), $crate::declare::table!(@range $($range)?))?
    };
    (@read $table:ident, $key:ident, $type:ty, [$default:expr], [$($range:expr)?]) => {
        match $table.read::<$type>(stringify!($key), $crate::declare::table!(@range $($range)?))? {
            Some(value) => value,
            None => $default,
        }
    };
}
pub(crate) use table;
