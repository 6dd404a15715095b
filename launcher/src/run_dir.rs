//! The directory of a run: where its files are, and whether it is free.

use crate::failure::Failure;
use anyhow::Context;
use config::Run;
use std::path::{Path, PathBuf};

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory of `run`.
    pub fn new(run: &Run) -> Self {
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

    /// The trained model, where all of it was trained.
    pub fn model(&self) -> PathBuf {
        self.0.join("model")
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

    /// The hosts of a run that was restarted without some.
    pub fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    /// How a run starts here: from scratch where the directory has no run, or where an earlier one
    /// is to be replaced (`overwrite`); where one was interrupted, by resuming it. Writes nothing.
    ///
    /// # Errors
    /// The earlier run is finished, or is another than this one.
    pub fn run_start(&self, run: &Run, overwrite: bool) -> Result<RunStart, Failure> {
        for folder in [checkpoint::checkpoints(&self.0), self.logs(), self.adapter(), self.model()]
        {
            if folder.exists() && !folder.is_dir() {
                return Err(Failure::Input(format!(
                    "{} is no directory; remove it, or give this run another directory: --set run.dir=DIR",
                    folder.display()
                )));
            }
        }
        if overwrite
            || !(self.metrics().exists() || checkpoint::newest_checkpoint(&self.0).is_some())
        {
            return Ok(RunStart::Fresh);
        }
        let refuse = |holds: &str| {
            Failure::Input(format!(
                "{} holds {holds}; pass --overwrite to replace that run, or give this one another directory: --set run.dir=DIR",
                self.0.display()
            ))
        };
        if self.summary().exists() {
            return Err(refuse("a finished run"));
        }
        let begun = files::read_text(&self.config())
            .map_err(|_| refuse("the metrics of an earlier run"))?;
        checkpoint::check_compatible(run, &begun)?;
        Ok(RunStart::Resume)
    }

    /// Makes the directory, and writes the resolved configuration. A run that starts from scratch
    /// removes what an earlier one measured, saved, logged and reported there.
    pub fn claim(&self, run: &Run, start: RunStart) -> anyhow::Result<()> {
        if start == RunStart::Fresh {
            self.clear()?;
        }
        let logs = self.logs();
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot make the directory {}", logs.display()))?;
        // Complete or absent: a run that resumes is compared with it.
        Ok(files::write(&self.config(), run.to_toml())?)
    }

    fn clear(&self) -> anyhow::Result<()> {
        let absent_is_fine = |done: std::io::Result<()>, path: &Path| match done {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(cause).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        };
        // The metrics go last: as long as they are there, so is the earlier run.
        let checkpoints = checkpoint::checkpoints(&self.0);
        for entry in std::fs::read_dir(&checkpoints).into_iter().flatten() {
            let checkpoint =
                entry.with_context(|| format!("cannot list {}", checkpoints.display()))?.path();
            let removed = match checkpoint.is_symlink() || !checkpoint.is_dir() {
                true => std::fs::remove_file(&checkpoint),
                false => std::fs::remove_dir_all(&checkpoint),
            };
            absent_is_fine(removed, &checkpoint)?;
        }
        for earlier in
            [analysis::BitAllocation::path(&self.0), self.summary(), self.report(), self.metrics()]
        {
            absent_is_fine(std::fs::remove_file(&earlier), &earlier)?;
        }
        let logs = self.logs();
        for entry in std::fs::read_dir(&logs).into_iter().flatten() {
            let log = entry.with_context(|| format!("cannot list {}", logs.display()))?.path();
            if log.extension().is_some_and(|extension| extension == "log") {
                absent_is_fine(std::fs::remove_file(&log), &log)?;
            }
        }
        Ok(())
    }
}

/// How a run starts in its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStart {
    /// With its first step.
    Fresh,
    /// From the newest intact checkpoint of an interrupted run with the same configuration.
    Resume,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run(at: &Path, steps: u64) -> Run {
        let config = at.join("c.toml");
        std::fs::write(
            &config,
            format!("[run]\nsteps = {steps}\n[model]\npath='m'\n[lora]\n[data]\ntrain='t'\n"),
        )
        .unwrap();
        Run::load(&config, &[format!("run.dir={}", at.join("run").display())]).unwrap()
    }

    fn refusal(dir: &RunDir, run: &Run) -> String {
        match dir.run_start(run, false) {
            Err(Failure::Input(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_interrupted_run_resumes_if_it_is_the_same() {
        let at = tempfile::tempdir().unwrap();
        let same = run(at.path(), 9);
        let dir = RunDir::new(&same);
        assert_eq!(dir.run_start(&same, false).unwrap(), RunStart::Fresh);
        dir.claim(&same, RunStart::Fresh).unwrap();
        std::fs::write(dir.metrics(), "{}\n").unwrap();
        assert_eq!(dir.run_start(&same, false).unwrap(), RunStart::Resume);
        dir.claim(&same, RunStart::Resume).unwrap();
        assert!(dir.metrics().exists(), "what it measured stays");

        let other = run(at.path(), 8);
        let message = refusal(&dir, &other);
        assert!(
            message.contains("[run] steps: is 8, and the run in ")
                && message.contains("was started with 9"),
            "{message}"
        );
        assert_eq!(dir.run_start(&other, true).unwrap(), RunStart::Fresh);

        std::fs::remove_dir_all(dir.logs()).unwrap();
        std::fs::write(dir.logs(), "").unwrap();
        assert!(refusal(&dir, &same).contains("logs is no directory; remove it"));
        std::fs::remove_file(dir.logs()).unwrap();

        std::fs::write(dir.summary(), "{}").unwrap();
        assert!(refusal(&dir, &same).contains("holds a finished run; pass --overwrite"));
        std::fs::create_dir_all(checkpoint::checkpoints(dir.path()).join("step-00000004")).unwrap();
        dir.claim(&same, RunStart::Fresh).unwrap();
        assert!(
            !dir.metrics().exists()
                && !dir.summary().exists()
                && checkpoint::newest_checkpoint(dir.path()).is_none()
        );
    }
}
