use std::fmt;
use std::path::{Path, PathBuf};

/// What this crate's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where in which file something was found; prints as `file:line`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Everything that can go wrong between a file and a batch. Each message says what happened, where,
/// and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}; check the path and its permissions")]
    Io {
        /// What was tried: `open`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// One record of a source cannot be used.
    #[error("{problem}, at {place}; {remedy}")]
    Record {
        /// File and line of the record.
        place: Place,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A whole file cannot be used.
    #[error("{problem}, in {path}; {remedy}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// No sample is left to train or evaluate on.
    #[error("the {role} data set is empty: {reason}; {remedy}")]
    Empty {
        /// `train` or `eval`.
        role: &'static str,
        /// How many records were read and why each is gone.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// The tokenizer cannot be built, or cannot do what is asked.
    #[error("{problem}, in the tokenizer {name}; {remedy}")]
    Tokenizer {
        /// A path, or `of the GGUF file`.
        name: String,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The chat template does not parse, does not render, or cannot be masked.
    #[error("{problem}, in the chat template; {remedy}")]
    Template {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Options that exclude each other, or that have no meaning for the data.
    #[error("{option}: {problem}; {remedy}")]
    Options {
        /// The field of [`crate::Options`], [`crate::OrderConfig`] or [`crate::Sources`].
        option: &'static str,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// Samples that cannot be put into one batch.
    #[error("{problem}, while collating a batch; {remedy}")]
    Batch {
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
}

impl From<files::Unwritten> for Error {
    fn from(files::Unwritten { path, action, source }: files::Unwritten) -> Self {
        Self::Io { action, path, source }
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn file(
        path: &Path,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Error {
        Error::File { path: path.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }
}
