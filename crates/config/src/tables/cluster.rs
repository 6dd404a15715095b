//! `[cluster]`: how many ranks, how they are started, and what a scheduler is asked for.

use super::sizes::Memory;
use crate::{
    Error,
    declare::{Table, table},
    range::{MOST_SECONDS, Range},
};

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
        /// Slurm's partition, or the queue of another scheduler.
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
        /// The container image of Kubernetes jobs.
        image: String = "loract:latest".to_owned(),
            valid "the name of a container image",
            example r#""registry.example.org/loract:1""#;
        /// The persistent volume claim of Kubernetes jobs that holds model, data and runs.
        volume: String = "loract".to_owned(),
            valid "the name of a persistent volume claim",
            example r#""training""#;
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
        let words = [("queue", &self.queue), ("account", &self.account)];
        let names =
            [("image", &self.image), ("volume", &self.volume)].map(|(key, text)| (key, Some(text)));
        for (key, text) in words.map(|(key, text)| (key, text.as_ref())).into_iter().chain(names) {
            table.require(
                key,
                text.is_none_or(|text| is_word(text)),
                "must be a name: letters, digits and . _ - / : @",
            )?;
        }
        table.require(
            "name",
            self.name.as_ref().is_none_or(|name| is_job_name(name)),
            "is not the name of a job",
        )?;
        table.require("time", self.time.as_ref().is_none_or(|time| is_time(time)), "is not a time")
    }
}

/// What needs no quotes in any of the files that it goes into.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/:@".contains(letter))
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
