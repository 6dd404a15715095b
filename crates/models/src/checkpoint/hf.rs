//! Hugging Face directories.

use std::collections::HashMap;
use std::path::{Component, Path};

use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use super::templates::ChatTemplates;
use super::text::Text;
use super::tokenizer::TokenizerSource;
use super::{Checkpoint, Weights};
use crate::config::hugging_face;
use crate::file::read_text;
use crate::{Architecture, Error, Result, TensorFile};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

pub(super) fn open(folder: &Path) -> Result<Checkpoint> {
    let architecture = architecture(folder)?;
    let mut weights = Box::new(Shards::open(folder)?);
    weights.complete_names(&architecture);
    Ok(Checkpoint { path: folder.to_owned(), architecture, weights, text: text(folder)? })
}

/// The same without the weights.
pub(super) fn open_untrained(folder: &Path) -> Result<Checkpoint> {
    let weights = Box::new(Shards { files: Vec::new(), tensors: HashMap::new() });
    Ok(Checkpoint {
        path: folder.to_owned(),
        architecture: architecture(folder)?,
        weights,
        text: text(folder)?,
    })
}

fn architecture(folder: &Path) -> Result<Architecture> {
    let file = folder.join("config.json");
    let table = read_table(&file)?.ok_or_else(|| not_a_model(folder))?;
    hugging_face::read(&file, &table)
}

/// Says what a directory without `config.json` holds instead, where that helps.
fn not_a_model(folder: &Path) -> Error {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let gguf = entries
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "gguf"));
    let why = match gguf {
        Some(path) => format!("it has no config.json, but it holds {}", path.display()),
        None => "it has no config.json".into(),
    };
    Error::NotAModel { path: folder.to_owned(), why }
}

/// The safetensors files of a checkpoint, and which of them holds each tensor.
#[derive(Debug)]
struct Shards {
    files: Vec<TensorFile>,
    tensors: HashMap<String, Stored>,
}

/// Where a tensor is.
#[derive(Debug)]
struct Stored {
    /// The number of its file.
    file: usize,
    /// Its name there.
    name: String,
}

impl Shards {
    /// A single file wins over an index, as in transformers.
    fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(WEIGHTS);
        if single.exists() {
            let file = TensorFile::open(&single)?;
            let tensors = file
                .names()
                .into_iter()
                .map(|name| (name.clone(), Stored { file: 0, name }))
                .collect();
            return Ok(Shards { files: vec![file], tensors });
        }
        let index = folder.join(INDEX);
        let Some(table) = read_table(&index)? else {
            let remedy = match folder.join("pytorch_model.bin").exists() {
                true => {
                    "there is a pytorch_model.bin: save the model again with safe_serialization=True"
                }
                false => {
                    "fetch the model's weights (model.safetensors, or its index and all the files it names)"
                }
            };
            return Err(Error::MissingFile { path: single, remedy: remedy.into() });
        };
        Shards::from_index(folder, &index, &table)
    }

    fn from_index(folder: &Path, index: &Path, table: &Map<String, Value>) -> Result<Self> {
        let map = table
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| Error::corrupt(index, "it has no table weight_map"))?;
        let mut shards = Shards { files: Vec::new(), tensors: HashMap::new() };
        let mut opened = HashMap::new();
        for (tensor, file) in map {
            let file = file.as_str().filter(|file| is_plain(file)).ok_or_else(|| {
                Error::corrupt(
                    index,
                    format!("it names {file} as the file of {tensor}, not a file beside it"),
                )
            })?;
            let at = match opened.get(file) {
                Some(&at) => at,
                None => {
                    shards.files.push(open_shard(&folder.join(file), index)?);
                    opened.insert(file, shards.files.len() - 1);
                    shards.files.len() - 1
                }
            };
            if shards.files[at].shape(tensor).is_none() {
                return Err(Error::MissingTensor {
                    tensor: tensor.clone(),
                    file: shards.files[at].path().to_owned(),
                });
            }
            shards.tensors.insert(tensor.clone(), Stored { file: at, name: tensor.clone() });
        }
        Ok(shards)
    }

    /// Names as transformers completes them. A checkpoint of the model without its head, as those
    /// of GPT-2 and MiniLM on the hub, leaves out what stands before every name
    /// (`base_model_prefix`); one that was made with TensorFlow calls the parameters of norms gamma
    /// and beta, as that of BERT does.
    fn complete_names(&mut self, architecture: &Architecture) {
        let (prefix, whole) = (architecture.prefix(), architecture.known());
        let lacks_prefix =
            !self.tensors.contains_key(&whole) && self.tensors.contains_key(&whole[prefix.len()..]);
        let prefix = if lacks_prefix { prefix } else { "" };
        let is_encoder = matches!(architecture, Architecture::Encoder(_));
        let complete = |name: String| {
            let renamed =
                match (name.strip_suffix("LayerNorm.gamma"), name.strip_suffix("LayerNorm.beta")) {
                    (Some(before), _) if is_encoder => format!("{before}LayerNorm.weight"),
                    (_, Some(before)) if is_encoder => format!("{before}LayerNorm.bias"),
                    _ => name,
                };
            format!("{prefix}{renamed}")
        };
        self.tensors =
            self.tensors.drain().map(|(name, stored)| (complete(name), stored)).collect();
    }

    fn file(&self, name: &str) -> Option<(&TensorFile, &str)> {
        self.tensors.get(name).map(|stored| (&self.files[stored.file], stored.name.as_str()))
    }

    fn needed(&self, name: &str) -> Result<(&TensorFile, &str)> {
        let path = || self.files.first().map(|file| file.path().to_owned()).unwrap_or_default();
        self.file(name)
            .ok_or_else(|| Error::MissingTensor { tensor: name.to_owned(), file: path() })
    }
}

