//! OLMo 1 and 2.

use layers::RmsWeight;

use super::family::{Defaults, Family, attention_bias, limit};
use super::llama::DEFAULTS;
use crate::config::keys::HUGGING_FACE;
use crate::config::names::{self, NormNames, TensorNames};
use crate::config::{HeadNorm, NormKind};

const OLMO_DEFAULTS: Defaults =
    Defaults { vocab_size: 50304, bos: None, eos: &[50279], pad: Some(1), ..DEFAULTS };

pub(super) const OLMO: Family = Family {
    model_type: "olmo",
    keys: &HUGGING_FACE,
    defaults: OLMO_DEFAULTS,
    tensors: &names::LLAMA,
    describe: |fields, config| {
        // `OlmoLayerNorm` has no parameters, and an epsilon that no key changes.
        config.norm = NormKind::Layer { weight: false, bias: false };
        config.norm_eps = 1e-5;
        config.attention.clip = limit(fields, "clip_qkv", None)?;
        attention_bias(fields, config, false)
    },
};

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    keys: &HUGGING_FACE,
    defaults: Defaults { norm_eps: 1e-5, ..OLMO_DEFAULTS },
    tensors: &TensorNames {
        norms: NormNames {
            pre_attention_norm: None,
            post_attention_norm: Some("post_attention_layernorm"),
            pre_mlp_norm: None,
            post_mlp_norm: Some("post_feedforward_layernorm"),
        },
        ..names::LLAMA
    },
    describe: |fields, config| {
        config.norm = NormKind::Rms(RmsWeight::Precise);
        config.attention.head_norm = Some(HeadNorm::Whole);
        attention_bias(fields, config, false)
    },
};
