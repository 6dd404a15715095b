//! `loract reference`: the generated pages of `docs/reference/`.

use crate::{env, failure::Failure, reference};
use clap::{Args, Command, ValueEnum};

/// Print a generated page of docs/reference
#[derive(Debug, Args)]
#[command(
    hide = true,
    after_help = "\
Example:
  loract reference config > docs/reference/config.md"
)]
pub struct Reference {
    /// Which page
    #[arg(value_enum)]
    page: Page,
}

/// A generated page.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Page {
    Config,
    Cli,
    Environment,
}

impl Reference {
    pub fn run(self, cli: &Command) -> Result<(), Failure> {
        let page = match self.page {
            Page::Config => config::reference(),
            Page::Cli => reference::command_line(cli),
            Page::Environment => env::reference(),
        };
        print!("{page}");
        Ok(())
    }
}
