//! `config.json`, with the meaning and the defaults of the configuration classes of transformers (4.57).

use super::encoder;
use super::families::{FAMILIES, SUPPORTED_MODEL_TYPES};
use super::fields::Fields;
use super::{Architecture, Names};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

pub(super) const NAMES: Names = Names {
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    num_layers: "num_hidden_layers",
    num_heads: "num_attention_heads",
    num_kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    vocab_size: "vocab_size",
    max_positions: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    rope_theta: "rope_theta",
    rope_scaling: "rope_scaling",
    activation: "hidden_act",
    attention_dropout: "attention_dropout",
    residual_dropout: "residual_dropout",
    embedding_dropout: "embedding_dropout",
};

/// Reads the table of the `config.json` at `file`.
pub(crate) fn read(file: &Path, table: &Map<String, Value>) -> Result<Architecture> {
    let fields = Fields::new(file, table);
    let model_type = fields.text("model_type")?.ok_or_else(|| fields.invalid("model_type", "it is absent"))?;
    fields.none("quantization_config")?;
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) {
        return family.read(&fields).map(Architecture::Decoder);
    }
    if let Some(family) = encoder::FAMILIES.iter().find(|family| family.model_types.contains(&model_type)) {
        return (family.read)(&fields).map(Architecture::Encoder);
    }
    Err(Error::UnsupportedModel { model_type: model_type.to_owned(), file: file.to_owned(), supported: SUPPORTED_MODEL_TYPES })
}

#[cfg(test)]
mod tests;
