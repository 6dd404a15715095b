//! The arguments of the commands that read a configuration.

use clap::Args;
use std::path::PathBuf;

/// A configuration file, and what replaces its keys.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The run's configuration, in TOML
    pub config: PathBuf,
    /// Replace a key of the configuration; the value is TOML, or else a string. May be repeated
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
}
