//! Merges an adapter into the weights of its model, as a directory that transformers opens.

mod texts;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tch::Kind;

use models::{Checkpoint, MergeOptions, Merged, read_adapter};

use crate::{Error, Result};

/// What to merge, and where to.
#[derive(Clone, Debug)]
pub struct MergeRequest {
    /// A Hugging Face directory, or a `.gguf` file.
    pub model: PathBuf,
    /// A PEFT adapter.
    pub adapter: PathBuf,
    /// A `tokenizer.json` instead of the model's own.
    pub tokenizer: Option<PathBuf>,
    /// A chat template instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// The directory to be made.
    pub out: PathBuf,
    /// The dtype of all weights; absent: as the base is stored, f32 where it is quantized.
    pub kind: Option<Kind>,
    /// The most bytes of weights in a file.
    pub shard_bytes: u64,
}

/// Merges an adapter into its model. The directory appears complete or not at all: it is written
/// under a temporary name, synced, and renamed. `progress` receives (written, total) in bytes of
/// weights.
///
/// # Errors
/// The directory is there already; model or adapter cannot be used, or do not fit; those of
/// writing.
pub fn merge(request: &MergeRequest, progress: &mut dyn FnMut(u64, u64)) -> Result<Merged> {
    let out = &request.out;
    if out.exists() {
        return Err(Error::Input(format!(
            "{} is there already; give --out another directory, or remove it",
            out.display()
        )));
    }
    let checkpoint = Checkpoint::open(&request.model)?;
    let adapter = read_adapter(&request.adapter)?;
    let options = MergeOptions { kind: request.kind, shard_bytes: request.shard_bytes };

    let aside = aside(out);
    fs::create_dir_all(&aside).map_err(Error::io(&aside, "make the directory"))?;
    let merged = models::merge(&checkpoint, &adapter, &request.adapter, &options, &aside, progress)
        .map_err(Error::from)
        .and_then(|merged| {
            texts::write(&checkpoint, request, &aside)?;
            sync_all(&aside)?;
            fs::rename(&aside, out).map_err(Error::io(out, "make the directory"))?;
            sync(parent(out))?;
            Ok(merged)
        });
    if merged.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&aside);
    }
    merged
}

/// A name in the same folder (a rename across file systems is not atomic) that no other process
/// uses.
fn aside(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    out.with_file_name(name)
}

fn parent(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io(path, "sync"))
}

/// Syncs every file of a folder, and the folder.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        sync(&entry.map_err(Error::io(folder, "list"))?.path())?;
    }
    sync(folder)
}
