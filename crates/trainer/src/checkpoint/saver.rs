//! Writing checkpoints beside training.
//!
//! At the end of a step each rank copies its share and hands it to a thread that writes and syncs it. At the end of a later step, when the
//! ranks have seen in what they exchange anyway that all are done, they gather the files' checksums, and rank 0 writes the manifest, renames
//! the folder, and removes what is too old. A fault of one rank is told to all: no rank counts on a checkpoint that there is not.

use super::agreed::Agreed;
use super::directory::Directory;
use super::manifest::{Best, FileEntry, Manifest};
use super::share;
use crate::fault_injection::FaultInjection;
use crate::step::Stepper;
use crate::{Error, Result};
use collective::ProcessGroup;
use config::Run;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use tch::Tensor;

/// A run at the end of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Steps done.
    pub step: u64,
    /// Held-out loss after it, where it was evaluated.
    pub eval_loss: Option<f64>,
    /// Held-out loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Time of the steps so far.
    pub seconds: f64,
}

/// Writes the checkpoints of a run, as one of its ranks.
pub(crate) struct Saver<'a> {
    run: &'a Run,
    group: &'a dyn ProcessGroup,
    directory: Directory,
    fault: Option<FaultInjection>,
    /// The fingerprint of the training data.
    data: String,
    best: Option<Best>,
    pending: Option<Pending>,
    /// The last that was settled: its step, and its folder or why there is none.
    last: Option<(u64, Outcome)>,
}

/// The folder of a checkpoint, or why there is none.
pub(crate) type Outcome = std::result::Result<PathBuf, String>;

/// A checkpoint that is being written.
struct Pending {
    manifest: Manifest,
    writer: JoinHandle<std::result::Result<FileEntry, String>>,
}

impl<'a> Saver<'a> {
    /// `best` is that of the checkpoint from which the run goes on.
    pub fn new(run: &'a Run, group: &'a dyn ProcessGroup, data: String, best: Option<Best>, fault: Option<FaultInjection>) -> Self {
        Self { run, group, directory: Directory::of(&run.dir), fault, data, best, pending: None, last: None }
    }

    /// Whether a checkpoint is to be written at this moment: its turn has come, or its held-out loss is the lowest so far.
    pub fn is_due(&self, moment: &Moment) -> bool {
        let every = self.run.checkpoint.every;
        every > 0 && (moment.step.is_multiple_of(every) || self.is_best(moment).is_some())
    }

    fn is_best(&self, moment: &Moment) -> Option<Best> {
        let eval_loss = moment.eval_loss?;
        let pending = self.pending.as_ref().and_then(|pending| pending.manifest.best);
        let lowest = self.best.into_iter().chain(pending).map(|best| best.eval_loss).fold(f64::INFINITY, f64::min);
        (eval_loss < lowest).then_some(Best { step: moment.step, eval_loss })
    }

