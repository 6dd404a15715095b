//! The work that this program hands to the crate `trainer`: the only calls of it, in one place.

use crate::failure::Failure;
use collective::ProcessGroup;
use std::{path::Path, sync::Arc};
use trainer::{Compared, config::Run};

/// Finds everything that is wrong with a run's input, writing nothing.
pub fn check(run: &Run, ranks: usize) -> Result<(), Failure> {
    Ok(trainer::check(run, ranks)?)
}

/// Reads, tokenises and splits a run's data into its directory; `progress` is told how much is done, of how much.
pub fn prepare(run: &Run, progress: &dyn Fn(u64, u64)) -> Result<(), Failure> {
    trainer::prepare(run, progress)?;
    Ok(())
}

/// Trains as one rank of `group`.
pub fn train(run: &Run, group: Arc<dyn ProcessGroup>) -> Result<(), trainer::Error> {
    trainer::train(run, group).map(|_| ())
}

/// Compares a model's outputs and gradients with those recorded in `expected`.
pub fn verify(model: &Path, expected: &Path, tolerance: f64) -> Result<Vec<Compared>, Failure> {
    Ok(trainer::verify(model, expected, tolerance)?)
}

/// What to generate.
pub struct Prompt<'a> {
    /// The text to continue; one turn of the user's where the model has a chat template.
    pub text: &'a str,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// The seed of the draws.
    pub seed: u64,
}

/// Continues a prompt, handing out the text as it grows.
pub fn generate(model: &Path, adapter: Option<&Path>, prompt: &Prompt<'_>, out: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    Ok(trainer::generate(model, adapter, prompt.text, prompt.max_tokens, prompt.temperature, prompt.seed, out)?)
}
