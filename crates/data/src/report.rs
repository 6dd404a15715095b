//! What happened to the records of a data set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What happened to the records of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records read.
    pub records: usize,
    /// Records left out because they could not be used ([`crate::BadLines::Skip`]).
    pub skipped: usize,
    /// Records that lost their end to the sequence length ([`crate::Overflow::Truncate`]).
    pub truncated: usize,
    /// Documents of the data set that stand in several pieces, in rows of their own or of a packed
    /// set.
    #[serde(default)]
    pub split: usize,
    /// Those pieces.
    #[serde(default)]
    pub pieces: usize,
    /// Records left out because they were longer than the sequence length
    /// ([`crate::Overflow::Drop`]).
    #[serde(default)]
    pub too_long: usize,
    /// Records, or pieces of them, left out because no trained token was left in them.
    pub dropped: usize,
    /// Documents taken for validation.
    pub held_out: usize,
    /// Keys of records that nothing reads, and how many records have each; those that are known to
    /// be harmless, such as `id`, are not counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unread: BTreeMap<String, usize>,
    /// Keys that were given to the chat template and that it never names, and how many
    /// conversations have each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unwritten: BTreeMap<String, usize>,
    /// The records that were left out, by file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<BadFile>,
}

/// The records of a file that were left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadFile {
    /// The file.
    pub path: PathBuf,
    /// How many.
    pub count: usize,
    /// The first five.
    pub first: Vec<BadLine>,
}

/// One record that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadLine {
    /// Its line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

/// Bad records of a file that are named before they are only counted.
const NAMED: usize = 5;

impl Report {
    /// Counts keys that reached no text.
    pub(crate) fn count_unread(&mut self, unread: &[String], unwritten: &[String]) {
        unread.iter().for_each(|key| *self.unread.entry(key.clone()).or_default() += 1);
        unwritten.iter().for_each(|key| *self.unwritten.entry(key.clone()).or_default() += 1);
    }

    /// Counts a record that is left out.
    pub(crate) fn skip(&mut self, path: &Path, line: usize, problem: String) {
        self.skipped += 1;
        // Files come one after the other.
        if self.bad.last().is_none_or(|file| file.path != path) {
            self.bad.push(BadFile { path: path.to_owned(), count: 0, first: Vec::new() });
        }
        if let Some(file) = self.bad.last_mut() {
            file.count += 1;
            if file.first.len() < NAMED {
                file.first.push(BadLine { line, problem });
            }
        }
    }
}
