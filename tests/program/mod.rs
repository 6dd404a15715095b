//! Runs the program as a user does: in a folder of its own, with a time limit, and leaving nothing.
#![allow(dead_code)] // each test file uses its own part

#[path = "../../crates/collective/tests/ranks/mpirun.rs"]
pub mod mpirun;
mod pause;
#[path = "../../crates/collective/tests/ranks/times.rs"]
pub mod times;

pub use pause::Paused;

use rustix::process::{Pid, Signal, kill_process};
use safetensors::{Dtype, tensor::TensorView};
use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Instant, SystemTime},
};
use tempfile::TempDir;
use times::{HANG_LIMIT, POLL_INTERVAL};

/// The vocabulary of the tiny model.
pub const VOCABULARY: i64 = 97;

/// A folder with a run of the tiny Llama in `run.toml`, which reads the token ids in
/// `batches.safetensors` and writes to `run/`.
pub struct Place {
    folder: TempDir,
    /// Temporary files of its processes: mpirun keeps a folder there, which it shares with no other
    /// test.
    scratch: TempDir,
}

const CONFIG: &str = r#"[run]
steps = 8
batch_size = 2
threads = 1
dir = "RUN"

[model]
path = "MODEL"

[lora]
rank = 2

[activations]
sites = "none"

[gradients]
method = "exact"

[data]
train = "TRAIN"
format = "batches"
eval_samples = 0
sequence_length = 16
"#;

impl Place {
    pub fn new() -> Self {
        let place =
            Self { folder: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() };
        let ids: Vec<i64> =
            (0..8 * 2 * 16).map(|index| 3 + index * 31 % (VOCABULARY - 3)).collect();
        place.write_batches("batches.safetensors", [8, 2, 16], &ids);
        let config = CONFIG
            .replace("RUN", place.run_dir().to_str().unwrap())
            .replace("MODEL", fixture("hf/llama").to_str().unwrap())
            .replace("TRAIN", place.at("batches.safetensors").to_str().unwrap());
        fs::write(place.config(), config).unwrap();
        place
    }

    /// The path of a file here.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where its processes keep temporary files.
    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub fn config(&self) -> PathBuf {
        self.at("run.toml")
    }

    /// The configuration with `old` replaced by `new`.
    pub fn edit(&self, old: &str, new: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        assert!(text.contains(old), "the configuration has no {old:?}");
        fs::write(self.config(), text.replace(old, new)).unwrap();
    }

    pub fn run_dir(&self) -> PathBuf {
        self.at("run")
    }

    pub fn log_of_rank(&self, rank: usize) -> PathBuf {
        self.run_dir().join(format!("logs/rank-{rank:04}.log"))
    }

    pub fn metrics(&self) -> PathBuf {
        self.run_dir().join("metrics.jsonl")
    }

    /// Ready batches, `[steps, batch, tokens]`.
    pub fn write_batches(&self, name: &str, shape: [usize; 3], ids: &[i64]) -> PathBuf {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::I64, shape.to_vec(), &bytes).unwrap();
        fs::write(self.at(name), safetensors::serialize([("batches", view)], None).unwrap())
            .unwrap();
        self.at(name)
    }

    /// The names of everything that is here, at any depth.
    pub fn listing(&self) -> Vec<PathBuf> {
        let (mut folders, mut found) = (vec![self.folder.path().to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    /// `loract ARGUMENTS`, working here.
    pub fn loract(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_loract"));
        command.args(arguments);
        command
    }

    /// `loract launch -n 2 run.toml`.
    pub fn launch(&self) -> Command {
        let mut command = self.loract(&["launch", "-n", "2"]);
        command.arg(self.config());
        command
    }

    /// `loract train run.toml`, on one rank.
    pub fn train(&self) -> Command {
        let mut command = self.loract(&["train"]);
        command.arg(self.config());
        command
    }

    /// `mpirun -n 2 loract train run.toml`.
    pub fn mpirun(&self) -> Command {
        let words = mpirun::mpirun();
        let mut command = self.command(words[0]);
        command
            .args(&words[1..])
            .args(["-n", "2", env!("CARGO_BIN_EXE_loract"), "train"])
            .arg(self.config());
        command
    }

    /// Any other program, working here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // To name the places of a backtrace takes a second, and no test reads it.
        command
            .current_dir(self.folder.path())
            .env_remove("RUST_BACKTRACE")
            .env_remove(setup::INJECT_FAULT_VARIABLE);
        command.env("TMPDIR", self.scratch());
        command
    }

    /// Starts `command`, which must name this folder in its arguments, as every process that it
    /// starts must.
    pub fn start(&self, command: &mut Command) -> Running<'_> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let stdout = Stream::read(child.stdout.take().unwrap());
        let stderr = Stream::read(child.stderr.take().unwrap());
        Running { place: self, child, started: Instant::now(), streams: Some((stdout, stderr)) }
    }

    /// Runs `command` to its end; see [`Running::wait`].
    pub fn run(&self, command: &mut Command) -> Ended {
        self.start(command).wait()
    }

    /// Kills all processes that name this folder, until there are none: one that is being started
    /// is not there at the first look.
    pub fn kill_all(&self) {
        let started = Instant::now();
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            assert!(
                started.elapsed() < HANG_LIMIT,
                "processes survive being killed: {processes:#?}"
            );
            processes.iter().for_each(|process| process.signal(Signal::KILL));
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Signals a rank, which must be running.
    pub fn signal_rank(&self, rank: usize, signal: Signal) {
        self.processes().iter().find(|process| process.rank == Some(rank)).unwrap().signal(signal);
    }

    /// The processes that name this folder in their arguments, with their rank if they are one.
    /// Those that ended are no longer among them, even if nobody has asked for their exit code.
    pub fn processes(&self) -> Vec<Process> {
        let name = self.folder.path().to_str().unwrap().as_bytes();
        let holds = |text: &[u8]| text.windows(name.len()).any(|part| part == name);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A process may end between any two looks.
            let Ok(arguments) = fs::read(entry.path().join("cmdline")) else { continue };
            if holds(&arguments) {
                let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
                let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
                found.push(Process { pid, rank: rank_in(&environment), arguments });
            }
        }
        found
    }
}

