//! `loract train`: one rank.

use super::shard::prepare;
use crate::{
    config_args::ConfigArgs,
    failure::{Failure, STOPPED, one_line},
    fault::{self, INPUT_ERROR},
    interruption::Interruptible,
    logs,
    report::Report,
    run_dir::{RunDir, RunStart},
    run_lock::RunLock,
    run_monitor::Background,
};
use clap::Args;
use collective::{Deadline, ProcessGroup};
use config::{Run, StopSignal};
use setup::RunData;
use std::{
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use trainer::{StopRequest, TrainOutcome};

/// Train as one rank: alone, or started by mpirun or srun with others
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract train configs/demo.toml --set run.steps=10
  mpirun -n 2 loract train configs/demo.toml
  srun --mpi=pmix -n 16 loract train configs/demo.toml

Each rank logs to RUN_DIR/logs/rank-0000.log. The environment variable LORACT_LOG
sets the levels: debug, or info,reduce=trace.

A run that was interrupted resumes from its newest checkpoint when it is started again. On
SIGUSR1 or SIGTERM ([checkpoint] signals) all ranks save and stop after their step.

Exit codes: 0 done; 75 stopped by a signal after a checkpoint, run again to resume; 2 wrong use,
configuration or input; 1 any other failure.")]
pub struct Train {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Replace an earlier run in the same directory
    #[arg(long)]
    pub overwrite: bool,
    /// Write what steps spend their time on to FILE, for chrome://tracing or ui.perfetto.dev; each
    /// further rank to a file of its own
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print the final table as JSON
    #[arg(long)]
    pub json: bool,
    /// Set by `loract launch`, which has made the directory, shows the progress and reports
    #[arg(long, hide = true)]
    pub launched: bool,
}

impl Train {
    pub fn run(self) -> Result<(), Failure> {
        collective::install_panic_hook();
        // Signals are noted before MPI waits for the other ranks.
        let begun = self.begin();
        let limit = begun.as_ref().map_or(DEFAULT_LIMIT, |(run, _)| limit(run));
        let starting = Deadline::start(limit, "the start of MPI");
        let group = collective::connect().map_err(unconnected)?;
        drop(starting);
        let (run, stop) = agree(&*group, begun, self.launched)?;
        let log = RunDir::new(&run).rank_log(group.rank());

        // From here on a rank that fails ends the job, or the others would wait for it for ever.
        // One that was stopped was so with all others.
        let alone = collective::launched_by_mpi().is_none();
        let done = self.watched(run, stop, &group).or_else(|failure| {
            if alone || matches!(failure, Failure::Stopped(_) | Failure::Reported(_)) {
                return Err(failure);
            }
            let mut message = message(&failure);
            logs::failed(&message);
            // Launch names the log itself.
            if !self.launched && log.exists() {
                message += &format!("; its log: {}", log.display());
            }
            group.abort(&message)
        });
        Deadline::start(limit, "the end of MPI").until_the_end();
        done
    }

    /// What a heartbeat watches: the checks, the preparation of data, the training, the report.
    fn watched(
        &self,
        run: Run,
        stop: StopRequest,
        group: &Arc<dyn ProcessGroup>,
    ) -> Result<(), Failure> {
        let heartbeat = trainer::start_heartbeat(&run, &**group)?;
        // While rank 0 prepares data the others wait, however long it takes.
        heartbeat.expect_progress(false);
        let checked = agree(&**group, self.check(run, stop, &**group), self.launched);
        let done = checked.and_then(|checked| {
            heartbeat.expect_progress(true);
            self.train(checked, group)
        });
        if matches!(done, Ok(()) | Err(Failure::Stopped(_) | Failure::Reported(_))) {
            heartbeat.leave();
        }
        done
    }

    /// The configuration, and what notes the signals that it names.
    fn begin(&self) -> Result<(Run, StopRequest), Failure> {
        let run = Run::load(&self.config.config, &self.config.set)?;
        let mut signals = run.checkpoint.signals.to_vec();
        if self.launched && !signals.is_empty() && !signals.contains(&StopSignal::Usr1) {
            // By which launch passes on whatever it gets.
            signals.push(StopSignal::Usr1);
        }
        let stop = StopRequest::listen(&signals)?;
        Ok((run, stop))
    }

    /// All that can be wrong with the input. Every rank looks at the same input, so that all come
    /// to the same end.
    fn check(
        &self,
        run: Run,
        stop: StopRequest,
        group: &dyn ProcessGroup,
    ) -> Result<Checked, Failure> {
        let threads = threads(run.threads, ranks_on_this_host(group));
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
        let dir = RunDir::new(&run);
        let lock = match (group.rank(), self.launched) {
            (0, false) => Some(RunLock::acquire(dir.path(), "loract train")?),
            (0, true) => Some(RunLock::acquire_for_ranks(dir.path())?),
            _ => None,
        };
        let start = if group.rank() == 0 && !self.launched {
            Some(dir.run_start(&run, self.overwrite)?)
        } else {
            None
        };
        setup::check(&run, group.world_size())?;
        // Prepared data is the same for all: one rank makes it, the others open it.
        let data = if group.rank() == 0 && !self.launched {
            let asked = stop.clone();
            let taken = move || asked.signal() as usize;
            let _interruptible = Interruptible::start("preparing data", |_| true, taken)?;
            Some(prepare(&run, group.world_size())?)
        } else {
            None
        };
        Ok(Checked { run, stop, start, data, _lock: lock })
    }

    fn train(&self, checked: Checked, group: &Arc<dyn ProcessGroup>) -> Result<(), Failure> {
        let Checked { run, stop, start, data, _lock } = checked;
        let run = &run;
        let dir = RunDir::new(run);
        let rank = group.rank();
        if let Some(start) = start {
            dir.claim(run, start)?;
        }
        if let Some(data) = data {
            data.write(run)?;
        }
        // The logs of an earlier run are gone before a rank begins its own.
        group.barrier().map_err(|error| Failure::Other(error.into()))?;
        let timeline =
            logs::start(&dir, rank, group.world_size(), group.host(rank), self.trace.as_deref())?;

        let shown =
            (rank == 0 && !self.launched).then(|| Background::start(run, "opening the model"));
        let outcome = trainer::train_watched(run, Arc::clone(group), &stop);
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let outcome = outcome.map_err(|error| {
            error.with_memory_advice(|held| estimate::memory_advice(run, threads, held))
        });
        drop((shown, timeline));
        if let TrainOutcome::Stopped { signal, step, checkpoint } = outcome? {
            let message = stopped(signal, step, &checkpoint);
            return Err(if rank == 0 && !self.launched {
                Failure::Stopped(message)
            } else {
                Failure::Reported(STOPPED)
            });
        }
        if rank == 0 && !self.launched {
            Report::read(&dir, group.world_size()).print(self.json);
        }
        Ok(())
    }
}

/// What is said of a run that a signal has stopped.
pub(super) fn stopped(signal: i32, step: u64, checkpoint: &Path) -> String {
    let name = fault::signal_name(signal);
    format!(
        "stopped by {name} after step {step}; saved {}; run the same command again to resume",
        checkpoint.display()
    )
}

/// The time in which all ranks must have started, or ended, with the configuration that they could
/// not read.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// What each rank adds to it: to start many takes its time.
const FOR_EACH_RANK: Duration = Duration::from_millis(100);

/// The time in which all ranks of this run must have started, or ended; zero where it has no
/// heartbeat, either.
fn limit(run: &Run) -> Duration {
    let ranks = collective::launched_by_mpi().and_then(|launch| launch.world_size).unwrap_or(1);
    match run.cluster.heartbeat_seconds {
        0 => Duration::ZERO,
        seconds => Duration::from_secs(seconds) + FOR_EACH_RANK * u32::try_from(ranks).unwrap_or(1),
    }
}

/// A run that can begin.
struct Checked {
    run: Run,
    stop: StopRequest,
    /// On the rank that owns the directory.
    start: Option<RunStart>,
    /// On the rank that prepared it.
    data: Option<RunData>,
    /// On rank 0, until the run is done.
    _lock: Option<RunLock>,
}

/// What launchers and MPI disagree about is the fault of how the ranks were started.
fn unconnected(error: collective::Error) -> Failure {
    match error {
        collective::Error::Alone { .. } => Failure::Input(error.to_string()),
        error => Failure::Other(error.into()),
    }
}

/// What every rank does after the checks: continue if all can, otherwise stop together after one of
/// them has reported the reason.
///
/// # Errors
/// [`Failure::Reported`] on every rank if any rank failed.
fn agree<T>(
    group: &dyn ProcessGroup,
    checked: Result<T, Failure>,
    launched: bool,
) -> Result<T, Failure> {
    if collective::launched_by_mpi().is_none() {
        return checked;
    }
    let mine = checked.as_ref().err().map(message).unwrap_or_default();
    let all =
        group.all_gather_bytes(mine.as_bytes()).map_err(|error| Failure::Other(error.into()))?;
    let Some((speaker, words)) = all.iter().enumerate().find(|(_, words)| !words.is_empty()) else {
        return checked;
    };
    let said = one_line(&String::from_utf8_lossy(words));
    let of_input = said.strip_prefix(INPUT_ERROR);
    if group.rank() == speaker {
        let who = format!("rank {speaker} (host {}): ", group.host(speaker));
        if launched {
            eprintln!("{who}{said}");
        } else {
            // What all ranks say is about no one of them.
            let who = if all.iter().all(|others| others == words) { "" } else { &who };
            eprintln!("error: {who}{}", of_input.unwrap_or(&said));
        }
    }
    Err(Failure::Reported(if of_input.is_some() { 2 } else { 1 }))
}

/// A failure as a rank says it.
fn message(failure: &Failure) -> String {
    match failure {
        Failure::Input(what) => format!("{INPUT_ERROR}{what}"),
        Failure::Other(error) => format!("{error:#}"),
        Failure::Stopped(what) => what.clone(),
        Failure::Reported(code) => format!("exit code {code}"),
    }
}

fn ranks_on_this_host(group: &dyn ProcessGroup) -> usize {
    let here = group.host(group.rank());
    (0..group.world_size()).filter(|rank| group.host(*rank) == here).count()
}

/// The threads of a rank: as configured, or its share of this host's.
pub(super) fn threads(configured: usize, ranks_here: usize) -> usize {
    if configured > 0 {
        return configured;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / ranks_here.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_and_nobody_gets_none() {
        assert_eq!(threads(3, 8), 3);
        assert_eq!(threads(0, usize::MAX), 1);
        assert!(threads(0, 1) >= threads(0, 2));
    }

    #[test]
    fn a_rank_marks_a_fault_of_its_input() {
        assert_eq!(message(&Failure::Input("c.toml:1: x".into())), "input error: c.toml:1: x");
        assert_eq!(message(&Failure::other("x")), "x");
    }
}
