//! Starts ranks, and runs a list of tests as cargo expects it.

#[path = "../../../test_device.rs"]
mod test_device;

pub use test_device::device;

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::SystemTime;

use crate::times::HANG_LIMIT;

/// How a job ended.
pub struct Outcome {
    pub status: ExitStatus,
    /// Standard output and standard error.
    pub text: String,
    pub ended: SystemTime,
}

impl Outcome {
    /// Fails with all that the job printed.
    pub fn expect(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "expected {what}; the job ended with {} and printed:\n{}",
            self.status, self.text
        );
    }

    pub fn expect_success(&self) {
        self.expect(self.status.success(), "success");
    }
}

/// Runs this program on `ranks` ranks. A job that hangs is ended.
pub fn mpirun(world_size: usize, arguments: &[&str]) -> Outcome {
    mpirun_with(world_size, arguments, &[])
}

/// The same with these variables.
pub fn mpirun_with(world_size: usize, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome {
    // mpirun keeps a folder there, which it shares with no other test.
    let scratch = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["-k", "5", &HANG_LIMIT.as_secs().to_string()])
        .args(crate::mpirun::mpirun())
        .args(["-n", &world_size.to_string()])
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .env("OMP_NUM_THREADS", "1")
        .env_remove("RUST_BACKTRACE")
        .env("TMPDIR", scratch.path())
        .envs(variables.iter().copied())
        .output()
        .expect("mpirun and timeout are on the PATH");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Outcome { status: output.status, text, ended: SystemTime::now() }
}

/// An empty directory for the files of one test.
pub fn empty_directory(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("ranks-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs the tests whose names contain the given filter, one after the other: each wants all cores.
pub fn run_tests(tests: &[crate::Test], arguments: &[String]) {
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = Vec::new();
    for (name, test) in
        tests.iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter.as_str())))
    {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
