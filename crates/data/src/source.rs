use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a source holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's ending: `.jsonl`, `.ndjson` and `.json` hold records of any known shape, `.txt` text,
    /// `.safetensors` ready batches.
    #[default]
    Auto,
    /// JSON or JSONL records with `messages`, `conversations`, or `prompt` and `completion`.
    Conversations,
    /// Plain text, whose paragraphs (split at blank lines) are the documents; or, in a file that ends in `.json`,
    /// `.jsonl` or `.ndjson`, records with `text`.
    Text,
    /// A safetensors file of ready batches: `batches` I64 `[steps, batch, tokens]`, and perhaps `labels` of the same
    /// shape, where -100 means "not trained".
    Batches,
}

/// One file of training data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// What it holds.
    #[serde(default)]
    pub format: Format,
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Self {
        Self { path: path.into(), format: Format::Auto }
    }
}

/// The files of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// What is trained on, in this order.
    pub train: Vec<Source>,
    /// What is evaluated on; empty: nothing, or what [`crate::Options::eval_samples`] holds out of `train`.
    #[serde(default)]
    pub eval: Vec<Source>,
}

impl Sources {
    /// Sources to train on, with no evaluation file of their own.
    pub fn train<S: Into<Source>>(sources: impl IntoIterator<Item = S>) -> Self {
        Self { train: sources.into_iter().map(Into::into).collect(), eval: Vec::new() }
    }
}
