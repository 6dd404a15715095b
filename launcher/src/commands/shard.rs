//! `loract shard`: a run's data, prepared ahead.

use crate::{cli::Config, failure::Failure, progress::Progress, run_dir::RunDir, work};
use clap::Args;
use std::{cell::RefCell, path::Path};
use trainer::{RunData, config::Run};

/// Prepare a run's data ahead, in RUN_DIR/data
///
/// It is read, tokenised and split; train and launch do the same where nobody has.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  loract shard configs/demo.toml --set data.max_samples=1000

Exit codes: 0 done; 2 wrong use, configuration or data; 1 any other failure.")]
pub struct Shard {
    /// The configuration.
    #[command(flatten)]
    pub config: Config,
}

impl Shard {
    pub(super) fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        work::check(&run, run.cluster.ranks)?;
        let data = prepare(&run, run.cluster.ranks)?;
        work::write(&run, &data)?;
        println!("{}", data_dir(&RunDir::of(&run)).display());
        Ok(())
    }
}

fn data_dir(dir: &RunDir) -> std::path::PathBuf {
    dir.path().join("data")
}

/// Prepares the data, with a progress bar. Nothing is written.
pub fn prepare(run: &Run, ranks: usize) -> Result<RunData, Failure> {
    let what = format!("preparing {}", name(&run.data.train));
    let progress = RefCell::new(Progress::start(&what, None));
    let outcome = work::prepare(run, ranks, &|done, total| progress.borrow_mut().update(done, Some(total), what.clone()));
    progress.into_inner().finish();
    outcome
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
