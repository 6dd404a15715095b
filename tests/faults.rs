//! A rank that fails, in whatever way, ends the whole job: with a non-zero exit code, a message
//! that names the rank and its log, and no process left behind. Ten times out of ten, since what
//! goes wrong here goes wrong now and then.
//!
//! `LORACT_ASSERT_TIMES=1 cargo test --release -p loract --test faults -- --nocapture
//! --test-threads 1`, on a machine without other work, also asserts that the end comes within the
//! promised time.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Paused, Place, Running, mpirun::is_hydra, times::promised};
use rustix::process::Signal;
use setup::INJECT_FAULT_VARIABLE;
use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

/// From the fault to the end of the last process.
const PROMISED: Duration = Duration::from_secs(5);
/// MPICH's mpirun lets the other ranks live, which notice it themselves, and end the job.
const UNTIL_NOTICED: Duration = Duration::from_secs(8);
const REPETITIONS: usize = 10;

/// A fault to inject: its kind, and how launch describes what came of it.
type Fault = (&'static str, &'static str);
const KILL: Fault = ("kill", "was killed by signal 9 (SIGKILL)");
const PANIC: Fault = ("panic", "LORACT_INJECT_FAULT asked for a panic");
const ERROR: Fault = ("error", "LORACT_INJECT_FAULT asked for an error");
const EXIT: Fault = ("exit", "exited with code 3");

/// When the rank failed: its log ends there.
fn failed_at(place: &Place, rank: usize) -> SystemTime {
    fs::metadata(place.log_of_rank(rank)).unwrap().modified().unwrap()
}

fn note_time(ended: &Ended, fault: SystemTime) {
    let took = ended.at.duration_since(fault).unwrap_or_default();
    promised(
        "from the fault to the end",
        took,
        if is_hydra() { PROMISED + UNTIL_NOTICED } else { PROMISED },
    );
}

/// The last line on stderr is the only one that is an error, and it names the rank and its log.
fn assert_explained(place: &Place, ended: &Ended, rank: usize, what: &str) {
    let errors: Vec<&str> =
        ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("{} errors: {}", errors.len(), ended.stderr) };
    assert_eq!(ended.stderr.lines().last(), Some(error), "{}", ended.stderr);
    assert!(error.starts_with(&format!("error: rank {rank} on host ")), "{error}");
    // MPICH's mpirun often says less than the other ranks do.
    assert!(
        error.contains(what) || (is_hydra() && error.contains("has ended without a word")),
        "{error}"
    );
    let log = place.log_of_rank(rank);
    assert!(error.ends_with(&format!("; its log: {}", log.display())) && log.exists(), "{error}");
    assert_eq!(ended.stdout, "", "no report");
}

fn launched((kind, what): Fault, rank: usize, step: u64) {
    let place = Place::new();
    let ended =
        place.run(place.launch().env(INJECT_FAULT_VARIABLE, format!("{kind}:{rank}:{step}")));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    note_time(&ended, failed_at(&place, rank));
    // MPICH's mpirun ends the others before they can say of whom it has this code.
    if is_hydra() && ended.stderr.contains("mpirun failed with exit code 3") {
        return;
    }
    assert_explained(&place, &ended, rank, what);
}

/// mpirun alone says which rank; its log only where the rank has last words of its own.
fn under_mpirun((kind, _): Fault, names_rank: &str) {
    let place = Place::new();
    let ended = place.run(place.mpirun().env(INJECT_FAULT_VARIABLE, format!("{kind}:1:4")));
    assert!(!ended.status.success(), "{}", ended.stderr);
    note_time(&ended, failed_at(&place, 1));
    // MPICH's mpirun knows processes alone.
    let is_named =
        ended.stderr.contains(names_rank) || (is_hydra() && matches!(kind, "kill" | "exit"));
    assert!(is_named, "{}", ended.stderr);
    assert!(!place.run_dir().join("summary.json").exists());
}

fn repeat(once: impl Fn()) {
    (0..REPETITIONS).for_each(|_| once());
}

#[test]
fn a_killed_rank_ends_the_job() {
    repeat(|| launched(KILL, 1, 4));
}

#[test]
fn a_panic_ends_the_job() {
    repeat(|| launched(PANIC, 1, 4));
}

#[test]
fn an_error_ends_the_job() {
    repeat(|| launched(ERROR, 1, 4));
}

#[test]
fn an_exit_without_a_word_ends_the_job() {
    repeat(|| launched(EXIT, 1, 4));
}

#[test]
fn under_mpirun_a_killed_rank_ends_the_job() {
    repeat(|| under_mpirun(KILL, "noticed that process rank 1 "));
}

#[test]
fn under_mpirun_a_panic_ends_the_job() {
    repeat(|| under_mpirun(PANIC, "rank 1 (host "));
}

#[test]
fn under_mpirun_an_error_ends_the_job() {
    repeat(|| under_mpirun(ERROR, "logs/rank-0001.log\n"));
}

