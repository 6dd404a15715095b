//! `config.json`, with the meaning and the defaults of transformers' `LlamaConfig`.

use super::fields::Fields;
use super::{ModelConfig, Names, RopeConfig, RopeScaling, SUPPORTED_MODEL_TYPES, shared_head_dim};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

const NAMES: Names = Names {
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
};

/// Reads the table of the `config.json` at `file`.
pub(crate) fn read(file: &Path, table: &Map<String, Value>) -> Result<ModelConfig> {
    let fields = Fields::new(file, table);
    match fields.text("model_type")? {
        Some("llama") => llama(&fields),
        Some(other) => {
            Err(Error::UnsupportedModel { model_type: other.to_owned(), file: file.to_owned(), supported: SUPPORTED_MODEL_TYPES })
        }
        None => Err(fields.invalid("model_type", "it is absent")),
    }
}

fn llama(fields: &Fields<'_>) -> Result<ModelConfig> {
    refuse_unsupported(fields)?;
    let hidden_size = fields.integer(NAMES.hidden_size)?.unwrap_or(4096);
    let num_heads = fields.integer(NAMES.num_heads)?.unwrap_or(32);
    let head_dim = match fields.integer(NAMES.head_dim)? {
        Some(head_dim) => head_dim,
        None => shared_head_dim(fields, NAMES.head_dim, hidden_size, num_heads)?,
    };
    let config = ModelConfig {
        model_type: "llama".into(),
        hidden_size,
        intermediate_size: fields.integer(NAMES.intermediate_size)?.unwrap_or(11008),
        num_layers: fields.integer(NAMES.num_layers)?.unwrap_or(32),
        num_heads,
        num_kv_heads: fields.integer(NAMES.num_kv_heads)?.unwrap_or(num_heads),
        head_dim,
        vocab_size: fields.integer(NAMES.vocab_size)?.unwrap_or(32000),
        max_positions: fields.integer(NAMES.max_positions)?.unwrap_or(2048),
        norm_eps: fields.number(NAMES.norm_eps)?.unwrap_or(1e-6),
        rope: rope(fields)?,
        tie_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
        attention_bias: fields.boolean("attention_bias")?.unwrap_or(false),
        mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
        // An absent id has a default in transformers; an explicit null means that there is none.
        bos_token_id: if fields.contains("bos_token_id") { fields.token("bos_token_id")? } else { Some(1) },
        eos_token_ids: if fields.contains("eos_token_id") { fields.tokens("eos_token_id")?.unwrap_or_default() } else { vec![2] },
        pad_token_id: fields.token("pad_token_id")?,
    };
    config.validate(fields, &NAMES)
}

/// Options that transformers honours for this architecture and that change what the model computes.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(fields.unsupported("hidden_act", format!("{other:?}"), "\"silu\"")),
    }
    fields.only("pretraining_tp", 1)?;
    fields.only("attention_dropout", 0.0)?;
    fields.only("partial_rotary_factor", 1.0)?;
    fields.none("quantization_config")
}

/// `rope_theta` and `rope_scaling`, or both together in the newer `rope_parameters`.
fn rope(fields: &Fields<'_>) -> Result<RopeConfig> {
    let table = match fields.table("rope_parameters")? {
        Some(table) => Some(("rope_parameters", table)),
        None => fields.table("rope_scaling")?.map(|table| ("rope_scaling", table)),
    };
    let theta = match &table {
        Some((_, table)) => table.number("rope_theta")?,
        None => None,
    };
    let theta = match theta {
        Some(theta) => theta,
        None => fields.number("rope_theta")?.unwrap_or(10_000.0),
    };
    let scaling = match table {
        Some((name, table)) => scaling(name, &table)?,
        None => RopeScaling::None,
    };
    Ok(RopeConfig { theta, scaling })
}

