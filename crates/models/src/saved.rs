//! A model whose weights were trained, written as the one it came from.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::Labels;
use crate::{Error, Model, Result, tensor_file};

/// Writes the weights of `model` to the directory `folder`, with everything in the model directory
/// `source` that is no weight: configuration, tokenizer, chat template; into the configuration go
/// `labels`, the classes of a classifier. Quantized weights are expanded. It is written aside and
/// renamed, so that it is whole or absent; what was there before is replaced.
///
/// # Errors
/// [`Error::Io`], or those of [`tensor_file::write`].
pub fn write_model(
    folder: &Path,
    source: &Path,
    model: &dyn Model,
    labels: Option<&Labels>,
) -> Result<()> {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let aside = folder.with_file_name(name);
    remove(&aside)?;
    std::fs::create_dir_all(&aside).map_err(Error::io(&aside, "create"))?;
    for entry in std::fs::read_dir(source).map_err(Error::io(source, "read"))? {
        let path = entry.map_err(Error::io(source, "read"))?.path();
        let Some(name) =
            path.file_name().filter(|name| path.is_file() && !is_weight(&name.to_string_lossy()))
        else {
            continue;
        };
        let copy = aside.join(name);
        std::fs::copy(&path, &copy).map_err(Error::io(&copy, "write"))?;
        File::open(&copy).and_then(|file| file.sync_all()).map_err(Error::io(&copy, "sync"))?;
    }
    if let Some(labels) = labels {
        write_labels(&aside.join("config.json"), labels)?;
    }
    let mut tensors: Vec<_> = model
        .parameters()
        .into_iter()
        .map(|parameter| (parameter.name().to_owned(), parameter.shallow_clone()))
        .collect();
    let file = aside.join("model.safetensors");
    for packed in model.quantized_weights() {
        tensors.push((
            packed.name().to_owned(),
            packed.expand().map_err(Error::torch(packed.name(), &file))?,
        ));
    }
    tensor_file::write(&file, &tensors, &[("format", "pt")])?;
    remove(folder)?;
    std::fs::rename(&aside, folder).map_err(Error::io(folder, "create"))
}

/// Puts the names of the classes into a configuration.
fn write_labels(path: &Path, labels: &Labels) -> Result<()> {
    let text = crate::file::read_to_string(path).map_err(Error::io(path, "read"))?;
    let mut config: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|why| Error::corrupt(path, format!("it is not a JSON table: {why}")))?;
    config.remove("num_labels");
    config.extend(labels.to_json());
    let text =
        serde_json::to_vec_pretty(&config).map_err(|why| Error::io(path, "write")(why.into()))?;
    File::create(path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(Error::io(path, "write"))
}

/// Whether a file of this name holds weights, or says which file does.
fn is_weight(name: &str) -> bool {
    [
        ".safetensors",
        ".safetensors.index.json",
        ".bin",
        ".bin.index.json",
        ".pt",
        ".pth",
        ".gguf",
        ".h5",
        ".msgpack",
        ".onnx",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { path: folder.to_owned(), action: "remove", source })
        }
        _ => Ok(()),
    }
}
