//! The directory of a run: where its files are, and whether it is free.

use crate::failure::Failure;
use anyhow::Context;
use std::path::{Path, PathBuf};
use trainer::config::Run;

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory of `run`.
    pub fn of(run: &Run) -> Self {
        Self(run.dir.clone())
    }

    /// The directory at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// One line per step.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// What the run came to.
    pub fn summary(&self) -> PathBuf {
        self.0.join("summary.json")
    }

    /// The page for people.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }

    /// The trained adapter.
    pub fn adapter(&self) -> PathBuf {
        self.0.join("adapter")
    }

    /// The logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// The log of one rank.
    pub fn rank_log(&self, rank: usize) -> PathBuf {
        self.logs().join(format!("rank-{rank:04}.log"))
    }

    /// What mpirun and the ranks wrote to stdout and stderr.
    pub fn mpirun_log(&self) -> PathBuf {
        self.logs().join("mpirun.log")
    }

    /// Refuses a directory that holds an earlier run, unless that may be overwritten. Writes nothing.
    pub fn check_free(&self, overwrite: bool) -> Result<(), Failure> {
        if !overwrite && self.metrics().exists() {
            return Err(Failure::Input(format!(
                "{} holds the metrics of an earlier run; pass --overwrite to replace that run, or give this one another directory: \
                 --set run.dir=DIR",
                self.0.display()
            )));
        }
        Ok(())
    }

    /// Makes the directory, removes what an earlier run measured, logged and reported there, and writes the resolved configuration.
    pub fn claim(&self, run: &Run) -> anyhow::Result<()> {
        for earlier in [self.metrics(), self.summary(), self.report()] {
            match std::fs::remove_file(&earlier) {
                Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                    return Err(cause).with_context(|| format!("cannot remove {}", earlier.display()));
                }
                _ => {}
            }
        }
        let logs = self.logs();
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make the directory {}", logs.display()))?;
        for entry in std::fs::read_dir(&logs).with_context(|| format!("cannot list {}", logs.display()))? {
            let log = entry.with_context(|| format!("cannot list {}", logs.display()))?.path();
            if log.extension().is_some_and(|extension| extension == "log") {
                std::fs::remove_file(&log).with_context(|| format!("cannot remove {}", log.display()))?;
            }
        }
        let config = self.config();
        std::fs::write(&config, run.to_toml()).with_context(|| format!("cannot write {}", config.display()))
    }
}
