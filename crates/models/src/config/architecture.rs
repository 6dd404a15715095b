use std::path::Path;

use super::encoder::EncoderConfig;
use super::model::ModelConfig;
use crate::{Error, Result};

/// What a model is: a language model, or an encoder that classifies.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for a model")]
pub enum Architecture {
    /// Predicts the next token.
    Decoder(ModelConfig),
    /// Reads text or images as a whole.
    Encoder(EncoderConfig),
}

impl Architecture {
    /// Hugging Face's name of it.
    pub fn model_type(&self) -> &str {
        match self {
            Self::Decoder(config) => &config.model_type,
            Self::Encoder(config) => &config.model_type,
        }
    }

    /// The language model that `place` must hold.
    ///
    /// # Errors
    /// [`Error::Task`].
    pub fn decoder(&self, place: &Path) -> Result<&ModelConfig> {
        match self {
            Self::Decoder(config) => Ok(config),
            Self::Encoder(_) => Err(self.cannot("predict the next token", "classify", place)),
        }
    }

    /// The encoder that `place` must hold.
    ///
    /// # Errors
    /// [`Error::Task`].
    pub fn encoder(&self, place: &Path) -> Result<&EncoderConfig> {
        match self {
            Self::Encoder(config) => Ok(config),
            Self::Decoder(_) => Err(self.cannot("classify", "predict the next token", place)),
        }
    }

    pub(super) fn into_decoder(self, place: &Path) -> Result<ModelConfig> {
        match self {
            Self::Decoder(config) => Ok(config),
            Self::Encoder(_) => Err(self.cannot("predict the next token", "classify", place)),
        }
    }

    fn cannot(&self, wanted: &'static str, given: &'static str, place: &Path) -> Error {
        Error::Task {
            model_type: self.model_type().to_owned(),
            file: place.to_owned(),
            wanted,
            given,
        }
    }

    /// What stands before the names of all tensors but those of the head.
    pub(crate) fn prefix(&self) -> &'static str {
        match self {
            Self::Decoder(config) => config.names.prefix(),
            Self::Encoder(config) => config.names.prefix,
        }
    }

    /// The name of a tensor that every checkpoint holds.
    pub(crate) fn known(&self) -> String {
        match self {
            Self::Decoder(config) => format!("{}.weight", config.names.embedding),
            Self::Encoder(config) => config.names.known(),
        }
    }

    /// Whether a tensor that no part of the model asks for means nothing: what follows from the
    /// configuration (rotary tables, masks), or belongs to another head; or the output projection
    /// of a model that uses its embedding instead.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        let (parts, tied_head) = match self {
            Self::Decoder(config) => {
                (config.names.ignored, config.tie_embeddings.then_some(config.names.head))
            }
            Self::Encoder(config) => (config.names.ignored, None),
        };
        let is_head = tied_head.is_some() && name.strip_suffix(".weight") == tied_head;
        is_head || parts.iter().any(|part| name.contains(part))
    }
}
