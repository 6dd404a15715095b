//! Writes checkpoints in the background.
//!
//! At the end of a step each rank copies its shard and hands it to a thread that writes and syncs
//! it. At the end of a later step, when all ranks are known to be done, they gather the files'
//! checksums, and rank 0 writes the manifest, renames the folder, and removes old checkpoints. A
//! failure of one rank is told to all: no rank relies on a checkpoint that does not exist.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tch::Tensor;

use collective::ProcessGroup;
use config::Run;

use crate::compat::CompatKeys;
use crate::directory::Directory;
use crate::inputs::InputFingerprints;
use crate::manifest::{Best, FileEntry, Manifest};
use crate::shard::{Checkpointable, file_name};
use crate::{Error, Result};

/// The progress of a run at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainState {
    /// Steps done.
    pub step: u64,
    /// Validation loss after it, if it was evaluated.
    pub eval_loss: Option<f64>,
    /// Validation loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Time of the steps so far.
    pub seconds: f64,
}

/// Failures to inject while a checkpoint is written, for tests.
pub trait SaveFaults: Send + Sync {
    /// Called after rank `rank` has written its shard of the checkpoint of `step`.
    ///
    /// # Errors
    /// The failure.
    fn in_save(&self, rank: usize, step: u64) -> std::io::Result<()>;

    /// Called on rank 0 before the checkpoint of `step` gets its name.
    ///
    /// # Errors
    /// The failure.
    fn in_commit(&self, step: u64) -> std::io::Result<()>;
}

/// Writes the checkpoints of a run, as one of its ranks.
pub struct Checkpointer<'a> {
    options: config::Checkpoint,
    group: &'a dyn ProcessGroup,
    directory: Directory,
    compat: CompatKeys,
    faults: Option<Arc<dyn SaveFaults>>,
    inputs: InputFingerprints,
    best: Option<Best>,
    pending: Option<Pending>,
    /// The last that was finalized: its step, and its result.
    last: Option<(u64, SaveResult)>,
}

/// The folder of a checkpoint, or why it was not saved.
pub type SaveResult = std::result::Result<PathBuf, String>;

/// A checkpoint that is being written.
struct Pending {
    manifest: Manifest,
    writer: JoinHandle<std::result::Result<FileEntry, String>>,
}

impl<'a> Checkpointer<'a> {
    /// A writer of checkpoints into the directory of `run`, which reads `inputs`. `best` is that of
    /// the checkpoint from which the run resumed.
    pub fn new(
        run: &Run,
        group: &'a dyn ProcessGroup,
        inputs: InputFingerprints,
        best: Option<Best>,
    ) -> Self {
        Self {
            options: run.checkpoint.clone(),
            group,
            directory: Directory::new(&run.dir),
            compat: CompatKeys::from_run(run),
            faults: None,
            inputs,
            best,
            pending: None,
            last: None,
        }
    }

    /// The same, with failures injected.
    #[must_use]
    pub fn with_faults(self, faults: Option<Arc<dyn SaveFaults>>) -> Self {
        Self { faults, ..self }
    }

    /// Whether a checkpoint is to be written now: every `[checkpoint] every` steps, and when the
    /// validation loss is the lowest so far.
    pub fn is_due(&self, progress: &TrainState) -> bool {
        let every = self.options.every;
        every > 0 && (progress.step.is_multiple_of(every) || self.is_best(progress).is_some())
    }

    fn is_best(&self, progress: &TrainState) -> Option<Best> {
        let eval_loss = progress.eval_loss?;
        let pending = self.pending.as_ref().and_then(|pending| pending.manifest.best);
        let lowest = self
            .best
            .into_iter()
            .chain(pending)
            .map(|best| best.eval_loss)
            .fold(f64::INFINITY, f64::min);
        (eval_loss < lowest).then_some(Best { step: progress.step, eval_loss })
    }

