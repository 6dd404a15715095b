//! What a finished run writes: the adapter or the model, and the summary.

use std::path::Path;

use models::{AdapterConfig, Labels, Model, write_adapter, write_labels, write_model};

use crate::Result;
use crate::metrics::{Summary, write_summary};

/// Writes `adapter/` or `model/` and `summary.json` into `dir`. `base` is the model that training
/// started from.
pub(crate) fn write_outputs(
    dir: &Path,
    base: &Path,
    model: &dyn Model,
    adapter: Option<&AdapterConfig>,
    labels: Option<&Labels>,
    summary: &Summary,
) -> Result<()> {
    if let (Some(folder), Some(config)) = (&summary.adapter, adapter) {
        write_adapter(folder, config, &model.lora_weights())?;
        labels.map(|labels| write_labels(folder, labels)).transpose()?;
    }
    if let Some(folder) = &summary.model {
        write_model(folder, base, model, labels)?;
    }
    if let Some(report) = &summary.classes {
        report.to_string().lines().for_each(|line| tracing::info!("{line}"));
    }
    write_summary(dir, summary)
}
