//! One run has one owner: a second start in its directory is refused and changes nothing, ranks end
//! with their `launch`, processes that would train apart are refused, and signals are heeded before
//! there is anything to save.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Place, fixture};
use rustix::process::Signal;
use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

/// Every file of the run and what it holds; locks renew themselves.
fn files(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_lock = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "lock");
    let files = place.listing().into_iter().filter(|path| path.is_file() && !is_lock(path));
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_second_start_is_refused_with_the_name_of_the_first_and_changes_nothing() {
    let place = Place::new();
    let mut command = place.launch();
    let pause = place.pause(&mut command, 1, 4);
    let mut first = place.start(&mut command);
    let paused = pause.reached(&mut first);
    let before = files(&place);
    let others: [(Command, &[&str]); 4] = [
        (place.launch(), &["--overwrite"]),
        (place.train(), &["--overwrite", "--set", "run.seed=9"]),
        (place.mpirun(), &["--overwrite"]),
        (place.launch(), &["--set", "run.steps=3"]),
    ];
    for (mut command, arguments) in others {
        let output = command.args(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(" is in use by loract launch (process "), "{stderr}");
        assert!(!output.status.success());
    }
    assert_eq!(files(&place), before);
    drop(paused);
    let ended = first.wait();
    assert!(ended.status.success(), "{}", ended.stderr);
    let left: Vec<PathBuf> = place.listing();
    assert!(left.iter().all(|path| path.extension().is_none_or(|end| end != "lock")), "{left:?}");
    // And then it is free.
    assert!(place.run(place.launch().arg("--overwrite")).status.success());
}

#[test]
fn ranks_that_have_outlived_what_started_them_keep_others_out() {
    let place = Place::new();
    let mut command = place.mpirun();
    let pause = place.pause(&mut command, 0, 4);
    let mut first = place.start(&mut command);
    let paused = pause.reached(&mut first);
    let mut second = place.launch();
    let second = second.arg("--overwrite").output().unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(" is in use by loract train (process "), "{stderr}");
    drop(paused);
    assert!(first.wait().status.success());
}

#[test]
fn ranks_end_when_launch_is_killed_and_the_run_resumes() {
    let place = Place::new();
    place.edit("sequence_length = 16", "sequence_length = 16\n[checkpoint]\nevery = 2");
    let mut command = place.launch();
    let pause = place.pause(&mut command, 1, 6);
    let mut first = place.start(&mut command);
    let paused = pause.reached(&mut first);
    first.process().signal(Signal::KILL);
    // It returns when no process is left.
    let ended = first.wait();
    assert_eq!(ended.status.code(), None);
    drop(paused);
    let ended = place.run(&mut place.launch());
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("from its checkpoint of step "), "{}", ended.stderr);
}

#[test]
fn processes_that_would_train_apart_are_refused() {
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("PMI_RANK", "0"), ("PMI_SIZE", "2")], "PMI_SIZE is 2, and MPI has found 1 rank; "),
        (&[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")], "WORLD_SIZE is 2, and MPI"),
        (
            &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_STEP_NUM_TASKS", "2")],
            "SLURM_STEP_NUM_TASKS is 2, and MPI has found 1 rank; start them with srun --mpi=pmix",
        ),
        (&[("PALS_RANKID", "3")], "PALS_RANKID is 3, and MPI"),
    ];
    for (variables, words) in cases {
        let place = Place::new();
        let ended = place.run(place.train().envs(variables.iter().copied()));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
        assert!(!place.run_dir().exists(), "nothing is written");
    }
    // What says the same as MPI is fine.
    let place = Place::new();
    let ended = place.run(place.train().envs([("RANK", "0"), ("WORLD_SIZE", "1")]));
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn a_signal_while_data_are_prepared_ends_in_a_start_again() {
    for (signal, code) in [(Signal::USR1, 75), (Signal::TERM, 75), (Signal::HUP, 1)] {
        let place = Place::new();
        let text: String =
            (0..400).map(|line| format!("{{\"text\": \"line {line}\"}}\n")).collect();
        fs::write(place.at("text.jsonl"), text).unwrap();
        let tokenizer = fixture("cases/model");
        let mut command = place.launch();
        command.args([
            "--set",
            &format!("data.train={}", place.at("text.jsonl").display()),
            "--set",
            &format!("model.path={}", tokenizer.display()),
            "--set",
            "data.format=auto",
        ]);
        let pause = place.pause_at(&mut command, "pause-after-prepare", 0, 0);
        let mut first = place.start(&mut command);
        let paused = pause.reached(&mut first);
        first.process().signal(signal);
        let ended = first.wait();
        drop(paused);
        assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(" while preparing data; "), "{}", ended.stderr);
        // The same command again.
        let ended = place.run(command.env_remove(setup::INJECT_FAULT_VARIABLE));
        assert!(ended.status.success(), "{}", ended.stderr);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_bad_input() {
    let place = Place::new();
    fs::write(place.run_dir(), "a file").unwrap();
    let ended = place.run(&mut place.launch());
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot write in the run directory"), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(place.run_dir()).unwrap(), "a file");
    fs::remove_file(place.run_dir()).unwrap();
    let ended = place.run(place.launch().args(["--set", "run.dir=/proc/nothing"]));
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
}
