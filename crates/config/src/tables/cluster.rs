//! `[cluster]`: how many ranks, how they are started, and what a scheduler is asked for.

use crate::{Error, place::Table, raw};
use serde::Serialize;

/// `[cluster]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// `ranks`: the number of ranks that `loract launch` starts unless `-n` says otherwise. Default: 1.
    pub ranks: usize,
    /// `mpirun`: the program that starts ranks. Default: `"mpirun"`.
    pub mpirun: String,
    /// `mpirun_args`: more arguments for it, such as `["--hostfile", "hosts"]`. Default: none.
    pub mpirun_args: Vec<String>,
    /// `heartbeat_seconds`: within so many, a rank that has died, is stopped or is cut off is named, and the job ends; 0 = no heartbeat.
    /// Default: 60.
    pub heartbeat_seconds: u64,
    /// `stall_seconds`: after so many in which ranks wait and none makes progress, the one they wait for is named, and the job ends; 0 = never.
    /// Default: 600.
    pub stall_seconds: u64,
    /// `name`: of the job. Default: that of the run's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `nodes`: machines, each with as many ranks. Default: 1.
    pub nodes: usize,
    /// `cpus_per_rank`. Default: 1.
    pub cpus_per_rank: usize,
    /// `gpus_per_node`. Default: 0.
    pub gpus_per_node: usize,
    /// `memory`: of each node, such as `"64G"`. Default: the scheduler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// `time`: after which the scheduler ends the job, such as `"04:00:00"`. Default: the scheduler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// `warning_seconds`: so long before, the ranks are told to save. Default: 120.
    pub warning_seconds: u64,
    /// `queue`: Slurm's partition, or the queue. Default: the scheduler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// `account`: who pays. Default: the scheduler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// `setup`: shell commands to begin a job with, such as `["module load openmpi"]`. Default: none.
    pub setup: Vec<String>,
    /// `image`: the container image of Kubernetes jobs. Default: `"loract:latest"`.
    pub image: String,
    /// `volume`: the persistent volume claim that holds model, data and runs there. Default: `"loract"`.
    pub volume: String,
}

impl Cluster {
    pub(super) fn resolve(raw: raw::Cluster, at: Table<'_>) -> Result<Self, Error> {
        let ranks = raw.ranks.unwrap_or(1);
        at.require("ranks", ranks > 0, "must be > 0")?;
        let mpirun = raw.mpirun.unwrap_or_else(|| "mpirun".to_owned());
        at.require("mpirun", !mpirun.is_empty(), "must not be empty")?;
        let nodes = raw.nodes.unwrap_or(1);
        at.require("nodes", nodes > 0, "must be > 0")?;
        let cpus_per_rank = raw.cpus_per_rank.unwrap_or(1);
        at.require("cpus_per_rank", cpus_per_rank > 0, "must be > 0")?;
        for (key, text) in [("queue", &raw.queue), ("account", &raw.account), ("image", &raw.image), ("volume", &raw.volume)] {
            at.require(key, text.as_ref().is_none_or(|text| is_word(text)), "must be a name: letters, digits and . _ - / : @")?;
        }
        at.require("name", raw.name.as_ref().is_none_or(|name| is_job_name(name)), "is no name of a job")?;
        at.require("memory", raw.memory.as_ref().is_none_or(|memory| is_memory(memory)), "is no amount of memory")?;
        at.require("time", raw.time.as_ref().is_none_or(|time| is_time(time)), "is no time")?;
        Ok(Self {
            ranks,
            mpirun,
            mpirun_args: raw.mpirun_args.unwrap_or_default(),
            heartbeat_seconds: raw.heartbeat_seconds.unwrap_or(60),
            stall_seconds: raw.stall_seconds.unwrap_or(600),
            name: raw.name,
            nodes,
            cpus_per_rank,
            gpus_per_node: raw.gpus_per_node.unwrap_or(0),
            memory: raw.memory,
            time: raw.time,
            warning_seconds: raw.warning_seconds.unwrap_or(120),
            queue: raw.queue,
            account: raw.account,
            setup: raw.setup.unwrap_or_default(),
            image: raw.image.unwrap_or_else(|| "loract:latest".to_owned()),
            volume: raw.volume.unwrap_or_else(|| "loract".to_owned()),
        })
    }
}

/// What needs no quotes in any of the files that it goes into.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter))
}

/// What Kubernetes, the strictest, takes.
fn is_job_name(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    (1..=40).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_memory(text: &str) -> bool {
    let number = text.strip_suffix(['K', 'M', 'G', 'T']);
    number.is_some_and(|number| number.parse::<u64>().is_ok_and(|number| number > 0))
}

fn is_time(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [hours, rest @ ..] = parts.as_slice() else { return false };
    let below = |part: &str, most: u32| part.parse::<u32>().is_ok_and(|number| number < most);
    rest.len() == 2 && below(hours, 10_000) && rest.iter().all(|part| part.len() == 2 && below(part, 60))
}
