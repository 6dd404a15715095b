//! `loract`: fine-tunes transformer models on many processes, with compressed activations and compressed gradients.
//!
//! A command is one file in [`commands`]. `launch` starts ranks, follows them and reports ([`mpirun`], [`follow`], [`progress`],
//! [`report`], [`fault`]); [`render`] makes job files for schedulers; [`doctor`] looks at machines; what is for reading later becomes a [`page`];
//! everything else is the work of the crate `trainer`, which [`work`] calls.

mod cli;
mod commands;
mod doctor;
mod env;
mod failure;
mod fault;
mod follow;
mod hosts;
mod logs;
mod metrics;
mod mpirun;
mod page;
mod progress;
mod render;
mod report;
mod request;
mod restarts;
mod run_dir;
mod units;
mod work;

use clap::{Parser, error::ErrorKind};
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before the first tensor, so that every byte is counted.
    autograd::memory::count_cpu();
    let outcome = match cli::Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        // Of no command at all, clap makes a page on stderr, with code 2.
        Err(help) if help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand || !help.use_stderr() => help.exit(),
        Err(wrong_use) => Err(Failure::from(wrong_use)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
