//! Vocabularies of tiktoken: a file of lines `base64 rank`, and Mistral's `tekken.json`.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer as Inner};

/// The expression of Llama 3 and GPT-4, which transformers takes where it knows no other
/// (`TikTokenConverter`).
const GPT_4: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The expression of Qwen (`tokenization_qwen.py`).
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A special token: its text, its id, and whether text never spells it.
type Special = (String, u32, bool);

/// What is known of a vocabulary beyond its ranks.
#[derive(Debug, Default)]
struct Rules {
    pattern: String,
    composes: bool,
    special: Vec<Special>,
    /// The id of the first rank.
    first: u32,
}

/// Whether `bytes` are lines of a token in base64 and its rank.
pub(super) fn is_ranks(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    parse_line(line).is_some()
}

/// A token and its rank.
fn parse_line(line: &[u8]) -> Option<(Vec<u8>, u32)> {
    let line = std::str::from_utf8(line).ok()?;
    let (token, rank) = line.trim_end().split_once(' ')?;
    Some((STANDARD.decode(token).ok()?, rank.parse().ok()?))
}

/// The tokenizer of a file of ranks, or why it is not made. `class` is the one that
/// `tokenizer_config.json` names, `special` the added tokens there.
pub(super) fn from_ranks(
    bytes: &[u8],
    file: &str,
    class: &str,
    special: Vec<Special>,
) -> Result<Inner, String> {
    let mut ranks = Vec::new();
    for (number, line) in bytes
        .split(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.trim_ascii().is_empty())
    {
        let (token, rank) = parse_line(line).ok_or_else(|| {
            format!("its line {} is no token in base64 with its rank", number + 1)
        })?;
        if rank as usize != ranks.len() {
            return Err(format!(
                "its line {} has the rank {rank}, not {}",
                number + 1,
                ranks.len()
            ));
        }
        ranks.push(token);
    }
    let mut rules = Rules { special, ..Rules::default() };
    match class {
        "QWenTokenizer" => {
            (rules.pattern, rules.composes) = (QWEN.into(), true);
            let names =
                ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned).into_iter();
            let names = names.chain((0..205).map(|i| format!("<|extra_{i}|>")));
            rules.special =
                names.zip(ranks.len() as u32..).map(|(name, id)| (name, id, true)).collect();
        }
        ""
        | "PreTrainedTokenizer"
        | "PreTrainedTokenizerFast"
        | "LlamaTokenizer"
        | "LlamaTokenizerFast"
        | "ChatGLM4Tokenizer" => {
            if rules.special.is_empty() {
                return Err(
                    "it is a tiktoken vocabulary, and no file lists its special tokens".into()
                );
            }
            rules.pattern = GPT_4.into();
        }
        other => {
            return Err(format!(
                "{file} is the tiktoken vocabulary of a {other}, whose rules are not known"
            ));
        }
    }
    build(&ranks, rules)
}

/// Special tokens of a `tekken.json` that lists none, as mistral-common has them
/// (`DEPRECATED_SPECIAL_TOKENS`).
const TEKKEN: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// The tokenizer of a `tekken.json` (mistral-common, `Tekkenizer`): special tokens first, then the
/// ranks.
pub(super) fn from_tekken(table: &Value) -> Result<Inner, String> {
    let config = &table["config"];
    let number = |key: &str| {
        config[key]
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| format!("it has no config.{key}"))
    };
    let (size, first) = (number("default_vocab_size")?, number("default_num_special_tokens")?);
    let pattern = config["pattern"].as_str().ok_or("it has no config.pattern")?.to_owned();
    let wanted = size.checked_sub(first).ok_or("it has more special tokens than tokens")? as usize;
    let entries = table["vocab"]
        .as_array()
        .filter(|entries| entries.len() >= wanted)
        .ok_or_else(|| format!("it has fewer than {wanted} tokens"))?;
    let mut ranks = Vec::with_capacity(wanted);
    for (rank, entry) in entries[..wanted].iter().enumerate() {
        let token = entry["token_bytes"]
            .as_str()
            .and_then(|token| STANDARD.decode(token).ok())
            .filter(|_| entry["rank"].as_u64() == Some(rank as u64));
        ranks.push(
            token.ok_or_else(|| format!("its token {rank} has no token_bytes, or another rank"))?,
        );
    }
    let mut special: Vec<Special> = match table["special_tokens"].as_array() {
        Some(listed) => listed
            .iter()
            .filter_map(|token| {
                let id = u32::try_from(token["rank"].as_u64()?).ok()?;
                Some((
                    token["token_str"].as_str()?.to_owned(),
                    id,
                    token["is_control"].as_bool().unwrap_or(true),
                ))
            })
            .collect(),
        None => TEKKEN.iter().zip(0..).map(|(token, id)| ((*token).to_owned(), id, true)).collect(),
    };
    special.extend((special.len() as u32..first).map(|id| (format!("<SPECIAL_{id}>"), id, true)));
    build(&ranks, Rules { pattern, composes: false, special, first })
}

/// A byte-level BPE that joins the two neighbours whose union has the lowest rank
/// (`TikTokenConverter`).
fn build(ranks: &[Vec<u8>], rules: Rules) -> Result<Inner, String> {
    let printable = printable();
    let text =
        |bytes: &[u8]| bytes.iter().map(|&byte| printable[usize::from(byte)]).collect::<String>();
    let of: HashMap<&[u8], usize> =
        ranks.iter().enumerate().map(|(rank, token)| (token.as_slice(), rank)).collect();
    let mut vocabulary: serde_json::Map<String, Value> =
        ranks.iter().zip(rules.first..).map(|(token, id)| (text(token), json!(id))).collect();
    if vocabulary.len() != ranks.len() {
        return Err(format!("{} of its tokens occur twice", ranks.len() - vocabulary.len()));
    }
    let mut merges: Vec<(String, String)> = Vec::new();
    for token in ranks {
        let cuts = (1..token.len()).map(|at| token.split_at(at));
        let mut ways: Vec<_> = cuts
            .filter_map(|(left, right)| Some((of.get(left)?, of.get(right)?, left, right)))
            .collect();
        ways.sort_by_key(|&(left, right, ..)| (left, right));
        merges.extend(ways.into_iter().map(|(.., left, right)| (text(left), text(right))));
    }
    for (token, id, _) in &rules.special {
        if vocabulary.insert(token.clone(), json!(id)).is_some() {
            return Err(format!("its special token {token} is an ordinary one, too"));
        }
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": rules.pattern}, "behavior": "Isolated", "invert": false});
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": rules.composes.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": true, "vocab": vocabulary, "merges": merges},
    });
    let mut inner = Inner::from_bytes(whole.to_string()).map_err(|error| error.to_string())?;
    let added: Vec<AddedToken> = rules
        .special
        .iter()
        .map(|(token, _, control)| AddedToken::from(token.clone(), *control).normalized(false))
        .collect();
    inner.add_tokens(&added);
    Ok(inner)
}

/// GPT-2's printable character for each byte: itself where it is printable, else one from U+0100
/// on.
fn printable() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    })
}
