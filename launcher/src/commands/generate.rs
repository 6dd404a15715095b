//! `loract generate`: continue a prompt with a model.

use crate::{failure::Failure, run_dir::RunDir};
use clap::Args;
use config::{Device, Run};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Continue a prompt with a model, or with what a run has trained
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loract generate configs/demo.toml --prompt 'How was your day?'
  loract generate model.gguf --adapter runs/demo/adapter --prompt 'How was your day?'

A configuration means its model as it was trained, with the adapter in its run directory, where there is one.

Exit codes: 0 done; 2 wrong use or configuration; 1 any other failure.")]
pub struct Generate {
    /// A configuration (.toml), a Hugging Face model directory, or a .gguf file
    #[arg(value_name = "CONFIG_OR_MODEL")]
    pub model: PathBuf,
    /// The text to continue; the user's words where the model has a chat template
    #[arg(long)]
    pub prompt: String,
    /// A PEFT adapter to put on the model
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The model as it is, without what the run has trained
    #[arg(long, conflicts_with = "adapter")]
    pub base: bool,
    /// The most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_tokens: usize,
    /// How freely tokens are drawn; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f64,
    /// Draw among the likeliest tokens only, which have this probability together
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    pub top_p: f64,
    /// The seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Where to compute: auto, cpu or cuda
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Replace a key of the configuration. May be repeated
    #[arg(long = "set", value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
}

impl Generate {
    pub fn run(self) -> Result<(), Failure> {
        let (model, adapter) = self.model()?;
        let Self { max_tokens, temperature, top_p, seed, .. } = self;
        let prompt = inference::Prompt { text: &self.prompt, max_tokens, temperature, top_p, seed };
        let mut stdout = std::io::stdout();
        inference::generate(
            &model,
            adapter.as_deref(),
            &prompt,
            setup::single_device(self.device)?,
            &mut |text| {
                // Whoever closes the pipe has read enough.
                let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            },
        )?;
        println!();
        Ok(())
    }

    /// The model and the adapter that are meant.
    fn model(&self) -> Result<(PathBuf, Option<PathBuf>), Failure> {
        if self.model.extension().is_none_or(|extension| extension != "toml") {
            if !self.set.is_empty() {
                return Err(Failure::Input(format!(
                    "--set replaces keys of a configuration, and {} is not a configuration",
                    self.model.display()
                )));
            }
            return Ok((exists(&self.model)?, self.adapter.clone()));
        }
        let run = Run::load(&self.model, &self.set)?;
        let dir = RunDir::new(&run);
        let trained =
            |path: PathBuf| (!self.base && self.adapter.is_none() && path.exists()).then_some(path);
        if run.lora.is_none() {
            return Ok((trained(dir.model()).unwrap_or(run.model.path), self.adapter.clone()));
        }
        Ok((run.model.path, self.adapter.clone().or_else(|| trained(dir.adapter()))))
    }
}

fn exists(model: &Path) -> Result<PathBuf, Failure> {
    if model.exists() {
        return Ok(model.to_owned());
    }
    Err(Failure::Input(format!(
        "there is no {}; give a configuration (.toml), a model directory, or a .gguf file",
        model.display()
    )))
}
