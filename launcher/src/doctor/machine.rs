//! A machine's processors, memory and disk: asked by a small script, here or through ssh.

use super::Finding;
use config::units;
use std::collections::BTreeMap;
use std::path::Path;

/// Asks for all that is to be known, a key and a value on each line. It needs a POSIX shell,
/// coreutils and awk.
const SCRIPT: &str = r#"
printf 'time=%s\n' "$(date +%s.%N)"
printf 'name=%s\n' "$(hostname 2>/dev/null || uname -n)"
printf 'cores=%s\n' "$(nproc)"
printf 'memory=%s\n' "$(awk '/^MemAvailable/ {print $2}' /proc/meminfo)"
printf 'limit=%s\n' "$(cat /sys/fs/cgroup/memory.max 2>/dev/null)"
printf 'shm=%s\n' "$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}')"
printf 'disk=%s\n' "$(df -Pk "$folder" 2>/dev/null | awk 'NR == 2 {print $4}')"
printf 'program=%s\n' "$(sha256sum "$program" 2>/dev/null | cut -d' ' -f1)"
"#;

/// The script for a program and a folder.
pub fn script(program: &Path, folder: &Path) -> String {
    let quoted = |path: &Path| {
        let text = path.display().to_string();
        format!("'{}'", text.replace('\'', r"'\''"))
    };
    format!("program={} folder={}\n{SCRIPT}", quoted(program), quoted(folder))
}

/// What a machine has answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Its own name.
    pub name: String,
    /// Seconds since 1970 by its clock.
    pub time: f64,
    /// Hardware threads that a process may use.
    pub cores: usize,
    /// Free bytes of memory, within the limit of its control group.
    pub memory: u64,
    /// Free bytes of `/dev/shm`, by which ranks of one host talk.
    pub shared_memory: Option<u64>,
    /// Free bytes where the working directory is; none if it is not there.
    pub disk: Option<u64>,
    /// The checksum of this program there; none if it is not there.
    pub program: Option<String>,
}

impl Machine {
    /// Reads an answer; `None` where it cannot be read.
    pub fn read(answer: &str) -> Option<Self> {
        let values: BTreeMap<&str, &str> =
            answer.lines().filter_map(|line| line.split_once('=')).collect();
        let kilobytes =
            |key: &str| values.get(key)?.trim().parse::<u64>().ok().map(|number| number * 1024);
        let limit = values
            .get("limit")
            .and_then(|limit| limit.trim().parse::<u64>().ok())
            .unwrap_or(u64::MAX);
        Some(Self {
            name: (*values.get("name")?).to_owned(),
            time: values.get("time")?.parse().ok()?,
            cores: values.get("cores")?.parse().ok()?,
            memory: kilobytes("memory")?.min(limit),
            shared_memory: kilobytes("shm"),
            disk: kilobytes("disk"),
            program: values
                .get("program")
                .filter(|sum| !sum.is_empty())
                .map(|sum| (*sum).to_owned()),
        })
    }

    /// What is to be said of it; `prefix` names it where it is another.
    pub fn findings(&self, prefix: &str) -> Vec<Finding> {
        const LITTLE_MEMORY: u64 = 2_000_000_000;
        const LITTLE_DISK: u64 = 5_000_000_000;
        const LITTLE_SHARED: u64 = 64 << 20;
        let bytes = |count: u64| format!("{} free", units::bytes(count as f64));
        let subject = |what: &str| format!("{prefix}{what}");
        let mut findings =
            vec![Finding::good(subject("processors"), format!("{} hardware threads", self.cores))];
        findings.push(match self.memory {
            memory if memory < LITTLE_MEMORY => Finding::warning(
                subject("memory"),
                bytes(memory),
                "end other programs, or ask loract plan what a run takes",
            ),
            memory => Finding::good(subject("memory"), bytes(memory)),
        });
        findings.push(match self.disk {
            None => Finding::problem(
                subject("disk"),
                "the working directory is not there",
                "make it there, or start in a directory that all hosts share",
            ),
            Some(disk) if disk < LITTLE_DISK => Finding::warning(
                subject("disk"),
                bytes(disk),
                "make room: checkpoints and adapters are written to [run] dir",
            ),
            Some(disk) => Finding::good(subject("disk"), bytes(disk)),
        });
        if let Some(shared) = self.shared_memory.filter(|shared| *shared < LITTLE_SHARED) {
            let remedy = "ranks of one host talk through it: give a container more (docker run --shm-size=1g)";
            findings.push(Finding::warning(subject("/dev/shm"), bytes(shared), remedy));
        }
        findings
    }
}

/// Asks this machine.
///
/// # Errors
/// What went wrong.
pub fn here(program: &Path, folder: &Path) -> Result<Machine, String> {
    let output = std::process::Command::new("sh").arg("-c").arg(script(program, folder)).output();
    let output = output.map_err(|cause| format!("cannot run sh: {cause}"))?;
    Machine::read(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| "the shell says nothing of this machine".into())
}

/// Threads that libtorch is told to use, where somebody has set them.
pub fn threads() -> Option<Finding> {
    let set = std::env::var("OMP_NUM_THREADS").ok()?;
    let found = format!("OMP_NUM_THREADS = {set}");
    Some(Finding::warning(
        "threads",
        found,
        "unset it: [run] threads says how many a rank uses, by default its share of the host's",
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::doctor::State;

    const ANSWER: &str = "time=1700000000.25\nname=node1\ncores=8\nmemory=4000000\nlimit=max\nshm=1024\ndisk=\nprogram=\nsome noise\n";

    #[test]
    fn an_answer_is_read_and_judged() {
        let machine = Machine::read(ANSWER).unwrap();
        assert_eq!(
            (machine.cores, machine.memory, machine.disk, machine.program.as_deref()),
            (8, 4_096_000_000, None, None)
        );
        let states: Vec<State> =
            machine.findings("node1: ").iter().map(|finding| finding.state).collect();
        assert_eq!(states, [State::Good, State::Good, State::Problem, State::Warning]);
        let limited = Machine::read(&ANSWER.replace("limit=max", "limit=1000000000")).unwrap();
        assert_eq!(limited.memory, 1_000_000_000);
        assert!(Machine::read("ssh: connect to host node1 port 22: Connection refused").is_none());
    }

    #[test]
    fn this_machine_answers() {
        let program = std::env::current_exe().unwrap();
        let odd = tempfile::Builder::new().prefix("it's a 'folder' $HOME ").tempdir().unwrap();
        let machine = here(&program, odd.path()).unwrap();
        assert!(
            machine.cores > 0
                && machine.memory > 0
                && machine.disk.is_some()
                && machine.program.unwrap().len() == 64
        );
        let nowhere = here(Path::new("/no/program"), Path::new("/no/folder")).unwrap();
        assert_eq!((nowhere.disk, nowhere.program), (None, None));
    }
}
