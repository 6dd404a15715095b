//! The metadata of a GGUF file of the Llama architecture (keys of the GGUF specification, as
//! llama.cpp writes them).

use super::fields::Fields;
use super::keys::{self, Keys};
use super::model::{ModelConfig, shared_head_dim};
use super::names;
use super::rope::{RopeConfig, RopeScaling};
use crate::{Error, Result};

const NAMES: Keys = Keys {
    hidden_size: "llama.embedding_length",
    intermediate_size: "llama.feed_forward_length",
    num_layers: "llama.block_count",
    num_heads: "llama.attention.head_count",
    num_kv_heads: "llama.attention.head_count_kv",
    head_dim: "llama.attention.key_length",
    vocab_size: "llama.vocab_size",
    max_positions: "llama.context_length",
    norm_eps: "llama.attention.layer_norm_rms_epsilon",
    rope_theta: "llama.rope.freq_base",
    rope_scaling: "llama.rope.scaling",
    ..keys::HUGGING_FACE
};

/// What the tensors say about the model and the metadata do not.
pub(crate) struct TensorFacts {
    /// Rows of the embedding.
    pub vocab_size: Option<i64>,
    /// Whether there is an output projection of its own.
    pub has_output: bool,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// The divisors of the rotary frequencies, one per pair (`rope_freqs.weight`).
    pub rope_divisors: Option<Vec<f32>>,
}

/// Reads the scalars of a GGUF file's metadata.
pub(crate) fn read(fields: &Fields<'_>, facts: &TensorFacts) -> Result<ModelConfig> {
    match fields.text("general.architecture")? {
        Some("llama") => llama(fields, facts),
        Some(other) => Err(Error::UnsupportedModel {
            model_type: other.to_owned(),
            file: fields.file().to_owned(),
            supported: &["llama"],
        }),
        None => Err(fields.invalid("general.architecture", "it is absent")),
    }
}

fn llama(fields: &Fields<'_>, facts: &TensorFacts) -> Result<ModelConfig> {
    let hidden_size = fields.needed(NAMES.hidden_size)?;
    let num_heads = fields.needed(NAMES.num_heads)?;
    let head_dim = match fields.integer(NAMES.head_dim)? {
        Some(head_dim) => head_dim,
        None => shared_head_dim(fields, NAMES.head_dim, hidden_size, num_heads)?,
    };
    let max_positions = fields.needed(NAMES.max_positions)?;
    refuse_unsupported(fields, head_dim, max_positions)?;
    let vocab_size = match facts.vocab_size {
        Some(rows) => rows,
        None => fields.needed(NAMES.vocab_size)?,
    };
    let theta = fields.number(NAMES.rope_theta)?.unwrap_or(10_000.0);
    let mut config = ModelConfig {
        model_type: "llama".into(),
        hidden_size,
        intermediate_size: fields.needed(NAMES.intermediate_size)?,
        num_layers: fields.needed(NAMES.num_layers)?,
        num_heads,
        num_kv_heads: fields.integer(NAMES.num_kv_heads)?.unwrap_or(num_heads),
        head_dim,
        vocab_size,
        max_positions,
        norm_eps: fields
            .number(NAMES.norm_eps)?
            .ok_or_else(|| fields.invalid(NAMES.norm_eps, "it is absent"))?,
        rope: RopeConfig { theta, scaling: scaling(fields)? },
        tie_embeddings: !facts.has_output,
        mlp_bias: facts.mlp_bias,
        bos_token_id: fields.token("tokenizer.ggml.bos_token_id")?,
        eos_token_ids: eos_tokens(fields)?,
        pad_token_id: fields.token("tokenizer.ggml.padding_token_id")?,
        ..ModelConfig::template(&names::LLAMA)
    }
    .sized(fields, &NAMES)?;
    config.attention.bias = facts.attention_bias;
    config.attention.output_bias = facts.attention_bias;
    config.attention.rotary_width = head_dim;
    let mut config = config.checked(fields, &NAMES)?;
    if let Some(divisors) = &facts.rope_divisors {
        config.rope.scaling = from_divisors(fields, &config, divisors)?;
    }
    Ok(config)
}

