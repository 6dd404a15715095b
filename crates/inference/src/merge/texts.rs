//! Tokenizer and chat template of a merged model: the files of the base, or those made from a GGUF
//! file.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use data::Tokenizer;
use models::{ChatTemplates, Checkpoint, ModelConfig, TokenizerSource};
use setup::TextProcessor;

use super::MergeRequest;
use crate::{Error, Result};

/// The files of a Hugging Face directory that make up its tokenizer.
const TOKENIZER: [&str; 11] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tiktoken.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
];

/// Its other files that belong to the text side, and how generation is begun.
const OTHERS: [&str; 4] =
    ["chat_template.jinja", "chat_template.json", "generation_config.json", "LICENSE"];

/// In addition to `chat_template.jinja`: the template for conversations with tools. A run's own
/// template is the only one.
const TOOL_USE: &str = "additional_chat_templates/tool_use.jinja";

/// Writes them into `folder`: the base's, with the run's own tokenizer and template in the place of
/// those.
pub(super) fn write(checkpoint: &Checkpoint, request: &MergeRequest, folder: &Path) -> Result<()> {
    let own = request.tokenizer.as_deref();
    if checkpoint.path().is_dir() {
        let of_base = if own.is_none() { &TOKENIZER[..] } else { &[] };
        let tool_use = if request.chat_template.is_none() { &[TOOL_USE][..] } else { &[] };
        for file in of_base.iter().chain(&OTHERS).chain(tool_use) {
            let from = checkpoint.path().join(file);
            if from.is_file() {
                copy(&from, &folder.join(file))?;
            }
        }
    } else {
        write_json(&folder.join("generation_config.json"), generation(checkpoint.config()?))?;
    }
    // As it was opened for training: its files may be of a kind that stands for another in another
    // folder.
    let is_made = own.is_some() || matches!(checkpoint.tokenizer(), TokenizerSource::Gguf(_));
    if is_made
        && let Some(tokenizer) =
            TextProcessor::new(own, &ChatTemplates::default(), checkpoint)?.tokenizer
    {
        write_json(
            &folder.join("tokenizer_config.json"),
            tokenizer_config(checkpoint, &tokenizer),
        )?;
        tokenizer.write(&folder.join("tokenizer.json"))?;
    }
    if let Some(own) = &request.chat_template {
        copy(own, &folder.join("chat_template.jinja"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder, "make the directory"))?;
    }
    fs::copy(from, to).map(|_| ()).map_err(Error::io(from, "copy"))
}

/// `generation_config.json`: where texts begin and end.
fn generation(model: &ModelConfig) -> Map<String, Value> {
    let mut table = Map::new();
    table.extend(model.bos_token_id.map(|id| ("bos_token_id".to_owned(), json!(id))));
    if !model.eos_token_ids.is_empty() {
        table.insert("eos_token_id".into(), json!(model.eos_token_ids));
    }
    table.extend(model.pad_token_id.map(|id| ("pad_token_id".to_owned(), json!(id))));
    table
}

/// `tokenizer_config.json`: which tokens are special, and the chat template.
fn tokenizer_config(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Map<String, Value> {
    let special = tokenizer.special_tokens();
    let mut table = Map::new();
    table.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    // Or transformers' `generate` would be handed the type of each token too, which a Llama has
    // not.
    table.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
    table.extend(
        checkpoint
            .config()
            .ok()
            .map(|model| ("model_max_length".to_owned(), model.max_positions.into())),
    );
    table.insert("clean_up_tokenization_spaces".into(), false.into());
    let tokens = [
        ("bos_token", &special.bos),
        ("eos_token", &special.eos),
        ("unk_token", &special.unk),
        ("pad_token", &special.pad),
    ];
    for (key, token) in tokens {
        table.extend(token.as_ref().map(|token| (key.to_owned(), json!(token))));
    }
    let ChatTemplates { default, tool_use } = checkpoint.chat_templates();
    let templates = match (default, tool_use) {
        (Some(default), Some(tool_use)) => Some(
            json!([{"name": "default", "template": default}, {"name": "tool_use", "template": tool_use}]),
        ),
        (default, _) => default.as_ref().map(|template| json!(template)),
    };
    table.extend(templates.map(|templates| ("chat_template".to_owned(), templates)));
    table
}

fn write_json(path: &Path, table: Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(&Value::Object(table))
        .map_err(|cause| Error::io(path, "write")(cause.into()))?;
    fs::write(path, text).map_err(Error::io(path, "write"))
}
