//! Job files for schedulers, each a template in this directory.

mod kubernetes;
mod quote;
mod slurm;

use crate::{env, failure::Failure, mpirun::Dialect, run_dir::RunDir};
use clap::ValueEnum;
use config::{Memory, Mpi, Run};
use kubernetes::Kubernetes;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use quote::word;
use serde::Serialize;
use slurm::Slurm;
use std::path::Path;

/// What a job is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// A batch script for Slurm's sbatch
    Slurm,
    /// An MPIJob for Kubernetes with kubeflow's MPI operator
    Mpijob,
    /// A TrainJob and its TrainingRuntime for Kubernetes with Kubeflow Trainer 2
    Trainjob,
    /// A batch script for PBS's qsub
    Pbs,
    /// A batch script for LSF's bsub
    Lsf,
    /// A batch script for Flux's flux batch
    Flux,
}

impl Scheduler {
    /// The name of the file that the job's comments speak of.
    fn file_name(self) -> &'static str {
        match self {
            Self::Slurm => "job.slurm",
            Self::Mpijob | Self::Trainjob => "job.yaml",
            Self::Pbs => "job.pbs",
            Self::Lsf => "job.lsf",
            Self::Flux => "job.flux",
        }
    }

    fn template(self) -> &'static str {
        match self {
            Self::Slurm => include_str!("slurm.sh.j2"),
            Self::Mpijob => include_str!("mpijob.yaml.j2"),
            Self::Trainjob => include_str!("trainjob.yaml.j2"),
            Self::Pbs => include_str!("pbs.sh.j2"),
            Self::Lsf => include_str!("lsf.sh.j2"),
            Self::Flux => include_str!("flux.sh.j2"),
        }
    }

    fn is_kubernetes(self) -> bool {
        matches!(self, Self::Mpijob | Self::Trainjob)
    }
}

/// The parts of templates that several of them include.
const PARTS: [(&str, &str); 5] = [
    ("forward.sh.j2", include_str!("forward.sh.j2")),
    ("launcher.sh.j2", include_str!("launcher.sh.j2")),
    ("launcher.yaml.j2", include_str!("launcher.yaml.j2")),
    ("pod.yaml.j2", include_str!("pod.yaml.j2")),
    ("worker.yaml.j2", include_str!("worker.yaml.j2")),
];

/// All that the templates know.
#[derive(Debug, Serialize)]
struct Job<'a> {
    file: String,
    /// The same, quoted for a shell.
    file_quoted: String,
    config: String,
    /// The command of a rank, quoted for a shell.
    train: String,
    /// The command that follows the run, likewise.
    monitor: String,
    /// The file that only a finished run has, likewise.
    summary: String,
    /// Where it is run, quoted for a shell.
    directory: String,
    name: String,
    world_size: usize,
    nodes: usize,
    ranks_per_node: usize,
    cpus_per_rank: usize,
    gpus_per_node: usize,
    gpus_per_rank: usize,
    memory: Option<&'a str>,
    time: Option<&'a str>,
    seconds: Option<u64>,
    minutes: Option<u64>,
    warning_seconds: u64,
    warning_minutes: u64,
    queue: Option<&'a str>,
    account: Option<&'a str>,
    setup: &'a [String],
    environment: Vec<Variable<'a>>,
    /// The patterns of `forward.sh.j2`, and what it does with a name.
    left_out: String,
    handed_on: String,
    forward_words: &'static str,
    /// Quoted for a shell.
    mpirun: String,
    /// Quoted for a shell, each with a blank before it.
    mpirun_args: String,
    /// The option by which Flux speaks the ranks' process manager interface, with a blank before it.
    flux_pmi: &'static str,
    image: &'a str,
    volume: &'a str,
    kubernetes: Kubernetes<'a>,
    #[serde(flatten)]
    slurm: Slurm,
}

/// An environment variable of the ranks.
#[derive(Debug, Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: &'a str,
    /// The value, quoted for a shell.
    quoted: String,
}

/// What a job file is made of.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The run.
    pub run: &'a Run,
    /// The file of its configuration.
    pub config: &'a Path,
    /// The keys that were set on the command line.
    pub set: &'a [String],
    /// Where the job will be submitted.
    pub directory: &'a Path,
    /// What the job will be called.
    pub file: Option<&'a Path>,
}

/// The job file of a run.
///
/// # Errors
/// Ranks that cannot be divided by the nodes, a warning that is longer than the job, and what the
/// scheduler cannot do.
pub fn render(scheduler: Scheduler, request: &Request<'_>) -> Result<String, Failure> {
    check(scheduler, request)?;
    let job = job(scheduler, request)?;
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    quote::add_to(&mut environment);
    // By the names of the parts, YAML would be escaped; the templates quote what needs it.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let added =
        PARTS.iter().try_for_each(|(name, text)| environment.add_template(name, text.trim_end()));
    added
        .and_then(|()| environment.render_str(scheduler.template(), &job))
        .map_err(|fault| Failure::Other(fault.into()))
}

