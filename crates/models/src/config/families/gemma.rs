//! Gemma 1 to 3.

use layers::RmsWeight;

use super::family::{
    Defaults, Family, HeadDim, attention_bias, limit, local_layers, multiplier, pattern,
    root_of_width, scale, window,
};
use super::llama::DEFAULTS;
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::{HUGGING_FACE, Keys};
use crate::config::names::{self, NormNames, TensorNames};
use crate::config::rope_table::{self, RopeDefaults};
use crate::config::{HeadNorm, LayerRope, ModelConfig, NormKind};

const GEMMA_DEFAULTS: Defaults = Defaults {
    hidden_size: 3072,
    intermediate_size: Some(24576),
    num_layers: 28,
    num_heads: 16,
    num_kv_heads: Some(16),
    head_dim: HeadDim::Fixed(256),
    vocab_size: 256_000,
    max_positions: 8192,
    activation: "gelu_pytorch_tanh",
    tie_embeddings: true,
    bos: Some(2),
    eos: &[1],
    pad: Some(0),
    ..DEFAULTS
};

const SMALLER: Defaults = Defaults {
    hidden_size: 2304,
    intermediate_size: Some(9216),
    num_layers: 26,
    num_heads: 8,
    num_kv_heads: Some(4),
    ..GEMMA_DEFAULTS
};

const SANDWICH: TensorNames = TensorNames {
    norms: NormNames {
        pre_attention_norm: Some("input_layernorm"),
        post_attention_norm: Some("post_attention_layernorm"),
        pre_mlp_norm: Some("pre_feedforward_layernorm"),
        post_mlp_norm: Some("post_feedforward_layernorm"),
    },
    ..names::LLAMA
};

const LATER: Keys = Keys { activation: "hidden_activation", ..HUGGING_FACE };

/// What all generations have.
fn any(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    config.norm = NormKind::Rms(RmsWeight::OnePlus);
    root_of_width(config);
    attention_bias(fields, config, false)
}

/// What the later ones have in addition.
fn later(fields: &Fields<'_>, config: &mut ModelConfig, soft_cap: Option<f64>) -> Result<()> {
    any(fields, config)?;
    config.head.soft_cap = limit(fields, "final_logit_softcapping", soft_cap)?;
    scale(config, multiplier(fields, "query_pre_attn_scalar", 256.0)?.abs().sqrt().recip());
    Ok(())
}

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    keys: &HUGGING_FACE,
    defaults: GEMMA_DEFAULTS,
    tensors: &names::LLAMA,
    describe: any,
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    keys: &LATER,
    defaults: SMALLER,
    tensors: &SANDWICH,
    describe: |fields, config| {
        later(fields, config, Some(30.0))?;
        config.attention.soft_cap = limit(fields, "attn_logit_softcapping", Some(50.0))?;
        local_layers(
            fields,
            config,
            window(fields, Some(4096))?,
            |layer| (layer + 1) % 2 != 0,
            |_, _| {},
        )
    },
};

pub(super) const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    keys: &LATER,
    defaults: Defaults {
        vocab_size: 262_208,
        max_positions: 131_072,
        rope_theta: 1e6,
        rope_by_layer: true,
        ..SMALLER
    },
    tensors: &SANDWICH,
    // `attn_logit_softcapping` is read by `Gemma3TextConfig` and used by nothing.
    describe: |fields, config| {
        later(fields, config, None)?;
        fields.only("use_bidirectional_attention", false)?;
        config.attention.head_norm = Some(HeadNorm::PerHead);
        let rope = RopeDefaults {
            theta: 10_000.0,
            max_positions: config.max_positions,
            pretrained_positions: None,
            by_layer: true,
        };
        config.local_rope = Some(rope_table::read_local(fields, &rope)?);
        let every = pattern(fields, 6)?;
        local_layers(
            fields,
            config,
            window(fields, Some(4096))?,
            |layer| (layer + 1) % every != 0,
            |layer, local| layer.rope = if local { LayerRope::Local } else { LayerRope::Global },
        )
    },
};
