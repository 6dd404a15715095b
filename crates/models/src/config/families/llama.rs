//! Llama, and what differs from it by a few numbers.

use layers::{Routing, Scoring};

use super::family::{
    Defaults, Family, HeadDim, attention_bias, everywhere, multiplier, positive, scale, switch,
    window,
};
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::HUGGING_FACE;
use crate::config::names::{self, ExpertNames, TensorNames};
use crate::config::{EmbeddingScale, ExpertsConfig, ModelConfig};

/// `LlamaConfig`, and what most classes repeat.
pub(super) const DEFAULTS: Defaults = Defaults {
    hidden_size: 4096,
    intermediate_size: Some(11008),
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: None,
    head_dim: HeadDim::Shared,
    vocab_size: 32000,
    max_positions: 2048,
    norm_eps: 1e-6,
    rope_theta: 10_000.0,
    pretrained_positions: None,
    rope_by_layer: false,
    partial_rotary: None,
    activation: "silu",
    dropout: 0.0,
    tie_embeddings: false,
    bos: Some(1),
    eos: &[2],
    pad: None,
};

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    keys: &HUGGING_FACE,
    defaults: DEFAULTS,
    tensors: &names::LLAMA,
    describe: |fields, config| {
        fields.only("pretraining_tp", 1)?;
        attention_bias(fields, config, false)?;
        config.mlp_bias = switch(fields, "mlp_bias", false)?;
        Ok(())
    },
};

pub(super) const MISTRAL: Family = Family {
    model_type: "mistral",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        intermediate_size: Some(14336),
        num_kv_heads: Some(8),
        max_positions: 131_072,
        ..DEFAULTS
    },
    tensors: &names::LLAMA,
    describe: |fields, config| {
        everywhere(config, window(fields, Some(4096))?);
        Ok(())
    },
};

pub(super) const GRANITE: Family = Family {
    model_type: "granite",
    keys: &HUGGING_FACE,
    defaults: DEFAULTS,
    tensors: &names::LLAMA,
    describe: |fields, config| {
        attention_bias(fields, config, false)?;
        config.mlp_bias = switch(fields, "mlp_bias", false)?;
        config.embedding.scale =
            EmbeddingScale::By(multiplier(fields, "embedding_multiplier", 1.0)?);
        config.residual.multiplier = multiplier(fields, "residual_multiplier", 1.0)?;
        config.head.multiplier = 1.0 / multiplier(fields, "logits_scaling", 1.0)?;
        scale(config, multiplier(fields, "attention_multiplier", 1.0)?);
        Ok(())
    },
};

pub(super) const MIXTRAL: Family = Family {
    model_type: "mixtral",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        intermediate_size: Some(14336),
        num_kv_heads: Some(8),
        max_positions: 131_072,
        norm_eps: 1e-5,
        rope_theta: 1e6,
        ..DEFAULTS
    },
    tensors: &TensorNames {
        experts: Some(ExpertNames {
            router: "block_sparse_moe.gate",
            correction: None,
            experts: "block_sparse_moe.experts.",
            expert: ["w1", "w3", "w2"],
            shared: None,
        }),
        ..names::LLAMA
    },
    describe: mixtral,
};

fn mixtral(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    fields.only("output_router_logits", false)?;
    fields.only("router_jitter_noise", 0.0)?;
    everywhere(config, window(fields, None)?);
    config.layers.iter_mut().for_each(|layer| layer.mixture = true);
    config.experts = Some(ExpertsConfig {
        count: positive(fields, "num_local_experts", 8)?,
        width: config.intermediate_size,
        shared_width: 0,
        routing: Routing {
            per_token: positive(fields, "num_experts_per_tok", 2)?,
            scoring: Scoring::Softmax,
            normalised: Some(0.0),
            scale: 1.0,
            groups: None,
        },
        router_is_linear: true,
    });
    Ok(())
}