fn check(scheduler: Scheduler, request: &Request<'_>) -> Result<(), Failure> {
    let run = request.run;
    let cluster = &run.cluster;
    let refuse =
        |key: &str, what: &str| Err(Failure::Input(run.error_at("cluster", key, what).to_string()));
    if !cluster.ranks.is_multiple_of(cluster.nodes) {
        let what =
            format!("is {}, by which the {} ranks cannot be divided", cluster.nodes, cluster.ranks);
        return refuse("nodes", &what);
    }
    let seconds = cluster.time.as_deref().map(seconds_of);
    if seconds.is_some_and(|seconds| seconds <= cluster.warning_seconds) {
        let what = format!(
            "is {}, and the whole job has {} seconds",
            cluster.warning_seconds,
            seconds.unwrap_or_default()
        );
        return refuse("warning_seconds", &what);
    }
    if scheduler != Scheduler::Slurm && !cluster.array.is_empty() {
        return refuse("array", "is for Slurm alone; leave it out, and set each task's key itself");
    }
    let ranks_per_node = cluster.ranks / cluster.nodes;
    if scheduler == Scheduler::Flux && !cluster.gpus_per_node.is_multiple_of(ranks_per_node) {
        let what = format!(
            "is {}, and Flux gives each of the {ranks_per_node} ranks of a node GPUs of its own",
            cluster.gpus_per_node
        );
        return refuse("gpus_per_node", &what);
    }
    if scheduler.is_kubernetes() {
        kubernetes::check(scheduler, run)?;
    }
    Ok(())
}

fn job<'a>(scheduler: Scheduler, request: &Request<'a>) -> Result<Job<'a>, Failure> {
    let Request { run, config, directory, file, .. } = *request;
    let cluster = &run.cluster;
    let seconds = cluster.time.as_deref().map(seconds_of);
    let file = file.map_or(Ok(scheduler.file_name()), quote::path)?.to_owned();
    let dialect = Dialect::for_job_files(cluster.mpi);
    let (left_out, handed_on) = env::shell_patterns(cluster.environment.keys().map(String::as_str));
    let variables = cluster.environment.iter();
    let environment = variables
        .map(|(name, value)| Ok(Variable { name, value, quoted: word(value)? }))
        .collect::<Result<_, Failure>>()?;
    let ranks_per_node = cluster.ranks / cluster.nodes;
    Ok(Job {
        file_quoted: word(&file)?,
        file,
        config: quote::path(config)?.to_owned(),
        train: command("train", request)?,
        monitor: command("monitor", request)?,
        summary: word(&RunDir::new(run).summary().display().to_string())?,
        directory: word(quote::path(directory)?)?,
        name: cluster.name.clone().unwrap_or_else(|| job_name(&run.dir)),
        world_size: cluster.ranks,
        nodes: cluster.nodes,
        ranks_per_node,
        cpus_per_rank: cluster.cpus_per_rank,
        gpus_per_node: cluster.gpus_per_node,
        gpus_per_rank: cluster.gpus_per_node / ranks_per_node,
        memory: cluster.memory.as_ref().map(Memory::as_str),
        time: cluster.time.as_deref(),
        seconds,
        minutes: seconds.map(|seconds| seconds.div_ceil(60)),
        warning_seconds: cluster.warning_seconds,
        warning_minutes: cluster.warning_seconds.div_ceil(60),
        queue: cluster.queue.as_deref(),
        account: cluster.account.as_deref(),
        setup: &cluster.setup,
        environment,
        left_out,
        handed_on,
        forward_words: dialect.shell_words_for_name(),
        mpirun: word(&cluster.mpirun)?,
        mpirun_args: mpirun_args(scheduler, dialect, &cluster.mpirun_args)?,
        // Open MPI speaks PMIx alone, through a plugin of Flux.
        flux_pmi: if cluster.mpi == Mpi::OpenMpi { " -o pmi=pmix" } else { "" },
        image: &cluster.image,
        volume: &cluster.volume,
        kubernetes: Kubernetes::new(cluster),
        slurm: Slurm::new(request)?,
    })
}

/// `loract NAME` for the run, quoted for a shell.
fn command(name: &str, request: &Request<'_>) -> Result<String, Failure> {
    let words = ["loract".to_owned(), name.to_owned(), quote::path(request.config)?.to_owned()];
    let set = request.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]);
    let words: Vec<String> =
        words.into_iter().chain(set).map(|text| word(&text)).collect::<Result<_, _>>()?;
    Ok(words.join(" "))
}

/// mpirun's arguments, of which those of the configuration come last, so that they can say
/// otherwise.
fn mpirun_args(
    scheduler: Scheduler,
    dialect: Dialect,
    configured: &[String],
) -> Result<String, Failure> {
    let mut words: Vec<String> = dialect.unbound().iter().map(|word| (*word).to_owned()).collect();
    if scheduler.is_kubernetes() {
        words.extend([dialect.hostfile(), kubernetes::HOSTFILE].map(str::to_owned));
    }
    words.push(r#""${forward[@]}""#.to_owned());
    for argument in configured {
        words.push(word(argument)?);
    }
    Ok(words.iter().map(|word| format!(" {word}")).collect())
}

/// The last part of the run's directory, as Kubernetes takes a name.
fn job_name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().to_lowercase();
    let name: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(36)
        .collect();
    match name.trim_matches('-') {
        "" => "loract".to_owned(),
        name if kubernetes::is_label(name) => name.to_owned(),
        name => format!("run-{name}"),
    }
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
        assert_eq!(job_name(Path::new("runs/2026-01")), "run-2026-01");
        assert_eq!(job_name(Path::new("runs/on")), "run-on");
        assert_eq!((seconds_of("04:00:30"), seconds_of("100:00:00")), (14_430, 360_000));
    }
}
