//! One rank fails while the others wait for it. The job must end, everywhere and soon, with a code other than zero and the rank's name.

use std::path::Path;
use std::time::{Duration, SystemTime};

use collective::{Error, Heartbeat, HeartbeatOptions, Mpi, ProcessGroup, note_step};

use crate::driver;
use crate::mpirun::is_hydra;

/// Three ranks, so that more than one is waiting; this one fails.
const RANKS: usize = 3;
const CULPRIT: usize = 1;

/// What the job must print for each fault, `HOST` standing for the host.
fn expected(fault: &str) -> &'static [&'static str] {
    match fault {
        "panic" => &["rank 1 (host HOST) panicked: the loss is gone at crates/collective/tests/ranks/faults.rs:"],
        "thread-panic" => &["rank 1 (host HOST) panicked: the reader is gone at crates/collective/tests/ranks/faults.rs:"],
        "error" => &["rank 1 (host HOST): cannot read batch 7: no such file"],
        // Whoever is first to say so ends the others.
        "return" => &["the ranks disagree in ", "rank 1 (host HOST): left the group"],
        "unhooked-panic" => &["the loss is gone", "rank 1 (host HOST): leaves the job after an error"],
        // MPICH's mpirun knows processes alone, and a code it answers with without a word; `loract launch` says which rank it was.
        "exit" if is_hydra() => &[],
        "kill" if is_hydra() => &["PID ", "EXIT CODE: 9"],
        // These two are mpirun's own words; it calls rank 1 of its job 1 `[[…,1],1]`.
        "exit" => &["Process name: [[", ",1],1]", "Exit code:    3"],
        "kill" => &["rank 1", "on signal 9 (Killed)"],
        "stop" => &[": rank 1 (host HOST) has not been heard of for ", "; last heard of at step 7, after barrier (collective 4); "],
        "hang" => &[
            ": rank 1 (host HOST) has made no progress for 2.0 s; last heard of at step 7, after barrier (collective 4); rank ",
            " waits at step 7, in barrier (collective 5)",
        ],
        _ => panic!("there is no fault {fault}"),
    }
}

pub fn start(fault: &str) {
    let directory = driver::empty_directory(fault);
    let outcome = driver::mpirun(RANKS, &["fault", fault, directory.to_str().unwrap()]);
    outcome.expect(!outcome.status.success(), "a failure");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for text in expected(fault) {
        let text = text.replace("HOST", host.trim());
        outcome.expect(outcome.text.contains(&text), &text);
    }
    let failed_at = std::fs::metadata(directory.join("failing")).expect("the rank came to its fault").modified().unwrap();
    let took = outcome.ended.duration_since(failed_at).unwrap_or_default();
    outcome.expect(took < Duration::from_secs(5), "an end within 5 s of the fault");
    for rank in 0..RANKS {
        let process = std::fs::read_to_string(directory.join(format!("process-{rank}"))).unwrap();
        outcome.expect(ends_soon(&process), &format!("no process left of rank {rank}"));
    }
    std::fs::remove_dir_all(directory).unwrap();
}

/// Whether the process is gone, or a zombie that its parent will fetch. The kernel may need a moment after mpirun has killed it.
fn ends_soon(process: &str) -> bool {
    let is_alive = || {
        std::fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
    };
    let start = SystemTime::now();
    while is_alive() {
        if start.elapsed().unwrap_or_default() > Duration::from_secs(2) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The program of one rank.
pub fn fail(fault: &str, directory: &Path) {
    if fault == "return" || fault == "unhooked-panic" {
        let group = Mpi::initialize().unwrap();
        let Err(error) = body(&group, fault, directory) else { return };
        if group.rank() == CULPRIT {
            return;
        }
        group.abort(&error);
    }
    collective::run(|group| body(&*group, fault, directory)).unwrap();
}

fn body(group: &dyn ProcessGroup, fault: &str, directory: &Path) -> Result<(), String> {
    std::fs::write(directory.join(format!("process-{}", group.rank())), std::process::id().to_string()).unwrap();
    let words = |error: Error| error.to_string();
    let (deadline, stall) = (Duration::from_secs(1), Some(Duration::from_secs(2)));
    if matches!(fault, "stop" | "hang") {
        // Never left: the faults end the job.
        Heartbeat::start(group, HeartbeatOptions { deadline, stall, told: |_| {} }).map_err(words)?;
        note_step(7);
    }
    group.barrier().map_err(words)?;
    if group.rank() != CULPRIT {
        return group.barrier().map_err(words);
    }
    // The others shall be in the barrier by now.
    std::thread::sleep(Duration::from_millis(200));
    std::fs::write(directory.join("failing"), "").unwrap();
    match fault {
        "panic" | "unhooked-panic" => panic!("the loss is gone"),
        "thread-panic" => {
            let _ = std::thread::spawn(|| panic!("the reader is gone")).join();
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        "exit" => std::process::exit(3),
        "stop" | "hang" => {
            if fault == "stop" {
                std::process::Command::new("kill").args(["-STOP", &std::process::id().to_string()]).status().unwrap();
            }
            std::thread::sleep(Duration::from_secs(60));
            Ok(())
        }
        "kill" => {
            std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
            Ok(())
        }
        _ => Err("cannot read batch 7: no such file".into()),
    }
}
