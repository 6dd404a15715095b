//! `[data]`: what the model is trained and evaluated on.

use super::{DataSources, Model, Task};
use crate::{
    Error,
    choice::choice,
    declare::{Table, When, reads, table},
    range::{MOST_SAMPLES, Range},
};
use std::collections::{BTreeMap, BTreeSet};

choice! {
    /// What a data file holds.
    DataFormat {
        /// Detected from the file's name.
        Auto = "auto",
        /// Conversations, `{"messages": [{"role": …, "content": …}, …]}`, or prompts and
        /// completions: JSON lines, CSV or Parquet.
        Conversations = "conversations",
        /// Plain text; or JSON lines of `{"text": …}`, or a column `text` in CSV or Parquet.
        Text = "text",
        /// Batches of token ids prepared elsewhere, in safetensors.
        Batches = "batches",
    }
}

choice! {
    /// Which tokens of a conversation have a loss.
    LossOn {
        /// Those of the assistant's turns.
        Assistant = "assistant",
        /// All tokens.
        All = "all",
    }
}

choice! {
    /// What happens at a line that cannot be read.
    BadLines {
        /// The run ends with an error that names the line.
        Fail = "fail",
        /// The line is skipped and counted.
        Skip = "skip",
    }
}

choice! {
    /// What happens to a record that is longer than a sequence.
    Overflow {
        /// It is split into several sequences; no token is lost.
        Split = "split",
        /// It is cut at its end.
        Truncate = "truncate",
        /// It is skipped and counted.
        Drop = "drop",
    }
}

choice! {
    /// How a prompt and its completion are tokenized.
    Pairs {
        /// `prompt` and `completion` as text; instructions and questions as a chat, where the model
        /// has a chat template.
        Auto = "auto",
        /// As text; an instruction in Alpaca's format.
        Text = "text",
        /// As a user's turn and the assistant's.
        Chat = "chat",
    }
}

choice! {
    /// The weight of each class in the loss.
    ClassWeights {
        /// 1.
        None = "none",
        /// All rows divided by the rows of the class and by the number of classes: each class has
        /// the same weight in total.
        Balanced = "balanced",
    }
}

fn of_language_models() -> When {
    reads!(Model: model.task in [Task::CausalLm])
}

fn of_classifiers() -> When {
    reads!(Model: model.task in [Task::SequenceClassification, Task::ImageClassification])
}

fn of_images() -> When {
    reads!(Model: model.task in [Task::ImageClassification])
}

table! {
    /// The training and validation data.
    Data: "data" {
        /// The training data. A source with a `weight` is read that many times in an epoch.
        train: DataSources,
            valid r#"a path, of a file or a folder | a list of paths and of tables such as { path = "a.jsonl", weight = 2.0 }"#,
            example r#""data/chat.jsonl""#;
        /// The validation data.
        eval: Option<DataSources> = None,
            default "`eval_samples` of the training data",
            valid "the same as train, without weights",
            example r#""data/validation.jsonl""#;
        /// The number of training samples that are set apart for validation where `eval` is not
        /// given; 0 for none.
        eval_samples: usize = 32,
            within Range::at_least(0.0).at_most(MOST_SAMPLES),
            when When::new(&["data.eval"], "[data] eval is left out", |data: &Data| data.eval.is_none()),
            example "100";
        /// What the files hold.
        format: DataFormat = DataFormat::Auto, when of_language_models(), example r#""text""#;
        /// Tokens of a sequence. `overflow` determines what happens to longer records.
        sequence_length: usize = 512,
            within Range::at_least(2.0).at_most(16_777_216.0),
            when reads!(Model: model.task in [Task::CausalLm, Task::SequenceClassification]),
            example "2048";
        /// What happens to a record that is longer than a sequence.
        overflow: Option<Overflow> = None,
            default r#""split" for texts, "truncate" for conversations and prompts with completions"#,
            when of_language_models(),
            example r#""drop""#;
        /// Pack several short samples into one sequence. They do not attend to each other.
        packing: bool = false, when of_language_models(), example "true";
        /// Which tokens of a conversation have a loss.
        loss_on: LossOn = LossOn::Assistant, when of_language_models(), example r#""all""#;
        /// Read the samples in a new order in each epoch.
        shuffle: bool = true, example "false";
        /// The number of training samples to read at most.
        max_samples: Option<usize> = None,
            default "all",
            within Range::above(0.0).at_most(MOST_SAMPLES),
            example "1000";
        /// What happens at a line that cannot be read.
        bad_lines: BadLines = BadLines::Fail, when of_language_models(), example r#""skip""#;
        /// The key, or the column, of the text that is classified.
        text_key: String = "text".to_owned(),
            when reads!(Model: model.task in [Task::SequenceClassification]),
            example r#""message""#;
        /// The key, or the column, of the class.
        label_key: String = "label".to_owned(), when of_classifiers(), example r#""class""#;
        /// The column of the image in a table.
        image_key: String = "image".to_owned(), when of_images(), example r#""picture""#;
        /// Flip half of the training images horizontally.
        flip: bool = false, when of_images(), example "true";
        /// Crop each training image to a random part of its area between these two.
        crop: Option<[f64; 2]> = None,
            valid "the smallest and the largest part of an image, such as [0.08, 1]",
            when of_images(),
            example "[0.08, 1.0]";
        /// The names of the classes, in the order of their numbers.
        labels: Option<Vec<String>> = None,
            default "those of a model that has a classifier, otherwise those in the training data",
            valid r#"a list of the names of the classes, such as ["ham", "spam"]"#,
            when of_classifiers(),
            example r#"["ham", "spam"]"#;
        /// The weight of each class in the loss.
        class_weights: ClassWeights = ClassWeights::None,
            when of_classifiers(),
            example r#""balanced""#;
        /// How a prompt and its completion are tokenized.
        pairs: Pairs = Pairs::Auto, when of_language_models(), example r#""chat""#;
        /// A Jinja template over the columns of a record, which gives the prompt.
        prompt_template: Option<String> = None,
            valid r#"a Jinja template over a record's columns, such as "Question: {{ question }}\nAnswer: ""#,
            when of_language_models(),
            example r#""Q: {{ question }}""#;
        /// The names that the data use for the columns that are read.
        columns: BTreeMap<String, String> = BTreeMap::new(),
            valid r#"a table of the data's own names, such as { prompt = "question", completion = "answer" }"#,
            when of_language_models(),
            example r#"{ prompt = "question" }"#;
        /// Variables of the chat template. Those of a record have precedence.
        chat_template_kwargs: toml::Table = toml::Table::new(),
            valid "a table of variables of the chat template, such as { enable_thinking = false }",
            when of_language_models(),
            example "{ enable_thinking = false }";
    }
}

impl Data {
    pub(crate) fn check(&self, table: &Table<'_>) -> Result<(), Error> {
        if let Some([least, most]) = self.crop {
            let is_ordered = 0.0 < least && least <= most && most <= 1.0;
            table.require(
                "crop",
                is_ordered,
                "must be two parts, the smaller first, > 0 and <= 1",
            )?;
        }
        if let Some(labels) = &self.labels {
            let all: BTreeSet<_> = labels.iter().collect();
            table.require(
                "labels",
                labels.len() >= 2 && all.len() == labels.len(),
                "must be two or more names, all different",
            )?;
        }
        let has_weight =
            self.eval.as_ref().is_some_and(|eval| eval.iter().any(|source| source.weight != 1.0));
        table.require("eval", !has_weight, "has a weight, which only training data may have")
    }
}
