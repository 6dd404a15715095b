//! Running the program on a configuration of a classifier.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Runs a command on `config`, with keys set otherwise.
pub fn loract(config: &Path, command: &[&str], set: &[&str]) -> Output {
    let mut loract = Command::new(env!("CARGO_BIN_EXE_loract"));
    loract.args(command).arg(config);
    for set in set {
        loract.args(["--set", set]);
    }
    loract.output().unwrap()
}

pub fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// It went well.
pub fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// It ended for its input, with one line that says these parts.
pub fn refused(output: &Output, parts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}
