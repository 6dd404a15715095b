//! Opens the tokenizer of a model from its files.

use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as Inner};

use super::class::Class;
use super::file::{read, read_table};
use super::sentencepiece::{self, ModelProto};
use super::special::{self, Files, SpecialTokens, apply};
use super::{Tokenizer, parts, tiktoken};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// Files that hold a vocabulary, the most telling first.
const NAMES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
];

/// Vocabularies that are not read.
const UNREAD: [(&str, &str); 2] = [
    ("vocab.json", "it is half of a BPE in two files (vocab.json and merges.txt)"),
    ("vocab.txt", "it is a WordPiece vocabulary"),
];

/// The tokenizer in a model's folder; `None` where it has none.
pub(super) fn open_folder(folder: &Path) -> Result<Option<Tokenizer>> {
    let named = NAMES.iter().map(|name| folder.join(name)).find(|path| path.exists());
    if let Some(path) = named.or_else(|| with_other_name(folder)) {
        return open(&path, folder).map(Some);
    }
    match UNREAD
        .iter()
        .map(|(name, what)| (folder.join(name), *what))
        .find(|(path, _)| path.exists())
    {
        Some((path, what)) => Err(Error::file(&path, what, conversion(folder))),
        None => Ok(None),
    }
}

/// `qwen.tiktoken`, and Mistral's `tokenizer.model.v3`.
fn with_other_name(folder: &Path) -> Option<PathBuf> {
    let entries =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_one = |name: &str| {
        name.ends_with(".tiktoken")
            || name.contains(".model.v")
            || (name.starts_with("tekken") && name.ends_with(".json"))
    };
    entries.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_one)).min()
}

/// How the file is made that is always read.
fn conversion(folder: &Path) -> String {
    let folder = folder.display().to_string();
    format!(
        "make a tokenizer.json of it in Python, with transformers: AutoTokenizer.from_pretrained({folder:?}, trust_remote_code=True).save_pretrained({folder:?})"
    )
}

/// The tokenizer whose vocabulary is this file; the other files are looked for next to it.
pub(super) fn open_file(path: &Path) -> Result<Tokenizer> {
    if path.is_dir() {
        let none = || {
            Error::file(path, "the directory has no tokenizer", "name one with a tokenizer.json")
        };
        return open_folder(path)?.ok_or_else(none);
    }
    open(path, path.parent().unwrap_or(Path::new("")))
}

fn open(path: &Path, folder: &Path) -> Result<Tokenizer> {
    let table = |file: &str| read_table(&folder.join(file));
    let mut files = Files {
        config: table("tokenizer_config.json")?,
        map: table("special_tokens_map.json")?,
        added: table("added_tokens.json")?,
    };
    let (model, generation) = (table("config.json")?, table("generation_config.json")?);
    let mut class = Class::new(&files.config, &model);
    let path = source(path, folder, &class, &files.config);
    let name = path.display().to_string();

    let bytes = read(&path)?
        .ok_or_else(|| Error::io("open", &path)(std::io::ErrorKind::NotFound.into()))?;
    let mut inner = vocabulary(&path, &bytes, &mut class, &files, folder)?;
    without_length(&mut inner, &name, &mut files, &class)?;
    parts::bert_normalizer(&mut inner, &class, &files.config);
    parts::prefix_space(&mut inner, &class, &files.config);
    inner
        .set_encode_special_tokens(files.config["split_special_tokens"].as_bool().unwrap_or(false));
    let special = apply(&mut inner, &class, &files);
    parts::surround(&mut inner, &class, &files.config, &special).map_err(|problem| {
        Error::Tokenizer {
            name: name.clone(),
            problem,
            remedy: "name the token in tokenizer_config.json, or set the key to false".into(),
        }
    })?;
    parts::whole_offsets(&mut inner);

    let mut fingerprint = Fingerprint::new("tokenizer");
    fingerprint.add(&bytes);
    fingerprint.add(describe(&inner, &special));
    let mut tokenizer = Tokenizer::new(inner, special, fingerprint.finish(), name);
    let (bos, eos) = model_ids(&generation, &model);
    tokenizer.complete(bos, &eos);
    Ok(tokenizer)
}

