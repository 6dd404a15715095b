//! Checkpoints: the weights, the configuration and the text side of a model, from a Hugging Face
//! directory or a GGUF file. Names and layouts are Hugging Face's, whichever it is.

mod gguf;
mod hf;
mod open;
mod templates;
mod text;
mod tokenizer;

pub use templates::ChatTemplates;
pub use tokenizer::{GgufTokenizer, TokenizerSource};

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use layers::BlockFormat;

use crate::{Architecture, EncoderConfig, Error, ModelConfig, Result};
use text::Text;

/// An open checkpoint. Opening reads headers and configuration only; tensors are read one at a
/// time, from any number of threads.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    architecture: Architecture,
    weights: Box<dyn Weights>,
    text: Text,
}

/// The tensor in which GGUF stores divisors of the rotary frequencies.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Where the weights of a checkpoint lie.
trait Weights: std::fmt::Debug + Send + Sync {
    fn names(&self) -> Vec<&str>;
    fn shape(&self, name: &str) -> Option<&[i64]>;
    /// The kind of number that `name` is stored in; none where it is quantized.
    fn kind(&self, name: &str) -> Option<Kind>;
    /// Fails unless `name` is stored in a format that holds real numbers.
    fn check_format(&self, name: &str) -> Result<()>;
    fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor>;
    /// The blocks that `name` is stored in; none where these are plain numbers.
    fn block_format(&self, _name: &str) -> Option<BlockFormat> {
        None
    }
    /// The blocks of `name` as they are stored, `[rows, bytes of a row]`, if it is stored in
    /// blocks.
    fn blocks(&self, _name: &str, _device: Device) -> Result<Option<Tensor>> {
        Ok(None)
    }
    fn bytes_on_disk(&self) -> u64;
}

impl Checkpoint {
    /// Whether it holds no weights at all.
    pub fn is_untrained(&self) -> bool {
        self.weights.names().is_empty()
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The configuration of a language model.
    ///
    /// # Errors
    /// [`Error::Task`] if the model is none.
    pub fn config(&self) -> Result<&ModelConfig> {
        self.architecture.decoder(&self.path)
    }

    /// The configuration of an encoder.
    ///
    /// # Errors
    /// [`Error::Task`] if the model is none.
    pub fn encoder_config(&self) -> Result<&EncoderConfig> {
        self.architecture.encoder(&self.path)
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names = self.weights.names();
        names.sort_unstable();
        names
    }

    /// The shape of `name`, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[i64]> {
        self.weights.shape(name)
    }

    /// The kind of number that `name` is stored in; none where it is quantized, or not there.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.weights.kind(name)
    }

    /// Checks, without reading any weights, that every tensor of `expected` is there with its shape
    /// and in a usable format, and that there is nothing else but what is known to be harmless:
    /// rotary tables, and the output projection of a model that uses its embedding instead.
    ///
    /// # Errors
    /// The first of [`Error::MissingTensor`], [`Error::Shape`], [`Error::Dtype`] and
    /// [`Error::UnexpectedTensor`].
    pub fn check(&self, expected: &[(String, Vec<i64>)]) -> Result<()> {
        for (name, shape) in expected {
            let got = self.shape(name).ok_or_else(|| self.missing(name))?;
            if got != shape {
                return Err(Error::Shape {
                    tensor: name.clone(),
                    file: self.path.clone(),
                    expected: shape.clone(),
                    got: got.to_vec(),
                });
            }
            self.weights.check_format(name)?;
        }
        let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        match self.names().into_iter().find(|name| !known.contains(name) && !self.is_harmless(name))
        {
            None => Ok(()),
            Some(name) => {
                Err(Error::UnexpectedTensor { tensor: name.to_owned(), file: self.path.clone() })
            }
        }
    }

    /// Reads `name` as `kind` on `device`: a contiguous tensor with a storage of its own,
    /// dequantized if need be. In addition to the result, only a few MiB are held at a time.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Dtype`], [`Error::Io`], or [`Error::Torch`] (no memory on
    /// `device`).
    pub fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        if self.shape(name).is_none() {
            return Err(self.missing(name));
        }
        self.weights.check_format(name)?;
        self.weights.tensor(name, kind, device)
    }

    /// The blocks that `name` is stored in; none where it is stored in plain numbers, or not there.
    pub fn block_format(&self, name: &str) -> Option<BlockFormat> {
        self.weights.block_format(name)
    }

    /// Reads the blocks of `name`, a matrix, as they are stored: `[rows, bytes of a row]`, the rows
    /// in the order of [`Checkpoint::tensor`].
    ///
    /// # Errors
    /// [`Error::Dtype`] where it is not stored in blocks; those of [`Checkpoint::tensor`].
    pub fn blocks(&self, name: &str, device: Device) -> Result<Tensor> {
        let plain = || Error::Dtype {
            tensor: name.to_owned(),
            file: self.path.clone(),
            expected: "rows of the blocks of GGUF",
            got: self
                .kind(name)
                .map_or_else(|| "something else".into(), |kind| format!("{kind:?}")),
        };
        self.weights.blocks(name, device)?.ok_or_else(plain)
    }

    /// The size of the weight files.
    pub fn bytes_on_disk(&self) -> u64 {
        self.weights.bytes_on_disk()
    }

    /// Where the model's tokenizer is.
    pub fn tokenizer(&self) -> &TokenizerSource {
        &self.text.tokenizer
    }

    /// The Jinja templates that turn a conversation into text.
    pub fn chat_templates(&self) -> &ChatTemplates {
        &self.text.templates
    }

    fn missing(&self, name: &str) -> Error {
        Error::MissingTensor { tensor: name.to_owned(), file: self.path.clone() }
    }

    /// Whether `name` is there in this shape.
    pub(crate) fn holds(&self, name: &str, shape: &[i64]) -> bool {
        self.shape(name) == Some(shape)
    }

    fn is_harmless(&self, name: &str) -> bool {
        // GGUF stores divisors of the rotary frequencies, which have become part of the
        // configuration.
        self.architecture.ignores(name) || name == ROPE_DIVISORS
    }
}

#[cfg(test)]
mod tests;
