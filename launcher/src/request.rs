//! Passing on a signal that asks the ranks to save and stop.

use crate::{fault, mpirun::Job, run_dir::RunDir};
use config::Run;

/// A request that the run saves and stops.
pub struct Request<'a> {
    run: &'a Run,
    dir: &'a RunDir,
    signal: Option<usize>,
    is_passed_on: bool,
    /// The sizes of the ranks' logs before they were started.
    sizes: Vec<u64>,
}

impl<'a> Request<'a> {
    /// None yet, of a job that is about to be started.
    pub fn new(run: &'a Run, dir: &'a RunDir) -> Self {
        let sizes = (0..run.cluster.ranks).map(|rank| size_of_log(dir, rank)).collect();
        Self { run, dir, signal: None, is_passed_on: false, sizes }
    }

    /// The signal by which it came, once it has.
    pub fn signal(&self) -> Option<usize> {
        self.signal
    }

    /// Takes a signal for such a wish, if it is one of those that are, and the first.
    pub fn take(&mut self, number: usize) -> bool {
        let is_wish = self.signal.is_none() && asks_to_stop(self.run, number);
        if is_wish {
            self.signal = Some(number);
            let name = fault::signal_name(i32::try_from(number).unwrap_or_default());
            eprintln!(
                "{name}: the ranks save and stop after this step; a second signal ends them at once"
            );
        }
        is_wish
    }

    /// Passes it on once all ranks listen, which they do before they write their first line. A rank
    /// that did not would end without saving.
    pub fn pass_on(&mut self, job: &Job) {
        let listen = |(rank, size): (usize, &u64)| size_of_log(self.dir, rank) > *size;
        if self.signal.is_some() && !self.is_passed_on && self.sizes.iter().enumerate().all(listen)
        {
            job.ask_to_stop();
            self.is_passed_on = true;
        }
    }
}

/// Whether a signal of this number asks the run to save and stop.
pub fn asks_to_stop(run: &Run, number: usize) -> bool {
    run.checkpoint.signals.iter().any(|signal| trainer::signal_number(*signal) as usize == number)
}

fn size_of_log(dir: &RunDir, rank: usize) -> u64 {
    std::fs::metadata(dir.rank_log(rank)).map_or(0, |log| log.len())
}
