//! The `config.json` of a merged model.

use serde_json::{Map, Value, json};
use tch::Kind;

use crate::{Checkpoint, Error, ModelConfig, Result, RopeScaling};

/// That of the base, or for a GGUF file one that says the same; with `kind` as the dtype, and no
/// longer tied if that has changed.
pub(super) fn describe(checkpoint: &Checkpoint, kind: Kind, is_untied: bool) -> Result<Value> {
    let file = checkpoint.path().join("config.json");
    let mut table: Map<String, Value> = if checkpoint.path().is_dir() {
        let text = crate::file::read_to_string(&file).map_err(Error::io(&file, "read"))?;
        serde_json::from_str(&text)
            .map_err(|why| Error::corrupt(&file, format!("it is not a JSON table: {why}")))?
    } else {
        llama(checkpoint.config()?)
    };
    // Newer versions of transformers write the key as "dtype", and read both.
    let key = if table.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    let dtype = match kind {
        Kind::Double => "float64",
        Kind::BFloat16 => "bfloat16",
        Kind::Half => "float16",
        _ => "float32",
    };
    table.insert(key.into(), dtype.into());
    if is_untied {
        table.insert("tie_word_embeddings".into(), false.into());
    }
    Ok(Value::Object(table))
}

/// The model of a GGUF file, which is a Llama (`LlamaConfig` of transformers).
fn llama(model: &ModelConfig) -> Map<String, Value> {
    let rope_scaling = match &model.rope.scaling {
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        // GGUF has no others.
        _ => Value::Null,
    };
    let eos = match model.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    let entries = [
        ("architectures", json!(["LlamaForCausalLM"])),
        ("attention_bias", model.attention.bias.into()),
        ("bos_token_id", json!(model.bos_token_id)),
        ("eos_token_id", eos),
        ("head_dim", model.head_dim.into()),
        ("hidden_act", "silu".into()),
        ("hidden_size", model.hidden_size.into()),
        ("intermediate_size", model.intermediate_size.into()),
        ("max_position_embeddings", model.max_positions.into()),
        ("mlp_bias", model.mlp_bias.into()),
        ("model_type", "llama".into()),
        ("num_attention_heads", model.num_heads.into()),
        ("num_hidden_layers", model.num_layers.into()),
        ("num_key_value_heads", model.num_kv_heads.into()),
        ("pad_token_id", json!(model.pad_token_id)),
        ("rms_norm_eps", model.norm_eps.into()),
        ("rope_scaling", rope_scaling),
        ("rope_theta", model.rope.theta.into()),
        ("tie_word_embeddings", model.tie_embeddings.into()),
        ("vocab_size", model.vocab_size.into()),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::hugging_face;
    use std::path::Path;

    #[test]
    fn a_llama_is_described_so_that_it_is_read_the_same() {
        let plain = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true, "bos_token_id": 1,
            "eos_token_id": [2, 7], "rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 131072}"#;
        let scalings = [
            Value::Null,
            json!({"rope_type": "linear", "factor": 4.0}),
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192}),
        ];
        for scaling in scalings {
            let mut table: Map<String, Value> = serde_json::from_str(plain).unwrap();
            table.insert("rope_scaling".into(), scaling);
            let place = Path::new("config.json");
            let read = |table: &Map<String, Value>| {
                hugging_face::read(place, table).unwrap().decoder(place).unwrap().clone()
            };
            let model = read(&table);
            assert_eq!(read(&llama(&model)), model);
        }
    }
}
