//! Where each value was written, and errors that say so.

use crate::{Error, declare::Table, registry};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a file; the line counts from 1, and is absent for something the file should have held.
    File { path: PathBuf, line: Option<usize> },
    /// On the command line: the text after `--set`.
    Override(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Override(text) => write!(f, "--set {text}"),
        }
    }
}

/// A table: one of the file, or the `item`-th of a list that is a key's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableId {
    pub name: String,
    pub item: Option<usize>,
}

impl TableId {
    /// The table `[name]`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), item: None }
    }

    /// The `index`-th table of `[[name]]`.
    pub fn item(name: &str, index: usize) -> Self {
        Self { name: name.to_owned(), item: Some(index) }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            None => write!(f, "[{}]", self.name),
            Some(_) => write!(f, "[[{}]]", self.name),
        }
    }
}

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
        let place = self.keys.get(&(table.clone(), key.to_owned())).or_else(|| self.tables.get(table)).cloned();
        let place = place.unwrap_or_else(|| Place::File { path: self.file.clone(), line: None });
        Error::new(place, format!("{table} {key}: {what}"))
    }

    /// The same with the valid values of the key, for a value that is not one of them.
    pub fn invalid_at(&self, table: &TableId, key: &str, what: &str) -> Error {
        let valid = registry::key(&table.name, key).map(|key| format!(" (valid: {})", key.valid)).unwrap_or_default();
        self.error_at(table, key, &format!("{what}{valid}"))
    }
}

/// The place of a key while its value is read.
pub(crate) struct KeyPlace<'a> {
    pub sources: &'a SourceMap,
    pub table: &'a TableId,
    pub key: &'static str,
}

impl<'a> KeyPlace<'a> {
    /// The error for a value that is invalid for the reason `what`.
    pub fn error(&self, what: &str) -> Error {
        self.sources.invalid_at(self.table, self.key, what)
    }

    /// The error for a value of the wrong type.
    pub fn cannot_be(&self, value: &toml::Value) -> Error {
        self.error(&format!("cannot be {}", one_line(&value.to_string())))
    }

    /// The `index`-th table of the list that is the key's value.
    pub fn item(&self, index: usize, entries: &'a toml::Table) -> Table<'a> {
        Table { sources: self.sources, id: TableId::item(&format!("{}.{}", self.table.name, self.key), index), entries }
    }
}

/// A text on one line, and not too long for a message.
pub(crate) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