/// An index may only name files beside itself: one that comes from elsewhere must not open others.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
}

fn open_shard(path: &Path, index: &Path) -> Result<TensorFile> {
    TensorFile::open(path).map_err(|fault| match fault {
        Error::MissingFile { path, .. } => Error::MissingFile {
            path,
            remedy: format!("{} names it: fetch it too", index.display()),
        },
        other => other,
    })
}

impl Weights for Shards {
    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn shape(&self, name: &str) -> Option<&[i64]> {
        let (file, stored) = self.file(name)?;
        file.shape(stored)
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let (file, stored) = self.file(name)?;
        file.kind(stored).ok()
    }

    fn check_format(&self, name: &str) -> Result<()> {
        let (file, stored) = self.needed(name)?;
        match file.kind(stored)? {
            Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16 => Ok(()),
            other => Err(Error::Dtype {
                tensor: name.to_owned(),
                file: file.path().to_owned(),
                expected: "F64, F32, F16 or BF16",
                got: format!("{other:?}"),
            }),
        }
    }

    fn tensor(&self, name: &str, kind: Kind, device: Device) -> Result<Tensor> {
        let (file, stored) = self.needed(name)?;
        file.tensor_as(stored, kind, device)
    }

    fn bytes_on_disk(&self) -> u64 {
        self.files.iter().map(TensorFile::bytes_on_disk).sum()
    }
}

/// `chat_template.jinja` and `additional_chat_templates`, else the templates in
/// `tokenizer_config.json`. The other files of the tokenizer are opened by who needs it.
fn text(folder: &Path) -> Result<Text> {
    let settings = read_table(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let templates = match read_text(&folder.join("chat_template.jinja"))? {
        Some(template) => ChatTemplates { default: Some(template), tool_use: None },
        None => settings.get("chat_template").map(templates).unwrap_or_default(),
    };
    let additional = read_text(&folder.join("additional_chat_templates/tool_use.jinja"))?;
    let templates = ChatTemplates { tool_use: additional.or(templates.tool_use), ..templates };
    Ok(Text { tokenizer: TokenizerSource::Folder(folder.to_owned()), templates })
}

/// A template, or several with their names.
fn templates(value: &Value) -> ChatTemplates {
    let named = |name: &str| match value {
        Value::Array(several) => {
            several.iter().find(|one| one["name"] == name)?["template"].as_str().map(str::to_owned)
        }
        Value::Object(several) => several.get(name)?.as_str().map(str::to_owned),
        _ => None,
    };
    ChatTemplates {
        default: value.as_str().map(str::to_owned).or_else(|| named("default")),
        tool_use: named("tool_use"),
    }
}

fn read_table(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let table = serde_json::from_str(&text);
    table.map(Some).map_err(|why| Error::corrupt(path, format!("it is not a JSON table: {why}")))
}
