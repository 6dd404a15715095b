//! Command R and its successors.

use layers::Pairs;

use super::family::{
    Defaults, Family, attention_bias, local_layers, multiplier, pattern, rotary_where, switch,
    window,
};
use super::llama::DEFAULTS;
use crate::Result;
use crate::config::fields::Fields;
use crate::config::keys::{HUGGING_FACE, Keys};
use crate::config::names::{self, NormNames, TensorNames};
use crate::config::{HeadNorm, ModelConfig, NormKind};

const KEYS: Keys = Keys { norm_eps: "layer_norm_eps", ..HUGGING_FACE };

const COHERE_DEFAULTS: Defaults = Defaults {
    hidden_size: 8192,
    intermediate_size: Some(22528),
    num_layers: 40,
    num_heads: 64,
    vocab_size: 256_000,
    max_positions: 8192,
    norm_eps: 1e-5,
    tie_embeddings: true,
    bos: Some(5),
    eos: &[255_001],
    pad: Some(0),
    ..DEFAULTS
};

const ONE_NORM: TensorNames = TensorNames {
    norms: NormNames {
        pre_attention_norm: Some("input_layernorm"),
        post_attention_norm: None,
        pre_mlp_norm: None,
        post_mlp_norm: None,
    },
    ..names::LLAMA
};

fn any(fields: &Fields<'_>, config: &mut ModelConfig) -> Result<()> {
    config.norm = NormKind::Layer { weight: true, bias: false };
    config.residual.parallel = true;
    config.attention.rotary_pairs = Pairs::Neighbours;
    config.head.multiplier = multiplier(fields, "logit_scale", 0.0625)?;
    attention_bias(fields, config, false)
}

pub(super) const COHERE: Family = Family {
    model_type: "cohere",
    keys: &KEYS,
    defaults: COHERE_DEFAULTS,
    tensors: &ONE_NORM,
    describe: |fields, config| {
        any(fields, config)?;
        config.attention.head_norm =
            switch(fields, "use_qk_norm", false)?.then_some(HeadNorm::OwnWeights);
        Ok(())
    },
};

pub(super) const COHERE2: Family = Family {
    model_type: "cohere2",
    keys: &KEYS,
    defaults: COHERE_DEFAULTS,
    tensors: &ONE_NORM,
    describe: |fields, config| {
        any(fields, config)?;
        let every = pattern(fields, 4)?;
        // Layers that attend to everything know nothing of positions.
        local_layers(
            fields,
            config,
            window(fields, Some(4096))?,
            |layer| (layer + 1) % every != 0,
            rotary_where,
        )
    },
};
