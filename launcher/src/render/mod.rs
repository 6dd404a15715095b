//! Job files for schedulers, each a template in this directory.

use crate::failure::Failure;
use clap::ValueEnum;
use config::{Memory, Run};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use std::path::Path;

mod quote;

use quote::word;

/// What a job is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// A batch script for Slurm's sbatch
    Slurm,
    /// An MPIJob for Kubernetes with kubeflow's MPI operator
    Mpijob,
    /// A batch script for PBS's qsub
    Pbs,
    /// A batch script for LSF's bsub
    Lsf,
}

impl Scheduler {
    /// The name of the file that the job's comments speak of.
    fn file_name(self) -> &'static str {
        match self {
            Self::Slurm => "job.slurm",
            Self::Mpijob => "job.yaml",
            Self::Pbs => "job.pbs",
            Self::Lsf => "job.lsf",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Slurm => include_str!("slurm.sh.j2"),
            Self::Mpijob => include_str!("mpijob.yaml.j2"),
            Self::Pbs => include_str!("pbs.sh.j2"),
            Self::Lsf => include_str!("lsf.sh.j2"),
        }
    }
}

/// All that the templates know.
#[derive(Debug, Serialize)]
struct Job<'a> {
    file: String,
    config: String,
    /// The command of a rank, quoted for a shell.
    train: String,
    /// Where it is run, quoted for a shell.
    directory: String,
    name: String,
    world_size: usize,
    nodes: usize,
    ranks_per_node: usize,
    cpus_per_rank: usize,
    gpus_per_node: usize,
    memory: Option<&'a str>,
    time: Option<&'a str>,
    seconds: Option<u64>,
    minutes: Option<u64>,
    warning_seconds: u64,
    warning_minutes: u64,
    queue: Option<&'a str>,
    account: Option<&'a str>,
    setup: &'a [String],
    /// Quoted for a shell.
    mpirun: String,
    /// Quoted for a shell, each with a blank before it.
    mpirun_args: String,
    image: &'a str,
    volume: &'a str,
}

/// The job of `run`, whose configuration is `config` with the keys `set`, to be submitted in
/// `directory`. `file` is what the job will be called.
///
/// # Errors
/// Ranks that cannot be divided by the nodes, a warning that is longer than the job.
pub fn render(
    scheduler: Scheduler,
    run: &Run,
    config: &Path,
    set: &[String],
    directory: &Path,
    file: Option<&Path>,
) -> Result<String, Failure> {
    let cluster = &run.cluster;
    if !cluster.ranks.is_multiple_of(cluster.nodes) {
        let what =
            format!("is {}, by which the {} ranks cannot be divided", cluster.nodes, cluster.ranks);
        return Err(Failure::Input(run.error_at("cluster", "nodes", &what).to_string()));
    }
    let seconds = cluster.time.as_deref().map(seconds_of);
    if seconds.is_some_and(|seconds| seconds <= cluster.warning_seconds) {
        let what = format!(
            "is {}, and the whole job has {} seconds",
            cluster.warning_seconds,
            seconds.unwrap_or_default()
        );
        return Err(Failure::Input(run.error_at("cluster", "warning_seconds", &what).to_string()));
    }
    let config = quote::path(config)?.to_owned();
    let words = ["loract".to_owned(), "train".to_owned(), config.clone()];
    let set = set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
    let job = Job {
        file: file.map_or(Ok(scheduler.file_name()), quote::path)?.to_owned(),
        config,
        train: words
            .into_iter()
            .chain(set)
            .map(|text| word(&text))
            .collect::<Result<Vec<_>, _>>()?
            .join(" "),
        directory: word(quote::path(directory)?)?,
        name: cluster.name.clone().unwrap_or_else(|| job_name(&run.dir)),
        world_size: cluster.ranks,
        nodes: cluster.nodes,
        ranks_per_node: cluster.ranks / cluster.nodes,
        cpus_per_rank: cluster.cpus_per_rank,
        gpus_per_node: cluster.gpus_per_node,
        memory: cluster.memory.as_ref().map(Memory::as_str),
        time: cluster.time.as_deref(),
        seconds,
        minutes: seconds.map(|seconds| seconds.div_ceil(60)),
        warning_seconds: cluster.warning_seconds,
        warning_minutes: cluster.warning_seconds.div_ceil(60),
        queue: cluster.queue.as_deref(),
        account: cluster.account.as_deref(),
        setup: &cluster.setup,
        mpirun: word(&cluster.mpirun)?,
        mpirun_args: cluster
            .mpirun_args
            .iter()
            .map(|argument| Ok(format!(" {}", word(argument)?)))
            .collect::<Result<_, Failure>>()?,
        image: &cluster.image,
        volume: &cluster.volume,
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    quote::add_to(&mut environment);
    environment.render_str(scheduler.template(), &job).map_err(|fault| Failure::Other(fault.into()))
}

/// The last part of the run's directory, as Kubernetes takes a name.
fn job_name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().to_lowercase();
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(40)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "loract".to_owned() } else { name.to_owned() }
}

/// Of `H:MM:SS`, which the configuration has checked.
fn seconds_of(time: &str) -> u64 {
    time.split(':').fold(0, |sum, part| 60 * sum + part.parse::<u64>().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_job_comes_from_the_directory() {
        assert_eq!(job_name(Path::new("runs/My run_2")), "my-run-2");
        assert_eq!(job_name(Path::new("__")), "loract");
        assert_eq!((seconds_of("04:00:30"), seconds_of("100:00:00")), (14_430, 360_000));
    }
}
