//! What a checkpoint says about its tokenizer.

use std::path::PathBuf;

use super::templates::ChatTemplates;

/// Where the tokenizer of a checkpoint is.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum TokenizerSource {
    /// The files of a Hugging Face directory, if they are there.
    Folder(PathBuf),
    /// The vocabulary inside a GGUF file.
    Gguf(Box<GgufTokenizer>),
    /// Nowhere: the checkpoint has none.
    #[default]
    None,
}

/// The tokenizer of a GGUF file (`tokenizer.ggml.*` of the GGUF specification).
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// The algorithm: `gpt2` for byte-level BPE, `llama` for SentencePiece, …
    pub model: String,
    /// The way in which text is cut before merging: `smollm`, `llama-bpe`, …
    pub pre: Option<String>,
    /// The vocabulary, by token id.
    pub tokens: Vec<String>,
    /// The merges of BPE, most important first, as `left right`.
    pub merges: Vec<String>,
    /// By token id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. Empty if the
    /// file has none.
    pub token_types: Vec<i32>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token that ends a text.
    pub eos: Option<u32>,
    /// The token for what the vocabulary lacks.
    pub unk: Option<u32>,
    /// The token that fills up a batch.
    pub pad: Option<u32>,
    /// Whether a text is to begin with `bos`.
    pub add_bos: bool,
    /// The Jinja templates that turn a conversation into text.
    pub templates: ChatTemplates,
}
