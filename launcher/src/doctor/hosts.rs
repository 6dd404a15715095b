//! Other hosts, by ssh: can they be reached, and do they have the same clock and the same program?

use super::Finding;
use super::machine::{Machine, script};
use crate::failure::one_line;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// How ssh is called: it must not ask for anything, nor wait long.
pub const SSH: &str = "ssh -o BatchMode=yes -o ConnectTimeout=5";

/// Clocks that differ by less are the same, in seconds.
const SKEW: f64 = 1.0;

/// Looks at `hosts`, all at once; `ssh` is the command that reaches one, `own` is this machine.
pub fn look(
    hosts: &[String],
    ssh: &str,
    own: &Machine,
    program: &Path,
    folder: &Path,
) -> Vec<Finding> {
    let asked = std::thread::scope(|scope| {
        let asked: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| ask(host, ssh, &script(program, folder))))
            .collect();
        asked
            .into_iter()
            .map(|answer| answer.join().unwrap_or_else(|_| Err("asking it panicked".into())))
            .collect::<Vec<_>>()
    });
    hosts
        .iter()
        .zip(asked)
        .flat_map(|(host, answer)| findings(host, answer, own, program))
        .collect()
}

/// What a host answered, and by how many seconds its clock is ahead.
fn ask(host: &str, ssh: &str, script: &str) -> Result<(Machine, f64), String> {
    let words = shlex::split(ssh)
        .filter(|words| !words.is_empty())
        .ok_or_else(|| format!("{ssh:?} is no command"))?;
    let before = now();
    let output = Command::new(&words[0])
        .args(&words[1..])
        .arg(host)
        .arg(script)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|cause| format!("cannot run {}: {cause}", words[0]))?;
    let after = now();
    let machine = Machine::read(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
        let said = one_line(&String::from_utf8_lossy(&output.stderr));
        if said.is_empty() { format!("it says nothing ({})", output.status) } else { said }
    })?;
    // It was asked somewhere in between: only what lies outside is certain.
    let ahead = machine.time - machine.time.clamp(before, after);
    Ok((machine, ahead))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn findings(
    host: &str,
    answer: Result<(Machine, f64), String>,
    own: &Machine,
    program: &Path,
) -> Vec<Finding> {
    let (machine, ahead) = match answer {
        Ok(answer) => answer,
        Err(what) => {
            let remedy = format!(
                "ssh {host} must work without a question: ssh-copy-id {host}, and accept its key once"
            );
            return vec![Finding::problem(host, what, remedy)];
        }
    };
    let mut findings = vec![match ahead.abs() < SKEW {
        true => Finding::good(
            host,
            format!("reached; it calls itself {}; its clock is ours", machine.name),
        ),
        false => {
            let way = if ahead > 0.0 { "ahead" } else { "behind" };
            let found = format!("reached; its clock is {:.1} s {way}", ahead.abs());
            Finding::warning(
                host,
                found,
                "let both follow a time server (chrony, systemd-timesyncd): logs are compared by time",
            )
        }
    }];
    let subject = format!("{host}: program");
    findings.push(match &machine.program {
        None => Finding::problem(
            subject,
            format!("there is no {}", program.display()),
            format!(
                "copy it: scp {0} {host}:{0}, or start from a directory that all hosts share",
                program.display()
            ),
        ),
        sum if *sum == own.program => Finding::good(subject, "the same as here"),
        Some(_) => Finding::problem(
            subject,
            "another than here: its checksum differs",
            format!("copy it: scp {0} {host}:{0}", program.display()),
        ),
    });
    findings.extend(machine.findings(&format!("{host}: ")));
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::State;
    use super::*;

    fn machine(program: &str) -> Machine {
        let answer = format!(
            "time=5.0\nname=n\ncores=2\nmemory=9000000\nshm=900000\ndisk=90000000\nprogram={program}\n"
        );
        Machine::read(&answer).unwrap()
    }

    #[test]
    fn another_clock_and_another_program_are_told() {
        let (own, program) = (machine("a"), Path::new("/bin/loract"));
        let told = |answer| findings("node1", answer, &own, program);
        assert!(told(Ok((machine("a"), 0.2))).iter().all(|finding| finding.state == State::Good));
        let differing = told(Ok((machine("b"), -3.0)));
        assert_eq!(
            (differing[0].state, differing[0].found.as_str()),
            (State::Warning, "reached; its clock is 3.0 s behind")
        );
        assert_eq!(
            (differing[1].state, differing[1].found.as_str()),
            (State::Problem, "another than here: its checksum differs")
        );
        let none = told(Ok((machine(""), 0.0)));
        assert_eq!(
            none[1].remedy.as_deref().unwrap().split(", or").next().unwrap(),
            "copy it: scp /bin/loract node1:/bin/loract"
        );
        let unreached = told(Err("Connection refused".into()));
        assert_eq!((unreached.len(), unreached[0].state), (1, State::Problem));
    }
}
