//! `loract launch`: start the ranks, watch them, and report.

use super::{shard::prepare, train::stopped};
use crate::{
    config_args::ConfigArgs,
    env,
    failure::{Failure, STOPPED, one_line},
    fault::{self, Cause, Fault},
    hosts,
    interruption::Interruptible,
    logs,
    mpirun::{Dialect, Job, Ranks},
    report::Report,
    request::{Request, asks_to_stop},
    restarts::{Restarts, Verdict},
    run_dir::{RunDir, RunStart},
    run_lock::RunLock,
    run_monitor::{POLL_INTERVAL, RunMonitor},
    shutdown::Shutdown,
};
use anyhow::Context;
use clap::Args;
use config::Run;
use config::units;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use std::{
    ffi::OsString,
    num::NonZero,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Start the ranks of a run with mpirun, show their progress, and report
///
/// First all of the input is checked and the data prepared. If a rank fails, the others are ended,
/// and one line names the rank, its host, the reason and its log. On SIGUSR1 or SIGTERM
/// (`[checkpoint] signals`) the ranks save and stop; a second signal, or another one, ends them at
/// once. If launch itself is killed, mpirun and the ranks end, too.
///
/// A run that was interrupted resumes from its newest checkpoint when it is started again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract launch -n 2 configs/demo.toml
  loract launch configs/demo.toml --set run.dir=runs/second --set lora.rank=16
  loract launch -n 16 configs/demo.toml --set 'cluster.mpirun_args=[\"--hostfile\", \"hosts\"]'
  loract launch -n 16 configs/demo.toml --restarts 5

The run's directory then holds:
  config.toml      the configuration in full
  metrics.jsonl    a line per step
  checkpoints/     from which an interrupted run resumes
  summary.json     validation loss before and after, time
  adapter/         what was trained, as a PEFT adapter; or model/, where all weights were
  logs/            mpirun.log, and rank-0000.log for each rank
  report.html      all of that as a page, for a browser

Exit codes: 0 done; 75 stopped by a signal after a checkpoint, run again to resume; 2 wrong use,
configuration or input; 1 any other failure.")]
pub struct Launch {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The number of ranks, instead of the configuration's `[cluster] ranks`
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub ranks: Option<u32>,
    /// Replace an earlier run in the same directory
    #[arg(long)]
    pub overwrite: bool,
    /// After a failure, start the ranks again from the newest checkpoint, up to K times; no further
    /// one is tried when two in a row reach no new one
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub restarts: u32,
    /// Restart without the host of the rank that failed, where `[cluster] mpirun_args` names other
    /// hosts with room
    #[arg(long, requires = "restarts")]
    pub leave_out_failed_hosts: bool,
    /// Seconds before the first restart; each further one waits twice as long, up to a minute
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, hide = true, value_parser = seconds)]
    pub restart_wait: f64,
    /// Write what steps spend their time on to FILE, for chrome://tracing or ui.perfetto.dev; each
    /// further rank to a file of its own
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print the final table as JSON
    #[arg(long)]
    pub json: bool,
}

fn count(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|count| *count > 0).ok_or("give a whole number, 1 or more")
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|seconds| (0.0..=3600.0).contains(seconds))
        .ok_or("give a number from 0 to 3600")
}

/// Time for the last lines to arrive after the end.
const LAST_LINES: Duration = Duration::from_secs(2);

impl Launch {
    pub fn run(self) -> Result<(), Failure> {
        let mut set = self.config.set.clone();
        set.extend(self.ranks.map(|ranks| format!("cluster.ranks={ranks}")));
        let signal = listen()?;
        let run = Run::load(&self.config.config, &set)?;
        let world_size = run.cluster.ranks;
        let dir = RunDir::new(&run);
        let mut lock = RunLock::acquire(dir.path(), "loract launch")?;
        let start = dir.run_start(&run, self.overwrite)?;
        let dialect = Dialect::from_program(&run.cluster.mpirun)
            .map_err(|what| run.error_at("cluster", "mpirun", &what))?;
        setup::check(&run, world_size)?;

        prepare_data(&run, &dir, start, &signal)?;
        if start == RunStart::Resume {
            eprintln!("resuming the run in {} from {}", dir.path().display(), from(&dir));
        }
        lock.hand_over();
        self.run_with_restarts(&run, &dir, dialect, &signal)?;
        let mut report = Report::read(&dir, world_size);
        if let Err(fault) = report.write_page() {
            // The run is done, and all of its files are there.
            eprintln!(
                "warning: there is no report.html: {}; loract report {} tries again",
                one_line(&format!("{fault:#}")),
                dir.path().display()
            );
        }
        report.print(self.json);
        Ok(())
    }

