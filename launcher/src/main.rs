//! `loract`: fine-tunes transformer models on many processes, with compressed activations and compressed gradients.
//!
//! A command is one file in [`commands`]. `launch` starts ranks, follows them and reports ([`mpirun`], [`follow`], [`progress`],
//! [`report`], [`fault`]); everything else is the work of the crate `trainer`, which [`work`] calls.

mod cli;
mod commands;
mod env;
mod failure;
mod fault;
mod follow;
mod logs;
mod metrics;
mod mpirun;
mod progress;
mod report;
mod run_dir;
mod units;
mod work;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Before the first tensor, so that every byte is counted.
    autograd::memory::count_cpu();
    // clap answers --help and --version with code 0, and wrong use with code 2.
    match commands::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
