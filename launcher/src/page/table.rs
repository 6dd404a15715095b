//! A table of a page.

use serde::Serialize;

/// A table, written by the template `table.html`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// What it holds; empty where the heading says that.
    pub caption: String,
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The first column that holds numbers, which stand at the right.
    pub numbers: usize,
    /// Each row has one cell per column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(
        caption: impl Into<String>,
        columns: impl IntoIterator<Item = impl Into<String>>,
        numbers: usize,
    ) -> Self {
        Self {
            caption: caption.into(),
            columns: columns.into_iter().map(Into::into).collect(),
            numbers,
            rows: Vec::new(),
        }
    }
}
