//! `[data]`: what is learnt, and what is held out.

use super::DataSources;
use crate::{Error, choice::choice, place::Table, raw};
use serde::Serialize;
use std::collections::BTreeMap;

choice! {
    /// What a data file holds.
    DataFormat {
        /// Told from the file's name.
        Auto = "auto",
        /// Conversations, `{"messages": [{"role": …, "content": …}, …]}`, or prompts and completions: JSON lines, CSV or Parquet.
        Conversations = "conversations",
        /// Plain text; or JSON lines of `{"text": …}`, or a column `text` in CSV or Parquet.
        Text = "text",
        /// Batches of token ids prepared elsewhere, in safetensors.
        Batches = "batches",
    }
}

choice! {
    /// Which tokens of a conversation are learnt.
    LossOn {
        /// What the assistant says.
        Assistant = "assistant",
        /// All tokens.
        All = "all",
    }
}

choice! {
    /// What happens at a line that cannot be read.
    BadLines {
        /// The run is refused, naming the line.
        Fail = "fail",
        /// The line is left out and counted.
        Skip = "skip",
    }
}

choice! {
    /// What happens to a record that is longer than a sequence.
    Overflow {
        /// It is cut into several sequences; no token is lost.
        Split = "split",
        /// It keeps its start.
        Truncate = "truncate",
        /// It is left out and counted.
        Drop = "drop",
    }
}

choice! {
    /// How a request and its answer are written.
    Pairs {
        /// `prompt` and `completion` as text; instructions and questions as a chat, where the model has a chat template.
        Auto = "auto",
        /// As text; an instruction in Alpaca's words.
        Text = "text",
        /// As a user's turn and the assistant's.
        Chat = "chat",
    }
}

choice! {
    /// What the loss of a row of each class is multiplied with.
    ClassWeights {
        /// 1.
        None = "none",
        /// The rows of the training data over those of its class, and over the number of classes: each class weighs the same.
        Balanced = "balanced",
    }
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// `train`: the training data: a file, a folder, or a list of them, with weights. Required.
    pub train: DataSources,
    /// `eval`: the held-out data. Without it, `eval_samples` samples of the training data are held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<DataSources>,
    /// `eval_samples`: samples held out of the training data when there is no `eval`; 0 = none. Default: 32.
    pub eval_samples: usize,
    /// `format`: `"auto"`, `"conversations"`, `"text"` or `"batches"`. Default: `"auto"`.
    pub format: DataFormat,
    /// `sequence_length`: tokens of a sequence; `overflow` says what happens to longer records. Default: 512.
    pub sequence_length: usize,
    /// `overflow`: `"split"`, `"truncate"` or `"drop"`. Default: a text is split; a conversation, or a prompt with its completion, is truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// `packing`: put several short samples into one sequence; texts that are split fill it. Default: false.
    pub packing: bool,
    /// `loss_on`: `"assistant"` or `"all"`. Default: `"assistant"`.
    pub loss_on: LossOn,
    /// `shuffle`: a new order in every epoch. Default: true.
    pub shuffle: bool,
    /// `max_samples`: read no more than this many samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// `bad_lines`: `"fail"` or `"skip"`. Default: `"fail"`.
    pub bad_lines: BadLines,
    /// `text_key`: where a record, or a table, has the text that is classified. Default: `"text"`.
    pub text_key: String,
    /// `label_key`: where it has the class. Default: `"label"`.
    pub label_key: String,
    /// `image_key`: the column of a table that has the image. Default: `"image"`.
    pub image_key: String,
    /// `flip`: show a training image to the model mirrored, half of the time. Default: `false`.
    pub flip: bool,
    /// `crop`: show a part of a training image, whose share of it is drawn between these two each time. Default: none is cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<[f64; 2]>,
    /// `labels`: the names of the classes, in the order of their numbers. Default: those of a model that has a classifier, else those in the
    /// training data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// `class_weights`: `"none"` or `"balanced"`. Default: `"none"`.
    pub class_weights: ClassWeights,
    /// `pairs`: `"auto"`, `"text"` or `"chat"`. Default: `"auto"`.
    pub pairs: Pairs,
    /// `prompt_template`: a Jinja template over the columns of a record that writes the prompt of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// `columns`: what the data call the columns that are read, such as `{ prompt = "question" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// `chat_template_kwargs`: variables of the chat template, such as `{ enable_thinking = false }`; those of a record win.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub chat_template_kwargs: toml::Table,
}

impl Data {
    pub(super) fn resolve(raw: raw::Data, at: Table<'_>) -> Result<Self, Error> {
        let sequence_length = raw.sequence_length.unwrap_or(512);
        at.require("sequence_length", sequence_length >= 2, "must be >= 2")?;
        at.require("max_samples", raw.max_samples != Some(0), "must be > 0")?;
        if let Some([least, most]) = raw.crop {
            at.require("crop", 0.0 < least && least <= most && most <= 1.0, "must be two parts, the lesser first, above 0 and at most 1")?;
        }
        if let Some(labels) = &raw.labels {
            let all: std::collections::BTreeSet<_> = labels.iter().collect();
            at.require("labels", labels.len() >= 2 && all.len() == labels.len(), "must be two or more names, no two alike")?;
        }
        Ok(Self {
            train: at.given("train", raw.train)?.check("train", at)?,
            eval: raw.eval.map(|eval| eval.check("eval", at)).transpose()?,
            eval_samples: raw.eval_samples.unwrap_or(32),
            format: at.choose("format", raw.format.as_deref(), DataFormat::Auto)?,
            sequence_length,
            overflow: raw.overflow.as_deref().map(|name| at.choose("overflow", Some(name), Overflow::Split)).transpose()?,
            packing: raw.packing.unwrap_or(false),
            loss_on: at.choose("loss_on", raw.loss_on.as_deref(), LossOn::Assistant)?,
            shuffle: raw.shuffle.unwrap_or(true),
            max_samples: raw.max_samples,
            bad_lines: at.choose("bad_lines", raw.bad_lines.as_deref(), BadLines::Fail)?,
            text_key: raw.text_key.unwrap_or_else(|| "text".into()),
            label_key: raw.label_key.unwrap_or_else(|| "label".into()),
            image_key: raw.image_key.unwrap_or_else(|| "image".into()),
            flip: raw.flip.unwrap_or(false),
            crop: raw.crop,
            labels: raw.labels,
            class_weights: at.choose("class_weights", raw.class_weights.as_deref(), ClassWeights::None)?,
            pairs: at.choose("pairs", raw.pairs.as_deref(), Pairs::Auto)?,
            prompt_template: raw.prompt_template,
            columns: raw.columns.unwrap_or_default(),
            chat_template_kwargs: raw.chat_template_kwargs.unwrap_or_default(),
        })
    }
}
