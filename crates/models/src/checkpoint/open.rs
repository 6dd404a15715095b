//! Which kind of checkpoint a path is.

use std::path::Path;

use super::{Checkpoint, gguf, hf};
use crate::{Error, Result};

impl Checkpoint {
    /// Opens a Hugging Face directory (`config.json` with `model.safetensors`, or with
    /// `model.safetensors.index.json` and the files it names) or a `.gguf` file of version 2 or 3.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::NotAModel`], [`Error::Corrupt`], or what is wrong with the
    /// configuration ([`Error::UnsupportedModel`], [`Error::UnsupportedOption`],
    /// [`Error::InvalidConfig`]).
    pub fn open(path: &Path) -> Result<Self> {
        let facts = std::fs::metadata(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::MissingFile {
                path: path.to_owned(),
                remedy: "give the directory of a Hugging Face model, or a .gguf file".into(),
            },
            _ => Error::Io { path: path.to_owned(), action: "open", source },
        })?;
        if facts.is_dir() {
            return hf::open(path);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(extension) if extension.eq_ignore_ascii_case("gguf") => gguf::open(path),
            _ => Err(Error::NotAModel { path: path.to_owned(), why: "it is a single file".into() }),
        }
    }

    /// Opens the description of a model, `config.json` and what there is of its text side, and no
    /// weights: it holds none, and [`Classifier::load`] draws them.
    ///
    /// [`Classifier::load`]: crate::Classifier::load
    ///
    /// # Errors
    /// [`Error::NotAModel`], or what is wrong with the configuration.
    pub fn open_untrained(folder: &Path) -> Result<Self> {
        hf::open_untrained(folder)
    }
}
