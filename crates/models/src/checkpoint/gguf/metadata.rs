//! The metadata of a GGUF file: scalars for the configuration, arrays for the tokenizer.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, Number, Value as Json};

use super::super::templates::ChatTemplates;
use super::super::tokenizer::GgufTokenizer;
use crate::{Error, Result};

/// Everything but arrays, as a table to be read by key. An array, where a scalar is wanted (one
/// size per layer), is shown by its text, so that it is refused as what it is.
pub(super) fn scalars(content: &Content) -> Map<String, Json> {
    content.metadata.iter().map(|(key, value)| (key.clone(), scalar(value))).collect()
}

fn scalar(value: &Value) -> Json {
    match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::F32(v) => number(shortest(*v)),
        Value::F64(v) => number(*v),
        Value::Bool(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        Value::Array(v) => format!("an array of {}", v.len()).into(),
    }
}

/// The number that a person wrote: 1e-5, not the 9.999999747378752e-6 that is its f32.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// JSON has no NaN and no infinity; where a number is wanted their text is refused as what it is.
fn number(value: f64) -> Json {
    Number::from_f64(value).map_or_else(|| value.to_string().into(), Json::Number)
}

/// The tokenizer inside the file, if there is one.
pub(super) fn tokenizer(content: &Content, path: &Path) -> Result<Option<GgufTokenizer>> {
    let reader = Reader { content, path };
    let Some(model) = reader.text("model")? else { return Ok(None) };
    let tokens = reader.list("tokens", "strings", as_text)?;
    let token_types = reader.list("token_type", "integers", as_type)?;
    if !token_types.is_empty() && token_types.len() != tokens.len() {
        let why = format!("it has {} tokens and {} token types", tokens.len(), token_types.len());
        return Err(Error::corrupt(path, why));
    }
    let merges = reader.list("merges", "strings", as_text)?;
    let id = |key| reader.id(key, tokens.len());
    let template = |key: &str| match content.metadata.get(key) {
        Some(Value::String(template)) => Some(template.clone()),
        _ => None,
    };
    Ok(Some(GgufTokenizer {
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        pre: reader.text("pre")?,
        add_bos: match reader.get("add_bos_token") {
            Some(Value::Bool(add)) => *add,
            // What llama.cpp assumes: SentencePiece texts begin with the token, byte-level BPE ones
            // do not.
            _ => model == "llama",
        },
        templates: ChatTemplates {
            default: template("tokenizer.chat_template"),
            tool_use: template("tokenizer.chat_template.tool_use"),
        },
        model,
        tokens,
        merges,
        token_types,
    }))
}

struct Reader<'a> {
    content: &'a Content,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(&format!("tokenizer.ggml.{key}"))
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.invalid(key, "it is not a string")),
        }
    }

    fn list<T>(&self, key: &str, of: &str, read: fn(&Value) -> Option<T>) -> Result<Vec<T>> {
        let items = match self.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(read).collect(),
            Some(_) => None,
        };
        items.ok_or_else(|| self.invalid(key, &format!("it is not an array of {of}")))
    }

    fn id(&self, key: &str, vocabulary: usize) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let id = value.to_u64().ok().and_then(|id| u32::try_from(id).ok());
        match id.filter(|&id| (id as usize) < vocabulary) {
            Some(id) => Ok(Some(id)),
            None => Err(self.invalid(key, &format!("it is not one of the {vocabulary} tokens"))),
        }
    }

    fn invalid(&self, key: &str, why: &str) -> Error {
        Error::InvalidConfig {
            file: self.path.to_owned(),
            key: format!("tokenizer.ggml.{key}"),
            why: why.to_owned(),
        }
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    }
}

fn as_type(value: &Value) -> Option<i32> {
    match value {
        Value::I32(v) => Some(*v),
        Value::U32(v) => i32::try_from(*v).ok(),
        _ => None,
    }
}
