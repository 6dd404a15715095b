//! Processes of this host: who descends from whom, and ending them.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{collections::BTreeSet, fs, path::Path};

/// All descendants of a process that live now.
pub fn descendants(ancestor: u32) -> BTreeSet<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && let Some(parent) = parent_in(&stat)
        {
            parents.push((pid, parent));
        }
    }
    let mut found = BTreeSet::from([ancestor]);
    while parents
        .iter()
        .fold(false, |grew, (pid, parent)| (found.contains(parent) && found.insert(*pid)) | grew)
    {
    }
    found.remove(&ancestor);
    found
}

/// The parent in a line of `/proc/PID/stat`: the second field after the program's name, which is in
/// parentheses and may hold any letter.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Signals every process of the group.
pub fn signal_group(group: u32, signal: Signal) {
    if let Some(group) = pid(group) {
        // It may have ended a moment ago, which is what is wanted.
        let _ = kill_process_group(group, signal);
    }
}

/// Signals one process.
pub fn signal(number: u32, signal: Signal) {
    if let Some(pid) = pid(number) {
        // As above.
        let _ = kill_process(pid, signal);
    }
}

/// Kills those of `pids` that still run `program`. A number that another program has got since is
/// left alone.
pub fn kill_if_running(pids: &BTreeSet<u32>, program: &Path) {
    for number in pids {
        let runs =
            fs::read_link(format!("/proc/{number}/exe")).is_ok_and(|running| running == program);
        if runs && let Some(pid) = pid(*number) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;
    use std::time::{Duration, Instant};

    /// What tells a hang from a slow machine.
    const HANG_LIMIT: Duration = Duration::from_secs(600);

    #[test]
    fn a_name_with_parentheses_does_not_hide_the_parent() {
        assert_eq!(parent_in("17 (a) b (c)) S 4 17 17 0"), Some(4));
        assert_eq!(parent_in("nonsense"), None);
    }

    /// The outer shell waits for the inner one and that one for `sleep`, so all three end when
    /// `sleep` does.
    #[test]
    fn grandchildren_are_descendants() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let started = Instant::now();
        let mut child =
            Command::new("sh").args(["-c", "sh -c 'sleep 1000 & wait' & wait"]).spawn().unwrap();
        let (found, sleep) = loop {
            let found = descendants(child.id());
            let mut programs =
                found.iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/exe")).ok());
            let sleep = programs.rfind(|program| *program != shell);
            match sleep {
                Some(sleep) if found.len() == 2 => break (found, sleep),
                _ => assert!(started.elapsed() < HANG_LIMIT, "{found:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        kill_if_running(&found, Path::new("/no/such/program"));
        assert_eq!(descendants(child.id()), found, "another program's process is left alone");
        kill_if_running(&found, &sleep);
        child.wait().unwrap();
        assert!(started.elapsed() < HANG_LIMIT, "the processes ended by themselves");
    }
}
