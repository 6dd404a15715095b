//! A run on several hosts in which something fails: the culprit is named within the deadline, with
//! its host and what it was doing, and the job ends everywhere. The hosts are network namespaces
//! ([`network`]); where none can be made, the tests say so and pass.
//!
//! `LORACT_REPETITIONS=10 cargo test --release -p loract --test hosts -- --nocapture --test-threads
//! 1` does each fault so often, and prints how long it took until the culprit was named, and until
//! no process was left; with `LORACT_ASSERT_TIMES=1`, on a machine without other work, it asserts
//! them too.
#![allow(clippy::unwrap_used, missing_docs)]

mod network;
mod program;

use network::Hosts;
use program::{Ended, Place, Running, times::promised};
use rustix::process::Signal;
use std::{
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

/// `[cluster] heartbeat_seconds` here.
const DEADLINE: Duration = Duration::from_secs(3);
/// `[cluster] stall_seconds` for the rank that hangs.
const STALL: Duration = Duration::from_secs(5);
/// From the naming to the end of the last process, on an idle machine. mpirun waits for a host that
/// does not answer until launch has lost its patience.
const ENDING: Duration = Duration::from_secs(20);

/// The rank that fails, on node3.
const CULPRIT: usize = 1;
const NAME: &str = "error: rank 1 on host node3 ";

fn repetitions() -> usize {
    std::env::var("LORACT_REPETITIONS").map_or(1, |text| text.parse().unwrap())
}

/// A run of `world_size` ranks, one on each host; of so many sequences is its batch.
struct Cluster {
    place: Place,
    hosts: Hosts,
    world_size: usize,
}

impl Cluster {
    fn start(world_size: usize) -> Option<Cluster> {
        let place = Place::new();
        let ids: Vec<i64> = (0..8 * world_size as i64 * 16)
            .map(|index| 3 + index * 31 % (program::VOCABULARY - 3))
            .collect();
        place.write_batches("batches.safetensors", [8, world_size, 16], &ids);
        place.edit("batch_size = 2", &format!("batch_size = {world_size}"));
        let hosts = Hosts::start(world_size as u32, &place.at(""))?;
        Some(Cluster { place, hosts, world_size })
    }

    fn launch(&self, set: &[&str]) -> Command {
        let mut command = self.place.loract(&["launch", "-n", &self.world_size.to_string()]);
        command.arg(self.place.config());
        let heartbeat = format!("cluster.heartbeat_seconds={}", DEADLINE.as_secs());
        for set in [&heartbeat, self.hosts.setting().as_str()].iter().chain(set) {
            command.args(["--set", set]);
        }
        command
    }

    /// A job that has done three steps, will do many more, and whose rank 0 has heard the culprit
    /// beat in one.
    fn training(&self, set: &[&str]) -> Running<'_> {
        let command = &mut self.launch(&[&["run.steps=1000000"], set].concat());
        let mut job = self.place.start(command.env("LORACT_LOG", "info,collective=trace"));
        let beat = format!("heard of rank {CULPRIT}: at step ");
        let heard =
            || fs::read_to_string(self.place.log_of_rank(0)).is_ok_and(|log| log.contains(&beat));
        job.until("three steps and a beat", || self.steps() >= 3 && heard());
        job
    }

    fn steps(&self) -> usize {
        fs::read_to_string(self.place.metrics()).map_or(0, |text| text.lines().count())
    }

    fn signal_culprit(&self, signal: Signal) {
        self.place.signal_rank(CULPRIT, signal);
    }

    /// Waits until the culprit is named, and until nothing is left.
    fn watch(&self, mut job: Running<'_>, fault: &str, at: SystemTime) -> Ended {
        let log = self.place.run_dir().join("logs/mpirun.log");
        // Its own words, another rank's, or those of mpirun.
        let names =
            [": rank 1 (host node3) ", "rank 1 (host node3)", "process rank 1 ", ",1],1]\n"];
        let is_named = || {
            fs::read_to_string(&log).is_ok_and(|text| names.iter().any(|name| text.contains(name)))
        };
        let mut named = None;
        job.until("a culprit", || {
            named = named.or_else(|| is_named().then(SystemTime::now));
            named.is_some()
        });
        let mut ended = job.wait();
        self.hosts.wait_until_empty();
        ended.at = SystemTime::now();
        let after = |moment: SystemTime| moment.duration_since(at).unwrap_or_default();
        let (named, gone) = (after(named.unwrap()), after(ended.at));
        println!("{fault}: {}", ended.stderr.lines().last().unwrap_or_default());
        promised(
            &format!("{fault}: until the culprit is named"),
            named,
            if fault == "hang" { STALL + DEADLINE } else { DEADLINE },
        );
        promised(&format!("{fault}: from there to the end"), gone.saturating_sub(named), ENDING);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        ended
    }

    /// A fault of the culprit from outside.
    fn strike(&self, fault: &str, strike: impl FnOnce(&Self)) -> String {
        let job = self.training(&[]);
        strike(self);
        let at = SystemTime::now();
        error_line(&self.watch(job, fault, at))
    }

    /// A fault that the culprit makes itself, in step 4.
    fn inject(&self, kind: &str, set: &[&str]) -> String {
        let mut command = self.launch(set);
        let mut job = self
            .place
            .start(command.env(setup::INJECT_FAULT_VARIABLE, format!("{kind}:{CULPRIT}:4")));
        job.until("three steps", || self.steps() >= 3);
        error_line(&self.watch(job, kind, SystemTime::now()))
    }
}

fn error_line(ended: &Ended) -> String {
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.starts_with(NAME), "{}", ended.stderr);
    last.to_owned()
}

fn assert_says(error: &str, words: &[&str]) {
    words.iter().for_each(|words| assert!(error.contains(words), "{words:?} is not in: {error}"));
}

