use serde_json::{Map, Value};

use super::description::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, InputConfig, NormOrder,
    Pooling, RelativePositions,
};
use super::family::EncoderFamily;
use super::image;
use super::keys::{chance, epsilon, hidden_act, initializer_range, one_stage};
use super::labels::{Labels, Problem};
use super::names::EncoderNames;
use crate::Result;
use crate::config::fields::Fields;

/// `SiglipForImageClassification` (arXiv 2303.15343), whose file has the vision part in a table of
/// its own, and `SiglipVisionModel`, which is it.
pub(super) const SIGLIP: EncoderFamily = EncoderFamily {
    model_types: &["siglip_vision_model", "siglip"],
    read: |fields| match fields.text("model_type")? {
        Some("siglip") => match fields.table("vision_config")? {
            Some(vision) => read(&vision, fields),
            None => read(&Fields::new(fields.file(), &Map::new()), fields),
        },
        _ => read(fields, fields),
    },
};

/// The sizes from `vision`, the classes from `whole`.
fn read(vision: &Fields<'_>, whole: &Fields<'_>) -> Result<EncoderConfig> {
    // Only one number makes sense to `SiglipVisionEmbeddings`.
    for key in ["image_size", "patch_size"] {
        if let Some(several @ Value::Array(_)) = vision.value(key) {
            return Err(vision.unsupported(key, several, "one integer for both sides"));
        }
    }
    Ok(EncoderConfig {
        model_type: "siglip_vision_model".into(),
        input: InputConfig::Image(image::read(vision, 224, 16)?),
        stages: vec![one_stage(vision, 768, 12, 12, 3072)?],
        order: NormOrder::PreNorm,
        norm_eps: epsilon(vision, 1e-6)?,
        activation: hidden_act(vision, "gelu_pytorch_tanh")?,
        attention: EncoderAttention {
            bias: true,
            dropout: chance(vision, "attention_dropout", 0.0)?,
            relative: RelativePositions::None,
        },
        dropout: EncoderDropout { embedding: 0.0, sublayers: [0.0; 2] },
        classifier: ClassifierConfig { pooling: Pooling::Mean, dropout_before: 0.0, dropout: 0.0 },
        labels: Labels::read(whole)?,
        problem: Problem::read(whole)?,
        initializer_range: initializer_range(whole)?,
        names: &NAMES,
    })
}

/// The classifier reads the patches, not what `vision_model.head` pools of them
/// (`vision_use_head`).
const NAMES: EncoderNames = EncoderNames {
    prefix: "vision_model.",
    stages: None,
    layers: "vision_model.encoder.layers.",
    embedding: "vision_model.embeddings.patch_embedding",
    positions: "vision_model.embeddings.position_embedding.weight",
    token_types: "",
    class_token: "",
    embedding_norm: None,
    norms: ["layer_norm1", "layer_norm2"],
    queries: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    output: "self_attn.out_proj",
    relative: "",
    mlp: ["mlp.fc1", "mlp.fc2"],
    merge: None,
    final_norm: Some("vision_model.post_layernorm"),
    head_dense: None,
    head_out: "classifier",
    ignored: &[
        "vision_model.head.",
        "classifier.",
        ".position_ids",
        "text_model.",
        "logit_scale",
        "logit_bias",
    ],
};
