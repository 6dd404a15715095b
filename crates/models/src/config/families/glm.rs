//! GLM 4.

use layers::Pairs;

use super::family::{Defaults, Family, HeadDim, switch};
use super::llama::DEFAULTS;
use crate::config::keys::HUGGING_FACE;
use crate::config::names::{self, MlpNames, NormNames, TensorNames};

pub(super) const GLM4: Family = Family {
    model_type: "glm4",
    keys: &HUGGING_FACE,
    defaults: Defaults {
        intermediate_size: Some(13696),
        num_layers: 40,
        num_kv_heads: Some(2),
        head_dim: HeadDim::Fixed(128),
        vocab_size: 151_552,
        max_positions: 131_072,
        norm_eps: 1.5625e-7,
        partial_rotary: Some(0.5),
        bos: None,
        eos: &[151_329, 151_336, 151_338],
        pad: Some(151_329),
        ..DEFAULTS
    },
    tensors: &TensorNames {
        norms: NormNames {
            pre_attention_norm: Some("input_layernorm"),
            post_attention_norm: Some("post_self_attn_layernorm"),
            pre_mlp_norm: Some("post_attention_layernorm"),
            post_mlp_norm: Some("post_mlp_layernorm"),
        },
        mlp: MlpNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]),
        ..names::LLAMA
    },
    describe: |fields, config| {
        config.attention.bias = switch(fields, "attention_bias", true)?;
        config.attention.rotary_pairs = Pairs::Neighbours;
        Ok(())
    },
};