/// The end of a text, and the end of a turn where that is another token.
fn eos_tokens(fields: &Fields<'_>) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        if let Some(id) = fields.token(key)?.filter(|id| !ids.contains(id)) {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn refuse_unsupported(fields: &Fields<'_>, head_dim: i64, max_positions: i64) -> Result<()> {
    fields.only("split.count", 1).or_else(|refused| match fields.integer("split.count")? {
        Some(0) => Ok(()),
        _ => Err(refused),
    })?;
    fields.only("llama.expert_count", 0)?;
    fields.only("llama.use_parallel_residual", false)?;
    fields.only("llama.attention.causal", true)?;
    fields.only("llama.rope.dimension_count", head_dim)?;
    fields.only("llama.attention.value_length", head_dim)?;
    for key in [
        "llama.logit_scale",
        "llama.embedding_scale",
        "llama.residual_scale",
        "llama.attention.scale",
    ] {
        fields.only(key, 1.0)?;
    }
    match fields.integer("llama.attention.sliding_window")? {
        Some(window) if window > 0 && window < max_positions => Err(fields.unsupported(
            "llama.attention.sliding_window",
            window,
            "no window shorter than the context",
        )),
        _ => Ok(()),
    }
}

fn scaling(fields: &Fields<'_>) -> Result<RopeScaling> {
    let key = "llama.rope.scaling.type";
    let kind = match fields.text(key)? {
        Some(kind) => kind,
        // Files from before there was a type have a linear factor only.
        None if fields.number("llama.rope.scale_linear")?.is_some_and(|factor| factor != 1.0) => {
            "linear"
        }
        None => "none",
    };
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" => {
            let factor = match fields.number("llama.rope.scaling.factor")? {
                Some(factor) => factor,
                None => fields.number("llama.rope.scale_linear")?.unwrap_or(1.0),
            };
            Ok(RopeScaling::Linear { factor })
        }
        other => Err(fields.unsupported(key, format!("{other:?}"), "\"none\", \"linear\"")),
    }
}