    /// Whether this rank has written its shard of the pending checkpoint, or failed to.
    pub fn is_written(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.writer.is_finished())
    }

    /// Begins a checkpoint of `state`; a pending one is finalized first. All ranks call it.
    ///
    /// # Errors
    /// Those of libtorch and of the group. A checkpoint that could not be written is not one of
    /// them: see [`Checkpointer::finalize`].
    pub fn begin(&mut self, state: &dyn Checkpointable, progress: &TrainState) -> Result<()> {
        self.finalize()?;
        let mut manifest = Manifest::new(
            progress.step,
            self.group.world_size(),
            self.compat.clone(),
            self.inputs.clone(),
        );
        manifest.eval_loss = progress.eval_loss;
        manifest.eval_loss_before = progress.eval_loss_before;
        manifest.best = self.is_best(progress).or(self.best);
        manifest.seconds = progress.seconds;
        let shard = state.state()?;
        let (part, rank, step, faults) = (
            self.directory.part(progress.step),
            self.group.rank(),
            progress.step,
            self.faults.clone(),
        );
        let write = move || {
            write(&part, rank, &shard, || {
                faults.map_or(Ok(()), |faults| faults.in_save(rank, step))
            })
        };
        let writer = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        let writer =
            writer.map_err(Error::io(&self.directory.part(step), "start a thread that writes"))?;
        self.pending = Some(Pending { manifest, writer });
        if self.options.background { Ok(()) } else { self.finalize() }
    }

    /// Waits for the pending checkpoint, if there is one, and commits it if every rank has written
    /// its shard. Otherwise a warning names the ranks that failed and why, and training can
    /// continue. All ranks call it.
    ///
    /// # Errors
    /// Those of the group.
    pub fn finalize(&mut self) -> Result<()> {
        let Some(Pending { mut manifest, writer }) = self.pending.take() else { return Ok(()) };
        let mine =
            writer.join().unwrap_or_else(|_| Err("the thread that writes it panicked".into()));
        let message = serde_json::to_vec(&mine).unwrap_or_default();
        let mut faults = Vec::new();
        for (rank, message) in self.group.all_gather_bytes(&message)?.iter().enumerate() {
            match serde_json::from_slice(message)
                .unwrap_or_else(|cause| Err(format!("it sent no JSON: {cause}")))
            {
                Ok(entry) => manifest.files.push(entry),
                Err::<FileEntry, String>(reason) => {
                    faults.push(format!("rank {rank} (host {}): {reason}", self.group.host(rank)))
                }
            }
        }
        let mut verdict = faults.join("; ").into_bytes();
        if self.group.rank() == 0 {
            if verdict.is_empty() {
                verdict = self.complete(&manifest).err().unwrap_or_default().into_bytes();
            }
            if !verdict.is_empty()
                && let Err(cause) = self.directory.discard(manifest.step)
            {
                tracing::warn!(
                    "cannot remove {}: {cause}",
                    self.directory.part(manifest.step).display()
                );
            }
        }
        self.group.broadcast_bytes(&mut verdict, 0)?;
        let path = self.directory.path(manifest.step);
        let result = if verdict.is_empty() {
            tracing::info!("saved {}", path.display());
            self.best = manifest.best;
            Ok(path)
        } else {
            let reason = String::from_utf8_lossy(&verdict).into_owned();
            tracing::warn!(
                "{} was not saved, and the one before it stays: {reason}",
                path.display()
            );
            Err(reason)
        };
        self.last = Some((manifest.step, result));
        Ok(())
    }

    /// Waits for the checkpoint of `step`, which was begun.
    ///
    /// # Errors
    /// Those of the group.
    pub fn finish(&mut self, step: u64) -> Result<SaveResult> {
        self.finalize()?;
        let last = self.last.take().filter(|(saved, _)| *saved == step);
        Ok(last.map_or_else(|| Err("it was not begun".into()), |(_, result)| result))
    }

    /// On rank 0: writes the manifest and commits the checkpoint.
    fn complete(&self, manifest: &Manifest) -> std::result::Result<(), String> {
        let part = self.directory.part(manifest.step);
        let said =
            |what: &'static str| move |cause: std::io::Error| format!("cannot {what}: {cause}");
        manifest.write(&part).map_err(said("write its manifest"))?;
        self.faults
            .as_ref()
            .map_or(Ok(()), |faults| faults.in_commit(manifest.step))
            .map_err(said("finish it"))?;
        self.directory.commit(manifest.step).map_err(said("rename it"))?;
        if let Err(cause) =
            self.directory.prune(self.options.keep, manifest.best.map(|best| best.step))
        {
            tracing::warn!("cannot remove an old checkpoint: {cause}");
        }
        Ok(())
    }
}

/// Writes a rank's shard into `part`, synced; the error says what failed.
fn write(
    part: &Path,
    rank: usize,
    shard: &[(String, Tensor)],
    fault: impl FnOnce() -> std::io::Result<()>,
) -> std::result::Result<FileEntry, String> {
    let name = file_name(rank);
    let said = |action: &'static str| {
        move |cause: std::io::Error| format!("cannot {action} {}: {cause}", part.display())
    };
    std::fs::create_dir_all(part).map_err(said("make the directory"))?;
    models::tensor_file::write(&part.join(&name), shard, &[]).map_err(|error| error.to_string())?;
    fault().map_err(said("write into"))?;
    FileEntry::new(part, &name).map_err(said("read what was written into"))
}
