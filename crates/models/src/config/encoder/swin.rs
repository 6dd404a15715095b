use super::description::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, EncoderLayer, ImageConfig,
    InputConfig, NormOrder, Pooling, RelativePositions, StageConfig,
};
use super::family::EncoderFamily;
use super::image;
use super::keys::{chance, epsilon, hidden_act, initializer_range};
use super::labels::{Labels, Problem};
use super::names::{EncoderNames, MergeNames};
use crate::Result;
use crate::config::families::{multiplier, positive, switch};
use crate::config::fields::Fields;
use crate::config::model::DEEPEST;

/// `SwinForImageClassification` (arXiv 2103.14030).
pub(super) const SWIN: EncoderFamily = EncoderFamily {
    model_types: &["swin"],
    read: |fields| {
        // transformers makes one embedding too many (of a class token that there is not), and
        // cannot add them.
        fields.only("use_absolute_embeddings", false)?;
        fields.none("pruned_heads")?;
        let dropout = chance(fields, "hidden_dropout_prob", 0.0)?;
        let attention_dropout = chance(fields, "attention_probs_dropout_prob", 0.0)?;
        let input =
            ImageConfig { positions: false, any_size: true, ..image::read(fields, 224, 4)? };
        let size = positive(fields, "window_size", 7)?;
        let stages = stages(fields, size, input.grid())?;
        Ok(EncoderConfig {
            model_type: "swin".into(),
            input: InputConfig::Image(input),
            stages,
            order: NormOrder::PreNorm,
            norm_eps: epsilon(fields, 1e-5)?,
            activation: hidden_act(fields, "gelu")?,
            attention: EncoderAttention {
                bias: switch(fields, "qkv_bias", true)?,
                dropout: attention_dropout,
                relative: RelativePositions::Windows { size },
            },
            dropout: EncoderDropout { embedding: dropout, sublayers: [attention_dropout, dropout] },
            classifier: ClassifierConfig {
                pooling: Pooling::Mean,
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

/// The stages of windows of `size` on a map that begins as `grid`.
fn stages(fields: &Fields<'_>, size: i64, mut grid: [i64; 2]) -> Result<Vec<StageConfig>> {
    let depths = fields.integers("depths")?.unwrap_or_else(|| vec![2, 2, 6, 2]);
    let heads = fields.integers("num_heads")?.unwrap_or_else(|| vec![3, 6, 12, 24]);
    if depths.is_empty()
        || depths.len() > 16
        || depths.iter().any(|depth| !(1..=DEEPEST).contains(depth))
    {
        return Err(
            fields.invalid("depths", format!("{depths:?} are not the layers of 1 to 16 stages"))
        );
    }
    if heads.len() < depths.len() {
        return Err(fields.invalid(
            "num_heads",
            format!("it has {} entries for {} stages", heads.len(), depths.len()),
        ));
    }
    let first = positive(fields, "embed_dim", 96)?;
    let ratio = multiplier(fields, "mlp_ratio", 4.0)?;
    let all: i64 = depths.iter().sum();
    let last_rate = chance(fields, "drop_path_rate", 0.1)?;
    let mut before = 0;
    let mut stages = Vec::new();
    for (index, (&depth, &heads)) in depths.iter().zip(&heads).enumerate() {
        let width = first.saturating_mul(1 << index);
        if heads < 1 || width % heads != 0 {
            return Err(fields.invalid(
                "num_heads",
                format!("{heads} heads do not divide the width {width} of stage {index}"),
            ));
        }
        let inner = (ratio * width as f64) as i64;
        if !(1..=1 << 31).contains(&inner) {
            return Err(fields.invalid(
                "mlp_ratio",
                format!("{ratio} times the width {width} of stage {index} is no width"),
            ));
        }
        // transformers cuts a smaller map into smaller windows, for which it has no biases.
        if grid.iter().any(|side| *side < size) {
            let [rows, columns] = grid;
            let largest = format!(
                "up to {}, as stage {index} has a map of {rows} by {columns} patches",
                rows.min(columns)
            );
            return Err(fields.unsupported("window_size", size, largest));
        }
        let rate = |layer: i64| {
            if all > 1 { last_rate * (before + layer) as f64 / (all - 1) as f64 } else { 0.0 }
        };
        let layer = |layer: i64| EncoderLayer {
            shift: if layer % 2 == 0 { 0 } else { size / 2 },
            drop_path: rate(layer),
        };
        stages.push(StageConfig { width, heads, inner, layers: (0..depth).map(layer).collect() });
        before += depth;
        grid = grid.map(|side| (side + 1) / 2);
    }
    Ok(stages)
}

const NAMES: EncoderNames = EncoderNames {
    prefix: "swin.",
    stages: Some("swin.encoder.layers."),
    layers: "blocks.",
    embedding: "swin.embeddings.patch_embeddings.projection",
    positions: "swin.embeddings.position_embeddings",
    token_types: "",
    class_token: "",
    embedding_norm: Some("swin.embeddings.norm"),
    norms: ["layernorm_before", "layernorm_after"],
    queries: ["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    relative: "attention.self.relative_position_bias_table",
    mlp: ["intermediate.dense", "output.dense"],
    merge: Some(MergeNames { norm: "downsample.norm", reduction: "downsample.reduction" }),
    final_norm: Some("swin.layernorm"),
    head_dense: None,
    head_out: "classifier",
    ignored: &[".relative_position_index", "classifier.", "swin.embeddings.mask_token", "decoder."],
};
