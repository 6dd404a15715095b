//! GPT-2 and StarCoder 2: LayerNorm, and an MLP without a gate.

use super::family::{Defaults, Family, everywhere, switch, window};
use super::llama::DEFAULTS;
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::{HUGGING_FACE, Keys};
use crate::config::names::{self, MlpNames, NormNames, QueryNames, TensorNames};
use crate::config::{LayerRope, ModelConfig, NormKind};

pub(super) const STARCODER2: Family = Family {
    model_type: "starcoder2",
    keys: &Keys { norm_eps: "norm_epsilon", ..HUGGING_FACE },
    defaults: Defaults {
        hidden_size: 3072,
        intermediate_size: Some(12288),
        num_layers: 30,
        num_heads: 24,
        num_kv_heads: Some(2),
        vocab_size: 49152,
        max_positions: 4096,
        norm_eps: 1e-5,
        activation: "gelu_pytorch_tanh",
        tie_embeddings: true,
        bos: Some(50256),
        eos: &[50256],
        ..DEFAULTS
    },
    tensors: &TensorNames { mlp: MlpNames::Plain(["mlp.c_fc", "mlp.c_proj"]), ..names::LLAMA },
    describe: |fields, config| {
        config.norm = NormKind::Layer { weight: true, bias: true };
        let bias = switch(fields, "use_bias", true)?;
        config.attention.bias = bias;
        config.attention.output_bias = bias;
        config.mlp_bias = bias;
        everywhere(config, window(fields, None)?);
        Ok(())
    },
};

pub(super) const GPT2: Family = Family {
    model_type: "gpt2",
    keys: &Keys {
        hidden_size: "n_embd",
        intermediate_size: "n_inner",
        num_layers: "n_layer",
        num_heads: "n_head",
        max_positions: "n_positions",
        norm_eps: "layer_norm_epsilon",
        activation: "activation_function",
        attention_dropout: "attn_pdrop",
        residual_dropout: "resid_pdrop",
        embedding_dropout: "embd_pdrop",
        ..HUGGING_FACE
    },
    defaults: Defaults {
        hidden_size: 768,
        intermediate_size: None,
        num_layers: 12,
        num_heads: 12,
        vocab_size: 50257,
        max_positions: 1024,
        norm_eps: 1e-5,
        activation: "gelu_new",
        dropout: 0.1,
        tie_embeddings: true,
        bos: Some(50256),
        eos: &[50256],
        ..DEFAULTS
    },
    tensors: &TensorNames {
        embedding: "transformer.wte",
        positions: Some("transformer.wpe"),
        layers: "transformer.h.",
        final_norm: "transformer.ln_f",
        norms: NormNames {
            pre_attention_norm: Some("ln_1"),
            post_attention_norm: None,
            pre_mlp_norm: Some("ln_2"),
            post_mlp_norm: None,
        },
        queries: QueryNames::Fused("attn.c_attn"),
        output: "attn.c_proj",
        mlp: MlpNames::Plain(["mlp.c_fc", "mlp.c_proj"]),
        fan_in_fan_out: true,
        ignored: &[".attn.bias", ".attn.masked_bias"],
        ..names::LLAMA
    },
    describe: gpt2,
};

fn gpt2(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    fields.only("add_cross_attention", false)?;
    config.norm = NormKind::Layer { weight: true, bias: true };
    config.attention.bias = true;
    config.attention.output_bias = true;
    config.mlp_bias = true;
    config.embedding.padding = None;
    // `reorder_and_upcast_attn` changes the order of rounding only: scores are precise here either
    // way.
    let by_root = switch(fields, "scale_attn_weights", true)?;
    let by_layer = switch(fields, "scale_attn_by_inverse_layer_idx", false)?;
    let root = (config.head_dim as f64).sqrt();
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.rope = LayerRope::Absent;
        layer.scale = if by_root { 1.0 / root } else { 1.0 }
            / if by_layer { index as f64 + 1.0 } else { 1.0 };
    }
    Ok(())
}
