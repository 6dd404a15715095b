use crate::{Error, Result};
use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    /// Mean loss over the targets of the held-out data, after this step, where it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// What a run came to; `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Held-out loss before the first step.
    pub eval_loss_before: Option<f64>,
    /// Held-out loss after the last step.
    pub eval_loss_after: Option<f64>,
    /// Steps done.
    pub steps: u64,
    /// Time of the steps, evaluation not counted.
    pub seconds: f64,
    /// Parameters that were trained.
    pub trained_parameters: u64,
    /// Parameters of the model, the trained ones included.
    pub parameters: u64,
    /// The PEFT adapter.
    pub adapter: PathBuf,
    /// `metrics.jsonl`.
    pub metrics: PathBuf,
}

/// Writes `metrics.jsonl`, a whole line at a time.
pub(crate) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        Ok(Self { path, file })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&mut self, line: &StepMetrics) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|error| Error::io(&self.path, "write")(error.into()))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path, "write"))
    }
}

/// Writes `summary.json`.
pub(crate) fn write_summary(dir: &Path, summary: &Summary) -> Result<()> {
    let path = dir.join("summary.json");
    let text = serde_json::to_vec_pretty(summary).map_err(|error| Error::io(&path, "write")(error.into()))?;
    std::fs::write(&path, text).map_err(Error::io(&path, "write"))
}
