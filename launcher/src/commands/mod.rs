//! The commands, one file each.

pub mod bench;
pub mod config;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod init;
pub mod inspect;
pub mod launch;
pub mod merge;
pub mod plan;
pub mod reference;
pub mod render;
pub mod report;
pub mod shard;
pub mod train;
pub mod verify;

use crate::{
    cli::{Cli, Command},
    failure::Failure,
};

/// Does what the command line asks.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Init(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Launch(command) => command.run(),
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
        Command::Reference(command) => command.run(),
    }
}
