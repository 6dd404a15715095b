//! `[model]`: which model, and in which numbers.

use crate::{Error, choice::choice, place::Table, raw};
use serde::Serialize;
use std::path::PathBuf;

choice! {
    /// The type of a model's weights and activations.
    Dtype {
        /// 32-bit floating point.
        F32 = "f32",
        /// bfloat16: f32's range with 8 bits of precision.
        Bf16 = "bf16",
    }
}

choice! {
    /// How the frozen weights are held.
    Quantization {
        /// In the model's dtype.
        None = "none",
        /// Four bits for each number of the linear layers (arXiv 2305.14314).
        Nf4 = "nf4",
        /// In the blocks of the GGUF file.
        Gguf = "gguf",
    }
}

impl Dtype {
    /// Bytes of one number.
    pub fn bytes(self) -> i64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

choice! {
    /// What a model learns.
    Task {
        /// The next token of a text.
        CausalLm = "causal_lm",
        /// The class of a text.
        SequenceClassification = "sequence_classification",
        /// The class of an image.
        ImageClassification = "image_classification",
    }
}

choice! {
    /// What weights a model begins with.
    StartingWeights {
        /// Those of its files.
        Pretrained = "pretrained",
        /// Drawn from the seed.
        Random = "random",
    }
}

/// `[model]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    /// `path`: a Hugging Face model directory, or a `.gguf` file. Required.
    pub path: PathBuf,
    /// `task`: `"causal_lm"`, `"sequence_classification"` or `"image_classification"`. Default: `"causal_lm"`.
    pub task: Task,
    /// `weights`: `"pretrained"`, or `"random"` for a classifier that is trained from nothing but its `config.json`. Default: `"pretrained"`.
    pub weights: StartingWeights,
    /// `dtype`: `"f32"` or `"bf16"`. Default: `"f32"`.
    pub dtype: Dtype,
    /// `quantization`: `"none"`; `"nf4"`, four bits for each number of the linear layers; or `"gguf"`, the blocks that a `.gguf` file has. Default:
    /// `"none"`.
    pub quantization: Quantization,
    /// `tokenizer`: a `tokenizer.json`, `tokenizer.model` or `tekken.json`, or a directory that has one, to use instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// `chat_template`: a Jinja template to use instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
}

impl Model {
    pub(super) fn resolve(raw: raw::Model, at: Table<'_>) -> Result<Self, Error> {
        Ok(Self {
            path: at.given_path("path", raw.path)?,
            task: at.choose("task", raw.task.as_deref(), Task::CausalLm)?,
            weights: at.choose("weights", raw.weights.as_deref(), StartingWeights::Pretrained)?,
            dtype: at.choose("dtype", raw.dtype.as_deref(), Dtype::F32)?,
            quantization: at.choose("quantization", raw.quantization.as_deref(), Quantization::None)?,
            tokenizer: at.path("tokenizer", raw.tokenizer)?,
            chat_template: at.path("chat_template", raw.chat_template)?,
        })
    }
}
