//! `loract eval`: how good is what a run has trained?

use super::{shard::prepare, train::threads};
use crate::{config_args::ConfigArgs, failure::Failure, progress::Progress, run_dir::RunDir};
use checkpoint::CheckpointChoice;
use clap::Args;
use comfy_table::{Table, presets};
use config::Run;
use config::units;
use serde_json::json;
use std::path::PathBuf;
use trainer::{Evaluation, Weights};

/// Evaluate what a run has trained on its validation data
///
/// On the validation data of the run, on one rank, with the losses that a run on one rank has, to
/// the last digit. The run may still be going.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract eval configs/demo.toml                        the adapter of the finished run, or its newest checkpoint
  loract eval configs/demo.toml --base                 the model without what was trained
  loract eval configs/demo.toml --checkpoint best
  loract eval configs/demo.toml --adapter runs/other/adapter --json
  loract eval configs/demo.toml --model runs/other/model
  loract eval configs/demo.toml --set data.eval=other.jsonl

  loss        the mean over all validation tokens that have a loss, or over all samples that have classes
  perplexity  e to the power of the loss
  accuracy, macro F1 and who was taken for what, where samples have classes

Exit codes: 0 done; 2 wrong use, configuration or input; 1 any other failure.")]
pub struct Eval {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// A checkpoint of the run: latest, best, or a folder
    #[arg(long, value_name = "latest|best|DIR")]
    pub checkpoint: Option<String>,
    /// A PEFT adapter to put on the model
    #[arg(long, value_name = "DIR", conflicts_with = "checkpoint")]
    pub adapter: Option<PathBuf>,
    /// A model directory in the place of the run's model
    #[arg(long, value_name = "DIR", conflicts_with_all = ["checkpoint", "adapter"])]
    pub model: Option<PathBuf>,
    /// The model as it is, without what the run has trained
    #[arg(long, conflicts_with_all = ["checkpoint", "adapter", "model"])]
    pub base: bool,
    /// Print the numbers as JSON
    #[arg(long)]
    pub json: bool,
}

impl Eval {
    pub fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        let weights = self.weights(&run)?;
        tch::set_num_threads(i32::try_from(threads(run.threads, 1)).unwrap_or(i32::MAX));
        setup::check(&run, 1)?;
        let data = prepare(&run, 1)?;
        let mut progress = Progress::start("evaluating", None);
        let found = trainer::evaluate(&run, &data, &weights, &mut |done, total| {
            progress.update(done, Some(total), "evaluating".into())
        });
        progress.finish();
        let (found, kind) = (found?, kind(&weights));
        if self.json {
            println!(
                "{}",
                json!({
                    "model": run.model.path, "weights": kind, "path": found.path, "step": found.step, "samples": found.samples,
                    "targets": found.targets, "loss": found.loss, "perplexity": found.perplexity(), "classes": found.classes,
                })
            );
        } else {
            println!("{}", table(&run, kind, &found));
            if let Some(classes) = &found.classes {
                println!("{classes}");
            }
        }
        Ok(())
    }

    /// What is meant: what is named, else what the run has trained: its adapter or model once it
    /// has finished, its newest checkpoint before.
    fn weights(&self, run: &Run) -> Result<Weights, Failure> {
        let dir = RunDir::new(run);
        Ok(match (&self.checkpoint, &self.adapter, &self.model) {
            _ if self.base => Weights::Base,
            (_, _, Some(model)) => Weights::Model(model.clone()),
            (_, Some(adapter), _) => Weights::Adapter(adapter.clone()),
            (Some(checkpoint), ..) => Weights::Checkpoint(match checkpoint.as_str() {
                "latest" => CheckpointChoice::Latest,
                "best" => CheckpointChoice::Best,
                folder => CheckpointChoice::At(folder.into()),
            }),
            _ if dir.summary().exists() && run.lora.is_none() => Weights::Model(dir.model()),
            _ if dir.summary().exists() => Weights::Adapter(dir.adapter()),
            _ if checkpoint::newest_checkpoint(dir.path()).is_some() => {
                Weights::Checkpoint(CheckpointChoice::Latest)
            }
            _ => {
                let what = format!(
                    "is {}, where nothing was trained yet; train first, or evaluate the model alone: --base",
                    run.dir.display()
                );
                return Err(run.error_at("run", "dir", &what).into());
            }
        })
    }
}

fn kind(weights: &Weights) -> &'static str {
    match weights {
        Weights::Base => "base",
        Weights::Adapter(_) => "adapter",
        Weights::Model(_) => "trained model",
        Weights::Checkpoint(_) => "checkpoint",
    }
}

fn table(run: &Run, kind: &str, found: &Evaluation) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.add_row(["model".to_owned(), run.model.path.display().to_string()]);
    if let Some(path) = &found.path {
        table.add_row([kind.to_owned(), path.display().to_string()]);
    }
    if let Some(step) = found.step {
        table.add_row(["steps done".to_owned(), step.to_string()]);
    }
    table.add_row(["validation samples".to_owned(), found.samples.to_string()]);
    if found.classes.is_none() {
        table.add_row(["tokens counted".to_owned(), units::rate(found.targets as f64)]);
    }
    table.add_row(["validation loss".to_owned(), format!("{:.4}", found.loss)]);
    if found.classes.is_none() {
        table.add_row(["perplexity".to_owned(), format!("{:.2}", found.perplexity())]);
    }
    table
}
