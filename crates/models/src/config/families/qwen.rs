//! Qwen 2 and 3.

use layers::{Routing, Scoring};

use super::family::{
    Defaults, Family, HeadDim, attention_bias, everywhere, local_layers, positive, switch, window,
};
use super::llama::DEFAULTS;
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::HUGGING_FACE;
use crate::config::names::{self, ExpertNames, TensorNames};
use crate::config::{ExpertsConfig, HeadNorm, ModelConfig};

const QWEN: Defaults = Defaults {
    intermediate_size: Some(22016),
    num_kv_heads: Some(32),
    vocab_size: 151_936,
    max_positions: 32768,
    bos: None,
    eos: &[],
    ..DEFAULTS
};

pub(super) const QWEN2: Family = Family {
    model_type: "qwen2",
    keys: &HUGGING_FACE,
    defaults: QWEN,
    tensors: &names::LLAMA,
    describe: |fields, config| {
        config.attention.bias = true;
        late_windows(fields, config)
    },
};

pub(super) const QWEN3: Family = Family {
    model_type: "qwen3",
    keys: &HUGGING_FACE,
    defaults: Defaults { head_dim: HeadDim::Fixed(128), ..QWEN },
    tensors: &names::LLAMA,
    describe: |fields, config| {
        attention_bias(fields, config, false)?;
        config.attention.head_norm = Some(HeadNorm::PerHead);
        late_windows(fields, config)
    },
};

/// `sliding_window` counts if `use_sliding_window` says so, by default from layer
/// `max_window_layers` on.
fn late_windows(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    let window = used_window(fields)?;
    let first = fields.integer("max_window_layers")?.unwrap_or(28);
    local_layers(fields, config, window, |layer| window.is_some() && layer >= first, |_, _| {})
}

fn used_window(fields: &Fields<'_>) -> Result<Option<i64>> {
    let used = switch(fields, "use_sliding_window", false)?;
    if used { window(fields, Some(4096)) } else { Ok(None) }
}

pub(super) const QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        hidden_size: 2048,
        intermediate_size: Some(6144),
        num_layers: 24,
        num_kv_heads: Some(4),
        ..QWEN
    },
    tensors: &TensorNames {
        experts: Some(ExpertNames {
            router: "mlp.gate",
            correction: None,
            experts: "mlp.experts.",
            expert: ["gate_proj", "up_proj", "down_proj"],
            shared: None,
        }),
        ..names::LLAMA
    },
    describe: mixture,
};

fn mixture(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    fields.only("output_router_logits", false)?;
    attention_bias(fields, config, false)?;
    config.attention.head_norm = Some(HeadNorm::PerHead);
    everywhere(config, used_window(fields)?);
    let count = fields.integer("num_experts")?.unwrap_or(128);
    let step = positive(fields, "decoder_sparse_step", 1)?;
    let dense = fields.integers("mlp_only_layers")?.unwrap_or_default();
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.mixture =
            count > 0 && !dense.contains(&(index as i64)) && (index as i64 + 1) % step == 0;
    }
    if config.layers.iter().any(|layer| layer.mixture) {
        config.experts = Some(ExpertsConfig {
            count,
            width: positive(fields, "moe_intermediate_size", 768)?,
            shared_width: 0,
            routing: Routing {
                per_token: positive(fields, "num_experts_per_tok", 8)?,
                scoring: Scoring::Softmax,
                normalised: switch(fields, "norm_topk_prob", false)?.then_some(0.0),
                scale: 1.0,
                groups: None,
            },
            router_is_linear: true,
        });
    }
    Ok(())
}
