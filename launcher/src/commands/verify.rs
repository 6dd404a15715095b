//! `loract verify`: is this model computed as its reference is?

use crate::failure::Failure;
use analysis::TensorComparison;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use config::Device;
use serde_json::json;
use std::path::PathBuf;

/// Compare a model's outputs and gradients with recorded ones
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  loract verify models/llama models/llama/expected.safetensors

EXPECTED holds input_ids, attention_mask and labels, and what they lead to:
logits, loss, grad.PARAMETER.

Exit codes: 0 all equal within the tolerance; 1 something differs; 2 wrong use or input.")]
pub struct Verify {
    /// A Hugging Face model directory
    pub model_dir: PathBuf,
    /// The recorded inputs and outputs
    #[arg(value_name = "EXPECTED.safetensors")]
    pub expected: PathBuf,
    /// The largest accepted difference, relative to the norm of the expected tensor
    #[arg(long, value_name = "R", default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Where to compute: auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Print the table as JSON
    #[arg(long)]
    pub json: bool,
}

impl Verify {
    pub fn run(self) -> Result<(), Failure> {
        let rows = analysis::verify(
            &self.model_dir,
            &self.expected,
            self.tolerance,
            setup::single_device(self.device)?,
        )?;
        let differing = rows.iter().filter(|row| !row.holds).count();
        if self.json {
            let tensors: Vec<_> = rows
                .iter()
                .map(|row| json!({"name": row.name, "largest": row.largest, "relative": row.relative, "holds": row.holds}))
                .collect();
            println!(
                "{}",
                json!({"tolerance": self.tolerance, "holds": differing == 0, "tensors": tensors})
            );
        } else {
            println!("{}", table(&rows));
        }
        if differing == 0 {
            return Ok(());
        }
        Err(Failure::other(format!(
            "{differing} of {} tensors differ by more than {}",
            rows.len(),
            self.tolerance
        )))
    }
}

fn table(rows: &[TensorComparison]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "tensor",
        "largest difference",
        "relative",
        "",
    ]);
    for row in rows {
        let verdict = if row.holds { "equal" } else { "differs" };
        table.add_row([
            row.name.clone(),
            format!("{:.3e}", row.largest),
            format!("{:.3e}", row.relative),
            verdict.to_owned(),
        ]);
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