/// The file to read: a class that is told about the space before a text makes its tokenizer again.
fn source(path: &Path, folder: &Path, class: &Class, config: &Value) -> PathBuf {
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json && class.converts_for_prefix() && config["add_prefix_space"].is_boolean() {
        let models = ["tokenizer.model", "spiece.model"].map(|name| folder.join(name));
        if let Some(model) = models.into_iter().find(|path| path.is_file()) {
            return model;
        }
    }
    path.to_owned()
}

/// What `generation_config.json`, else `config.json` of a model's folder says: the id that begins a
/// text, and those that end one.
pub(super) fn ids_of_folder(folder: &Path) -> Result<(Option<u32>, Vec<u32>)> {
    let table = |file: &str| read_table(&folder.join(file));
    Ok(model_ids(&table("generation_config.json")?, &table("config.json")?))
}

fn model_ids(generation: &Value, model: &Value) -> (Option<u32>, Vec<u32>) {
    let tables = [generation, model, &model["text_config"]];
    let bos = tables.iter().find_map(|table| ids(&table["bos_token_id"]).first().copied());
    (bos, tables.iter().flat_map(|table| ids(&table["eos_token_id"])).collect())
}

/// The tokenizer of the one file, whatever its format. A SentencePiece model of Llama's kind and a
/// `tekken.json` that come without the name of their class have that of Llama.
fn vocabulary(
    path: &Path,
    bytes: &[u8],
    class: &mut Class,
    files: &Files,
    folder: &Path,
) -> Result<Inner> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let refused = |problem: String| Error::file(path, problem, conversion(folder));
    if name.ends_with(".json") {
        if !name.starts_with("tekken") {
            return json(bytes, &path.display().to_string());
        }
        *class = if class.is_other() { Class::llama() } else { *class };
        return tiktoken::from_tekken(&read_table(path)?).map_err(refused);
    }
    if tiktoken::is_ranks(bytes) {
        let class = files.config["tokenizer_class"].as_str().unwrap_or_default();
        return tiktoken::from_ranks(bytes, &name, class, special::listed(files)).map_err(refused);
    }
    let proto = ModelProto::decode(bytes).map_err(|error| {
        let problem =
            format!("it is neither a SentencePiece model nor a tiktoken vocabulary ({error})");
        Error::file(path, problem, "give the file that came with the model")
    })?;
    let inner = sentencepiece::convert(&proto, class, &files.config).map_err(refused)?;
    if class.is_other() && matches!(inner.get_model(), ModelWrapper::BPE(_)) {
        *class = Class::llama();
    }
    Ok(inner)
}

fn json(bytes: &[u8], name: &str) -> Result<Inner> {
    Inner::from_bytes(super::file::without_bom(bytes)).map_err(|error| Error::Tokenizer {
        name: name.to_owned(),
        problem: format!("it does not parse ({error})"),
        remedy: "give the tokenizer.json that came with the model".into(),
    })
}

/// Length and padding are this crate's business; a file may bring settings of its own. Of these,
/// the pad token counts where nothing else names one.
fn without_length(inner: &mut Inner, name: &str, files: &mut Files, class: &Class) -> Result<()> {
    if let (Some(padding), Some(config)) = (inner.get_padding(), files.config.as_object_mut())
        && class.default(4).is_none()
        && !config.contains_key("pad_token")
    {
        config.insert("pad_token".into(), padding.pad_token.clone().into());
    }
    inner.with_padding(None);
    inner.with_truncation(None).map(|_| ()).map_err(|error| Error::Tokenizer {
        name: name.to_owned(),
        problem: error.to_string(),
        remedy: "remove `truncation` from the file".into(),
    })
}

/// Everything that the other files have changed.
fn describe(inner: &Inner, special: &SpecialTokens) -> String {
    let mut added: Vec<_> = inner.get_added_tokens_decoder().into_iter().collect();
    added.sort_by_key(|&(id, _)| id);
    let parts = serde_json::json!([
        inner.get_normalizer(),
        inner.get_pre_tokenizer(),
        inner.get_post_processor()
    ]);
    format!("{special:?} {added:?} {parts} {}", inner.get_encode_special_tokens())
}

/// One id or several.
fn ids(value: &Value) -> Vec<u32> {
    let several = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    several.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod converted;
#[cfg(test)]
mod tests;
