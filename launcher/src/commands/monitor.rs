//! `loract monitor`: the progress of a run whose ranks another command starts.

use crate::{
    config_args::ConfigArgs,
    failure::Failure,
    run_monitor::{POLL_INTERVAL, RunMonitor},
};
use anyhow::Context;
use clap::Args;
use config::Run;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Show the progress of a run that another command has started
///
/// It reads the run's metrics while they grow, until the last step or a signal. In a TrainJob of
/// Kubeflow it also posts the progress to the job's status.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract monitor configs/demo.toml
  loract monitor configs/demo.toml --set run.dir=runs/second

Exit codes: 0 done, or ended by SIGINT or SIGTERM; 2 wrong use or configuration; 1 any other failure.")]
pub struct Monitor {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

impl Monitor {
    pub fn run(self) -> Result<(), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        let is_ended = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&is_ended))
                .context("cannot wait for a signal")?;
        }
        let what = format!("waiting for the steps of {}", run.dir.display());
        let mut monitor = RunMonitor::start(&run, &what);
        while !is_ended.load(Ordering::Relaxed) && !monitor.is_done() {
            std::thread::sleep(POLL_INTERVAL);
            monitor.poll();
        }
        monitor.finish();
        Ok(())
    }
}