/// Finds the Llama 3 scaling behind the divisors of `rope_freqs.weight`. GGUF keeps the divisors
/// only; every published Llama 3.x model has the same three other constants, and whether they fit
/// is checked.
fn from_divisors(
    fields: &Fields<'_>,
    config: &ModelConfig,
    divisors: &[f32],
) -> Result<RopeScaling> {
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return Ok(config.rope.scaling.clone());
    }
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(factor),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = RopeConfig { theta: config.rope.theta, scaling: RopeScaling::None };
    let guess = RopeConfig { theta: config.rope.theta, scaling };
    let frequencies = plain.inverse_frequencies(config.head_dim, 1);
    let fits = frequencies.len() == divisors.len()
        && frequencies.iter().zip(divisors).all(|(&frequency, &divisor)| {
            (guess.divisor(frequency) / f64::from(divisor) - 1.0).abs() < 1e-3
        });
    if config.rope.scaling != RopeScaling::None || !fits {
        let supported = "divisors of the Llama 3 scaling (1 to 4 turns in 8192 tokens), alone";
        return Err(fields.unsupported("rope_freqs.weight", "other divisors", supported));
    }
    Ok(guess.scaling)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};
    use std::path::Path;

    fn plain() -> TensorFacts {
        TensorFacts {
            vocab_size: Some(100),
            has_output: true,
            attention_bias: false,
            mlp_bias: false,
            rope_divisors: None,
        }
    }

    fn small(changes: Value, facts: &TensorFacts) -> Result<ModelConfig> {
        let mut value = json!({
            "general.architecture": "llama", "llama.embedding_length": 512, "llama.feed_forward_length": 96,
            "llama.block_count": 2, "llama.attention.head_count": 4, "llama.context_length": 131072,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 500000.0
        });
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        read(&Fields::new(Path::new("a.gguf"), value.as_object().unwrap()), facts)
    }

    #[test]
    fn metadata_and_tensors_make_a_configuration() {
        let changes = json!({
            "llama.attention.head_count_kv": 2, "llama.rope.dimension_count": 128, "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 3
        });
        let config = small(changes, &TensorFacts { has_output: false, ..plain() }).unwrap();
        assert_eq!((config.num_heads, config.num_kv_heads, config.head_dim), (4, 2, 128));
        assert_eq!((config.vocab_size, config.max_positions), (100, 131_072));
        assert_eq!(config.rope, RopeConfig { theta: 5e5, scaling: RopeScaling::None });
        assert!(config.tie_embeddings);
        assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), None));
        assert_eq!(config.eos_token_ids, [2, 3]);
    }

    #[test]
    fn the_llama3_scaling_is_recovered_from_its_divisors() {
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let scaled = RopeConfig { theta: 5e5, scaling: scaling.clone() };
        let unscaled = RopeConfig { theta: 5e5, scaling: RopeScaling::None };
        let divisors: Vec<f32> = unscaled
            .inverse_frequencies(128, 1)
            .iter()
            .map(|&frequency| scaled.divisor(frequency) as f32)
            .collect();
        let facts = TensorFacts { rope_divisors: Some(divisors.clone()), ..plain() };
        assert_eq!(small(json!({}), &facts).unwrap().rope.scaling, scaling);
        let ones = TensorFacts { rope_divisors: Some(vec![1.0; 64]), ..plain() };
        assert_eq!(small(json!({}), &ones).unwrap().rope.scaling, RopeScaling::None);

        let mut other = divisors.clone();
        other[20] *= 1.5;
        for wrong in [other, divisors[..63].to_vec(), vec![f32::NAN; 64]] {
            let facts = TensorFacts { rope_divisors: Some(wrong), ..plain() };
            let refused = small(json!({}), &facts).unwrap_err();
            assert!(
                matches!(&refused, Error::UnsupportedOption { option, .. } if option == "rope_freqs.weight")
            );
        }
    }

    #[test]
    fn linear_scaling_is_read_in_both_spellings() {
        let newer = json!({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0});
        for changes in [newer, json!({"llama.rope.scale_linear": 4.0})] {
            assert_eq!(
                small(changes, &plain()).unwrap().rope.scaling,
                RopeScaling::Linear { factor: 4.0 }
            );
        }
    }

    #[test]
    fn options_that_change_the_mathematics_are_refused_by_name() {
        let cases = [
            ("split.count", json!(3)),
            ("llama.expert_count", json!(8)),
            ("llama.rope.dimension_count", json!(32)),
            ("llama.attention.value_length", json!(64)),
            ("llama.attention.sliding_window", json!(4096)),
            ("llama.rope.scaling.type", json!("yarn")),
            ("llama.logit_scale", json!(16.0)),
        ];
        for (key, value) in cases {
            let mut changes = json!({});
            changes[key] = value;
            let refused = small(changes, &plain()).unwrap_err();
            assert!(
                matches!(&refused, Error::UnsupportedOption { option, .. } if option == key),
                "{key}: {refused}"
            );
        }
        small(json!({"split.count": 0, "llama.expert_count": 0}), &plain()).unwrap();
    }

    #[test]
    fn absent_and_foreign_are_told_apart() {
        let absent = small(json!({"llama.block_count": null}), &plain()).unwrap_err();
        assert!(
            matches!(&absent, Error::InvalidConfig { key, .. } if key == "llama.block_count"),
            "{absent}"
        );
        let foreign =
            small(json!({"general.architecture": "mamba"}), &plain()).unwrap_err().to_string();
        assert!(foreign.contains("mamba") && foreign.contains("llama"), "{foreign}");
    }
}
