//! The process that started this rank on its host: mpirun, or a daemon of its on another one.
//!
//! When a job ends, mpirun tells its daemons to end. One that is cut off hears nothing, and lives on until its host's network stack gives the
//! connection up, which takes a quarter of an hour; and mpirun waits for it as long. Of both, the ranks of a failed job rid their host.

use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};

/// Those that live for one job: of Open MPI 4 and 5, and of MPICH and what is made from it. Slurm's own live for others, too.
const KNOWN: [&str; 8] = ["orted", "orterun", "prted", "prterun", "mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy"];

/// Waits for 5 s for the process `$1` to end, then asks it to, and 3 s later makes it. It has a session of its own, so that it outlives the rank.
const SCRIPT: &str = r#"n=0
while kill -0 "$1" && [ $n -lt 80 ]; do
  [ $n = 50 ] && kill -TERM "$1"
  n=$((n + 1)); sleep 0.1
done
[ $n = 80 ] && kill -KILL "$1""#;

/// Sees to it that whoever has started this rank ends soon after a job that has failed, even if nobody tells it to. Comes back at once.
pub(crate) fn end_soon() {
    let parent = parent_id();
    let is_known = std::fs::read_to_string(format!("/proc/{parent}/comm")).is_ok_and(|name| KNOWN.contains(&name.trim()));
    if is_known {
        // Without the programs there is no help, and no harm: the job still ends where it can be told.
        let _ = undertaker(parent).spawn();
    }
}

fn undertaker(process: u32) -> Command {
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", SCRIPT, "sh", &process.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::{Duration, Instant};

    #[test]
    fn a_process_that_ends_is_left_alone_and_one_that_does_not_is_ended() {
        let mut quick = Command::new("sleep").arg("0.3").spawn().unwrap();
        let mut slow = Command::new("sleep").arg("60").spawn().unwrap();
        let start = Instant::now();
        let mut waits_for_quick = undertaker(quick.id()).spawn().unwrap();
        let mut waits_for_slow = undertaker(slow.id()).spawn().unwrap();
        assert!(quick.wait().unwrap().success());
        waits_for_quick.wait().unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "it goes when there is nothing left to do");
        assert_eq!(slow.wait().unwrap().signal(), Some(libc::SIGTERM));
        waits_for_slow.wait().unwrap();
        assert!(start.elapsed() >= Duration::from_secs(5), "it gave it time");
    }
}
