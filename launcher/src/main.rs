//! `loract`: fine-tunes transformer models on many processes, with compressed activations and
//! compressed gradients.
//!
//! A command is one file in [`commands`]. `launch` starts ranks, watches them and reports
//! ([`mpirun`], [`run_monitor`], [`shutdown`], [`progress`], [`report`], [`fault`], [`kubeflow`]); [`render`]
//! makes job files for schedulers; [`doctor`] examines machines; [`page`] writes HTML;
//! [`mod@reference`] and [`mod@env`] make the reference pages of the manual. Everything else is
//! done by the crate `trainer`.

mod cli;
mod commands;
mod config_args;
mod doctor;
mod env;
mod failure;
mod fault;
mod hosts;
mod interruption;
mod kubeflow;
mod logs;
mod metrics;
mod mpirun;
mod page;
mod progress;
mod reference;
mod render;
mod report;
mod request;
mod restarts;
mod run_dir;
mod run_lock;
mod run_monitor;
mod shutdown;

use clap::{Parser, error::ErrorKind};
use failure::Failure;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() -> ExitCode {
    // Before the first tensor, so that every byte is counted.
    autograd::memory::count_cpu();
    let outcome = match cli::Cli::try_parse() {
        Ok(cli) => {
            end_with_the_reader(&cli.command);
            cli.run()
        }
        // Of no command at all, clap makes a page on stderr, with code 2.
        Err(help)
            if help.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                || !help.use_stderr() =>
        {
            help.exit()
        }
        Err(wrong_use) => Err(Failure::from(wrong_use)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Ends quietly when nobody reads on (`loract plan … | head`), as other programs do; Rust's own way
/// is a panic. Ranks and who starts them have other pipes, whose end means something else.
fn end_with_the_reader(command: &cli::Command) {
    /// What shells make of the signal.
    const CODE: i32 = 128 + signal_hook::consts::SIGPIPE;
    if !matches!(
        command,
        cli::Command::Train(_) | cli::Command::Launch(_) | cli::Command::Doctor(_)
    ) {
        // Where it cannot be had, the panic is.
        let _ = signal_hook::flag::register_conditional_shutdown(
            signal_hook::consts::SIGPIPE,
            CODE,
            Arc::new(AtomicBool::new(true)),
        );
    }
}
