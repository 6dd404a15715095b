use crate::tensorboard::EventFile;
use crate::{ClassReport, Error, Result};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

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
    /// Held for backward at the end of forward, the most of any rank and micro-batch.
    pub kept_bytes: u64,
    /// What the same sites would hold uncompressed.
    pub exact_bytes: u64,
    /// The most bytes in tensors at any moment of the step, on the rank with the most.
    pub peak_bytes: u64,
    /// What this rank (0) handed to the network for the gradients.
    pub reduced_bytes: u64,
    /// What it would have handed over uncompressed.
    pub exact_reduced_bytes: u64,
    /// Time in which this rank (0) compressed and summed gradients.
    pub reduce_seconds: f64,
    /// The part of it that backward did not hide, with the time in which it waited for slower ranks.
    pub reduce_wait_seconds: f64,
    /// Mean loss over the targets of the held-out data, after this step, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The share of the held-out rows whose class was found, where rows have classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
}

/// What a run came to; `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Held-out loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss after the last step.
    pub eval_loss_after: Option<f64>,
    /// How the held-out rows were classified after the last step, where rows have classes.
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
    /// The PEFT adapter, where one was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// The trained model, where all of it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// `metrics.jsonl`.
    pub metrics: PathBuf,
}

/// Writes `metrics.jsonl`, a whole line at a time, and what TensorBoard reads, where that is wanted.
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
}

impl MetricsFile {
    /// Goes on after step `step`: the lines up to it stay, those of later steps are cut away, and with 0 all are. The file is replaced rather
    /// than cut, so that a reader notices.
    pub fn after(dir: &Path, step: u64, tensorboard: bool) -> Result<Self> {
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
        let events = tensorboard.then(|| EventFile::after(dir, step)).transpose()?;
        Ok(Self { path, file, events })
    }

    /// Makes what was written so far survive the machine.
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_later_steps_are_cut_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let text = || std::fs::read_to_string(&path).unwrap();
        MetricsFile::after(dir.path(), 3, false).unwrap();
        assert_eq!(text(), "", "there was none");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n{\"st").unwrap();
        let mut metrics = MetricsFile::after(dir.path(), 2, false).unwrap();
        metrics.file.write_all(b"{\"step\":3}\n").unwrap();
        metrics.sync().unwrap();
        assert_eq!(text(), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
        MetricsFile::after(dir.path(), 0, false).unwrap();
        assert_eq!(text(), "");
    }
}
