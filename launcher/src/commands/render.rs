//! `loract render`: a job file for a scheduler.

use crate::{
    config_args::ConfigArgs,
    failure::Failure,
    render::{Request, Scheduler, render},
};
use anyhow::Context;
use clap::Args;
use config::Run;
use std::path::PathBuf;

/// Make the job file of a run for a scheduler
///
/// What it asks for comes from the configuration's `[cluster]` table. The file is commented and can
/// be submitted as it is: it tells the ranks to save before the time limit, and requeues the job,
/// which then resumes from its newest checkpoint.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract render slurm configs/demo.toml > demo.slurm && sbatch demo.slurm
  loract render slurm configs/demo.toml --set cluster.nodes=2 --set 'cluster.time=\"04:00:00\"' -o demo.slurm
  loract render mpijob configs/demo.toml --set cluster.image=registry.example.org/loract:1 -o demo.yaml
  loract render trainjob configs/demo.toml --set cluster.queue=team-a -o demo.yaml
  loract render slurm configs/demo.toml --set cluster.container=apptainer --set cluster.image=loract.sif
  loract render pbs configs/demo.toml --set 'cluster.setup=[\"module load openmpi\"]'

Exit codes: 0 done; 2 wrong use or configuration; 1 any other failure.")]
pub struct Render {
    /// For what
    #[arg(value_enum)]
    pub scheduler: Scheduler,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Write the file here instead of printing it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

impl Render {
    pub fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        // In a container everything lies under one folder, and paths are taken from there.
        let directory = std::env::current_dir().context("cannot tell the current directory")?;
        let request = Request {
            run: &run,
            config: &self.config.config,
            set: &self.config.set,
            directory: &directory,
            file: self.output.as_deref(),
        };
        let job = render(self.scheduler, &request)?;
        match &self.output {
            Some(path) => std::fs::write(path, job)
                .with_context(|| format!("cannot write {}", path.display()))?,
            None => print!("{job}"),
        }
        Ok(())
    }
}
