use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a source holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's ending: `.jsonl`, `.ndjson` and `.json` hold records of any known shape, `.csv` and `.parquet` the same in columns, `.txt`
    /// text, `.safetensors` ready batches.
    #[default]
    Auto,
    /// Records or tables with `messages`, `conversations`, or `prompt` and `completion`.
    Conversations,
    /// Plain text, whose paragraphs (split at blank lines) are the documents; or, in a file that ends in `.json`,
    /// `.jsonl`, `.ndjson`, `.csv` or `.parquet`, records with `text`.
    Text,
    /// A safetensors file of ready batches: `batches` I64 `[steps, batch, tokens]`, and perhaps `labels` of the same
    /// shape, where -100 means "not trained".
    Batches,
}

/// A file of training data, or a folder of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file. Of a folder all files with a known ending are taken, at any depth, in the order of their paths; hidden ones are not.
    pub path: PathBuf,
    /// What it holds.
    #[serde(default)]
    pub format: Format,
    /// How often each of its training samples comes in an epoch. The whole part says how often all of them do; of the fraction `f` that is left,
    /// `f` times their number, rounded, come once more: a draw that depends on the seed, the source's place in the list and its number of
    /// samples only. So 2.0 is all of them twice, 0.25 a quarter of them once, the same quarter in every epoch and on any number of ranks. What is
    /// held out for evaluation is drawn before, so that no sample of it is trained on, and is not weighted.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

impl<P: Into<PathBuf>> From<P> for Source {
    fn from(path: P) -> Self {
        Self { path: path.into(), format: Format::Auto, weight: 1.0 }
    }
}

/// The files of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// One file of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) kind: Kind,
    /// Which source it belongs to.
    pub(crate) source: usize,
}

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Json,
    Paragraphs,
    Csv,
    Parquet,
    Ready,
}

/// The files of sources, in order.
pub(crate) fn files(sources: &[Source]) -> Result<Vec<SourceFile>> {
    let mut found = Vec::new();
    for (source, named) in sources.iter().enumerate() {
        for path in named.paths()? {
            let kind = kind(&path, named.format)?;
            found.push(SourceFile { path, format: named.format, kind, source });
        }
    }
    Ok(found)
}

impl Source {
    /// The file, or those of the folder.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        if !self.path.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let mut found = Vec::new();
        list(&self.path, &mut found)?;
        if found.is_empty() {
            return Err(Error::file(&self.path, "a folder without data", format!("put files in it that end in {}", KNOWN.join(", "))));
        }
        Ok(found)
    }
}

/// The endings of files that are taken from a folder.
const KNOWN: [&str; 7] = ["jsonl", "ndjson", "json", "csv", "parquet", "txt", "safetensors"];

fn list(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let io = || Error::io("list", folder);
    let entries = std::fs::read_dir(folder).map_err(io())?.collect::<std::io::Result<Vec<_>>>().map_err(io())?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort_unstable();
    for path in paths {
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            list(&path, found)?;
        } else if KNOWN.contains(&ending(&path).as_str()) {
            found.push(path);
        }
    }
    Ok(())
}

fn ending(path: &Path) -> String {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase()
}

fn kind(path: &Path, format: Format) -> Result<Kind> {
    let ending = ending(path);
    Ok(match (format, ending.as_str()) {
        (Format::Batches, _) | (Format::Auto, "safetensors") => Kind::Ready,
        (_, "csv") => Kind::Csv,
        (_, "parquet") => Kind::Parquet,
        (Format::Auto | Format::Text, "json" | "jsonl" | "ndjson") | (Format::Conversations, _) => Kind::Json,
        (Format::Auto, "txt") | (Format::Text, _) => Kind::Paragraphs,
        (Format::Auto, _) => {
            return Err(Error::file(
                path,
                format!("the ending {ending:?} does not tell what is inside"),
                "set the source's format to conversations, text or batches, or name it .jsonl, .json, .csv, .parquet, .txt or .safetensors",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_give_their_files_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/2.jsonl", "b/10.jsonl", "a.TXT", "c.csv", "README.md", ".hidden.jsonl", ".git/x.json", "b/d/e.parquet"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = files(&[Source::from("first.jsonl"), Source::from(folder.path())]).unwrap();
        let names: Vec<_> =
            found.iter().map(|file| file.path.strip_prefix(folder.path()).unwrap_or(&file.path).to_str().unwrap()).collect();
        assert_eq!(names, ["first.jsonl", "a.TXT", "b/10.jsonl", "b/2.jsonl", "b/d/e.parquet", "c.csv"]);
        assert_eq!(found.iter().map(|file| file.source).collect::<Vec<_>>(), [0, 1, 1, 1, 1, 1]);
        let empty = tempfile::tempdir().unwrap();
        let error = files(&[Source::from(empty.path())]).unwrap_err().to_string();
        assert!(error.contains("a folder without data") && error.contains("jsonl"), "{error}");
    }
}