    /// Starts the ranks, after failures again up to `--restarts` times, until the run is done.
    fn run_with_restarts(
        &self,
        run: &Run,
        dir: &RunDir,
        dialect: Dialect,
        signal: &AtomicUsize,
    ) -> Result<(), Failure> {
        let newest = || checkpoint::newest_checkpoint(dir.path());
        let mut restarts =
            Restarts::new(self.restarts, Duration::from_secs_f64(self.restart_wait), newest());
        let mut run = run.clone();
        loop {
            let Err(ended) = run_once(&run, dir, dialect, self.trace.as_deref(), signal) else {
                return Ok(());
            };
            if !ended.may_restart {
                return Err(ended.failure);
            }
            match restarts.after(newest()) {
                Verdict::Enough => return Err(ended.failure),
                Verdict::NoProgress => {
                    eprintln!(
                        "no further restart after {} of {}: the last two reached no new checkpoint",
                        restarts.done(),
                        restarts.allowed()
                    );
                    return Err(ended.failure);
                }
                Verdict::Again(wait) => {
                    let (why, when) = (ended.failure.message(), units::seconds(wait.as_secs_f64()));
                    eprintln!(
                        "{why}\nrestart {} of {} in {when}, from {}",
                        restarts.done(),
                        restarts.allowed(),
                        from(dir)
                    );
                    if self.leave_out_failed_hosts {
                        leave_out(&mut run, ended.host.as_deref(), dir)?;
                    }
                    if let Some(number) = sleep(wait, signal) {
                        return Err(stopped_between(number, dir));
                    }
                }
            }
        }
    }
}

/// Prepares the data, and writes them into the run's directory. Until then there is nothing to
/// save, and a signal ends the process at once.
fn prepare_data(
    run: &Run,
    dir: &RunDir,
    start: RunStart,
    signal: &Arc<AtomicUsize>,
) -> Result<(), Failure> {
    let (signal, configured) = (Arc::clone(signal), run.clone());
    let _interruptible = Interruptible::start(
        "preparing data",
        move |number| asks_to_stop(&configured, number),
        move || signal.swap(0, Ordering::Relaxed),
    )?;
    let data = prepare(run, run.cluster.ranks)?;
    dir.claim(run, start)?;
    Ok(data.write(run)?)
}

/// Notes the number of each signal that asks this program for something, from its first instruction
/// on; 0 where none has come.
fn listen() -> anyhow::Result<Arc<AtomicUsize>> {
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGUSR1, SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)
            .with_context(|| format!("cannot wait for {}", fault::signal_name(number)))?;
    }
    Ok(signal)
}

/// Changes the run to start without `host`, and prints that, or why it cannot.
fn leave_out(run: &mut Run, host: Option<&str>, dir: &RunDir) -> anyhow::Result<()> {
    let Some(host) = host else {
        eprintln!("the host of the rank that failed is unknown, so none is left out");
        return Ok(());
    };
    match hosts::without(host, &run.cluster.mpirun_args, &dir.hosts())? {
        Some(arguments) => {
            eprintln!("leaving out host {host}");
            run.cluster.mpirun_args = arguments;
        }
        None => {
            eprintln!("host {host} is not left out: [cluster] mpirun_args names no other hosts")
        }
    }
    Ok(())
}

/// The newest checkpoint in words.
fn from(dir: &RunDir) -> String {
    checkpoint::newest_checkpoint(dir.path())
        .map_or_else(|| "its start".to_owned(), |step| format!("its checkpoint of step {step}"))
}

