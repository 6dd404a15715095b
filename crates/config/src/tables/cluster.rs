//! `[cluster]`: how many ranks, how they are started, and what a scheduler is asked for.

use super::{
    sizes::Memory,
    toleration::{Toleration, is_name},
};
use crate::{
    Error,
    choice::choice,
    declare::{Table, When, table},
    range::{MOST_SECONDS, Range},
};
use std::collections::BTreeMap;

choice! {
    /// The MPI of a job's ranks.
    Mpi {
        /// Open MPI 4 or 5.
        OpenMpi = "openmpi",
        /// MPICH.
        Mpich = "mpich",
        /// Intel MPI.
        Intel = "intel",
    }
}

choice! {
    /// What starts a rank inside a container on Slurm.
    Container {
        /// NVIDIA's plugin of `srun`, which runs images with enroot.
        Pyxis = "pyxis",
        /// Apptainer, or its predecessor Singularity under that name.
        Apptainer = "apptainer",
    }
}

table! {
    /// How many ranks a run has, how they are started, and what `loract render` asks a scheduler
    /// for.
    Cluster: "cluster" {
        /// The number of ranks that `loract launch` starts, unless `-n` gives another.
        ranks: usize = 1, within Range::above(0.0).at_most(1e6), example "8";
        /// The program that starts the ranks.
        mpirun: String = "mpirun".to_owned(),
            valid "the name or path of mpirun",
            example r#""/opt/openmpi/bin/mpirun""#;
        /// Further arguments for `mpirun`.
        mpirun_args: Vec<String> = Vec::new(),
            valid "a list of strings",
            example r#"["--hostfile", "hosts"]"#;
        /// Seconds within which a rank that died, was stopped or lost its network is named and the
        /// job ended; 0 turns the heartbeat off.
        heartbeat_seconds: u64 = 60,
            within Range::at_least(0.0).at_most(MOST_SECONDS),
            example "30";
        /// Seconds after which a job without progress is ended, naming the rank that the others
        /// wait for; 0 waits forever.
        stall_seconds: u64 = 600,
            within Range::at_least(0.0).at_most(MOST_SECONDS),
            example "1800";
        /// The name of the job.
        name: Option<String> = None,
            default "that of the run's directory",
            valid "letters, digits and -, at most 40",
            example r#""llama-lora""#;
        /// The number of machines, each with the same number of ranks.
        nodes: usize = 1,
            valid "a whole number >= 1 that divides ranks",
            within Range::above(0.0).at_most(1e6),
            example "2";
        /// Processor cores for each rank.
        cpus_per_rank: usize = 1, within Range::above(0.0).at_most(1024.0), example "8";
        /// GPUs of each machine.
        gpus_per_node: usize = 0, within Range::at_least(0.0).at_most(1024.0), example "8";
        /// The memory of each machine.
        memory: Option<Memory> = None, default "the scheduler's", example r#""64G""#;
        /// The time after which the scheduler ends the job.
        time: Option<String> = None,
            default "the scheduler's",
            valid r#"hours, minutes and seconds in quotes, such as "04:00:00""#,
            example r#""04:00:00""#;
        /// Seconds before the end of `time` at which the ranks are told to save.
        warning_seconds: u64 = 120,
            within Range::at_least(0.0).at_most(MOST_SECONDS),
            example "300";
        /// Slurm's partition, the queue of another scheduler, or on Kubernetes the local queue of
        /// Kueue.
        queue: Option<String> = None,
            default "the scheduler's",
            valid "the name of a queue or partition",
            example r#""gpu""#;
        /// The account that the job is charged to.
        account: Option<String> = None,
            default "the scheduler's",
            valid "the name of an account",
            example r#""physics""#;
        /// Shell commands that the job runs first.
        setup: Vec<String> = Vec::new(),
            valid "a list of shell commands",
            example r#"["module load openmpi"]"#;
        /// The MPI that the ranks are started with: of the image on Kubernetes, of the nodes
        /// elsewhere. `loract launch` asks `mpirun` instead.
        mpi: Mpi = Mpi::OpenMpi, example r#""mpich""#;
        /// Environment variables for every rank. Those of the job whose names begin with `NCCL_`,
        /// `UCX_` or `FI_` reach all ranks in any case.
        environment: BTreeMap<String, String> = BTreeMap::new(),
            valid "a table of texts",
            example r#"{ NCCL_IB_HCA = "mlx5" }"#;
        /// How Slurm starts the ranks in containers of `image`.
        container: Option<Container> = None, default "no container", example r#""apptainer""#;
        /// Folders that a container of Slurm has in addition to the current one.
        mounts: Vec<String> = Vec::new(),
            valid "a list of folders, as \"/data\" or \"/data:/inside\"",
            when When::new(
                &["cluster.container"],
                "[cluster] container is given",
                |cluster: &Cluster| cluster.container.is_some(),
            ),
            example r#"["/data"]"#;
        /// One task of a job array of Slurm for each: a key that the task sets. Its run directory is
        /// the run's with `-` and the number of the task.
        array: Vec<String> = Vec::new(),
            valid "a list of table.key=value, as for --set",
            example r#"["lora.rank=8", "lora.rank=16"]"#;
        /// The container image of Kubernetes jobs, and of Slurm jobs with `container`.
        image: String = "loract:latest".to_owned(),
            valid "the name of a container image",
            example r#""registry.example.org/loract:1""#;
        /// The persistent volume claim of Kubernetes jobs that holds model, data and runs.
        volume: String = "loract".to_owned(),
            valid "the name of a persistent volume claim",
            example r#""training""#;
        /// Secrets with which Kubernetes pulls the image.
        image_pull_secrets: Vec<String> = Vec::new(),
            valid "a list of names of secrets",
            example r#"["registry"]"#;
        /// Taints of Kubernetes nodes on which the job may run all the same.
        tolerations: Vec<Toleration> = Vec::new(),
            example r#"["nvidia.com/gpu=present:NoSchedule"]"#;
        /// The priority class of the pods of a Kubernetes job.
        priority_class: Option<String> = None,
            default "the cluster's",
            valid "the name of a priority class",
            example r#""training""#;
        /// Seconds after its end at which Kubernetes removes the job.
        ttl_seconds_after_finished: Option<u32> = None,
            default "it stays",
            within Range::at_least(0.0).at_most(2_147_483_647.0),
            example "86400";
        /// The most that `/dev/shm` of a pod holds; it is in memory.
        shared_memory: Option<Memory> = None, default "the pod's memory", example r#""16G""#;
        /// Devices for RDMA of each pod on Kubernetes, by the names that a device plugin gives them,
        /// each with its number. The pods may then lock memory (`IPC_LOCK`).
        rdma: BTreeMap<String, u32> = BTreeMap::new(),
            valid "a table of whole numbers >= 1",
            within Range::above(0.0),
            example r#"{ "rdma/hca_shared_devices_a" = 1 }"#;
    }
}

