//! The names of a record's columns: which are read, under which names, and which need no mention.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Fault;
use crate::error::{Error, Result};

/// What a record is read from, by the names that [`Columns`] may give to others.
const READ: [&str; 27] = [
    "messages",
    "conversations",
    "conversation",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "text",
    "instruction",
    "input",
    "context",
    "output",
    "response",
    "question",
    "answer",
    "query",
    "inputs",
    "targets",
    "problem",
    "solution",
    "history",
    "system",
    "system_prompt",
    "tools",
    "functions",
    "documents",
    "chat_template_kwargs",
];

/// Keys that say where a record comes from or what it is about: nobody expects them in the text.
const HARMLESS: [&str; 52] = [
    "id",
    "_id",
    "idx",
    "index",
    "uid",
    "uuid",
    "guid",
    "hash",
    "sha",
    "__index_level_0__",
    "key",
    "row_id",
    "sample_id",
    "example_id",
    "conversation_id",
    "conv_id",
    "prompt_id",
    "message_id",
    "question_id",
    "task_id",
    "dialogue_id",
    "doc_id",
    "source",
    "sources",
    "dataset",
    "dataset_name",
    "origin",
    "url",
    "domain",
    "subset",
    "split",
    "config",
    "timestamp",
    "date",
    "created",
    "created_at",
    "added",
    "model",
    "model_name",
    "generator",
    "license",
    "lang",
    "language",
    "category",
    "categories",
    "topic",
    "tags",
    "task",
    "meta",
    "metadata",
    "num_turns",
    "token_count",
];

/// Names of columns in the data: `prompt = "question"` reads the column `question` as `prompt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Columns(BTreeMap<String, String>);

impl Columns {
    /// Checks that each name on the left is one that is read.
    pub(crate) fn new(map: &BTreeMap<String, String>) -> Result<Self> {
        let refuse = |problem: String| {
            Err(Error::Options {
                option: "columns",
                problem,
                remedy: format!("known are {}", READ.join(", ")),
            })
        };
        for (ours, theirs) in map {
            if !READ.contains(&ours.as_str()) {
                return refuse(format!("`{ours}` is no column that is read"));
            }
            if theirs.is_empty() {
                return refuse(format!("`{ours}` has no name"));
            }
        }
        Ok(Self(map.clone()))
    }

    /// Gives the columns of a record the names that are read. One that is not there is like any
    /// other key that a record may lack.
    pub(crate) fn rename(&self, fields: &mut Map<String, Value>) {
        let found: Vec<(&String, Value)> = self
            .0
            .iter()
            .filter_map(|(ours, theirs)| Some((ours, fields.get(theirs)?.clone())))
            .collect();
        for theirs in self.0.values() {
            fields.shift_remove(theirs);
        }
        for (ours, value) in found {
            fields.insert(ours.clone(), value);
        }
    }

    /// Says that a column is missing, in a record that is none without it.
    pub(crate) fn missing(&self, fields: &Map<String, Value>) -> Option<Fault> {
        let (ours, theirs) = self.0.iter().find(|(ours, _)| !fields.contains_key(*ours))?;
        let problem = format!("there is no `{theirs}`, which [data] columns names for `{ours}`");
        Some(Fault { problem, remedy: "check the names of the columns".into() })
    }

    /// What the data call one of our columns.
    pub(crate) fn theirs<'a>(&'a self, ours: &'a str) -> &'a str {
        self.0.get(ours).map_or(ours, String::as_str)
    }

    /// Whether a column of the data is one that is read.
    pub(crate) fn reads(&self, theirs: &str) -> bool {
        READ.iter().any(|ours| self.theirs(ours) == theirs)
    }

    /// All columns that are read, by the names that the data have for them.
    pub(crate) fn all(&self) -> Vec<String> {
        READ.iter().map(|ours| self.theirs(ours).to_owned()).collect()
    }
}

/// Whether a key that is not read deserves a mention.
pub(crate) fn is_worth_naming(key: &str) -> bool {
    !HARMLESS.contains(&key.to_ascii_lowercase().as_str())
}
