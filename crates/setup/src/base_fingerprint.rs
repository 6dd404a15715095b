//! The fingerprint of a run's frozen base model.

use std::path::{Path, PathBuf};

use config::{Run, StartingWeights};

use crate::{Error, Result};

/// A fingerprint of the files of the base model, where a checkpoint does not hold its weights: their
/// names, lengths and contents, wherever they lie. `None` where all weights are trained or random.
///
/// # Errors
/// If a file cannot be read.
pub fn base_fingerprint(run: &Run) -> Result<Option<String>> {
    if run.lora.is_none() || run.model.weights == StartingWeights::Random {
        return Ok(None);
    }
    let described = |path: &PathBuf| {
        let sum = files::checksum(path).map_err(Error::io(path, "read"))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let length = path.metadata().map_err(Error::io(path, "read"))?.len();
        Ok(format!("{name} {length} {sum:08x}"))
    };
    let files = weight_files(&run.model.path)?;
    let described = files.iter().map(described).collect::<Result<Vec<_>>>()?;
    Ok(Some(described.join("; ")))
}

/// The files that hold the model's configuration and weights, in the order of their names.
fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "list"))?;
    let paths = entries.map(|entry| Ok(entry.map_err(Error::io(path, "list"))?.path()));
    let mut paths = paths.collect::<Result<Vec<PathBuf>>>()?;
    let is_of_model = |path: &PathBuf| {
        path.is_file()
            && (path.extension().is_some_and(|extension| extension == "safetensors")
                || path.file_name().is_some_and(|name| name == "config.json"))
    };
    paths.retain(is_of_model);
    paths.sort();
    Ok(paths)
}