impl Cluster {
    pub(crate) fn check(&self, table: &Table<'_>) -> Result<(), Error> {
        table.require("mpirun", !self.mpirun.is_empty(), "must not be empty")?;
        // A job's file in YAML has no other characters.
        let is_text = |letter: char| {
            matches!(letter, '\n' | '\t')
                || !(letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}'))
        };
        table.require(
            "setup",
            self.setup.iter().all(|command| command.chars().all(is_text)),
            "has control characters; only line breaks and tabs are taken",
        )?;
        let given = [
            ("queue", &self.queue),
            ("account", &self.account),
            ("priority_class", &self.priority_class),
        ];
        let given = given.into_iter().filter_map(|(key, text)| Some((key, text.as_ref()?)));
        let secrets = self.image_pull_secrets.iter().map(|name| ("image_pull_secrets", name));
        for (key, text) in given.chain([("volume", &self.volume)]).chain(secrets) {
            table.require(key, is_word(text), "must be a name: letters, digits and . _ - / : @")?;
        }
        table.require(
            "image",
            is_image(&self.image),
            "must be a name: letters, digits and . _ - / : @ # +",
        )?;
        table.require(
            "name",
            self.name.as_ref().is_none_or(|name| is_job_name(name)),
            "is not the name of a job",
        )?;
        table.require(
            "time",
            self.time.as_ref().is_none_or(|time| is_time(time)),
            "is not a time",
        )?;
        self.check_tables(table)
    }

    /// The names in `environment` and `rdma`, and the entries of `mounts` and `array`.
    fn check_tables(&self, table: &Table<'_>) -> Result<(), Error> {
        for (name, value) in &self.environment {
            let what = format!("{name:?} is not the name of an environment variable");
            table.require("environment", is_variable(name), &what)?;
            let what = format!("{name} has a line break or another control character");
            table.require("environment", !value.contains(char::is_control), &what)?;
        }
        for name in self.rdma.keys() {
            let what = format!("{name:?} is not the name of a resource");
            table.require("rdma", is_name(name), &what)?;
        }
        for mount in &self.mounts {
            let what = format!("{mount:?} is not a folder from / without commas or line breaks");
            table.require("mounts", is_mount(mount), &what)?;
        }
        for set in &self.array {
            let what = format!("{set:?} is not table.key=value on one line");
            let is_set = set.split_once('=').is_some_and(|(key, _)| key.contains('.'));
            table.require("array", is_set && !set.contains(char::is_control), &what)?;
        }
        Ok(())
    }
}

/// What needs no quotes in any of the files that it goes into.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter))
}

/// Names of images have further letters: enroot writes `registry#image`.
fn is_image(text: &str) -> bool {
    is_word(&text.replace(['#', '+'], "-")) && !text.starts_with('#')
}

/// A name that every shell exports.
fn is_variable(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    text.chars().all(inner)
        && text.starts_with(|letter: char| inner(letter) && !letter.is_ascii_digit())
}

/// `/outside`, `/outside:/inside`, or either with further options as containers have them.
fn is_mount(text: &str) -> bool {
    text.starts_with('/') && !text.contains(|letter: char| letter == ',' || letter.is_control())
}

/// What Kubernetes, the strictest, takes.
fn is_job_name(text: &str) -> bool {
    let inner = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    (1..=40).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_time(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [hours, rest @ ..] = parts.as_slice() else { return false };
    let below = |part: &str, most: u32| part.parse::<u32>().is_ok_and(|number| number < most);
    rest.len() == 2
        && below(hours, 10_000)
        && rest.iter().all(|part| part.len() == 2 && below(part, 60))
}
