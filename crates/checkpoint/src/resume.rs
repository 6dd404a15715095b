//! Resumes a run from its newest intact checkpoint.

use std::collections::BTreeSet;

use collective::ProcessGroup;
use config::Run;

use crate::directory::Directory;
use crate::inputs::InputFingerprints;
use crate::manifest::{Best, Manifest};
use crate::shard::{Checkpointable, Shards};
use crate::{Error, Result};

/// Where a run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ResumePoint {
    /// Steps done.
    pub step: u64,
    /// Their time.
    pub seconds: f64,
    /// Validation loss before the first step, if it is known.
    pub eval_loss_before: Option<f64>,
    /// The best checkpoint so far.
    pub best: Option<Best>,
}

/// Loads the newest intact checkpoint in the run's directory into `state`. Newer ones that are
/// damaged are logged with the reason, and set aside. Without a checkpoint the run starts from
/// scratch. All ranks call it, with the same result.
///
/// `inputs` are the fingerprints of what the run reads.
///
/// # Errors
/// Configuration or data differ from those of the run that wrote the checkpoint; and those of
/// reading.
pub fn resume(
    run: &Run,
    inputs: &InputFingerprints,
    group: &dyn ProcessGroup,
    state: &mut dyn Checkpointable,
) -> Result<ResumePoint> {
    let directory = Directory::new(&run.dir);
    let (found, skipped) = find(&directory, group)?;
    let start = match &found {
        None => {
            if !skipped.is_empty() {
                tracing::warn!("no checkpoint is intact: the run starts from scratch");
            }
            ResumePoint::default()
        }
        Some(manifest) => {
            manifest.config.check(run)?;
            if manifest.data != inputs.data {
                let what = format!(
                    "is not the data that the run in {} was started with: its files, or the model's tokenizer, have changed since; restore \
                     them, or pass --overwrite to start over",
                    run.dir.display()
                );
                return Err(run.error_at("data", "train", &what).into());
            }
            if manifest.base.is_some() && manifest.base != inputs.base {
                let what = format!(
                    "is not the model that the run in {} was started with: its files have changed since ({}); restore them, or pass \
                     --overwrite to start over",
                    run.dir.display(),
                    difference(manifest.base.as_deref(), inputs.base.as_deref())
                );
                return Err(run.error_at("model", "path", &what).into());
            }
            let folder = directory.path(manifest.step);
            tracing::info!("resuming after step {}, from {}", manifest.step, folder.display());
            state.load_state(&Shards::open(&folder, manifest)?)?;
            let best = manifest.best.filter(|best| directory.path(best.step).is_dir());
            ResumePoint {
                step: manifest.step,
                seconds: manifest.seconds,
                eval_loss_before: manifest.eval_loss_before,
                best,
            }
        }
    };
    // Not before here: only the right run may rename them.
    if group.rank() == 0 {
        for step in skipped {
            let aside =
                directory.set_aside(step).map_err(Error::io(&directory.path(step), "set aside"))?;
            tracing::warn!("{} is now {}", directory.path(step).display(), aside.display());
        }
    }
    Ok(start)
}

/// The files that differ between two fingerprints of a base model.
fn difference(before: Option<&str>, now: Option<&str>) -> String {
    let files = |described: Option<&str>| -> BTreeSet<String> {
        described.into_iter().flat_map(|all| all.split("; ")).map(str::to_owned).collect()
    };
    let (before, now) = (files(before), files(now));
    let names = before.symmetric_difference(&now).filter_map(|file| file.split(' ').next());
    names.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}

/// The newest intact checkpoint, and the steps of newer ones that are damaged.
fn find(directory: &Directory, group: &dyn ProcessGroup) -> Result<(Option<Manifest>, Vec<u64>)> {
    // One rank reads the directory, so that all have the same list.
    let mut candidates = Vec::new();
    if group.rank() == 0 {
        let steps = directory
            .sweep()
            .and_then(|()| directory.steps())
            .map_err(Error::io(&directory.path(0), "look for"))?;
        let unknown = directory.unknown_entries().unwrap_or_default();
        if !unknown.is_empty() {
            tracing::warn!("ignored in checkpoints/, as not a checkpoint: {}", unknown.join(", "));
        }
        candidates = steps.iter().rev().flat_map(|step| step.to_le_bytes()).collect();
    }
    group.broadcast_bytes(&mut candidates, 0)?;
    let candidates = candidates.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));

    let mut skipped = Vec::new();
    for step in candidates {
        match verify(directory, step, group)? {
            Ok(manifest) => return Ok((Some(manifest), skipped)),
            Err(reason) => {
                tracing::warn!("skipped {}: {reason}", directory.path(step).display());
                skipped.push(step);
            }
        }
    }
    Ok((None, skipped))
}

/// The manifest of a checkpoint if all its files are intact; or what is wrong. Each rank verifies
/// some of the files.
fn verify(
    directory: &Directory,
    step: u64,
    group: &dyn ProcessGroup,
) -> Result<std::result::Result<Manifest, String>> {
    let folder = directory.path(step);
    let mut read = Vec::new();
    if group.rank() == 0 {
        let manifest = Manifest::read(&folder).and_then(|manifest| {
            let is_whole = manifest.step == step
                && manifest.ranks > 0
                && manifest.files.len() == manifest.ranks;
            if is_whole {
                Ok(manifest)
            } else {
                Err("its manifest is of another checkpoint".to_owned())
            }
        });
        read = serde_json::to_vec(&manifest)
            .map_err(|cause| Error::io(&folder, "describe")(cause.into()))?;
    }
    group.broadcast_bytes(&mut read, 0)?;
    let manifest: std::result::Result<Manifest, String> = serde_json::from_slice(&read)
        .map_err(|cause| Error::io(&folder, "read the manifest of")(cause.into()))?;
    let Ok(manifest) = manifest else { return Ok(manifest) };

    let own = manifest.files.iter().skip(group.rank()).step_by(group.world_size());
    let faults: Vec<String> = own.filter_map(|file| file.check(&folder).err()).collect();
    let faults = group.all_gather_bytes(faults.join("; ").as_bytes())?;
    let faults: Vec<_> = faults
        .iter()
        .filter(|faults| !faults.is_empty())
        .map(|faults| String::from_utf8_lossy(faults))
        .collect();
    Ok(if faults.is_empty() { Ok(manifest) } else { Err(faults.join("; ")) })
}