fn scaling(name: &str, table: &Fields<'_>) -> Result<RopeScaling> {
    table.only("partial_rotary_factor", 1.0)?;
    let kind = match table.text("rope_type")? {
        Some(kind) => kind,
        None => table.text("type")?.unwrap_or("default"),
    };
    let needed =
        |key: &str| table.number(key)?.ok_or_else(|| table.invalid(&format!("{name}.{key}"), format!("rope type {kind:?} needs it")));
    match kind {
        "default" => match table.is_nested() {
            // A table per kind of layer, as models with two kinds of attention have it.
            true => Err(table.unsupported(name, "one table per kind of layer", "one table for all layers")),
            false => Ok(RopeScaling::None),
        },
        "linear" => Ok(RopeScaling::Linear { factor: needed("factor")? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: needed("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_max_position_embeddings: table.needed("original_max_position_embeddings")?,
        }),
        other => {
            Err(table.unsupported(&format!("{name}.rope_type"), format!("{other:?}"), "\"default\", \"linear\", \"llama3\", \"dynamic\""))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<ModelConfig> {
        read(Path::new("some/config.json"), value.as_object().unwrap())
    }

    /// A small model with `changes` on top.
    fn small(changes: Value) -> Result<ModelConfig> {
        let mut value = json!({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4});
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        parse(value)
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = parse(json!({"model_type": "llama"})).unwrap();
        let expected = ModelConfig {
            model_type: "llama".into(),
            hidden_size: 4096,
            intermediate_size: 11008,
            num_layers: 32,
            num_heads: 32,
            num_kv_heads: 32,
            head_dim: 128,
            vocab_size: 32000,
            max_positions: 2048,
            norm_eps: 1e-6,
            rope: RopeConfig { theta: 10_000.0, scaling: RopeScaling::None },
            tie_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: None,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn absent_null_and_several_are_told_apart() {
        let config = small(json!({
            "head_dim": null, "num_key_value_heads": 2, "eos_token_id": [7, 8], "bos_token_id": null,
            "pad_token_id": -1, "max_position_embeddings": 8192.0, "some_future_key": {"a": 1}
        }))
        .unwrap();
        assert_eq!((config.head_dim, config.num_kv_heads, config.max_positions), (16, 2, 8192));
        assert_eq!((config.bos_token_id, config.pad_token_id), (None, None));
        assert_eq!(config.eos_token_ids, [7, 8]);
        assert_eq!(small(json!({"head_dim": 24})).unwrap().head_dim, 24);
        assert!(small(json!({"eos_token_id": null})).unwrap().eos_token_ids.is_empty());
    }

    #[test]
    fn every_spelling_of_rope_scaling_is_read() {
        let llama3 = json!({
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3"
        });
        let expected =
            RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };
        let scaling = |changes| small(changes).unwrap().rope;
        assert_eq!(scaling(json!({"rope_scaling": llama3})).scaling, expected);
        let mut newer = llama3.clone();
        newer["rope_theta"] = json!(500000.0);
        let newer = scaling(json!({"rope_parameters": newer}));
        assert_eq!((newer.theta, newer.scaling), (500_000.0, expected));
        let linear = scaling(json!({"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 1e6}));
        assert_eq!((linear.theta, linear.scaling), (1e6, RopeScaling::Linear { factor: 2.0 }));
        let dynamic = scaling(json!({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}));
        assert_eq!(dynamic.scaling, RopeScaling::Dynamic { factor: 4.0 });
        let none = scaling(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}));
        assert_eq!((none.theta, none.scaling), (7.0, RopeScaling::None));
    }

    #[test]
    fn options_that_change_the_mathematics_are_refused_by_name() {
        let cases = [
            (json!({"hidden_act": "gelu"}), "hidden_act"),
            (json!({"pretraining_tp": 2}), "pretraining_tp"),
            (json!({"attention_dropout": 0.1}), "attention_dropout"),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config"),
            (json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "rope_scaling.rope_type"),
            (json!({"rope_parameters": {"rope_type": "longrope"}}), "rope_parameters.rope_type"),
            (json!({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}), "rope_parameters"),
        ];
        for (changes, key) in cases {
            let refused = small(changes.clone()).unwrap_err();
            assert!(matches!(&refused, Error::UnsupportedOption { option, .. } if option == key), "{changes}: {refused}");
            assert!(refused.to_string().contains("some/config.json"), "{refused}");
        }
        small(json!({"pretraining_tp": 1, "attention_dropout": 0, "hidden_act": "silu"})).unwrap();
    }

    #[test]
    fn impossible_values_are_refused_by_key() {
        let cases = [
            (json!({"hidden_size": 0}), "hidden_size"),
            (json!({"hidden_size": "64"}), "hidden_size"),
            (json!({"num_hidden_layers": -1}), "num_hidden_layers"),
            (json!({"vocab_size": 1e18 as i64}), "vocab_size"),
            (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (json!({"num_attention_heads": 0}), "head_dim"),
            (json!({"num_attention_heads": 3}), "head_dim"),
            (json!({"head_dim": 15}), "head_dim"),
            (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
            (json!({"rope_theta": -1.0}), "rope_theta"),
            (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
            (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling"),
            (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
            (json!({"eos_token_id": ["</s>"]}), "eos_token_id"),
            (json!({"model_type": null}), "model_type"),
        ];
        for (changes, expected) in cases {
            let refused = small(changes.clone()).unwrap_err();
            assert!(matches!(&refused, Error::InvalidConfig { key, .. } if key == expected), "{changes}: {refused}");
        }
    }

    #[test]
    fn an_unknown_architecture_is_told_what_is_supported() {
        let refused = small(json!({"model_type": "mamba"})).unwrap_err().to_string();
        for part in ["mamba", "some/config.json"].iter().chain(SUPPORTED_MODEL_TYPES) {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
