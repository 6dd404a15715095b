//! Where each value was written, and errors that say so.

use crate::{
    Error,
    place::{Place, TableId, one_line},
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where each table and each key of a configuration was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceMap {
    file: PathBuf,
    tables: BTreeMap<TableId, Place>,
    keys: BTreeMap<(TableId, String), Place>,
}

/// Where a key was written is not part of what the run is: a configuration equals its resolved
/// form.
impl PartialEq for SourceMap {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl SourceMap {
    /// Of `file`, with no place known yet.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// Records where a table begins.
    pub fn put_table(&mut self, table: TableId, place: Place) {
        self.tables.insert(table, place);
    }

    /// Records where a key's value is.
    pub fn put_key(&mut self, table: &TableId, key: &str, place: Place) {
        self.keys.insert((table.clone(), key.to_owned()), place);
    }

    /// Forgets a key that is not read.
    pub fn forget(&mut self, table: &TableId, key: &str) {
        self.keys.remove(&(table.clone(), key.to_owned()));
    }

    /// The keys that are given, each with its place.
    pub fn given(&self) -> impl Iterator<Item = (&TableId, &str, &Place)> {
        self.keys.iter().map(|((table, key), place)| (table, key.as_str(), place))
    }

    /// Whether the command line gives the key that is called `table.key`.
    pub fn is_overridden(&self, name: &str) -> bool {
        let Some((table, key)) = name.split_once('.') else { return false };
        matches!(self.keys.get(&(TableId::new(table), key.to_owned())), Some(Place::Override(_)))
    }

    /// The error `PLACE: [table] key: what`. The place is that of the key; of its table if the key
    /// is not written, of the file if neither is.
    pub fn error_at(&self, table: &TableId, key: &str, what: &str) -> Error {
        let place = self
            .keys
            .get(&(table.clone(), key.to_owned()))
            .or_else(|| self.tables.get(table))
            .cloned();
        let place = place.unwrap_or_else(|| Place::File { path: self.file.clone(), line: None });
        Error::new(place, format!("{table} {key}: {what}"))
    }
}

/// The place of a key while its value is read.
pub(crate) struct KeyPlace<'a> {
    pub sources: &'a SourceMap,
    pub table: &'a TableId,
    pub key: &'static str,
    /// The valid values, in words.
    pub valid: &'a dyn Fn() -> String,
}

impl<'a> KeyPlace<'a> {
    /// The error for a value that is invalid for the reason `what`.
    pub fn error(&self, what: &str) -> Error {
        self.sources.error_at(self.table, self.key, &format!("{what} (valid: {})", (self.valid)()))
    }

    /// The error for a value of the wrong type.
    pub fn cannot_be(&self, value: &toml::Value) -> Error {
        self.error(&format!("cannot be {}", one_line(&value.to_string())))
    }
}
