//! SmolLM3: Llama, some of whose layers know nothing of positions.

use super::family::{
    Defaults, Family, attention_bias, local_layers, positive, rotary_where, switch, window,
};
use super::llama::DEFAULTS;
use crate::config::keys::HUGGING_FACE;
use crate::config::names;

pub(super) const SMOLLM3: Family = Family {
    model_type: "smollm3",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        hidden_size: 2048,
        num_layers: 36,
        num_heads: 16,
        num_kv_heads: Some(4),
        vocab_size: 128_256,
        max_positions: 32768,
        rope_theta: 2e6,
        tie_embeddings: true,
        bos: Some(128_000),
        eos: &[128_001],
        pad: Some(128_004),
        ..DEFAULTS
    },
    tensors: &names::LLAMA,
    describe: |fields, config| {
        attention_bias(fields, config, false)?;
        config.mlp_bias = switch(fields, "mlp_bias", false)?;
        let (key, layers) = ("no_rope_layers", config.layers.len());
        let interval = positive(fields, "no_rope_layer_interval", 4)?;
        // Against its name, it has 1 where there are positions.
        let rotary = fields.integers(key)?.unwrap_or_else(|| {
            (1..=layers as i64).map(|layer| i64::from(layer % interval != 0)).collect()
        });
        if rotary.len() != layers {
            return Err(
                fields.invalid(key, format!("it has {} entries for {layers} layers", rotary.len()))
            );
        }
        let (window, used) = (window(fields, None)?, switch(fields, "use_sliding_window", false)?);
        let is_local = |layer: i64| used && window.is_some() && rotary[layer as usize] == 0;
        local_layers(fields, config, window, is_local, |_, _| {})?;
        config
            .layers
            .iter_mut()
            .zip(&rotary)
            .for_each(|(layer, rotary)| rotary_where(layer, *rotary != 0));
        Ok(())
    },
};
