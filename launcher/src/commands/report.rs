//! `loract report`: a run as a page.

use crate::{failure::Failure, logs, page, report, run_dir::RunDir};
use clap::Args;
use std::path::PathBuf;

/// Make a page of a run: its loss, speed, memory and traffic over the steps
///
/// The run may still be going, or be interrupted: the page shows the steps so far. launch writes
/// the page at the end.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract report runs/demo
  loract report runs/demo --html /tmp/demo.html
  loract report runs/demo --json

The page, RUN_DIR/report.html if not said otherwise, is one file that opens without a network.
Its path is printed. With --json the numbers are printed instead, and a page is written
only where --html asks for it.

Exit codes: 0 done; 2 wrong use, or no run directory; 1 any other failure.")]
pub struct Report {
    /// The directory of the run
    pub run_dir: PathBuf,
    /// Where to write the page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print the numbers as JSON
    #[arg(long)]
    pub json: bool,
}

impl Report {
    pub fn run(self) -> Result<(), Failure> {
        let dir = open(self.run_dir)?;
        let path = match self.html {
            Some(path) => Some(path),
            None if self.json => None,
            None => Some(dir.report()),
        };
        path.as_deref().map_or(Ok(()), page::check_place)?;
        let report = report::Report::read(&dir, world_size(&dir));
        if self.json {
            report.print(true);
        }
        if let Some(path) = path {
            page::write(&path, &page::report::page(&report)?)?;
            if !self.json {
                println!("{}", path.display());
            }
        }
        Ok(())
    }
}

/// A directory that holds a run, or the beginning of one.
fn open(path: PathBuf) -> Result<RunDir, Failure> {
    let refuse = |what: &str| {
        let remedy = "give the [run] dir of a configuration that was trained, such as runs/demo";
        Err(Failure::Input(format!("{} {what}; {remedy}", path.display())))
    };
    if !path.is_dir() {
        return refuse(if path.exists() {
            "is a file, not the directory of a run"
        } else {
            "does not exist"
        });
    }
    let dir = RunDir::at(path.clone());
    if !dir.metrics().is_file() && !dir.config().is_file() {
        return refuse(
            "is not the directory of a run: it has neither metrics.jsonl nor config.toml",
        );
    }
    Ok(dir)
}

/// The number of ranks that the log of the first has; one without a log.
fn world_size(dir: &RunDir) -> usize {
    let log = std::fs::read(dir.rank_log(0)).unwrap_or_default();
    logs::world_size(&String::from_utf8_lossy(&log)).unwrap_or(1)
}
