//! The texts a configuration is read from, merged into one tree.
//!
//! The file and the overrides share one address space: the file comes first, each override follows,
//! so that a span of the merged tree tells which text, and which line of it, a value was written
//! in.

use crate::{
    Error,
    closest::closest,
    place::{Place, TableId, one_line},
    registry::{self, TableSpec},
    source_map::SourceMap,
    suggest,
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The file's text and the overrides.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
    overrides: Vec<Override>,
}

const REMEDY: &str = "give its path, relative to the current directory";

/// One `--set table.key=value`.
struct Override {
    /// As it was given.
    text: String,
    table: String,
    key: String,
    value: String,
    /// Where its text begins in the shared address space.
    start: usize,
}

impl Source {
    /// Reads the file and takes the overrides apart.
    pub(crate) fn read(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        let at_file = || Place::File { path: path.to_owned(), line: None };
        let text = files::read_text(path).map_err(|cause| {
            Error::new(at_file(), format!("cannot read the configuration: {cause}; {REMEDY}"))
        })?;
        Self::new(path, text, overrides)
    }

    /// The same, from a text.
    pub(crate) fn new(path: &Path, text: String, overrides: &[String]) -> Result<Self, Error> {
        let mut start = text.len() + 1;
        let mut parsed = Vec::with_capacity(overrides.len());
        for given in overrides {
            let refused = || {
                Error::new(
                    Place::Override(given.clone()),
                    "not an override (valid: table.key=value, for example run.steps=100)",
                )
            };
            let (name, value) = given.split_once('=').ok_or_else(refused)?;
            let (table, key) = name.trim().split_once('.').ok_or_else(refused)?;
            if table.is_empty() || key.is_empty() || key.contains('.') {
                return Err(refused());
            }
            let value = value.trim().to_owned();
            let length = value.len();
            parsed.push(Override {
                text: given.clone(),
                table: table.into(),
                key: key.into(),
                value,
                start,
            });
            start += length + 1;
        }
        Ok(Self { path: path.to_owned(), text, overrides: parsed })
    }

    /// The merged tree, all names of which are known, and where everything was written.
    pub(crate) fn parse(&self) -> Result<(toml::Table, SourceMap), Error> {
        let mut tree = DeTable::parse(&self.text).map_err(|error| {
            Error::new(
                self.place(error.span().map_or(0, |span| span.start)),
                one_line(error.message()),
            )
        })?;
        self.check_names(tree.get_ref())?;
        for given in &self.overrides {
            given.apply(tree.get_mut(), self.text.len())?;
        }
        self.check_names(tree.get_ref())?;
        let sources = self.source_map(tree.get_ref());
        let tables =
            toml::Table::deserialize(toml::de::Deserializer::from(tree)).map_err(|error| {
                Error::new(
                    self.place(error.span().map_or(0, |span| span.start)),
                    one_line(error.message()),
                )
            })?;
        Ok((tables, sources))
    }

    /// Refuses unknown tables and keys, and keys with the name of a table.
    fn check_names(&self, tree: &DeTable<'_>) -> Result<(), Error> {
        for (name, value) in tree {
            let (table, at) = (name.get_ref().as_ref(), self.place(name.span().start));
            let Some(known) = registry::table(table).filter(|table| !table.is_list) else {
                return Err(unknown_table(at, table, value.get_ref()));
            };
            let Some(entries) = value.get_ref().as_table() else {
                return Err(Error::new(
                    at,
                    format!("{table}: is a table; write its keys below a line [{table}]"),
                ));
            };
            self.check_keys(&TableId::new(table), entries, known)?;
            for (list, items) in lists(table, entries) {
                items.into_iter().try_for_each(|(_, item)| {
                    self.check_keys(&TableId::item(list.name, 0), item, list)
                })?;
            }
        }
        Ok(())
    }

    fn check_keys(
        &self,
        table: &TableId,
        entries: &DeTable<'_>,
        known: &TableSpec,
    ) -> Result<(), Error> {
        match entries.keys().find(|key| !known.keys.iter().any(|known| known.name == key.get_ref()))
        {
            Some(key) => {
                Err(unknown_key(self.place(key.span().start), table, key.get_ref(), known))
            }
            None => Ok(()),
        }
    }

    fn source_map(&self, tree: &DeTable<'_>) -> SourceMap {
        let mut sources = SourceMap::new(&self.path);
        let mut put = |id: TableId, start: usize, entries: &DeTable<'_>| {
            entries.iter().for_each(|(key, value)| {
                sources.put_key(&id, key.get_ref(), self.place(value.span().start))
            });
            sources.put_table(id, self.place(start));
        };
        for (table, value) in tree {
            let Some(entries) = value.get_ref().as_table() else { continue };
            put(TableId::new(table.get_ref()), table.span().start, entries);
            for (list, items) in lists(table.get_ref(), entries) {
                items.into_iter().enumerate().for_each(|(index, (start, item))| {
                    put(TableId::item(list.name, index), start, item)
                });
            }
        }
        sources
    }

    fn override_at(&self, position: usize) -> Option<&Override> {
        self.overrides.iter().rev().find(|given| position >= given.start)
    }

    fn place(&self, position: usize) -> Place {
        match self.override_at(position) {
            Some(given) => Place::Override(given.text.clone()),
            None => {
                let before = &self.text.as_bytes()[..position.min(self.text.len())];
                let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
                Place::File { path: self.path.clone(), line: Some(line) }
            }
        }
    }
}

