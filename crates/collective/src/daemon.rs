//! The process that started this rank on its host: mpirun, or a daemon of its on another one.
//!
//! When a job ends, mpirun tells its daemons to end. One that is cut off hears nothing, and lives
//! on until its host's network stack gives the connection up, which takes a quarter of an hour; and
//! mpirun waits for it as long. Of both, the ranks of a failed job rid their host.

use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::env::Launch;

/// Those that live for one job: of Open MPI 4 and 5, and of MPICH and what is made from it. Slurm's
/// own live for others, too.
const KNOWN: [&str; 8] = [
    "orted",
    "orterun",
    "prted",
    "prterun",
    "mpirun",
    "mpiexec",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
];

/// Waits for `$2` tenths of a second for the process `$1` to end, then asks it to, and `$3` tenths
/// after the beginning makes it. It has a session of its own, so that it outlives the rank.
const SCRIPT: &str = r#"n=0
while kill -0 "$1" && [ $n -lt "$3" ]; do
  [ $n = "$2" ] && kill -TERM "$1"
  n=$((n + 1)); sleep 0.1
done
[ $n = "$3" ] && kill -KILL "$1""#;

/// When the process is asked to end, and made to, in tenths of a second.
const PATIENCE: [u32; 2] = [50, 80];

/// Sees to it that whoever has started this rank ends soon after a job that has failed, even if
/// nobody tells it to. Comes back at once.
pub(crate) fn end_soon() {
    let parent = parent_id();
    let is_known = std::fs::read_to_string(format!("/proc/{parent}/comm"))
        .is_ok_and(|name| KNOWN.contains(&name.trim()));
    if is_known {
        // Without the programs there is no help, and no harm: the job still ends where it can be
        // told.
        let _ = undertaker(parent, PATIENCE).spawn();
    }
}

/// Another rank that the same daemon has started on this host.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sibling {
    pub(crate) rank: usize,
    pub(crate) process: u32,
}

/// The ranks of this host that are stopped (state `T`), as by SIGSTOP or a debugger.
pub(crate) fn stopped_siblings() -> Vec<Sibling> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut stopped: Vec<Sibling> =
        numbers.filter_map(|process| stopped_child(process, parent_id())).collect();
    stopped.sort_by_key(|sibling| sibling.rank);
    stopped
}

/// The rank that runs in `process`, if that is a stopped child of `daemon`.
fn stopped_child(process: u32, daemon: u32) -> Option<Sibling> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // After the name, which may hold anything, in brackets: the state and the parent.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let (state, parent) = (fields.next()?, fields.next()?);
    if !matches!(state, "T" | "t") || parent.parse() != Ok(daemon) {
        return None;
    }
    let environment = std::fs::read(format!("/proc/{process}/environ")).ok()?;
    let lookup = |name: &str| {
        let mut entries = environment.split(|&byte| byte == 0);
        entries.find_map(|entry| {
            let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    };
    Some(Sibling { rank: Launch::from_lookup(lookup)?.rank?, process })
}

/// Sees to it that this process is gone after `limit`, also if it is stopped while it ends, when no
/// other rank is left to notice. Comes back at once.
pub(crate) fn end_this_process_after(limit: Duration) {
    let tenths = u32::try_from(limit.as_millis() / 100).unwrap_or(u32::MAX - TO_OBEY);
    // Without the programs there is no limit.
    let _ = undertaker(std::process::id(), [tenths, tenths.saturating_add(TO_OBEY)]).spawn();
}

/// The time in tenths of a second for a process that was asked to end.
const TO_OBEY: u32 = 10;

fn undertaker(process: u32, patience: [u32; 2]) -> Command {
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", SCRIPT, "sh", &process.to_string()])
        .args(patience.map(|tenths| tenths.to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    /// More tenths of a second than a test takes.
    const NEVER: u32 = u32::MAX;

    #[test]
    fn a_stopped_rank_of_this_host_is_found() {
        // Its parent is this process, as this process is not its own sibling.
        let find = |process: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        let mut rank = Command::new("sh")
            .args(["-c", "kill -STOP $$; cat"])
            .envs([("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        while !find(rank.id()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!stopped_siblings().iter().any(|sibling| sibling.process == rank.id()));
        assert_eq!(
            stopped_child(rank.id(), std::process::id()),
            Some(Sibling { rank: 3, process: rank.id() })
        );
        rank.kill().unwrap();
        rank.wait().unwrap();
    }

    #[test]
    fn a_process_that_ends_is_left_alone() {
        // It ends with its input.
        let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let mut undertaker = undertaker(process.id(), [NEVER, NEVER]).spawn().unwrap();
        drop(process.stdin.take());
        assert!(process.wait().unwrap().success());
        // It goes when there is nothing left to do.
        undertaker.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_end_is_ended() {
        let [mut asked, mut made] = ["cat", "trap '' TERM; echo; cat"].map(|script| {
            Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        // To wait for a child closes its input.
        let _held = [asked.stdin.take(), made.stdin.take()];
        let mut waits = undertaker(asked.id(), [1, NEVER]).spawn().unwrap();
        assert_eq!(asked.wait().unwrap().signal(), Some(libc::SIGTERM));
        waits.wait().unwrap();
        // Not before it ignores the first signal.
        std::io::Read::read_exact(made.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        undertaker(made.id(), [1, 3]).spawn().unwrap().wait().unwrap();
        assert_eq!(made.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
