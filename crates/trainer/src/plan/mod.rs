//! What a run will hold, before anything is loaded: from a model's description and the configuration alone.
//!
//! A step is run without tensors. Every operation of the forward and the backward takes and gives back the room that its original does, in
//! the same order ([`operations`], [`block`], [`step`]), on a [`meter`] that knows the most that was held at once. What is held all the time
//! follows from shapes ([`sizes`]): weights, gradients, what the optimiser and the reducer remember, bases of sites.
//!
//! A first step holds less, as there are no gradients of an earlier one; what is planned is every later one, with all sequences at full
//! length.

mod block;
mod meter;
mod modes;
mod operations;
mod sizes;
mod step;

pub use meter::Moment;
pub use modes::ModePlan;

use crate::{Result, policy};
use config::Run;
use models::{Checkpoint, ModelConfig};
use serde::Serialize;
use sizes::Sizes;

/// What a run will hold on each rank, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Ranks that share a step.
    pub ranks: usize,
    /// Sequences that a rank computes at once.
    pub rows_at_once: usize,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Numbers in the model, what is put beside it included.
    pub parameters: u64,
    /// Those that are trained.
    pub trained_parameters: u64,
    /// The parameters.
    pub weight_bytes: u64,
    /// Their gradients.
    pub gradient_bytes: u64,
    /// What the optimiser remembers, and its room for a step.
    pub optimizer_bytes: u64,
    /// The buffers in which gradients travel, and what compressing them remembers.
    pub communication_bytes: u64,
    /// Room of libtorch's matrix products on a GPU, beside their operands.
    pub library_bytes: u64,
    /// What sites remember from step to step.
    pub basis_bytes: u64,
    /// What is kept for backward at the end of forward.
    pub kept_bytes: u64,
    /// The same, by site.
    pub sites: Vec<SiteBytes>,
    /// What is held on top of all that when most is held.
    pub temporary_bytes: u64,
    /// The most that is held.
    pub peak_bytes: u64,
    /// When that is.
    pub peak_at: String,
    /// The longest sequence that the model knows.
    pub max_positions: i64,
    /// Other ways to keep activations, the configured one first.
    pub modes: Vec<ModePlan>,
    /// What in this model is computed in sizes only roughly.
    pub estimated: Vec<&'static str>,
}

/// What is kept at one kind of site, in all layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteBytes {
    /// The site.
    pub site: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// Plans `run`, whose ranks have `threads` processor threads each; with a `memory` in bytes, also what fits into it. Reads nothing but the
/// model's description, and an adapter that the run starts from.
///
/// # Errors
/// What is wrong with the configuration, in itself or for this model.
pub fn plan(run: &Run, threads: usize, memory: Option<u64>) -> Result<Plan> {
    let (model, checkpoint) = describe(run)?;
    let ranks = run.cluster.ranks;
    let (rows, tokens) = (run.rows_at_once(ranks)?, run.data.sequence_length);
    policy::check_activations(run, &model, (rows * tokens) as i64)?;
    let sizes = Sizes::of(run, &model, checkpoint.as_ref())?;
    let (held, trained) = sizes.held(ranks)?;
    let shape = sizes.shape(&held, &trained, threads)?;

    let modes = modes::plan(run, &model, &sizes, &shape, (rows as u64, tokens as u64), memory);
    let (configured, course) = &modes[0];
    let sites = course.sites.iter().filter(|(_, bytes)| **bytes > 0).map(|(site, bytes)| SiteBytes { site: site.name(), bytes: *bytes });
    let constant = held.bytes() + configured.basis_bytes;
    Ok(Plan {
        ranks,
        rows_at_once: rows,
        sequence_length: tokens,
        parameters: held.parameters,
        trained_parameters: held.trained_parameters,
        weight_bytes: held.weights,
        gradient_bytes: held.gradients,
        optimizer_bytes: held.optimizer,
        communication_bytes: held.communication,
        library_bytes: held.library,
        basis_bytes: configured.basis_bytes,
        kept_bytes: configured.kept_bytes,
        sites: sites.collect(),
        temporary_bytes: configured.peak_bytes.saturating_sub(constant + configured.kept_bytes),
        peak_bytes: configured.peak_bytes,
        peak_at: words(course.moment),
        max_positions: model.max_positions,
        estimated: estimated(run, &model),
        modes: modes.into_iter().map(|(mode, _)| mode).collect(),
    })
}

/// The description of a run's model: of a directory its `config.json`, the weights need not be there; of a file also its header.
fn describe(run: &Run) -> Result<(ModelConfig, Option<Checkpoint>)> {
    let path = &run.model.path;
    if !path.exists() {
        let what = format!("there is no {}; give a directory with a config.json, or a .gguf file", path.display());
        return Err(run.error_at("model", "path", &what).into());
    }
    if path.is_dir() {
        return Ok((ModelConfig::read(&path.join("config.json"))?, None));
    }
    let checkpoint = Checkpoint::open(path)?;
    Ok((checkpoint.config()?.clone(), Some(checkpoint)))
}

fn words(moment: Moment) -> String {
    match moment {
        Moment::Forward(layer) => format!("forward of layer {layer}"),
        Moment::Loss => "loss".into(),
        Moment::Backward(layer) => format!("backward of layer {layer}"),
        Moment::Optimizer => "step of the optimiser".into(),
    }
}

fn estimated(run: &Run, model: &ModelConfig) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let mut say = |is_so: bool, what| parts.extend(is_so.then_some(what));
    say(model.experts.is_some(), "a mixture of experts, whose tokens are taken as evenly spread");
    say(model.attention.latent.is_some(), "latent attention");
    say(model.attention.soft_cap.is_some() || model.attention.dropout > 0.0, "attention by written-out scores");
    say(run.activations.budget.is_some(), "a budget of activations, which is divided when the run starts");
    parts
}
