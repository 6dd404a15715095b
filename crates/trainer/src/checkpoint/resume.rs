//! From the newest sound checkpoint back into training.

use super::directory::Directory;
use super::manifest::{Best, Manifest};
use super::share;
use crate::step::Stepper;
use crate::{Error, Result};
use collective::ProcessGroup;
use config::Run;

/// Where a run begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// Steps done.
    pub step: u64,
    /// Their time.
    pub seconds: f64,
    /// Held-out loss before the first step, where it is known.
    pub eval_loss_before: Option<f64>,
    /// The best checkpoint so far.
    pub best: Option<Best>,
}

/// Takes up the newest sound checkpoint in the run's directory, and says in the log which newer ones were not, and why; those are set aside.
/// Without one, the run begins at its beginning. All ranks call it, and come to the same end.
///
/// # Errors
/// The run is another than the one that wrote the checkpoint, in its configuration or data; and whatever fails in reading.
pub(crate) fn resume(run: &Run, data: &str, stepper: &mut Stepper<'_>) -> Result<Start> {
    let directory = Directory::of(&run.dir);
    let (found, skipped) = find(&directory, stepper.group)?;
    let start = match &found {
        None => {
            if !skipped.is_empty() {
                tracing::warn!("no checkpoint is sound: the run begins anew");
            }
            Start::default()
        }
        Some(manifest) => {
            manifest.config.check(run)?;
            if manifest.data != data {
                let what = format!(
                    "is not the data that the run in {} was begun with: its files, or the model's tokenizer, have changed since; restore \
                     them, or pass --overwrite to begin anew",
                    run.dir.display()
                );
                return Err(run.error_at("data", "train", &what).into());
            }
            let folder = directory.path(manifest.step);
            tracing::info!("going on after step {}, from {}", manifest.step, folder.display());
            share::load(stepper, &folder, manifest)?;
            let best = manifest.best.filter(|best| directory.path(best.step).is_dir());
            Start { step: manifest.step, seconds: manifest.seconds, eval_loss_before: manifest.eval_loss_before, best }
        }
    };
    // Not before here: only the right run may touch them.
    if stepper.group.rank() == 0 {
        for step in skipped {
            let aside = directory.set_aside(step).map_err(Error::io(&directory.path(step), "set aside"))?;
            tracing::warn!("{} is now {}", directory.path(step).display(), aside.display());
        }
    }
    Ok(start)
}

/// The newest sound checkpoint, and the steps of those newer ones that are not.
fn find(directory: &Directory, group: &dyn ProcessGroup) -> Result<(Option<Manifest>, Vec<u64>)> {
    // One rank looks, so that all see the same.
    let mut candidates = Vec::new();
    if group.rank() == 0 {
        let steps = directory.sweep().and_then(|()| directory.steps()).map_err(Error::io(&directory.path(0), "look for"))?;
        candidates = steps.iter().rev().flat_map(|step| step.to_le_bytes()).collect();
    }
    group.broadcast_bytes(&mut candidates, 0)?;
    let candidates = candidates.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));

    let mut skipped = Vec::new();
    for step in candidates {
        match sound(directory, step, group)? {
            Ok(manifest) => return Ok((Some(manifest), skipped)),
            Err(reason) => {
                tracing::warn!("skipped {}: {reason}", directory.path(step).display());
                skipped.push(step);
            }
        }
    }
    Ok((None, skipped))
}

/// The manifest of a checkpoint whose every file is what was written; or what is wrong. The ranks share the files between them.
fn sound(directory: &Directory, step: u64, group: &dyn ProcessGroup) -> Result<std::result::Result<Manifest, String>> {
    let folder = directory.path(step);
    let mut read = Vec::new();
    if group.rank() == 0 {
        let manifest = Manifest::read(&folder).and_then(|manifest| {
            let is_whole = manifest.step == step && manifest.ranks > 0 && manifest.files.len() == manifest.ranks;
            if is_whole { Ok(manifest) } else { Err("its manifest is of another checkpoint".to_owned()) }
        });
        read = serde_json::to_vec(&manifest).map_err(|cause| Error::io(&folder, "describe")(cause.into()))?;
    }
    group.broadcast_bytes(&mut read, 0)?;
    let manifest: std::result::Result<Manifest, String> =
        serde_json::from_slice(&read).map_err(|cause| Error::io(&folder, "read the manifest of")(cause.into()))?;
    let Ok(manifest) = manifest else { return Ok(manifest) };

    let own = manifest.files.iter().skip(group.rank()).step_by(group.world_size());
    let faults: Vec<String> = own.filter_map(|file| file.check(&folder).err()).collect();
    let faults = group.all_gather_bytes(faults.join("; ").as_bytes())?;
    let faults: Vec<_> = faults.iter().filter(|faults| !faults.is_empty()).map(|faults| String::from_utf8_lossy(faults)).collect();
    Ok(if faults.is_empty() { Ok(manifest) } else { Err(faults.join("; ")) })
}
