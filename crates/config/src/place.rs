//! Where a value was written, and errors that say so.

use super::{
    choice::{self, Choice},
    error::Error,
    keys,
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
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

/// Where each table and each key of a configuration was written.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    file: PathBuf,
    tables: BTreeMap<String, Place>,
    keys: BTreeMap<(String, String), Place>,
}

/// Where a key was written is not part of what the run is: a configuration equals its resolved form.
impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Places in `file`, none known yet.
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// Records where a table begins.
    pub(super) fn put_table(&mut self, table: &str, place: Place) {
        self.tables.insert(table.to_owned(), place);
    }

    /// Records where a key's value is.
    pub(super) fn put_key(&mut self, table: &str, key: &str, place: Place) {
        self.keys.insert((table.to_owned(), key.to_owned()), place);
    }

    /// The place of a key; of its table if the key is not written, of the file if neither is.
    fn find(&self, table: &str, key: &str) -> Place {
        self.keys
            .get(&(table.to_owned(), key.to_owned()))
            .or_else(|| self.tables.get(table))
            .cloned()
            .unwrap_or_else(|| Place::File { path: self.file.clone(), line: None })
    }

    /// The error `PLACE: [table] key: what (valid: …)`.
    pub(super) fn refuse(&self, table: &str, key: &str, what: &str) -> Error {
        let valid = keys::valid(table, key).map(|valid| format!(" (valid: {valid})")).unwrap_or_default();
        self.misfit(table, key, &format!("{what}{valid}"))
    }

    /// The same, for a key of the `index`-th table in a list.
    pub(super) fn refuse_item(&self, list: &str, index: usize, key: &str, what: &str) -> Error {
        let valid = keys::valid(list, key).map(|valid| format!(" (valid: {valid})")).unwrap_or_default();
        self.misfit_item(list, index, key, &format!("{what}{valid}"))
    }

    /// The error `PLACE: [[list]] key: what`, for a value that is valid in itself.
    pub(super) fn misfit_item(&self, list: &str, index: usize, key: &str, what: &str) -> Error {
        Error::new(self.find(&Self::item(list, index), key), format!("[[{list}]] {key}: {what}"))
    }

    /// The error `PLACE: [table] key: what`, for a value that is valid in itself.
    pub(super) fn misfit(&self, table: &str, key: &str, what: &str) -> Error {
        Error::new(self.find(table, key), format!("[{table}] {key}: {what}"))
    }

    /// Errors at the keys of one table.
    pub(super) fn table<'a>(&'a self, table: &'static str) -> Table<'a> {
        Table { places: self, table, item: None }
    }

    /// The name under which the places of the `index`-th table in a list are recorded.
    pub(super) fn item(list: &str, index: usize) -> String {
        format!("{list}.{index}")
    }
}

/// The checks of one table's keys.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    places: &'a Places,
    table: &'static str,
    /// Which table, where it is one in a list.
    item: Option<usize>,
}

impl Table<'_> {
    /// The checks of the `index`-th table of this table's list of overrides.
    pub(super) fn item(&self, index: usize) -> Self {
        Self { table: "activations.overrides", item: Some(index), ..*self }
    }

    /// The error for `key`.
    pub(super) fn refuse(&self, key: &str, what: &str) -> Error {
        match self.item {
            None => self.places.refuse(self.table, key, what),
            Some(index) => self.places.refuse_item(self.table, index, key, what),
        }
    }

    /// Refuses `key` unless `holds`.
    pub(super) fn require(&self, key: &str, holds: bool, what: &str) -> Result<(), Error> {
        if holds { Ok(()) } else { Err(self.refuse(key, what)) }
    }

    /// The value of a required key.
    pub(super) fn given<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.refuse(key, "is missing and has no default"))
    }

    /// A required path.
    pub(super) fn given_path(&self, key: &str, value: Option<PathBuf>) -> Result<PathBuf, Error> {
        let path = self.given(key, value)?;
        self.require(key, !path.as_os_str().is_empty(), "must not be empty")?;
        Ok(path)
    }

    /// A path that may be left out.
    pub(super) fn path(&self, key: &str, value: Option<PathBuf>) -> Result<Option<PathBuf>, Error> {
        value.map(|path| self.given_path(key, Some(path))).transpose()
    }

    /// One of the named values of `C`.
    pub(super) fn choose<C: Choice>(&self, key: &str, value: Option<&str>, default: C) -> Result<C, Error> {
        Ok(self.choose_given(key, value)?.unwrap_or(default))
    }

    /// The same, where it is given.
    pub(super) fn choose_given<C: Choice>(&self, key: &str, value: Option<&str>) -> Result<Option<C>, Error> {
        let Some(name) = value else { return Ok(None) };
        C::from_name(name).map(Some).ok_or_else(|| {
            let what = if C::NOT_YET.contains(&name) {
                format!("\"{name}\" is not available yet")
            } else {
                match choice::closest(name, C::NAMES) {
                    Some(meant) => format!("unknown value \"{name}\", did you mean \"{meant}\"?"),
                    None => format!("unknown value \"{name}\""),
                }
            };
            self.refuse(key, &what)
        })
    }
}
