//! `metrics.jsonl` and `summary.json`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::classification_metrics::ClassReport;
use crate::tensorboard::EventFile;
use crate::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: u64,
    /// The run's steps.
    pub total_steps: u64,
    /// Mean over the targets of the global batch.
    pub loss: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Tokens of the global batch, padding not counted.
    pub tokens: u64,
    /// Tokens over seconds.
    pub tokens_per_second: f64,
    /// The step's time, until the slowest rank is done.
    pub step_seconds: f64,
    /// Bytes saved for backward at the end of forward, the maximum over ranks and micro-batches.
    pub kept_bytes: u64,
    /// Bytes that the same sites would save uncompressed.
    pub exact_bytes: u64,
    /// Peak of tensor memory in bytes, the maximum over ranks.
    pub peak_bytes: u64,
    /// Bytes that rank 0 sent for the gradients.
    pub reduced_bytes: u64,
    /// Bytes that it would have sent uncompressed.
    pub exact_reduced_bytes: u64,
    /// Time in which rank 0 compressed and summed gradients.
    pub reduce_seconds: f64,
    /// The part of it that did not overlap with backward, including the wait for slower ranks.
    pub reduce_wait_seconds: f64,
    /// Validation loss after this step, if it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Validation accuracy of a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
}

/// The result of a run; `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Validation loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Validation loss after the last step.
    pub eval_loss_after: Option<f64>,
    /// Accuracy and confusion of a classifier after the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<ClassReport>,
    /// Steps done.
    pub steps: u64,
    /// Time of the steps, evaluation not counted.
    pub seconds: f64,
    /// Parameters that were trained.
    pub trained_parameters: u64,
    /// Parameters of the model, the trained ones included.
    pub parameters: u64,
    /// The PEFT adapter, if one was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// The trained model, if all its weights were trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// `metrics.jsonl`.
    pub metrics: PathBuf,
}

/// Writes `metrics.jsonl`, a whole line at a time, and TensorBoard events if they are wanted.
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

impl MetricsFile {
    /// Opens the file to continue after `step`: the lines of later steps are removed. The file is replaced and not
    /// truncated, so that a reader notices.
    pub fn open_after(dir: &Path, step: u64, tensorboard: bool) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let aside = dir.join("metrics.jsonl.part");
        let before = match std::fs::read_to_string(&path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(Error::io(&path, "read"))?,
        };
        let stays = |line: &&str| line.ends_with('\n') && step_of(line).is_some_and(|of| of <= step);
        let kept: String = before.split_inclusive('\n').filter(stays).collect();
        let replace = || {
            let mut file = File::create(&aside)?;
            file.write_all(kept.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&aside, &path)?;
            OpenOptions::new().append(true).open(&path)
        };
        let file = replace().map_err(Error::io(&path, "replace"))?;
        let events = tensorboard.then(|| EventFile::create_after(dir, step)).transpose()?;
        Ok(Self { path, file, events })
    }

    /// Syncs what was written to the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path, "sync"))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&mut self, line: &StepMetrics) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::io(&self.path, "write")(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path, "write"))?;
        self.events.as_mut().map_or(Ok(()), |events| events.write(line))
    }
}

/// The step of a line.
fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64()
}

/// Writes `summary.json`.
pub(crate) fn write_summary(dir: &Path, summary: &Summary) -> Result<()> {
    let path = dir.join("summary.json");
    let text = serde_json::to_vec_pretty(summary).map_err(|error| Error::io(&path, "write")(error.into()))?;
    std::fs::write(&path, text).map_err(Error::io(&path, "write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_later_steps_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let text = || std::fs::read_to_string(&path).unwrap();
        MetricsFile::open_after(dir.path(), 3, false).unwrap();
        assert_eq!(text(), "", "there was none");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n{\"st").unwrap();
        let mut metrics = MetricsFile::open_after(dir.path(), 2, false).unwrap();
        metrics.file.write_all(b"{\"step\":3}\n").unwrap();
        metrics.sync().unwrap();
        assert_eq!(text(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        MetricsFile::open_after(dir.path(), 0, false).unwrap();
        assert_eq!(text(), "");
    }
}