/// Waits, unless a signal comes.
fn sleep(wait: Duration, signal: &AtomicUsize) -> Option<NonZero<usize>> {
    let end = Instant::now() + wait;
    loop {
        let number = NonZero::new(signal.swap(0, Ordering::Relaxed));
        if number.is_some() || Instant::now() >= end {
            return number;
        }
        std::thread::sleep(POLL_INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
}

/// A signal that comes while no rank runs: there is nothing to save.
fn stopped_between(number: NonZero<usize>, dir: &RunDir) -> Failure {
    let number = i32::try_from(number.get()).unwrap_or_default();
    match newest_path(dir) {
        Some((step, path)) => Failure::Stopped(stopped(number, step, &path)),
        None => Failure::other(format!(
            "stopped by {} before a restart, with no checkpoint",
            fault::signal_name(number)
        )),
    }
}

fn newest_path(dir: &RunDir) -> Option<(u64, PathBuf)> {
    let step = checkpoint::newest_checkpoint(dir.path())?;
    Some((step, checkpoint::checkpoints(dir.path()).join(format!("step-{step:08}"))))
}

/// A job that did not finish its run.
struct Unfinished {
    failure: Failure,
    /// Whether another start may help: neither the input nor a signal has ended it.
    may_restart: bool,
    /// The host of the rank that failed, where somebody said so.
    host: Option<String>,
}

impl From<anyhow::Error> for Unfinished {
    fn from(error: anyhow::Error) -> Self {
        Self { failure: error.into(), may_restart: false, host: None }
    }
}

/// Starts the ranks, and watches them until they end. `signal` holds the number of a signal that
/// came, which is taken out.
fn run_once(
    run: &Run,
    dir: &RunDir,
    dialect: Dialect,
    trace: Option<&Path>,
    signal: &AtomicUsize,
) -> Result<(), Unfinished> {
    let mut request = Request::new(run, dir);
    let mut job = start(run, dir, dialect, trace)?;
    let world_size = run.cluster.ranks;
    let ranks = if world_size == 1 { "rank" } else { "ranks" };
    let what = format!("starting {world_size} {ranks}");
    let mut monitor = RunMonitor::start(run, &what);
    let mut reader = fault::Reader::default();
    let mut shutdown = Shutdown::default();
    let mut polled = Instant::now();
    // Ranks that do not wait for the one that failed may continue for a few steps.
    let mut failed_at = None;

    let status = loop {
        for line in job.lines() {
            if reader.line(&line) {
                shutdown.failing();
                monitor.poll();
                failed_at = Some(monitor.step());
            }
        }
        monitor.poll();
        if let Some(status) = job.poll()? {
            break Some(status);
        }
        if let Some(number) = NonZero::new(signal.swap(0, Ordering::Relaxed))
            && !request.take(number.get())
        {
            shutdown.interrupted(number.get());
        }
        request.pass_on(&job);
        shutdown.pass(polled.elapsed());
        polled = Instant::now();
        if !shutdown.advance(&mut job) {
            break None;
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    job.last_lines(LAST_LINES).iter().for_each(|line| {
        reader.line(line);
    });
    let last = monitor.finish();
    let step = failed_at.unwrap_or(last);
    // MPICH's mpirun exits with success when a signal has ended it, and that of Open MPI 5 when it
    // has lost a host.
    let is_finished = shutdown.signal.is_none() && dir.summary().exists();
    if is_finished && status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    job.kill_ranks();
    let number = |number: usize| i32::try_from(number).unwrap_or_default();
    let final_failure = |failure| Unfinished { failure, may_restart: false, host: None };
    if let Some(signal) = shutdown.signal {
        let (name, when) = (fault::signal_name(number(signal)), fault::moment(step));
        let metrics = dir.metrics();
        return Err(final_failure(Failure::other(format!(
            "stopped by {name} {when}; the metrics so far: {}",
            metrics.display()
        ))));
    }
    let is_stopped = status.and_then(|status| status.code()) == Some(i32::from(STOPPED))
        || matches!(reader.culprit(), Some(Fault { cause: Cause::Exit(code), .. }) if code == i32::from(STOPPED));
    if is_stopped && let Some((step, path)) = newest_path(dir) {
        // Where it did not come by way of this process, it was most likely the one that schedulers
        // send.
        let signal = request.signal().map_or(SIGUSR1, number);
        return Err(final_failure(Failure::Stopped(stopped(signal, step, &path))));
    }
    let failure = explain(&reader, status, dir, world_size, step);
    // A job that does not end may still write.
    let may_restart =
        status.is_some() && !matches!(failure, Failure::Input(_)) && request.signal().is_none();
    let host = reader.culprit().and_then(|fault| complete(&fault, dir, world_size).host);
    Err(Unfinished { failure, may_restart, host })
}

fn start(run: &Run, dir: &RunDir, dialect: Dialect, trace: Option<&Path>) -> anyhow::Result<Job> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command: Vec<OsString> =
        vec![program.clone().into(), "train".into(), "--launched".into(), dir.config().into()];
    if let Some(trace) = trace {
        command.extend(["--trace".into(), std::path::absolute(trace)?.into()]);
    }
    let arguments = dialect.arguments(&Ranks {
        count: run.cluster.ranks,
        cores: std::thread::available_parallelism().map_or(1, NonZero::get),
        as_root: rustix::process::geteuid().is_root(),
        environment: &env::handed_on(run.cluster.environment.keys()),
        arguments: &run.cluster.mpirun_args,
        program: &command,
    });
    let environment = &run.cluster.environment;
    Job::start(&run.cluster.mpirun, &arguments, environment, &program, &dir.mpirun_log())
}

/// The failure of a job in one line: the culprit, or what mpirun said last.
fn explain(
    reader: &fault::Reader,
    status: Option<ExitStatus>,
    dir: &RunDir,
    world_size: usize,
    step: u64,
) -> Failure {
    let Some(fault) = reader.culprit() else {
        let how = match status.map(|status| (status.code(), status.signal())) {
            Some((Some(0), _)) => "mpirun ended before the run was finished".to_owned(),
            Some((Some(code), _)) => format!("mpirun failed with exit code {code}"),
            Some((None, Some(signal))) => {
                format!("mpirun was killed by {}", fault::signal_name(signal))
            }
            _ => "mpirun does not end".to_owned(),
        };
        let said = Some(reader.first_words())
            .filter(|said| !said.is_empty())
            .map(|said| format!(": {said}"))
            .unwrap_or_default();
        return Failure::other(format!("{how}{said}; its output: {}", dir.mpirun_log().display()));
    };
    let fault = complete(&fault, dir, world_size);
    let log = match fault.rank {
        Some(rank) if dir.rank_log(rank).exists() => {
            format!("its log: {}", dir.rank_log(rank).display())
        }
        _ => format!("the output of all ranks: {}", dir.mpirun_log().display()),
    };
    match &fault.cause {
        Cause::Input(message) => Failure::Input(message.clone()),
        Cause::Exit(2) => Failure::Input(format!("{}; {log}", fault.sentence(step))),
        _ => Failure::other(format!("{}; {log}", fault.sentence(step))),
    }
}

/// The fault with what mpirun did not say, but the ranks' logs do: rank by process, host by rank,
/// and words that were lost on their way.
fn complete(fault: &Fault, dir: &RunDir, world_size: usize) -> Fault {
    let mut fault = fault.clone();
    let log = |rank: usize| std::fs::read_to_string(dir.rank_log(rank)).ok();
    let origin = |rank: usize| logs::origin(&log(rank)?);
    if fault.rank.is_none()
        && let Some(pid) = fault.pid
    {
        fault.rank =
            (0..world_size).find(|rank| origin(*rank).is_some_and(|(_, logged)| logged == pid));
    }
    if fault.host.is_none()
        && let Some(rank) = fault.rank
    {
        fault.host = origin(rank).map(|(host, _)| host);
    }
    if let (Cause::Abort(_), Some(rank)) = (&fault.cause, fault.rank)
        && let Some(told) = log(rank)
            .and_then(|log| fault::told(rank, fault.host.as_deref()?, logs::last_words(&log)?))
    {
        return told;
    }
    fault
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    /// A run directory in which the logs say that rank 1 was process 4321 on node2.
    fn dir(at: &Path) -> RunDir {
        let config = at.join("c.toml");
        std::fs::write(&config, "[model]\npath='m'\n[lora]\n[data]\ntrain='t'\n").unwrap();
        let dir = RunDir::new(&Run::load(&config, &[format!("run.dir={}", at.display())]).unwrap());
        std::fs::create_dir(dir.logs()).unwrap();
        std::fs::write(dir.rank_log(0), "INFO rank 0 of 2 on node1, process 17\n").unwrap();
        std::fs::write(dir.rank_log(1), "INFO rank 1 of 2 on node2, process 4321\n").unwrap();
        dir
    }

    fn explained(output: &str, status: i32) -> (String, bool) {
        let at = tempfile::tempdir().unwrap();
        let mut reader = fault::Reader::default();
        output.lines().for_each(|line| {
            reader.line(line);
        });
        let failure = explain(&reader, Some(ExitStatus::from_raw(status)), &dir(at.path()), 2, 3);
        let path = at.path().display().to_string();
        match failure {
            Failure::Input(message) => (message.replace(&path, "RUN"), true),
            other => (format!("{other:?}").replace(&path, "RUN"), false),
        }
    }

    #[test]
    fn a_process_without_a_rank_is_found_in_the_logs() {
        let (message, input) = explained(
            "=   PID 4321 RUNNING AT node2\n=   EXIT CODE: 9\nTERMINATED WITH THE EXIT STRING: Killed (signal 9)",
            9,
        );
        assert!(
            message.contains("rank 1 on host node2 was killed by signal 9 (SIGKILL) at step 3; its log: RUN/logs/rank-0001.log"),
            "{message}"
        );
        assert!(!input);
    }

    #[test]
    fn the_host_of_a_rank_is_found_in_its_log() {
        let (message, _) = explained("Process name: [[1,1],1]\nExit code:    3", 3 << 8);
        assert!(message.contains("rank 1 on host node2 exited with code 3 at step 3"), "{message}");
    }

    #[test]
    fn words_that_were_lost_on_their_way_are_found_in_the_log() {
        let at = tempfile::tempdir().unwrap();
        let dir = dir(at.path());
        let abort =
            Fault { rank: Some(1), host: None, pid: None, cause: Cause::Abort(1), last: None };
        assert_eq!(
            complete(&abort, &dir, 2).sentence(3),
            "rank 1 on host node2 called MPI_Abort(1) at step 3"
        );
        let add = |words: &str| {
            let log = std::fs::read_to_string(dir.rank_log(1)).unwrap();
            std::fs::write(dir.rank_log(1), format!("{log}WARN loract: the run failed: {words}\n"))
                .unwrap();
        };
        add("rank 0 (host node1) has diverged");
        assert_eq!(complete(&abort, &dir, 2).sentence(3), "rank 0 on host node1 has diverged");
    }

    #[test]
    fn a_refused_input_keeps_its_exit_code() {
        let said = "rank 0 (host node1): input error: c.toml:3: [data] train: x";
        assert_eq!(explained(said, 2 << 8), ("c.toml:3: [data] train: x".to_owned(), true));
        assert!(explained("Process name: [[1,1],1]\nExit code:    2", 2 << 8).1);
    }

    #[test]
    fn a_failure_without_a_culprit_says_what_mpirun_said() {
        let (message, _) = explained("There are not enough slots", 1 << 8);
        assert!(
            message.contains("mpirun failed with exit code 1: There are not enough slots; its output: RUN/logs/mpirun.log"),
            "{message}"
        );
        let (message, _) = explained("PRTE has lost communication", 0);
        assert!(
            message
                .contains("mpirun ended before the run was finished: PRTE has lost communication"),
            "{message}"
        );
        let (message, _) = explained("", 9);
        assert!(
            message.contains("mpirun was killed by signal 9 (SIGKILL); its output"),
            "{message}"
        );
    }
}
