//! `[data] train` and `eval`: where samples come from.

use crate::{
    Error,
    declare::{Declared, Table, table, table_schema},
    range::Range,
    source_map::KeyPlace,
    value::Value,
};
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};

table! {
    /// One source of samples: in TOML its path, or a table such as `{ path = "a.jsonl", weight =
    /// 2.0 }`.
    DataSource: "data.train" {
        /// A file, or a folder, of which all files with a known ending are read in the order of
        /// their paths.
        path: PathBuf, example r#""a.jsonl""#;
        /// How many times each of its training samples is read in an epoch. A fraction reads some
        /// samples, drawn by the run's seed, once more. Validation samples have no weight.
        weight: f64 = 1.0, within Range::above(0.0).at_most(1000.0), example "2.0";
    }
}

/// Where samples come from: in TOML one path, or a list of paths and tables; their samples come in
/// this order before they are shuffled.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSources(Vec<DataSource>);

impl DataSources {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &DataSource> {
        self.0.iter()
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.iter().map(|source| source.path.as_path())
    }

    /// The first path; a classifier has no other.
    pub fn first(&self) -> &Path {
        self.0.first().map_or(Path::new(""), |source| &source.path)
    }

    /// The path, if there is one only.
    pub fn only(&self) -> Option<&Path> {
        self.paths().next().filter(|_| self.0.len() == 1)
    }
}

impl Value for DataSources {
    fn read(value: &toml::Value, at: &KeyPlace<'_>) -> Result<Self, Error> {
        let source = |(index, item): (usize, &toml::Value)| match item {
            toml::Value::Table(entries) => {
                DataSource::read(&Table::item::<DataSource>(at, index, entries))
            }
            toml::Value::String(_) => {
                Ok(DataSource { path: PathBuf::read(item, at)?, weight: 1.0 })
            }
            _ => Err(at.cannot_be(item)),
        };
        let items = match value {
            toml::Value::Array(items) if items.is_empty() => {
                return Err(at.error("must not be empty"));
            }
            toml::Value::Array(items) => items.as_slice(),
            toml::Value::String(_) => std::slice::from_ref(value),
            _ => return Err(at.cannot_be(value)),
        };
        items.iter().enumerate().map(source).collect::<Result<_, _>>().map(Self)
    }

    fn write(&self) -> Option<toml::Value> {
        let write = |source: &DataSource| match source.weight {
            1.0 => source.path.write(),
            _ => Some(toml::Value::Table(
                source.write().into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            )),
        };
        match self.0.as_slice() {
            [source] if source.weight == 1.0 => write(source),
            sources => Some(sources.iter().filter_map(write).collect::<Vec<_>>().into()),
        }
    }

    fn valid(_: Range) -> String {
        "a path | a list of paths and tables".into()
    }

    fn schema(range: Range) -> Json {
        let path = PathBuf::schema(range);
        json!({"anyOf": [path, {"type": "array", "minItems": 1, "items": {"anyOf": [path, table_schema(&DataSource::keys())]}}]})
    }
}
