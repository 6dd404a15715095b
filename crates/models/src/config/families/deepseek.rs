//! DeepSeek-V3: latent attention, and experts in groups.

use layers::{Groups, Pairs, Routing, Scoring};

use super::family::{Defaults, Family, HeadDim, multiplier, positive, scale, switch};
use super::llama::DEFAULTS;
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::HUGGING_FACE;
use crate::config::names::{self, ExpertNames, LatentNames, QueryNames, TensorNames};
use crate::config::{ExpertsConfig, LatentConfig, ModelConfig, RopeScaling};

pub(super) const DEEPSEEK_V3: Family = Family {
    model_type: "deepseek_v3",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        hidden_size: 7168,
        intermediate_size: Some(18432),
        num_layers: 61,
        num_heads: 128,
        head_dim: HeadDim::SumOf([("qk_nope_head_dim", 128), ("qk_rope_head_dim", 64)]),
        vocab_size: 129_280,
        max_positions: 4096,
        bos: Some(0),
        eos: &[1],
        ..DEFAULTS
    },
    tensors: &TensorNames {
        queries: QueryNames::Latent(LatentNames {
            query: "self_attn.q_proj",
            query_down: "self_attn.q_a_proj",
            query_norm: "self_attn.q_a_layernorm",
            query_up: "self_attn.q_b_proj",
            key_down: "self_attn.kv_a_proj_with_mqa",
            key_norm: "self_attn.kv_a_layernorm",
            key_up: "self_attn.kv_b_proj",
        }),
        experts: Some(ExpertNames {
            router: "mlp.gate",
            correction: Some("mlp.gate.e_score_correction_bias"),
            experts: "mlp.experts.",
            expert: ["gate_proj", "up_proj", "down_proj"],
            shared: Some([
                "mlp.shared_experts.gate_proj",
                "mlp.shared_experts.up_proj",
                "mlp.shared_experts.down_proj",
            ]),
        }),
        // Layer 61 of the published checkpoint predicts a second token; transformers leaves it out
        // too.
        ignored: &[".rotary_emb.inv_freq", "model.layers.61."],
        ..names::LLAMA
    },
    describe,
};

fn describe(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    fields.only("pretraining_tp", 1)?;
    attention(fields, config)?;
    experts(fields, config)
}

fn attention(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    let rotary_dim = positive(fields, "qk_rope_head_dim", 64)?;
    config.attention.latent = Some(LatentConfig {
        query_rank: match fields.contains("q_lora_rank") && fields.value("q_lora_rank").is_none() {
            true => None,
            false => Some(positive(fields, "q_lora_rank", 1536)?),
        },
        key_rank: positive(fields, "kv_lora_rank", 512)?,
        plain_dim: positive(fields, "qk_nope_head_dim", 128)?,
        rotary_dim,
        value_dim: positive(fields, "v_head_dim", 128)?,
    });
    // Two keys that repeat others, and heads of keys that are as many as those of queries.
    fields.only("head_dim", rotary_dim)?;
    fields.only("qk_head_dim", config.head_dim)?;
    fields.only("num_key_value_heads", config.num_heads)?;
    config.attention.bias = switch(fields, "attention_bias", false)?;
    config.attention.output_bias = config.attention.bias;
    config.attention.rotary_width = rotary_dim;
    config.attention.rotary_pairs =
        if switch(fields, "rope_interleave", true)? { Pairs::Neighbours } else { Pairs::Halves };
    if let RopeScaling::Yarn { factor, all_dimensions: Some(weight), .. } = config.rope.scaling {
        let spread = if factor > 1.0 { 0.1 * weight * factor.ln() + 1.0 } else { 1.0 };
        scale(config, spread * spread / (config.head_dim as f64).sqrt());
    }
    Ok(())
}

fn experts(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    let first = fields.integer("first_k_dense_replace")?.unwrap_or(3);
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.mixture = index as i64 >= first;
    }
    let count = positive(fields, "n_routed_experts", 256)?;
    let groups = Groups {
        count: positive(fields, "n_group", 8)?,
        chosen: positive(fields, "topk_group", 4)?,
    };
    if count % groups.count != 0 || count / groups.count < 2 || groups.chosen > groups.count {
        let why = format!(
            "{} of {} groups cannot be chosen out of {count} experts",
            groups.chosen, groups.count
        );
        return Err(fields.invalid("n_group", why));
    }
    let width = positive(fields, "moe_intermediate_size", 2048)?;
    config.experts = Some(ExpertsConfig {
        count,
        width,
        shared_width: width * positive(fields, "n_shared_experts", 1)?,
        routing: Routing {
            per_token: positive(fields, "num_experts_per_tok", 8)?,
            scoring: Scoring::Sigmoid,
            normalised: switch(fields, "norm_topk_prob", true)?.then_some(1e-20),
            scale: multiplier(fields, "routed_scaling_factor", 2.5)?,
            groups: Some(groups),
        },
        router_is_linear: false,
    });
    Ok(())
}
