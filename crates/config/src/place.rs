//! Places and tables, as messages name them.

use std::fmt;
use std::path::PathBuf;

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

/// A text on one line, and not too long for a message.
pub(crate) fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
