//! One rank fails while the others wait for it. The job must end, everywhere, with a code other
//! than zero and the rank's name.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use collective::{Error, Heartbeat, HeartbeatOptions, Mpi, ProcessGroup, note_step};

use crate::driver;
use crate::mpirun::is_hydra;
use crate::times::{HANG_LIMIT, POLL_INTERVAL, promised};

/// Three ranks, so that more than one is waiting; this one fails.
const RANKS: usize = 3;
const CULPRIT: usize = 1;

/// From the fault, or from when it can be known, to the end.
const PROMISED: Duration = Duration::from_secs(5);
/// The heartbeat's options. The shorter they are, the less a rank may be kept from running that has
/// not failed.
const DEADLINE: Duration = Duration::from_secs(3);
const STALL: Duration = Duration::from_secs(5);

/// What the job must print for each fault, `HOST` standing for the host.
fn expected(fault: &str) -> &'static [&'static str] {
    match fault {
        "panic" => &[
            "rank 1 (host HOST) panicked: the loss is gone at crates/collective/tests/ranks/faults.rs:",
        ],
        "thread-panic" => &[
            "rank 1 (host HOST) panicked: the reader is gone at crates/collective/tests/ranks/faults.rs:",
        ],
        "error" => &["rank 1 (host HOST): cannot read batch 7: no such file"],
        // Whoever is first to say so ends the others.
        "return" => &["the ranks disagree in ", "rank 1 (host HOST): left the group"],
        "unhooked-panic" => {
            &["the loss is gone", "rank 1 (host HOST): leaves the job after an error"]
        }
        // MPICH's mpirun knows processes alone, and a code it answers with without a word; `loract
        // launch` says which rank it was.
        "exit" if is_hydra() => &[],
        "kill" if is_hydra() => &["PID ", "EXIT CODE: 9"],
        // These two are mpirun's own words; it calls rank 1 of its job 1 `[[…,1],1]`.
        "exit" => &["Process name: [[", ",1],1]", "Exit code:    3"],
        "kill" => &["rank 1", "on signal 9 (Killed)"],
        "stop" => &[
            ": rank 1 (host HOST) has not been heard of for ",
            "; last heard of at step 7, after barrier (collective 4); ",
        ],
        "hang" => &[
            ": rank 1 (host HOST) has made no progress for ",
            "; last heard of at step 7, after barrier (collective 4); rank ",
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
    let failed_at = std::fs::metadata(directory.join("failing"))
        .expect("the rank came to its fault")
        .modified()
        .unwrap();
    let known = match fault {
        "stop" => DEADLINE,
        "hang" => STALL,
        _ => Duration::ZERO,
    };
    promised(fault, outcome.ended.duration_since(failed_at).unwrap_or_default(), known + PROMISED);
    for rank in 0..RANKS {
        let process = std::fs::read_to_string(directory.join(format!("process-{rank}"))).unwrap();
        outcome.expect(ends_soon(&process), &format!("no process left of rank {rank}"));
    }
    std::fs::remove_dir_all(directory).unwrap();
}

/// Whether the process is gone, or a zombie that its parent will fetch. The kernel may need a
/// moment after mpirun has killed it.
fn ends_soon(process: &str) -> bool {
    let is_alive = || {
        std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| {
            stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
        })
    };
    let start = Instant::now();
    while is_alive() {
        if start.elapsed() > HANG_LIMIT {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
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
    std::fs::write(
        directory.join(format!("process-{}", group.rank())),
        std::process::id().to_string(),
    )
    .unwrap();
    let words = |error: Error| error.to_string();
    let heard = directory.join("heard");
    // Only what is tested names a rank.
    let options = match fault {
        "stop" => Some(HeartbeatOptions { deadline: DEADLINE, stall: None, told: |_| {} }),
        "hang" => Some(HeartbeatOptions { deadline: HANG_LIMIT, stall: Some(STALL), told: |_| {} }),
        _ => None,
    };
    if let Some(options) = options {
        if group.rank() == 0 {
            let file = std::fs::File::create(&heard).unwrap();
            tracing_subscriber::fmt()
                .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
                .with_writer(file)
                .with_ansi(false)
                .init();
        }
        // Never left: the faults end the job.
        Heartbeat::start(group, options).map_err(words)?;
        note_step(7);
    }
    group.barrier().map_err(words)?;
    if group.rank() != CULPRIT {
        return group.barrier().map_err(words);
    }
    if matches!(fault, "stop" | "hang") {
        // By then rank 0 knows that the others wait, and this one does not.
        let here = |rank| {
            if rank == CULPRIT {
                "after barrier (collective 4)"
            } else {
                "in barrier (collective 5)"
            }
        };
        let known = |log: &str| {
            (0..RANKS).all(|rank| {
                log.contains(&format!("heard of rank {rank}: at step 7, {}", here(rank)))
            })
        };
        while !known(&std::fs::read_to_string(&heard).unwrap()) {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    std::fs::write(directory.join("failing"), "").unwrap();
    match fault {
        "panic" | "unhooked-panic" => panic!("the loss is gone"),
        "thread-panic" => {
            let _ = std::thread::spawn(|| panic!("the reader is gone")).join();
            do_nothing()
        }
        "exit" => std::process::exit(3),
        "stop" | "hang" => {
            if fault == "stop" {
                kill_process(getpid(), Signal::STOP).unwrap();
            }
            do_nothing()
        }
        "kill" => {
            kill_process(getpid(), Signal::KILL).unwrap();
            Ok(())
        }
        _ => Err("cannot read batch 7: no such file".into()),
    }
}

/// Until the process is ended by another.
pub fn do_nothing() -> ! {
    loop {
        std::thread::park();
    }
}
