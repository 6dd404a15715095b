//! Finds a checkpoint to read. The run that writes it may still be running.

use std::path::{Path, PathBuf};

use config::Run;

use crate::directory::{Directory, checkpoints};
use crate::manifest::Manifest;
use crate::shard::Shards;
use crate::{Error, Result};

/// Which checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointChoice {
    /// The newest.
    Latest,
    /// The one with the lowest validation loss.
    Best,
    /// The one in this folder.
    At(PathBuf),
}

/// A complete and intact checkpoint.
#[derive(Debug)]
pub struct SavedCheckpoint {
    folder: PathBuf,
    manifest: Manifest,
}

impl SavedCheckpoint {
    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The files of all ranks.
    ///
    /// # Errors
    /// A file that is no safetensors file.
    pub fn shards(&self) -> Result<Shards> {
        Shards::open(&self.folder, &self.manifest)
    }
}

/// Finds a checkpoint whose files are intact and whose adapter is that of `run`.
///
/// # Errors
/// There is no such checkpoint; it is damaged; its `[lora]` differs.
pub fn find_checkpoint(run: &Run, choice: &CheckpointChoice) -> Result<SavedCheckpoint> {
    let directory = Directory::new(&run.dir);
    let newest = || {
        let steps = directory
            .steps()
            .map_err(Error::io(&checkpoints(&run.dir), "look for checkpoints in"))?;
        steps.last().map(|step| directory.path(*step)).ok_or_else(|| {
            let what = format!(
                "is {}, which holds no checkpoint; train first, with [checkpoint] every > 0",
                run.dir.display()
            );
            Error::from(run.error_at("run", "dir", &what))
        })
    };
    let folder = match choice {
        CheckpointChoice::At(folder) => folder.clone(),
        CheckpointChoice::Latest => newest()?,
        CheckpointChoice::Best => {
            let newest = newest()?;
            let Some(best) = read(&newest)?.best else {
                let what = format!(
                    "is {}, whose checkpoints have no validation loss, so that none is the best; train with [run] eval_every > 0, or ask for \
                     the latest",
                    run.dir.display()
                );
                return Err(run.error_at("run", "dir", &what).into());
            };
            directory.path(best.step)
        }
    };
    let manifest = read(&folder)?;
    if let Some(reason) = manifest.files.iter().find_map(|file| file.check(&folder).err()) {
        return Err(damaged(&folder, &reason));
    }
    manifest.config.check_weights(run)?;
    Ok(SavedCheckpoint { folder, manifest })
}

fn read(folder: &Path) -> Result<Manifest> {
    if !folder.is_dir() {
        let what = format!(
            "there is no checkpoint {}; give a folder such as runs/demo/checkpoints/step-00000100",
            folder.display()
        );
        return Err(Error::Input(what));
    }
    Manifest::read(folder).map_err(|reason| damaged(folder, &reason))
}

fn damaged(folder: &Path, reason: &str) -> Error {
    Error::Input(format!(
        "{} is not an intact checkpoint: {reason}; give another",
        folder.display()
    ))
}
