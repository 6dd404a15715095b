//! Phi 1 to 3.

use super::family::{Defaults, Family, everywhere, switch, window};
use super::llama::DEFAULTS;
use crate::config::keys::{HUGGING_FACE, Keys};
use crate::config::names::{self, MlpNames, NormNames, QueryNames, TensorNames};
use crate::config::{HeadNorm, NormKind};

const DROPOUTS: Keys = Keys { residual_dropout: "resid_pdrop", ..HUGGING_FACE };

pub(super) const PHI: Family = Family {
    model_type: "phi",
    keys: &Keys { norm_eps: "layer_norm_eps", embedding_dropout: "embd_pdrop", ..DROPOUTS },
    defaults: Defaults {
        hidden_size: 2048,
        intermediate_size: Some(8192),
        num_layers: 24,
        vocab_size: 51200,
        norm_eps: 1e-5,
        partial_rotary: Some(0.5),
        activation: "gelu_new",
        ..DEFAULTS
    },
    tensors: &TensorNames {
        final_norm: "model.final_layernorm",
        norms: NormNames {
            pre_attention_norm: Some("input_layernorm"),
            post_attention_norm: None,
            pre_mlp_norm: None,
            post_mlp_norm: None,
        },
        query_norm: "self_attn.q_layernorm",
        key_norm: "self_attn.k_layernorm",
        output: "self_attn.dense",
        mlp: MlpNames::Plain(["mlp.fc1", "mlp.fc2"]),
        ..names::LLAMA
    },
    describe: |fields, config| {
        config.norm = NormKind::Layer { weight: true, bias: true };
        config.residual.parallel = true;
        config.attention.bias = true;
        config.attention.output_bias = true;
        config.mlp_bias = true;
        config.head.bias = true;
        config.attention.head_norm =
            switch(fields, "qk_layernorm", false)?.then_some(HeadNorm::PerHead);
        Ok(())
    },
};

pub(super) const PHI3: Family = Family {
    model_type: "phi3",
    keys: &DROPOUTS,
    defaults: Defaults {
        hidden_size: 3072,
        intermediate_size: Some(8192),
        vocab_size: 32064,
        max_positions: 4096,
        norm_eps: 1e-5,
        partial_rotary: Some(1.0),
        pretrained_positions: Some(4096),
        eos: &[32000],
        pad: Some(32000),
        ..DEFAULTS
    },
    tensors: &TensorNames {
        queries: QueryNames::Fused("self_attn.qkv_proj"),
        mlp: MlpNames::Fused(["mlp.gate_up_proj", "mlp.down_proj"]),
        ..names::LLAMA
    },
    describe: |fields, config| {
        everywhere(config, window(fields, None)?);
        Ok(())
    },
};
