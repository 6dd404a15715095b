//! `loract doctor`: what is there is found, what is not is told with its remedy, hosts are asked by
//! the command that reaches them, and ranks measure each other.
#![allow(clippy::unwrap_used, missing_docs)]

mod program;

use program::{Ended, Place};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn findings(ended: &Ended) -> Vec<Value> {
    let answer: Value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr));
    let findings = answer["findings"].as_array().unwrap().clone();
    let problems = findings.iter().filter(|finding| finding["state"] == "problem").count();
    assert_eq!(answer["problems"], problems);
    assert_eq!(ended.status.code(), Some(i32::from(problems > 0)), "{}", ended.stderr);
    for finding in &findings {
        assert_eq!(finding["state"] == "good", finding["remedy"].is_null(), "{finding}");
    }
    findings
}

fn of<'a>(findings: &'a [Value], subject: &str) -> &'a Value {
    findings
        .iter()
        .find(|finding| finding["subject"] == subject)
        .unwrap_or_else(|| panic!("nothing of {subject}: {findings:#?}"))
}

fn says(finding: &Value, state: &str, words: &str) {
    assert!(
        finding["state"] == state && finding.to_string().contains(words),
        "{state}, {words:?}: {finding}"
    );
}

#[test]
fn this_machine_is_found_sound() {
    let place = Place::new();
    let found = findings(&place.run(&mut place.loract(&["doctor", "--json"])));
    says(of(&found, "MPI"), "good", "linked: /");
    says(of(&found, "libtorch"), "good", "2.11.0, /");
    says(of(&found, "processors"), "good", "hardware threads");
    for subject in ["CUDA", "memory", "disk"] {
        of(&found, subject);
    }
    let table = place.run(&mut place.loract(&["doctor"])).stdout;
    assert!(table.contains("what to do") && table.contains("libtorch"), "{table}");
    let without = findings(&place.run(&mut place.loract(&[
        "doctor",
        "--json",
        "--mpirun",
        "no-such-mpirun",
    ])));
    says(of(&without, "MPI"), "warning", "apt-get install openmpi-bin");
}

#[test]
fn hosts_are_asked_and_what_they_lack_is_told() {
    let place = Place::new();
    // Reaches every host but one: by running the script here, where one clock runs wrong and one
    // program is another.
    let agent = place.at("agent");
    let script = "#!/bin/sh\ncase $1 in\n\
        gone) echo 'ssh: connect to host gone port 22: No route to host' >&2; exit 255 ;;\n\
        late) sh -c \"$2\" | sed 's/^time=.*/time=1000.5/' ;;\n\
        other) sh -c \"$2\" | sed 's/^program=./program=x/; s/^disk=.*/disk=/' ;;\n\
        *) sh -c \"$2\" ;;\nesac\n";
    fs::write(&agent, script).unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |hosts: &str| {
        place.run(place.loract(&["doctor", "--json", "--hosts", hosts, "--ssh"]).arg(&agent))
    };
    let found = findings(&ask("same,gone,late,other"));
    says(of(&found, "same"), "good", "reached; it calls itself ");
    says(of(&found, "same: program"), "good", "the same as here");
    says(of(&found, "same: disk"), of(&found, "disk")["state"].as_str().unwrap(), "free");
    says(of(&found, "gone"), "problem", "No route to host");
    says(of(&found, "gone"), "problem", "ssh-copy-id gone");
    says(of(&found, "late"), "warning", "s behind");
    says(of(&found, "other: program"), "problem", "another than here: its checksum differs");
    says(of(&found, "other: disk"), "problem", "the working directory is not there");
    let refused = ask("node1,,node2");
    assert_eq!((refused.status.code(), refused.stdout.as_str()), (Some(2), ""));
    assert!(
        refused.stderr.contains("\"\" is no host; give names such as node1,node2"),
        "{}",
        refused.stderr
    );
}

#[test]
fn ranks_measure_each_other() {
    let place = Place::new();
    // `mpirun … loract train run.toml`, with another command in the place of train.
    let train = place.mpirun();
    let program =
        train.get_args().position(|argument| argument == env!("CARGO_BIN_EXE_loract")).unwrap();
    let mut doctor = std::process::Command::new(train.get_program());
    doctor
        .args(train.get_args().take(program + 1))
        .args(["doctor", "--json", "--ssh"])
        .arg(place.at("unused"));
    let found = findings(&place.run(doctor.current_dir(place.at("."))));
    says(of(&found, "ranks"), "good", "2 on 1 hosts");
    assert!(
        of(&found, "bandwidth")["found"]
            .as_str()
            .unwrap()
            .contains("B/s by each rank; a sum of one number takes")
    );
}
