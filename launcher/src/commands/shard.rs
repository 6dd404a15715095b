//! `loract shard`: a run's data, prepared ahead.

use crate::{cli::Config, failure::Failure, progress::Progress, run_dir::RunDir, work};
use clap::Args;
use serde_json::json;
use std::{cell::RefCell, path::Path, time::Instant};
use trainer::{
    Dataset, RunData,
    config::{DataSources, Run, Task},
};

/// Prepare a run's data ahead, in RUN_DIR/data
///
/// It is read, tokenised and split; train and launch do the same where nobody has. Of what does not fit into memory, parts are written
/// to RUN_DIR/data/train.parts; started again after an interruption, it goes on behind the last of them. Data that are there already are compared
/// with their checksums.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  loract shard configs/demo.toml --set data.max_samples=1000

Exit codes: 0 done; 2 wrong use, configuration or data; 1 any other failure.")]
pub struct Shard {
    /// The configuration.
    #[command(flatten)]
    pub config: Config,
    /// Print what was made as JSON
    #[arg(long)]
    pub json: bool,
}

impl Shard {
    pub(super) fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        work::check(&run, run.cluster.ranks)?;
        let start = Instant::now();
        let data = prepare(&run, run.cluster.ranks)?;
        work::verify_data(&run, &data)?;
        work::write(&run, &data)?;
        let folder = RunDir::of(&run).path().join("data");
        if self.json {
            println!("{:#}", described(&folder, &data, start.elapsed().as_secs_f64()));
        } else {
            println!("{}", folder.display());
        }
        Ok(())
    }
}

/// What was made. Where rows have classes, nothing is.
fn described(folder: &Path, data: &RunData, seconds: f64) -> serde_json::Value {
    let set =
        |set: &Dataset| json!({ "samples": set.len(), "documents": set.documents(), "tokens": set.tokens(), "targets": set.targets() });
    let prepared = data.prepared();
    json!({
        "folder": folder,
        "was_there": data.is_on_disk(),
        "train": prepared.map(|prepared| set(&prepared.train)),
        "eval": prepared.and_then(|prepared| prepared.eval.as_ref()).map(set),
        "report": prepared.map(|prepared| prepared.train.report()),
        "seconds": seconds,
    })
}

/// Prepares the data, with a progress bar, and says what was left out. Only parts are written.
pub fn prepare(run: &Run, ranks: usize) -> Result<RunData, Failure> {
    let what = format!("preparing {}", name(&run.data.train));
    let progress = match run.model.task {
        Task::CausalLm => Progress::of_bytes(&what, None),
        // Rows.
        Task::SequenceClassification | Task::ImageClassification => Progress::start(&what, None),
    };
    let progress = RefCell::new(progress);
    let outcome = work::prepare(run, ranks, &|done, total| progress.borrow_mut().update(done, Some(total), what.clone()));
    progress.into_inner().finish();
    if let Some(prepared) = outcome.as_ref().ok().filter(|data| !data.is_on_disk()).and_then(RunData::prepared) {
        say_what_is_left_out(&prepared.train);
        prepared.eval.iter().for_each(say_what_is_left_out);
    }
    outcome
}

fn say_what_is_left_out(set: &Dataset) {
    let report = set.report();
    for file in &report.bad {
        eprintln!("skipped {} bad lines of {}", file.count, file.path.display());
        for line in &file.first {
            eprintln!("  {}:{}: {}", file.path.display(), line.line, line.problem);
        }
        if file.count > file.first.len() {
            eprintln!("  and {} more", file.count - file.first.len());
        }
    }
    if report.dropped > 0 {
        eprintln!("left out {} samples without a trained token", report.dropped);
    }
}

fn name(sources: &DataSources) -> String {
    match sources.only() {
        Some(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
        None => format!("{} sources", sources.paths().count()),
    }
}