/// A fixture of the repository.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
        .canonicalize()
        .unwrap()
}

/// A process of a job.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub rank: Option<usize>,
    pub arguments: String,
}

impl Process {
    pub fn signal(&self, signal: Signal) {
        // It may have ended a moment ago.
        let _ = kill_process(Pid::from_raw(self.pid).unwrap(), signal);
    }
}

fn rank_in(environment: &[u8]) -> Option<usize> {
    // As Open MPI and MPICH say it.
    let value = |name: &[u8]| {
        environment.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(name))
    };
    let entry = value(b"OMPI_COMM_WORLD_RANK=").or_else(|| value(b"PMI_RANK="))?;
    std::str::from_utf8(entry).ok()?.parse().ok()
}

/// A job that runs. Dropped, it is killed with everything it started.
pub struct Running<'a> {
    place: &'a Place,
    child: Child,
    started: Instant,
    streams: Option<(Stream, Stream)>,
}

/// A job that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    /// When nothing of it was left.
    pub at: SystemTime,
}

impl Running<'_> {
    /// The process that was started.
    pub fn process(&self) -> Process {
        Process {
            pid: i32::try_from(self.child.id()).unwrap(),
            rank: None,
            arguments: String::new(),
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.streams.as_ref().map_or_else(String::new, |(_, stderr)| stderr.so_far())
    }

    /// Waits until `holds`, at most for [`HANG_LIMIT`]. What it waits for must not pass by: it
    /// holds from some moment on, even after the end of the job, or until this test does something.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        loop {
            // In this order: it may come to hold, and the job end, between two looks.
            let lives = self.child.try_wait().unwrap().is_none();
            if holds() {
                return;
            }
            if !lives || self.started.elapsed() > HANG_LIMIT {
                let state = if lives { "is still running" } else { "has ended" };
                panic!("the job {state} without {what}: {}", self.give_up());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Waits until it has written `words` to stderr.
    pub fn until_says(&mut self, words: &str) {
        let (_, stderr) = self.streams.as_ref().unwrap();
        let bytes = Arc::clone(&stderr.bytes);
        self.until(words, || String::from_utf8_lossy(&bytes.lock().unwrap()).contains(words));
    }

    /// Signals the process that was started while `paused` holds a rank, and lets that rank
    /// continue once it has noted the request to save and stop.
    pub fn stop(&mut self, signal: Signal, paused: Paused) {
        let place = self.place;
        let requests = || {
            let log = fs::read_to_string(place.log_of_rank(paused.rank())).unwrap_or_default();
            log.matches(": the run saves and stops after this step").count()
        };
        let before = requests();
        self.process().signal(signal);
        self.until("a rank that notes the signal", || requests() > before);
    }

    /// Waits until the job has ended and no process of it is left: not the program alone, but every
    /// rank.
    ///
    /// After [`HANG_LIMIT`] everything is killed, and the test fails with what the job had said.
    pub fn wait(mut self) -> Ended {
        let mut status = None;
        loop {
            status = status.or_else(|| self.child.try_wait().unwrap());
            if let Some(status) = status
                && self.place.processes().is_empty()
            {
                let at = SystemTime::now();
                let (stdout, stderr) = self.streams.take().unwrap();
                return Ended { status, stdout: stdout.join(), stderr: stderr.join(), at };
            }
            if self.started.elapsed() > HANG_LIMIT {
                let left = self.place.processes();
                panic!(
                    "the job hangs (exit status {status:?}, left: {left:#?}); it said: {}",
                    self.give_up()
                );
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Kills everything, and gives what was said.
    fn give_up(&mut self) -> String {
        self.kill();
        let Some((stdout, stderr)) = self.streams.take() else { return String::new() };
        format!("{}\n{}", stdout.join(), stderr.join())
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        self.place.kill_all();
        let _ = self.child.wait();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Only then is it not known to have ended.
        if self.streams.is_some() {
            self.kill();
        }
    }
}

/// What a process writes to one of its streams.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Stream {
    fn read(mut stream: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut some = [0; 4096];
            loop {
                match stream.read(&mut some).unwrap() {
                    0 => return,
                    count => all.lock().unwrap().extend_from_slice(&some[..count]),
                }
            }
        });
        Self { bytes, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// All of it, once nobody can write to it any more.
    fn join(self) -> String {
        self.thread.join().unwrap();
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}
