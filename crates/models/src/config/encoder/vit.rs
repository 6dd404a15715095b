use super::description::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, ImageConfig, InputConfig,
    NormOrder, Pooling, RelativePositions,
};
use super::family::EncoderFamily;
use super::image;
use super::keys::{chance, epsilon, hidden_act, initializer_range, one_stage};
use super::labels::{Labels, Problem};
use super::names::EncoderNames;
use crate::config::families::switch;

/// `ViTForImageClassification` (arXiv 2010.11929).
pub(super) const VIT: EncoderFamily = EncoderFamily {
    model_types: &["vit"],
    read: |fields| {
        fields.none("pruned_heads")?;
        let dropout = chance(fields, "hidden_dropout_prob", 0.0)?;
        Ok(EncoderConfig {
            model_type: "vit".into(),
            input: InputConfig::Image(ImageConfig {
                class_token: true,
                ..image::read(fields, 224, 16)?
            }),
            stages: vec![one_stage(fields, 768, 12, 12, 3072)?],
            order: NormOrder::PreNorm,
            norm_eps: epsilon(fields, 1e-12)?,
            activation: hidden_act(fields, "gelu")?,
            attention: EncoderAttention {
                bias: switch(fields, "qkv_bias", true)?,
                dropout: chance(fields, "attention_probs_dropout_prob", 0.0)?,
                relative: RelativePositions::None,
            },
            dropout: EncoderDropout { embedding: dropout, sublayers: [dropout; 2] },
            classifier: ClassifierConfig {
                pooling: Pooling::First,
                dropout_before: 0.0,
                dropout: 0.0,
            },
            labels: Labels::read(fields)?,
            problem: Problem::read(fields)?,
            initializer_range: initializer_range(fields)?,
            names: &NAMES,
        })
    },
};

const NAMES: EncoderNames = EncoderNames {
    prefix: "vit.",
    stages: None,
    layers: "vit.encoder.layer.",
    embedding: "vit.embeddings.patch_embeddings.projection",
    positions: "vit.embeddings.position_embeddings",
    token_types: "",
    class_token: "vit.embeddings.cls_token",
    embedding_norm: None,
    norms: ["layernorm_before", "layernorm_after"],
    queries: ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    output: "attention.output.dense",
    relative: "",
    mlp: ["intermediate.dense", "output.dense"],
    merge: None,
    final_norm: Some("vit.layernorm"),
    head_dense: None,
    head_out: "classifier",
    ignored: &["vit.pooler.", "classifier.", "vit.embeddings.mask_token", "decoder."],
};