#[test]
fn under_mpirun_an_exit_without_a_word_ends_the_job() {
    // Open MPI's name of a process is [[job, application], rank].
    repeat(|| under_mpirun(EXIT, ",1],1]\n"));
}

#[test]
fn a_rank_without_memory_says_what_it_held_and_what_would_have_fitted() {
    let place = Place::new();
    let ended = place.run(place.launch().env(INJECT_FAULT_VARIABLE, "memory:1:4"));
    assert!(!ended.status.success());
    for text in [
        "error: rank 1 on host ",
        "out of memory: tensors held up to ",
        " weights, ",
        " optimizer, ",
        "set [run] micro_batch_size",
    ] {
        assert!(ended.stderr.contains(text), "no {text:?} in {}", ended.stderr);
    }
}

#[test]
fn a_fault_in_one_rank_before_the_first_step_ends_the_job() {
    for fault in [KILL, PANIC, ERROR, EXIT] {
        launched(fault, 1, 1);
    }
}

#[test]
fn rank_0_may_fail_too() {
    for fault in [KILL, PANIC, ERROR, EXIT] {
        launched(fault, 0, 4);
    }
}

/// A job that has done three steps, and whose rank 1 waits in the fourth.
fn training<'a>(place: &'a Place, command: &mut Command) -> (Running<'a>, Paused) {
    let pause = place.pause(command, 1, 4);
    let mut job = place.start(command);
    let paused = pause.reached(&mut job);
    job.until("three steps", || {
        fs::read_to_string(place.metrics()).is_ok_and(|text| text.lines().count() == 3)
    });
    (job, paused)
}

fn kill_rank_1(place: &Place, (job, _paused): (Running<'_>, Paused)) -> Ended {
    place.signal_rank(1, Signal::KILL);
    let fault = SystemTime::now();
    let ended = job.wait();
    assert!(!ended.status.success());
    note_time(&ended, fault);
    ended
}

#[test]
fn a_rank_killed_from_outside_ends_the_job() {
    let place = Place::new();
    let ended = kill_rank_1(&place, training(&place, &mut place.launch()));
    assert_explained(&place, &ended, 1, "was killed by signal 9 (SIGKILL)");

    let place = Place::new();
    let ended = kill_rank_1(&place, training(&place, &mut place.mpirun()));
    let is_named = ended.stderr.contains("noticed that process rank 1 ")
        || (is_hydra() && ended.stderr.contains("rank 1 (host "));
    assert!(is_named, "{}", ended.stderr);
}

/// Who stops launch stops the ranks: at once, by a signal that asks for no checkpoint.
#[test]
fn a_signal_to_launch_ends_the_job() {
    for (signal, name) in [(Signal::HUP, "signal 1 (SIGHUP)"), (Signal::INT, "signal 2 (SIGINT)")] {
        let place = Place::new();
        let (job, _paused) = training(&place, &mut place.launch());
        job.process().signal(signal);
        let fault = SystemTime::now();
        let ended = job.wait();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        note_time(&ended, fault);
        let error = ended.stderr.lines().last().unwrap();
        assert!(error.starts_with(&format!("error: stopped by {name} at step 4; ")), "{error}");
        assert!(error.ends_with(place.metrics().to_str().unwrap()), "{error}");
    }
}

/// Stops a rank as soon as it is there: before MPI is up, or shortly after.
fn stopped_at_the_start(command: &mut Command, place: &Place, rank: usize) -> Ended {
    command.args(["--set", "cluster.heartbeat_seconds=4"]);
    let mut job = place.start(command);
    let find = || place.processes().into_iter().find(|process| process.rank == Some(rank));
    job.until("the rank's process", || find().is_some());
    find().unwrap().signal(Signal::STOP);
    job.wait()
}

#[test]
fn a_rank_that_is_stopped_before_it_trains_is_named() {
    for rank in [0, 1] {
        let place = Place::new();
        let ended = stopped_at_the_start(&mut place.launch(), &place, rank);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("error: rank {rank} on host ")), "{}", ended.stderr);
        let place = Place::new();
        let ended = stopped_at_the_start(&mut place.mpirun(), &place, rank);
        assert!(!ended.status.success(), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("rank {rank} (host ")), "{}", ended.stderr);
    }
}

#[test]
fn a_rank_that_is_stopped_when_all_is_done_does_not_hold_the_job() {
    for rank in [0, 1] {
        let place = Place::new();
        let mut command = place.launch();
        command.args(["--set", "cluster.heartbeat_seconds=4"]);
        let mut job = place.start(&mut command);
        let summary = place.run_dir().join("summary.json");
        job.until("the summary", || summary.exists());
        place.signal_rank(rank, Signal::STOP);
        let ended = job.wait();
        // It may have ended before it could be stopped.
        let named = ended.stderr.contains(&format!("error: rank {rank} on host "));
        assert!(ended.status.success() || named, "{}", ended.stderr);
    }
}
