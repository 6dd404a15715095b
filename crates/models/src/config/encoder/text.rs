//! BERT and RoBERTa.

use super::description::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, InputConfig, NormOrder,
    Pooling, Positions, RelativePositions, TextConfig,
};
use super::family::EncoderFamily;
use super::keys::{chance, epsilon, hidden_act, initializer_range, one_stage};
use super::labels::{Labels, Problem};
use super::names::EncoderNames;
use crate::Result;
use crate::config::families::positive;
use crate::config::fields::Fields;

/// `BertForSequenceClassification`, and `BertModel` below sentence models.
pub(super) const BERT: EncoderFamily = EncoderFamily {
    model_types: &["bert"],
    read: |fields| {
        let mut config = read(fields, "bert", &BERT_NAMES, 30522, Some(0))?;
        config.classifier = ClassifierConfig { dropout_before: 0.0, ..config.classifier };
        Ok(config)
    },
};

/// `RobertaForSequenceClassification`.
pub(super) const ROBERTA: EncoderFamily = EncoderFamily {
    model_types: &["roberta"],
    read: |fields| {
        let mut config = read(fields, "roberta", &ROBERTA_NAMES, 50265, Some(1))?;
        if let InputConfig::Text(text) = &mut config.input {
            let Some(padding) = text.padding else {
                return Err(
                    fields.invalid("pad_token_id", "positions are counted from it, and it is null")
                );
            };
            if padding + 1 >= text.max_positions {
                let why = format!(
                    "positions are counted from pad_token_id + 1 = {}, which leaves none",
                    padding + 1
                );
                return Err(fields.invalid("max_position_embeddings", why));
            }
            if text.positions == Positions::Counted {
                text.positions = Positions::BehindPadding;
            }
        }
        Ok(config)
    },
};

const BERT_NAMES: EncoderNames = EncoderNames {
    prefix: "bert.",
    stages: None,
    layers: "bert.encoder.layer.",
    embedding: "bert.embeddings.word_embeddings",
    positions: "bert.embeddings.position_embeddings.weight",
    token_types: "bert.embeddings.token_type_embeddings",
    class_token: "",
    embedding_norm: Some("bert.embeddings.LayerNorm"),
    norms: ["attention.output.LayerNorm", "output.LayerNorm"],
    queries: ["attention.self.query", "attention.self.key", "attention.self.value"],
    output: "attention.output.dense",
    relative: "attention.self.distance_embedding",
    mlp: ["intermediate.dense", "output.dense"],
    merge: None,
    final_norm: None,
    head_dense: Some("bert.pooler.dense"),
    head_out: "classifier",
    ignored: &[".position_ids", "bert.pooler.", "classifier.", "cls."],
};

const ROBERTA_NAMES: EncoderNames = EncoderNames {
    prefix: "roberta.",
    layers: "roberta.encoder.layer.",
    embedding: "roberta.embeddings.word_embeddings",
    positions: "roberta.embeddings.position_embeddings.weight",
    token_types: "roberta.embeddings.token_type_embeddings",
    embedding_norm: Some("roberta.embeddings.LayerNorm"),
    head_dense: Some("classifier.dense"),
    head_out: "classifier.out_proj",
    ignored: &[".position_ids", "roberta.pooler.", "classifier.", "lm_head."],
    ..BERT_NAMES
};

fn read(
    fields: &Fields<'_>,
    model_type: &str,
    names: &'static EncoderNames,
    vocab_size: i64,
    padding: Option<i64>,
) -> Result<EncoderConfig> {
    fields.only("is_decoder", false)?;
    fields.only("add_cross_attention", false)?;
    fields.none("pruned_heads")?;
    let max_positions = positive(fields, "max_position_embeddings", 512)?;
    let distances = |of_keys| {
        (Positions::Relative, RelativePositions::Distances { longest: max_positions, of_keys })
    };
    let (positions, relative) = match fields.text("position_embedding_type")?.unwrap_or("absolute")
    {
        "absolute" => (Positions::Counted, RelativePositions::None),
        "relative_key" => distances(false),
        "relative_key_query" => distances(true),
        other => {
            let supported = "\"absolute\", \"relative_key\", \"relative_key_query\"";
            return Err(fields.unsupported(
                "position_embedding_type",
                format!("{other:?}"),
                supported,
            ));
        }
    };
    let vocab_size = positive(fields, "vocab_size", vocab_size)?;
    let padding =
        if fields.contains("pad_token_id") { fields.token("pad_token_id")? } else { padding };
    if let Some(padding) = padding.filter(|padding| *padding >= vocab_size) {
        return Err(fields
            .invalid("pad_token_id", format!("{padding} is not in a vocabulary of {vocab_size}")));
    }
    let dropout = chance(fields, "hidden_dropout_prob", 0.1)?;
    let classifier_dropout = chance(fields, "classifier_dropout", dropout)?;
    Ok(EncoderConfig {
        model_type: model_type.into(),
        input: InputConfig::Text(TextConfig {
            vocab_size,
            max_positions,
            token_types: positive(fields, "type_vocab_size", 2)?,
            padding,
            positions,
        }),
        stages: vec![one_stage(fields, 768, 12, 12, 3072)?],
        order: NormOrder::PostNorm,
        norm_eps: epsilon(fields, 1e-12)?,
        activation: hidden_act(fields, "gelu")?,
        attention: EncoderAttention {
            bias: true,
            dropout: chance(fields, "attention_probs_dropout_prob", 0.1)?,
            relative,
        },
        dropout: EncoderDropout { embedding: dropout, sublayers: [dropout; 2] },
        classifier: ClassifierConfig {
            pooling: Pooling::First,
            dropout_before: classifier_dropout,
            dropout: classifier_dropout,
        },
        labels: Labels::read(fields)?,
        problem: Problem::read(fields)?,
        initializer_range: initializer_range(fields)?,
        names,
    })
}
