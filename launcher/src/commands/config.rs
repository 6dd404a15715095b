//! `loract config`: a configuration in full, and what its keys mean.

use crate::failure::Failure;
use clap::Args;
use config::Run;
use std::path::{Path, PathBuf};

/// Print a configuration with every key, explain a key, or print the JSON schema
///
/// Of a CONFIG every key that is read is printed with its value. Editors complete and check a
/// configuration with the JSON schema: save it in the directory of the configuration, whose first
/// line then is `#:schema ./loract.schema.json`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract config configs/demo.toml --set gradients.method=bf16
  loract config --explain activations.method
  loract config --schema > loract.schema.json")]
pub struct ShowConfig {
    /// The run's configuration, in TOML
    #[arg(required_unless_present_any = ["explain", "schema"])]
    config: Option<PathBuf>,
    /// Replace a key of the configuration; the value is TOML, or else a string. May be repeated
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Explain a key: its meaning, valid values, default, and an example
    #[arg(long, value_name = "TABLE.KEY", conflicts_with_all = ["config", "schema"])]
    explain: Option<String>,
    /// Print the JSON schema of configurations
    #[arg(long, conflicts_with = "config")]
    schema: bool,
}

impl ShowConfig {
    pub fn run(self) -> Result<(), Failure> {
        if let Some(key) = &self.explain {
            print!("{}", config::explain(key).map_err(Failure::Input)?);
        } else if self.schema {
            println!("{:#}", config::schema());
        } else {
            let path = self.config.as_deref().unwrap_or(Path::new(""));
            print!("{}", Run::load(path, &self.set)?.to_toml());
        }
        Ok(())
    }
}
