use serde::Serialize;

use config::Run;
use layers::footprint::StepPhase;
use models::{Checkpoint, ModelConfig};
use setup::check_activations;

use crate::Result;
use crate::bounds::can_be_counted;
use crate::modes::{self, ModePlan};
use crate::sizes::RunSizes;

/// The memory that a run needs on each rank, in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Ranks.
    pub ranks: usize,
    /// Sequences that a rank computes at once.
    pub rows_at_once: usize,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Parameters of the model, the adapter included.
    pub parameters: u64,
    /// Parameters that are trained.
    pub trained_parameters: u64,
    /// The parameters.
    pub weight_bytes: u64,
    /// Their gradients.
    pub gradient_bytes: u64,
    /// The optimizer states, and the workspace of a step.
    pub optimizer_bytes: u64,
    /// The buffers in which gradients are sent, and the state of their compression.
    pub communication_bytes: u64,
    /// Workspace of libtorch for matrix products on a GPU.
    pub library_bytes: u64,
    /// The state of sites, from step to step.
    pub basis_bytes: u64,
    /// What is saved for backward at the end of forward.
    pub kept_bytes: u64,
    /// The same, by site.
    pub sites: Vec<SiteBytes>,
    /// Temporary tensors at the peak.
    pub temporary_bytes: u64,
    /// The peak.
    pub peak_bytes: u64,
    /// The phase of the peak.
    pub peak_at: String,
    /// The longest sequence that the model knows.
    pub max_positions: i64,
    /// Ways to save activations, the configured one first.
    pub modes: Vec<ModePlan>,
    /// Parts of this model whose sizes are only approximate.
    pub estimated: Vec<&'static str>,
}

/// What is saved for backward at one kind of site, in all layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteBytes {
    /// The site.
    pub site: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// Estimates the memory of `run`, whose ranks have `threads` CPU threads each; with `memory` in
/// bytes also what fits into it. Reads only the model's description, and an adapter that the run
/// starts from.
///
/// # Errors
/// What is wrong with the configuration, in itself or for this model.
pub fn plan(run: &Run, threads: usize, memory: Option<u64>) -> Result<Plan> {
    let (model, checkpoint) = describe(run)?;
    let world_size = run.cluster.ranks;
    let (rows, tokens) = (run.rows_at_once(world_size)?, run.data.sequence_length);
    if !can_be_counted(&model, rows as u64, tokens as u64) {
        let what = format!(
            "is {tokens}, and with {rows} sequences at once this model needs more memory than can be counted; give fewer, or check the sizes in {}",
            run.model.path.display()
        );
        return Err(run.error_at("data", "sequence_length", &what).into());
    }
    check_activations(run, &model, (rows * tokens) as i64)?;
    let sizes = RunSizes::new(run, &model, checkpoint.as_ref(), threads)?;
    let (held, trained) = sizes.held(world_size)?;
    let shape = sizes.shape(&held, &trained)?;

    let modes = modes::plan(run, &model, &shape, (rows as u64, tokens as u64), memory);
    let (configured, step) = &modes[0];
    let sites = step
        .sites
        .iter()
        .filter(|(_, bytes)| **bytes > 0)
        .map(|(site, bytes)| SiteBytes { site: site.name(), bytes: *bytes });
    let constant = held.bytes() + configured.basis_bytes;
    Ok(Plan {
        ranks: world_size,
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
        peak_at: phase_name(step.phase),
        max_positions: model.max_positions,
        estimated: estimated(run, &model),
        modes: modes.into_iter().map(|(mode, _)| mode).collect(),
    })
}

/// The description of a run's model: the `config.json` of a directory, whose weights need not be
/// there, or the header of a file.
fn describe(run: &Run) -> Result<(ModelConfig, Option<Checkpoint>)> {
    let path = &run.model.path;
    if !path.exists() {
        let what = format!(
            "there is no {}; give a directory with a config.json, or a .gguf file",
            path.display()
        );
        return Err(run.error_at("model", "path", &what).into());
    }
    if path.is_dir() {
        return Ok((ModelConfig::read(&path.join("config.json"))?, None));
    }
    let checkpoint = Checkpoint::open(path)?;
    Ok((checkpoint.config()?.clone(), Some(checkpoint)))
}

fn phase_name(phase: StepPhase) -> String {
    match phase {
        StepPhase::Forward(layer) => format!("forward of layer {layer}"),
        StepPhase::Loss => "loss".into(),
        StepPhase::Backward(layer) => format!("backward of layer {layer}"),
        StepPhase::Optimizer => "step of the optimizer".into(),
    }
}

fn estimated(run: &Run, model: &ModelConfig) -> Vec<&'static str> {
    let mut parts = Vec::new();
    let mut add = |is_so: bool, what| parts.extend(is_so.then_some(what));
    add(model.experts.is_some(), "a mixture of experts, whose tokens are taken as evenly spread");
    add(model.attention.latent.is_some(), "latent attention");
    add(model.attention.soft_cap.is_some() || model.attention.dropout > 0.0, "eager attention");
    add(
        run.activations.budget.is_some(),
        "a budget of activations, which is allocated when the run starts",
    );
    parts
}
