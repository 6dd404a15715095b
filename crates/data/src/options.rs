use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which tokens of a conversation or completion are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The assistant's turns of a conversation, the completion of a prompt, all of a text.
    #[default]
    Assistant,
    /// Every token.
    All,
}

/// What to do with a record that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadLines {
    /// Stop at the first one.
    #[default]
    Error,
    /// Leave it out, count it, and warn of the first five.
    Skip,
}

/// How a request and its answer are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairs {
    /// `prompt` and `completion` as text; instructions and questions as a chat, where the model has
    /// a chat template, else as text.
    #[default]
    Auto,
    /// The request, then the answer, both as they are; an instruction in Alpaca's words.
    Text,
    /// A user's turn and the assistant's.
    Chat,
}

/// What happens to a record that has more tokens than a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overflow {
    /// It is cut into rows. No token is lost or repeated; pieces without a target are left out.
    Split,
    /// It keeps its start.
    Truncate,
    /// It is left out.
    Drop,
}

/// How samples are made of records. All of it enters the data set's fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Longest sample in tokens; `overflow` says what happens to longer ones. Ready batches keep
    /// their own length.
    pub sequence_length: usize,
    /// What happens to longer records; absent: a text is split, a conversation or a prompt with its
    /// completion truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow: Option<Overflow>,
    /// What is trained.
    pub loss_on: LossOn,
    /// Whether several samples share a row of `sequence_length` tokens. Validation samples and
    /// ready batches never do.
    pub packing: bool,
    /// What to do with a record that cannot be used.
    pub bad_lines: BadLines,
    /// The first so many records of the training sources are read; absent: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<usize>,
    /// How many samples of the training sources are taken for validation.
    pub eval_samples: usize,
    /// Seed of that draw.
    pub seed: u64,
    /// Names of columns in the data, by the names that are read: `prompt` → `question`.
    pub columns: BTreeMap<String, String>,
    /// How pairs are written.
    pub pairs: Pairs,
    /// A Jinja template over a record's columns that writes the prompt of a pair.
    pub prompt_template: Option<String>,
    /// Variables of the chat template, such as `enable_thinking`; those of a record win.
    pub chat_template_kwargs: Map<String, Value>,
}

impl Options {
    /// What happens to texts that are too long.
    pub(crate) fn text_overflow(&self) -> Overflow {
        self.overflow.unwrap_or(Overflow::Split)
    }

    /// What happens to conversations, and to prompts with their completions. A piece of an answer
    /// without its question teaches something else, so these are split where that is asked for
    /// only.
    pub(crate) fn turns_overflow(&self) -> Overflow {
        self.overflow.unwrap_or(Overflow::Truncate)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sequence_length: 1024,
            overflow: None,
            loss_on: LossOn::Assistant,
            packing: false,
            bad_lines: BadLines::Error,
            max_samples: None,
            eval_samples: 0,
            seed: 0,
            columns: BTreeMap::new(),
            pairs: Pairs::Auto,
            prompt_template: None,
            chat_template_kwargs: Map::new(),
        }
    }
}
