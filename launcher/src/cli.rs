//! The command line.

use crate::commands::{
    bench::Bench, config::ShowConfig, doctor::Doctor, eval::Eval, generate::Generate, init::Init,
    inspect::Inspect, launch::Launch, merge::Merge, monitor::Monitor, plan::Plan,
    reference::Reference, render::Render, report::Report, shard::Shard, train::Train,
    verify::Verify,
};
use crate::failure::Failure;
use clap::{CommandFactory, Parser, Subcommand};

/// Fine-tunes transformer models on many processes, with compressed activations and compressed
/// gradients.
#[derive(Debug, Parser)]
#[command(name = "loract", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  loract launch -n 2 configs/demo.toml            start two ranks, show their progress, report
  loract train configs/demo.toml                  the same run on one rank
  loract launch configs/demo.toml --set run.steps=100 --set activations.bits=4

Exit codes: 0 done; 75 stopped by a signal after a checkpoint, run again to resume; 2 wrong use or
configuration; 1 any other failure.";

/// The commands; each is described where it is defined.
#[derive(Debug, Subcommand)]
pub enum Command {
    Init(Init),
    Config(ShowConfig),
    Launch(Launch),
    Monitor(Monitor),
    Train(Train),
    Shard(Shard),
    Plan(Plan),
    Eval(Eval),
    Merge(Merge),
    Verify(Verify),
    Generate(Generate),
    Inspect(Inspect),
    Render(Render),
    Report(Report),
    Doctor(Doctor),
    Bench(Bench),
    Reference(Reference),
}

impl Cli {
    /// Does what the command line asks.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Init(command) => command.run(),
            Command::Config(command) => command.run(),
            Command::Launch(command) => command.run(),
            Command::Monitor(command) => command.run(),
            Command::Train(command) => command.run(),
            Command::Shard(command) => command.run(),
            Command::Verify(command) => command.run(),
            Command::Generate(command) => command.run(),
            Command::Eval(command) => command.run(),
            Command::Merge(command) => command.run(),
            Command::Plan(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Render(command) => command.run(),
            Command::Report(command) => command.run(),
            Command::Reference(command) => command.run(&Self::command()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_ends_its_help_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(
                help.contains("Example") && help.contains(&format!("loract {name}")),
                "{name}: {help:?}"
            );
        }
    }

    #[test]
    fn set_may_be_repeated() {
        let cli = Cli::try_parse_from([
            "loract", "train", "c.toml", "--set", "a.b=1", "--set", "c.d=x=y",
        ])
        .unwrap();
        let Command::Train(train) = cli.command else { panic!("another command") };
        assert_eq!(train.config.set, ["a.b=1", "c.d=x=y"]);
    }

    #[test]
    fn no_ranks_are_wrong_use() {
        assert_eq!(
            Cli::try_parse_from(["loract", "launch", "-n", "0", "c.toml"]).unwrap_err().exit_code(),
            2
        );
    }
}
