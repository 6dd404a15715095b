//! `loract plan`: the memory of a run, predicted.

use super::train::threads;
use crate::{config_args::ConfigArgs, failure::Failure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use config::units;
use config::{ByteSize, Run};
use estimate::{ModePlan, Plan as Found};
use std::path::PathBuf;

/// Predict the memory of a run, and what fits, before anything is loaded
///
/// From the model's description and the configuration alone: of a Hugging Face directory its
/// config.json is enough.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract plan configs/demo.toml
  loract plan configs/demo.toml --memory 80GiB
  loract plan configs/demo.toml --set model.path=llama-70b --set model.dtype=bf16 --memory 80GiB --json

  saved        for backward, at the end of forward
  temporary    on top of all else at the moment when most is held
  peak         the most that tensors hold in any step but the first, which holds less; byte by byte on
               the CPU. A GPU's allocator rounds up and leaves gaps: keep a tenth of its memory free

Exit codes: 0 done; 2 wrong use or configuration; 1 any other failure.")]
pub struct Plan {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also find the largest batch and the longest context that fit into this memory of one rank
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

impl Plan {
    pub fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        let memory = self.memory.map(ByteSize::bytes);
        let found = estimate::plan(&run, threads(run.threads, run.cluster.ranks), memory)?;
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&found).map_err(|fault| Failure::Other(fault.into()))?
            );
            return Ok(());
        }
        let model: PathBuf = run.model.path;
        let ranks = if found.ranks == 1 {
            "1 rank".to_owned()
        } else {
            format!("each of {} ranks", found.ranks)
        };
        println!(
            "{} on {ranks}, {} × {} tokens at once\n{}",
            model.display(),
            found.rows_at_once,
            found.sequence_length,
            terms(&found)
        );
        println!("\n{}", modes(&found, memory));
        for part in &found.estimated {
            println!("estimated: {part}");
        }
        Ok(())
    }
}

/// The memory, term by term.
fn terms(found: &Found) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut row = |name: &str, value: String| {
        table.add_row([name.to_owned(), value]);
    };
    let bytes = |count: u64| units::bytes(count as f64);
    row("parameters", units::rate(found.parameters as f64));
    row("trained", units::rate(found.trained_parameters as f64));
    row("weights", bytes(found.weight_bytes));
    row("gradients", bytes(found.gradient_bytes));
    row("optimizer", bytes(found.optimizer_bytes));
    row("communication", bytes(found.communication_bytes));
    if found.library_bytes > 0 {
        row("libtorch's matrix products", bytes(found.library_bytes));
    }
    if found.basis_bytes > 0 {
        row("bases of sites", bytes(found.basis_bytes));
    }
    row("saved for backward", bytes(found.kept_bytes));
    for of in &found.sites {
        row(&format!("  {}", of.site), bytes(of.bytes));
    }
    row("temporary", bytes(found.temporary_bytes));
    row("peak", format!("{}, in the {}", bytes(found.peak_bytes), found.peak_at));
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The ways to save activations, in comparison.
fn modes(found: &Found, memory: Option<u64>) -> Table {
    let mut table = Table::new();
    let fits = memory.map(|memory| units::bytes(memory as f64));
    let mut header = vec!["activations".to_owned(), "saved".to_owned(), "peak".to_owned()];
    header.extend(fits.iter().flat_map(|memory| {
        [format!("largest batch in {memory}"), format!("longest context in {memory}")]
    }));
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    for mode in &found.modes {
        let ModePlan { kept_bytes, peak_bytes, largest_batch, longest_context, .. } = mode;
        let mut cells = vec![
            mode.mode.clone(),
            units::bytes(*kept_bytes as f64),
            units::bytes(*peak_bytes as f64),
        ];
        let number =
            |number: u64| if number == 0 { "none".to_owned() } else { units::rate(number as f64) };
        cells.extend(largest_batch.map(number));
        cells.extend(longest_context.map(|tokens| match tokens as i64 == found.max_positions {
            true => format!("{} (the model's)", number(tokens)),
            false => number(tokens),
        }));
        table.add_row(cells);
    }
    table
        .column_iter_mut()
        .skip(1)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}
