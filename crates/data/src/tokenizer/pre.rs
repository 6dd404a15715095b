//! The rules by which a byte-level BPE first cuts a text into words, by the names that GGUF files
//! give them (`tokenizer.ggml.pre`). The expressions are those of llama.cpp, `src/llama-vocab.cpp`,
//! `llm_tokenizer_bpe`.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

/// The names that [`pre_tokenizer`] knows.
pub(super) const SUPPORTED: [&str; 5] = ["smollm", "gpt-2", "llama-bpe", "qwen2", "default"];

const LLAMA_3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// The splitter called `name`, followed by the map from bytes to printable characters; `None` for a
/// name that is not [`SUPPORTED`].
pub(super) fn pre_tokenizer(name: &str) -> tokenizers::Result<Option<PreTokenizerWrapper>> {
    // ByteLevel's own expression is GPT-2's; where another one has cut already, it must not cut
    // again.
    let gpt_2 = || ByteLevel::new(false, true, true).into();
    let bytes_only = || ByteLevel::new(false, true, false).into();
    let steps: Vec<PreTokenizerWrapper> = match name {
        "smollm" => vec![Digits::new(true).into(), gpt_2()],
        "gpt-2" => vec![gpt_2()],
        "llama-bpe" => vec![split(LLAMA_3)?, bytes_only()],
        "qwen2" => vec![split(QWEN_2)?, bytes_only()],
        "default" => vec![
            split(r"[\p{P}\$\+<=>\^~\|]+")?,
            split(GPT_2)?,
            split(r"\p{N}+")?,
            split(r"[0-9][0-9][0-9]")?,
            bytes_only(),
        ],
        _ => return Ok(None),
    };
    Ok(Some(Sequence::new(steps).into()))
}

/// Whether a word that is a token as a whole is taken so, even where the merges do not lead to it.
pub(super) fn whole_words_first(name: &str) -> bool {
    name == "llama-bpe"
}

fn split(expression: &str) -> tokenizers::Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Ok(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into())
}