impl Override {
    /// Puts the value into the tree: as TOML where it is TOML, as a string otherwise.
    /// `file_end` is where the file's text ends in the shared address space.
    fn apply<'a>(&'a self, tree: &mut DeTable<'a>, file_end: usize) -> Result<(), Error> {
        let at = || Place::Override(self.text.clone());
        let span = self.start..self.start + self.value.len();
        let value = match DeValue::parse(&self.value) {
            Ok(value) => shifted(value, self.start),
            Err(_) => Spanned::new(span.clone(), DeValue::String(Cow::Borrowed(&self.value))),
        };
        // A key's name has no text of its own in the value; it stands where the value does.
        let name = |name: &'a str| Spanned::new(span.clone(), Cow::Borrowed(name));
        let table = tree
            .entry(name(&self.table))
            .or_insert_with(|| Spanned::new(span.clone(), DeValue::Table(DeTable::new())));
        let DeValue::Table(entries) = table.get_mut() else {
            return Err(Error::new(at(), format!("{}: is not a table in the file", self.table)));
        };
        // An override of one way to give the length replaces the other in the file.
        let other = match (self.table.as_str(), self.key.as_str()) {
            ("run", "steps") => Some("epochs"),
            ("run", "epochs") => Some("steps"),
            _ => None,
        };
        if let Some(other) = other {
            let in_file = entries.get(other).is_some_and(|value| value.span().start < file_end);
            if in_file {
                entries.remove(other);
            }
        }
        entries.remove(self.key.as_str());
        entries.insert(name(&self.key), value);
        Ok(())
    }
}

/// A list of tables, and where each of its tables begins.
type List<'a, 'b> = (&'static TableSpec, Vec<(usize, &'a DeTable<'b>)>);

/// The lists of tables among a table's keys that are known as such.
fn lists<'a, 'b>(table: &str, entries: &'a DeTable<'b>) -> Vec<List<'a, 'b>> {
    let list = |(key, value): (&Spanned<Cow<'b, str>>, &'a Spanned<DeValue<'b>>)| {
        let list = registry::table(&format!("{table}.{}", key.get_ref()))?;
        let items = value.get_ref().as_array()?;
        Some((
            list,
            items
                .iter()
                .filter_map(|item| Some((item.span().start, item.get_ref().as_table()?)))
                .collect(),
        ))
    };
    entries.iter().filter_map(list).collect()
}

/// The value with its span, and those within it, moved by `by`.
fn shifted<'a>(value: Spanned<DeValue<'a>>, by: usize) -> Spanned<DeValue<'a>> {
    let span = value.span();
    let mut inner = value.into_inner();
    match &mut inner {
        DeValue::Array(items) => {
            for item in items.iter_mut() {
                let taken = std::mem::replace(item, Spanned::new(0..0, DeValue::Boolean(false)));
                *item = shifted(taken, by);
            }
        }
        DeValue::Table(entries) => {
            let taken = std::mem::take(entries);
            for (key, value) in taken {
                let at = key.span();
                entries.insert(
                    Spanned::new(at.start + by..at.end + by, key.into_inner()),
                    shifted(value, by),
                );
            }
        }
        _ => {}
    }
    Spanned::new(span.start + by..span.end + by, inner)
}

fn unknown_key(at: Place, table: &TableId, key: &str, known: &TableSpec) -> Error {
    let names: Vec<&str> = known.keys.iter().map(|key| key.name).collect();
    let hint = suggest::key(&table.name, key, &names)
        .map_or_else(String::new, |meant| format!(", did you mean {meant}?"));
    Error::new(at, format!("{table} {key}: unknown key{hint} (valid: {})", names.join(", ")))
}

fn unknown_table(at: Place, table: &str, value: &DeValue<'_>) -> Error {
    let names: Vec<&str> =
        registry::tables().iter().filter(|table| !table.is_list).map(|table| table.name).collect();
    if !value.is_table()
        && let Some(meant) = suggest::key_anywhere(table)
    {
        return Error::new(at, format!("{table}: stands outside a table, did you mean {meant}?"));
    }
    let hint = closest(table, &names)
        .map_or_else(String::new, |meant| format!(", did you mean [{meant}]?"));
    Error::new(at, format!("[{table}]: unknown table{hint} (valid: [{}])", names.join("], [")))
}
