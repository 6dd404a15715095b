//! What a run measures: the lines of `metrics.jsonl`, and `summary.json`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::classification_metrics::ClassReport;
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

/// Writes `summary.json`.
pub(crate) fn write_summary(dir: &Path, summary: &Summary) -> Result<()> {
    let path = dir.join("summary.json");
    let text = serde_json::to_vec_pretty(summary)
        .map_err(|error| Error::io(&path, "write")(error.into()))?;
    Ok(files::write(&path, text)?)
}
