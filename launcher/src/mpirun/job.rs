//! A running mpirun with its ranks.
#![allow(unsafe_code)]

use super::processes;
use anyhow::Context;
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

/// How often the ranks' process numbers are noted.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// A running mpirun, in a process group of its own. Dropped while it runs, it is killed with all
/// its ranks on this host.
///
/// Ranks on other hosts are ended by mpirun's daemons there, which notice that mpirun is gone.
#[derive(Debug)]
pub struct Job {
    child: Child,
    lines: Receiver<String>,
    /// The program that the ranks run.
    program: PathBuf,
    /// Ranks, and what else descends from mpirun on this host. Once mpirun is gone nobody could say
    /// who they were.
    descendants: BTreeSet<u32>,
    noted: Instant,
    ended: bool,
}

impl Job {
    /// Starts `mpirun` with `arguments`, and with `environment` in addition to this process's. What it and the ranks write goes to the end of the file
    /// `log`, and to [`Job::lines`].
    pub fn start(
        mpirun: &str,
        arguments: &[OsString],
        environment: &BTreeMap<String, String>,
        program: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(mpirun);
        command
            .args(arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        end_with_this_process(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start {mpirun}"))?;
        let (sender, lines) = channel();
        let file = Arc::new(Mutex::new(file));
        if let Some(stdout) = child.stdout.take() {
            copy_lines(stdout, Arc::clone(&file), sender.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            copy_lines(stderr, file, sender);
        }
        Ok(Self {
            child,
            lines,
            program: program.to_owned(),
            descendants: BTreeSet::new(),
            noted: Instant::now(),
            ended: false,
        })
    }

    /// The lines written since the last call.
    pub fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// The lines that are still on their way after the end: until both streams are closed, at most
    /// for `longest`.
    pub fn last_lines(&self, longest: Duration) -> Vec<String> {
        let end = Instant::now() + longest;
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            lines.push(line);
        }
        lines
    }

    /// Whether the job has ended, and how.
    pub fn poll(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if !self.ended && (self.descendants.is_empty() || self.noted.elapsed() >= NOTE_EVERY) {
            self.note_descendants();
        }
        let status = self.child.try_wait().context("cannot ask for the state of mpirun")?;
        self.ended = status.is_some();
        Ok(status)
    }

    fn note_descendants(&mut self) {
        self.descendants.extend(processes::descendants(self.child.id()));
        self.noted = Instant::now();
    }

    /// Asks the ranks to save and stop: mpirun passes SIGUSR1 on to each. The group is not
    /// signalled, as a rank that is in it would be twice.
    pub fn ask_to_stop(&self) {
        if !self.ended {
            processes::signal(self.child.id(), Signal::USR1);
        }
    }

    /// Asks mpirun to end the job.
    pub fn terminate(&self) {
        if !self.ended {
            processes::signal_group(self.child.id(), Signal::TERM);
        }
    }

    /// Kills mpirun and every rank on this host.
    pub fn kill(&mut self) {
        if !self.ended {
            self.note_descendants();
            processes::signal_group(self.child.id(), Signal::KILL);
        }
        self.kill_ranks();
    }

    /// Kills ranks on this host that have outlived mpirun.
    pub fn kill_ranks(&self) {
        processes::kill_if_running(&self.descendants, &self.program);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            // After SIGKILL this takes no time, and leaves no zombie.
            let _ = self.child.wait();
        }
    }
}

/// Lets mpirun be asked to end, and with it the ranks on all hosts, when this process is gone: also
/// when it is killed, and can do nothing itself.
fn end_with_this_process(command: &mut Command) {
    let launch = rustix::process::getpid();
    let ask = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
        match rustix::process::getppid() {
            Some(parent) if parent == launch => Ok(()),
            _ => Err(std::io::ErrorKind::Interrupted.into()),
        }
    };
    // SAFETY: between fork and exec the closure makes system calls, and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// Copies a stream, line by line, to the file and the channel. The thread ends with the stream;
/// nobody waits for it.
fn copy_lines(stream: impl Read + Send + 'static, file: Arc<Mutex<File>>, sender: Sender<String>) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            // A full disk must not stop the ranks, which would block on a pipe that nobody empties.
            let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
            let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn start(script: &str, log: &Path) -> Job {
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        Job::start("sh", &["-c".into(), script.into()], &BTreeMap::new(), &shell, log).unwrap()
    }

    /// What tells a hang from a slow machine.
    const HANG_LIMIT: Duration = Duration::from_secs(600);

    fn wait(job: &mut Job) -> ExitStatus {
        let end = Instant::now() + HANG_LIMIT;
        loop {
            if let Some(status) = job.poll().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the job does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn both_streams_reach_the_log_and_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("mpirun.log");
        let mut job = start("echo out; echo err >&2; exit 3", &log);
        assert_eq!(wait(&mut job).code(), Some(3));
        let mut lines = job.last_lines(HANG_LIMIT);
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        assert_eq!(std::fs::read_to_string(log).unwrap().len(), "out\nerr\n".len());
    }

    #[test]
    fn killing_reaches_processes_that_left_the_group() {
        let dir = tempfile::tempdir().unwrap();
        // Like Open MPI, this one puts its rank into a session of its own, and ignores SIGTERM.
        let mut job = start(
            "trap '' TERM; setsid sh -c 'echo $$; while :; do sleep 0.1; done' & wait",
            &dir.path().join("log"),
        );
        let rank: u32 = job.lines.recv_timeout(HANG_LIMIT).unwrap().parse().unwrap();
        job.terminate();
        std::thread::sleep(Duration::from_millis(200));
        assert!(job.poll().unwrap().is_none(), "SIGTERM is ignored");
        job.kill();
        assert!(!wait(&mut job).success());
        let end = Instant::now() + HANG_LIMIT;
        let lives = || std::fs::read_link(format!("/proc/{rank}/exe")).is_ok();
        while lives() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!lives(), "the rank outlived the job");
    }

    #[test]
    fn a_dropped_job_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let job = start("echo $$; sleep 1000", &dir.path().join("log"));
        let pid: u32 = job.lines.recv_timeout(HANG_LIMIT).unwrap().parse().unwrap();
        drop(job);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
