//! `loract doctor`: is everything there?

use crate::doctor::{Finding, State, hosts, libraries, machine, ranks};
use crate::failure::Failure;
use anyhow::Context;
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;

/// Look at this machine, and at others: libraries, memory, disk, clocks, and how fast ranks talk
///
/// Each finding comes with what to do about it. Nothing is changed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract doctor
  loract doctor --hosts node1,node2
  mpirun -n 2 loract doctor                 also measures the bandwidth between the ranks

Exit codes: 0 nothing lets runs fail; 1 there is a problem; 2 wrong use.")]
pub struct Doctor {
    /// Hosts to look at through ssh, by name
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// The command that reaches a host; its name and a script are appended
    #[arg(long, value_name = "COMMAND", default_value = hosts::SSH)]
    pub ssh: String,
    /// The program that starts ranks
    #[arg(long, value_name = "PROGRAM", default_value = "mpirun")]
    pub mpirun: String,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

impl Doctor {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(wrong) = self.hosts.iter().find(|host| host.is_empty() || host.starts_with('-'))
        {
            return Err(Failure::Input(format!(
                "--hosts: {wrong:?} is no host; give names such as node1,node2"
            )));
        }
        collective::install_panic_hook();
        let group = collective::connect().map_err(|error| Failure::Other(error.into()))?;
        // Beside the first, ranks only take part in what is measured between them.
        let looked = if group.rank() == 0 { self.look() } else { Ok(Vec::new()) };
        let mut findings = match looked {
            // The others wait for this rank.
            Err(failure) if group.world_size() > 1 => group.abort(&failure.message()),
            looked => looked?,
        };
        if group.world_size() > 1 {
            let measured =
                ranks::look(&*group).unwrap_or_else(|error| group.abort(&error.to_string()));
            findings.extend(measured);
            group.barrier().map_err(|error| Failure::Other(error.into()))?;
        }
        if group.rank() > 0 {
            return Ok(());
        }
        let problems = findings.iter().filter(|finding| finding.state == State::Problem).count();
        if self.json {
            println!("{}", json!({"findings": findings, "problems": problems}));
        } else {
            println!("{}", table(&findings));
        }
        match problems {
            0 => Ok(()),
            1 => Err(Failure::other("there is 1 problem; the table says what to do")),
            count => Err(Failure::other(format!(
                "there are {count} problems; the table says what to do"
            ))),
        }
    }

    fn look(&self) -> Result<Vec<Finding>, Failure> {
        let program =
            std::env::current_exe().context("cannot find this program").map_err(Failure::Other)?;
        let folder = std::env::current_dir()
            .context("cannot find the working directory")
            .map_err(Failure::Other)?;
        let own = machine::here(&program, &folder).map_err(Failure::other)?;
        let mut findings = libraries::look(&self.mpirun);
        findings.extend(own.findings(""));
        findings.extend(machine::threads());
        findings.extend(hosts::look(&self.hosts, &self.ssh, &own, &program, &folder));
        Ok(findings)
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "", "found", "what to do"]);
    for finding in findings {
        let state = match finding.state {
            State::Good => "good",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        table.add_row([
            state,
            &finding.subject,
            &finding.found,
            finding.remedy.as_deref().unwrap_or_default(),
        ]);
    }
    table
}