/// Does it as often as is wanted, each time on hosts of its own; not at all where none can be made.
fn each(world_size: usize, once: impl Fn(&Cluster)) {
    for _ in 0..repetitions() {
        let Some(cluster) = Cluster::start(world_size) else { return };
        once(&cluster);
    }
}

#[test]
fn a_killed_rank_is_named() {
    each(2, |cluster| {
        assert_says(
            &cluster.strike("kill", |cluster| cluster.signal_culprit(Signal::KILL)),
            &["signal 9 (SIGKILL)"],
        )
    });
}

#[test]
fn a_stopped_rank_is_named() {
    each(2, |cluster| {
        let error = cluster.strike("stop", |cluster| cluster.signal_culprit(Signal::STOP));
        assert_says(
            &error,
            &["has not been heard of for ", "; last heard of at step ", "(collective "],
        );
    });
}

#[test]
fn a_panic_is_named() {
    each(2, |cluster| {
        assert_says(
            &cluster.inject("panic", &[]),
            &["panicked: LORACT_INJECT_FAULT asked for a panic"],
        )
    });
}

#[test]
fn an_early_exit_is_named() {
    each(2, |cluster| assert_says(&cluster.inject("exit", &[]), &["exited with code 3"]));
}

#[test]
fn a_rank_that_does_nothing_is_named() {
    each(2, |cluster| {
        let error =
            cluster.inject("hang", &[&format!("cluster.stall_seconds={}", STALL.as_secs())]);
        assert_says(
            &error,
            &[
                "has made no progress for ",
                "; last heard of at step 4, after ",
                "; rank 0 (host node2) waits at step 4, in ",
            ],
        );
    });
}

#[test]
fn a_cut_cable_is_named() {
    each(2, |cluster| {
        let error = cluster.strike("cut", |cluster| cluster.hosts.cut(3));
        assert_says(
            &error,
            &[
                "has not been heard of for ",
                "; last heard of at step ",
                "its host is down or cut off",
            ],
        );
    });
}

#[test]
fn of_three_hosts_the_one_that_is_cut_off_is_named() {
    each(3, |cluster| {
        let error = cluster.strike("cut, of three", |cluster| cluster.hosts.cut(3));
        assert_says(&error, &["has not been heard of for ", "its host is down or cut off"]);
        assert!(!error.contains("nor has"), "{error}");
    });
}

#[test]
fn a_cable_slowed_to_a_crawl_alarms_nobody() {
    each(2, |cluster| {
        let mut job = cluster.training(&[]);
        cluster.hosts.slow(3, "64kbit");
        let (start, before) = (Instant::now(), cluster.steps());
        // A crawl is not a stop.
        job.until("the end of the slow time and another step", || {
            start.elapsed() > DEADLINE * 4 && cluster.steps() > before
        });
        println!("slow: {} steps in {:.1?}", cluster.steps() - before, start.elapsed());
        cluster.hosts.quicken(3);
        job.process().signal(Signal::TERM);
        let ended = job.wait();
        assert_eq!(ended.status.code(), Some(75), "it saves and stops as asked: {}", ended.stderr);
        let said = fs::read_to_string(cluster.place.run_dir().join("logs/mpirun.log")).unwrap();
        assert!(!said.contains("has not been heard of"), "{said}");
    });
}

#[test]
fn a_corrupted_parameter_is_named() {
    each(2, |cluster| {
        let error = cluster.inject("corrupt", &["run.check_every=2"]);
        assert_says(
            &error,
            &[
                "has diverged after step 4 from rank 0 (host node2): 1 of ",
                " parameters, model.layers.0.",
            ],
        );
    });
}

/// Two configurations need two commands, which only mpirun itself takes.
#[test]
fn two_configurations_are_named_with_what_differs() {
    each(2, |cluster| {
        let Cluster { place, hosts, .. } = cluster;
        let other = place.at("other.toml");
        fs::write(
            &other,
            fs::read_to_string(place.config()).unwrap().replace("[run]", "[run]\nseed = 5"),
        )
        .unwrap();
        let mut command = place.command("mpirun");
        command.args(["--allow-run-as-root", "--oversubscribe"]).args(hosts.mpirun_args());
        for (index, config) in [place.config(), other].iter().enumerate() {
            command
                .args(if index == 0 { &[][..] } else { &[":"] })
                .args(["-n", "1", env!("CARGO_BIN_EXE_loract"), "train"])
                .arg(config);
        }
        let start = SystemTime::now();
        let ended = place.run(&mut command);
        println!(
            "configurations | ended after {:.1} s",
            ended.at.duration_since(start).unwrap().as_secs_f64()
        );
        assert!(!ended.status.success());
        let words = "rank 1 (host node3) is not configured like rank 0 (host node2): run.seed is 5, there 0; give all ranks the same";
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
        hosts.wait_until_empty();
    });
}

/// The run continues, with the checkpoint before, and says whose disk is full.
#[test]
fn a_full_disk_is_named() {
    each(2, |cluster| {
        let checkpoints = cluster.place.run_dir().join("checkpoints");
        let mount =
            format!("mkdir -p {0} && mount -t tmpfs -o size=4k none {0}", checkpoints.display());
        fs::write(cluster.place.at("on-host-3"), mount).unwrap();
        let ended = cluster.place.run(&mut cluster.launch(&["checkpoint.every=4"]));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        let log = fs::read_to_string(cluster.place.log_of_rank(0)).unwrap();
        println!(
            "full disk | {}",
            log.lines().find(|line| line.contains("was not saved")).unwrap_or_default()
        );
        assert!(
            log.contains("was not saved")
                && log.contains("rank 1 (host node3): ")
                && log.contains("No space left on device"),
            "{log}"
        );
    });
}
