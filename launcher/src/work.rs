//! The work that this program hands to the library crates, in one place.

use std::{path::Path, sync::Arc};

use analysis::{InspectOptions, Inspection, TensorComparison};
use collective::ProcessGroup;
use config::{Device, Run};
use data::ShownToken;
use estimate::Plan;
use inference::{MergeRequest, Prompt};
use models::Merged;
use setup::RunData;
use trainer::{Evaluation, StopRequest, TrainOutcome, Weights};

use crate::failure::Failure;

/// Finds everything that is wrong with a run's input, writing nothing.
pub fn check(run: &Run, ranks: usize) -> Result<(), Failure> {
    Ok(setup::check(run, ranks)?)
}

/// Reads, tokenises and splits a run's data, writing none of it yet but parts of very much; `progress` is told how much is done, of how much.
pub fn prepare(run: &Run, ranks: usize, progress: &dyn Fn(u64, u64)) -> Result<RunData, Failure> {
    Ok(RunData::prepare(run, ranks, progress, &|notice| eprintln!("{notice}"))?)
}

/// Writes it into the run's directory.
pub fn write(run: &Run, data: &RunData) -> Result<(), Failure> {
    Ok(data.write(run)?)
}

/// Compares what an earlier run has written with its checksums.
pub fn verify_data(run: &Run, data: &RunData) -> Result<(), Failure> {
    Ok(data.verify(run)?)
}

/// Training samples of a run as people read them.
pub fn show(run: &Run, data: &RunData, from: usize, count: usize) -> Result<Vec<Vec<ShownToken>>, Failure> {
    Ok(data.show(run, from, count)?)
}

/// Trains as one rank of `group`, until `stop` asks to save and stop.
pub fn train(run: &Run, group: Arc<dyn ProcessGroup>, stop: &StopRequest) -> Result<TrainOutcome, trainer::Error> {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    trainer::train(run, group, stop).map_err(|error| error.with_memory_advice(|held| estimate::memory_advice(run, threads, held)))
}

/// Evaluates `weights` on a run's held-out data; `progress` is told how many samples are done, of how many.
pub fn evaluate(run: &Run, data: &RunData, weights: &Weights, progress: &mut dyn FnMut(u64, u64)) -> Result<Evaluation, Failure> {
    Ok(trainer::evaluate(run, data, weights, progress)?)
}

/// Writes a model with an adapter in its weights; `progress` is told how many bytes are written, of how many.
pub fn merge(request: &MergeRequest, progress: &mut dyn FnMut(u64, u64)) -> Result<Merged, Failure> {
    Ok(inference::merge(request, progress)?)
}

/// What a run will hold, from its model's description alone.
pub fn plan(run: &Run, threads: usize, memory: Option<u64>) -> Result<Plan, Failure> {
    Ok(estimate::plan(run, threads, memory)?)
}

/// Compares a model's outputs and gradients with those recorded in `expected`.
pub fn verify(model: &Path, expected: &Path, tolerance: f64, device: Device) -> Result<Vec<TensorComparison>, Failure> {
    Ok(analysis::verify(model, expected, tolerance, setup::single_device(device)?)?)
}

/// Shows what compression does to a run's model on its data; `progress` is told how much is done, of how much, and of what.
pub fn inspect(
    run: &Run,
    data: &RunData,
    options: &InspectOptions,
    progress: &mut dyn FnMut(u64, u64, &str),
) -> Result<Inspection, Failure> {
    Ok(analysis::inspect(run, data, options, progress)?)
}

/// Continues a prompt, handing out the text as it grows.
pub fn generate(
    model: &Path,
    adapter: Option<&Path>,
    prompt: &Prompt<'_>,
    device: Device,
    out: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    Ok(inference::generate(model, adapter, prompt, setup::single_device(device)?, out)?)
}
