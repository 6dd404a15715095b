//! A checkpoint that is only looked at: the run in its directory may go on meanwhile.

use super::directory::Directory;
use super::manifest::Manifest;
use crate::{Error, Result};
use config::Run;
use std::path::{Path, PathBuf};

/// Which checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointChoice {
    /// The newest.
    Latest,
    /// The one with the lowest held-out loss.
    Best,
    /// The one in this folder.
    At(PathBuf),
}

/// The folder and the manifest of a checkpoint whose every file is what was written, and whose weights `run` has a place for.
///
/// # Errors
/// There is no such checkpoint; it is not sound; its `[lora]` is another.
pub(crate) fn find(run: &Run, choice: &CheckpointChoice) -> Result<(PathBuf, Manifest)> {
    let directory = Directory::of(&run.dir);
    let newest = || {
        let steps = directory.steps().map_err(Error::io(&super::checkpoints(&run.dir), "look for checkpoints in"))?;
        steps.last().map(|step| directory.path(*step)).ok_or_else(|| {
            let what = format!("is {}, which holds no checkpoint; train first, with [checkpoint] every > 0", run.dir.display());
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
                    "is {}, whose checkpoints know no held-out loss, so that none is the best; train with [run] eval_every > 0, or ask for \
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
        return Err(unsound(&folder, &reason));
    }
    manifest.config.check_weights(run)?;
    Ok((folder, manifest))
}

fn read(folder: &Path) -> Result<Manifest> {
    if !folder.is_dir() {
        let what = format!("there is no checkpoint {}; give a folder such as runs/demo/checkpoints/step-00000100", folder.display());
        return Err(Error::Input(what));
    }
    Manifest::read(folder).map_err(|reason| unsound(folder, &reason))
}

fn unsound(folder: &Path, reason: &str) -> Error {
    Error::Input(format!("{} is not a sound checkpoint: {reason}; give another", folder.display()))
}