    /// Whether this rank's share of the pending checkpoint is written, well or not.
    pub fn is_written(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.writer.is_finished())
    }

    /// Begins a checkpoint of this moment; one that is still pending is finished first. All ranks call it.
    ///
    /// # Errors
    /// Those of libtorch and of the group. That a checkpoint could not be written is none: see [`Saver::settle`].
    pub fn begin(&mut self, stepper: &Stepper<'_>, moment: &Moment) -> Result<()> {
        self.settle()?;
        let mut manifest = Manifest::new(moment.step, self.group.world_size(), Agreed::of(self.run), self.data.clone());
        manifest.eval_loss = moment.eval_loss;
        manifest.eval_loss_before = moment.eval_loss_before;
        manifest.best = self.is_best(moment).or(self.best);
        manifest.seconds = moment.seconds;
        let share = share::copy(stepper)?;
        let (part, rank, step, fault) = (self.directory.part(moment.step), self.group.rank(), moment.step, self.fault.clone());
        let write = move || write(&part, rank, &share, || fault.map_or(Ok(()), |fault| fault.in_save(rank, step)));
        let writer = std::thread::Builder::new().name("checkpoint".into()).spawn(write);
        let writer = writer.map_err(Error::io(&self.directory.part(step), "start a thread that writes"))?;
        self.pending = Some(Pending { manifest, writer });
        if self.run.checkpoint.background { Ok(()) } else { self.settle() }
    }

    /// Waits for the pending checkpoint, if there is one, and makes it current if every rank has written its share; if not, a warning says who
    /// has not and why, and training can go on. All ranks call it.
    ///
    /// # Errors
    /// Those of the group.
    pub fn settle(&mut self) -> Result<()> {
        let Some(Pending { mut manifest, writer }) = self.pending.take() else { return Ok(()) };
        let mine = writer.join().unwrap_or_else(|_| Err("the thread that writes it panicked".into()));
        let message = serde_json::to_vec(&mine).unwrap_or_default();
        let mut faults = Vec::new();
        for (rank, message) in self.group.all_gather_bytes(&message)?.iter().enumerate() {
            match serde_json::from_slice(message).unwrap_or_else(|cause| Err(format!("it says what is no JSON: {cause}"))) {
                Ok(entry) => manifest.files.push(entry),
                Err::<FileEntry, String>(reason) => faults.push(format!("rank {rank} (host {}): {reason}", self.group.host(rank))),
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
                tracing::warn!("cannot remove {}: {cause}", self.directory.part(manifest.step).display());
            }
        }
        self.group.broadcast_bytes(&mut verdict, 0)?;
        let path = self.directory.path(manifest.step);
        let outcome = if verdict.is_empty() {
            tracing::info!("saved {}", path.display());
            self.best = manifest.best;
            Ok(path)
        } else {
            let reason = String::from_utf8_lossy(&verdict).into_owned();
            tracing::warn!("{} was not saved, and the one before it stays: {reason}", path.display());
            Err(reason)
        };
        self.last = Some((manifest.step, outcome));
        Ok(())
    }

    /// Waits for the checkpoint of step `step`, which was begun.
    ///
    /// # Errors
    /// Those of the group.
    pub fn finish(&mut self, step: u64) -> Result<Outcome> {
        self.settle()?;
        let settled = self.last.take().filter(|(of, _)| *of == step);
        Ok(settled.map_or_else(|| Err("it was not begun".into()), |(_, outcome)| outcome))
    }

    /// On rank 0: from all shares to the checkpoint.
    fn complete(&self, manifest: &Manifest) -> std::result::Result<(), String> {
        let part = self.directory.part(manifest.step);
        let said = |what: &'static str| move |cause: std::io::Error| format!("cannot {what}: {cause}");
        manifest.write(&part).map_err(said("write its manifest"))?;
        self.fault.as_ref().map_or(Ok(()), |fault| fault.in_commit(manifest.step)).map_err(said("finish it"))?;
        self.directory.commit(manifest.step).map_err(said("rename it"))?;
        if let Err(cause) = self.directory.prune(self.run.checkpoint.keep, manifest.best.map(|best| best.step)) {
            tracing::warn!("cannot remove an old checkpoint: {cause}");
        }
        Ok(())
    }
}

/// Writes a rank's share into `part`, synced; the error says what failed.
fn write(
    part: &Path,
    rank: usize,
    share: &[(String, Tensor)],
    fault: impl FnOnce() -> std::io::Result<()>,
) -> std::result::Result<FileEntry, String> {
    let name = share::file_name(rank);
    let said = |action: &'static str| move |cause: std::io::Error| format!("cannot {action} {}: {cause}", part.display());
    std::fs::create_dir_all(part).map_err(said("make the directory"))?;
    models::tensor_file::write(&part.join(&name), share, &[]).map_err(|error| error.to_string())?;
    fault().map_err(said("write into"))?;
    FileEntry::of(part, &name).map_err(said("read what was written into"))
}
