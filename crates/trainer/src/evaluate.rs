//! The loss of held-out data: in training, and of what a run has trained.

use crate::checkpoint::{self, CheckpointChoice};
use crate::config::Run;
use crate::run_data::RunData;
use crate::step::tensors;
use crate::train::add_lora;
use crate::{Error, Result, device, text};
use collective::{ProcessGroup, Reduce, Single};
use data::{Batch, Dataset, Padding};
use layers::{Scope, Targets};
use models::{Activations, Checkpoint, Decoder, Model, read_adapter};
use std::path::PathBuf;
use tch::Tensor;

/// Which weights of a run are evaluated.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// The model as it is, without what the run has trained.
    Base,
    /// The model with a PEFT adapter.
    Adapter(PathBuf),
    /// The model with what a checkpoint of the run holds.
    Checkpoint(CheckpointChoice),
}

/// What evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Where the trained weights came from; none of the model as it is.
    pub path: Option<PathBuf>,
    /// Steps done, where it was a checkpoint.
    pub step: Option<u64>,
    /// Held-out samples.
    pub samples: usize,
    /// Targets in them: the tokens whose loss was taken.
    pub tokens: usize,
    /// The mean loss over all targets.
    pub loss: f64,
}

impl Evaluation {
    /// `exp(loss)`: as if the model had to choose between so many tokens each time, all equally likely.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Evaluates `weights` on the held-out data of a run, as training does: the same samples, as many at once, and in the same arithmetic as one
/// rank, so that the loss is the one that one rank wrote down. `progress` is told how many samples are done, of how many.
///
/// # Errors
/// What [`crate::check`] finds; no held-out data; an adapter or a checkpoint that is not there, is broken, or is of another run.
pub fn evaluate(run: &Run, data: &RunData, weights: &Weights, progress: &mut dyn FnMut(u64, u64)) -> Result<Evaluation> {
    let Some(dataset) = &data.prepared().eval else {
        let what =
            "leaves nothing held out to evaluate; give [data] eval, a file of its own, or hold samples out: --set data.eval_samples=32";
        return Err(run.refuse("data", "eval_samples", what).into());
    };
    let found = match weights {
        Weights::Checkpoint(choice) => Some(checkpoint::find(run, choice)?),
        Weights::Base | Weights::Adapter(_) => None,
    };
    let group = Single::new();
    let device = device::choose(run, 1)?;
    let checkpoint = Checkpoint::open(&run.model.path)?;
    let pad = text::open(run, &checkpoint)?.tokenizer.map_or(0, |tokenizer| tokenizer.pad_token_id());
    let mut decoder = Decoder::load(&checkpoint, run.model.dtype.kind(), device)?;
    let (path, step) = match (weights, found) {
        (Weights::Adapter(folder), _) => {
            let adapter = read_adapter(folder)?;
            decoder.add_lora(&adapter.config, Some(&adapter.weights), run.seed, folder)?;
            (Some(folder.clone()), None)
        }
        (_, Some((folder, manifest))) => {
            add_lora(run, &mut decoder)?;
            checkpoint::load_parameters(&decoder, &folder, &manifest)?;
            (Some(folder), Some(manifest.step))
        }
        (_, None) => (None, None),
    };
    let rows = run.rows_at_once(1)?;
    let HeldOut { loss, tokens } = held_out_loss(&decoder, dataset, rows, pad, run.loss_chunk as i64, &group, progress)?;
    if !loss.is_finite() {
        return Err(Error::NoLoss { loss });
    }
    Ok(Evaluation { path, step, samples: dataset.len(), tokens, loss })
}

/// The loss of held-out data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldOut {
    /// The mean over all targets.
    pub loss: f64,
    /// The targets.
    pub tokens: usize,
}

/// The mean loss over all targets of `dataset`, which the ranks share; `rows` samples at a time. `progress` is told how many of its own
/// samples this rank has done, of how many.
pub(crate) fn held_out_loss(
    decoder: &Decoder,
    dataset: &Dataset,
    rows: usize,
    pad: u32,
    chunk: i64,
    group: &dyn ProcessGroup,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<HeldOut> {
    let _mode = autograd::GradMode::disabled();
    let own: Vec<usize> = (group.rank()..dataset.len()).step_by(group.world_size()).collect();
    let (mut sum, mut count) = (0.0, 0);
    for (index, indices) in own.chunks(rows.max(1)).enumerate() {
        progress((index * rows.max(1)) as u64, own.len() as u64);
        let samples = indices.iter().map(|index| dataset.sample(*index)).collect::<data::Result<Vec<_>>>()?;
        let batch = Batch::collate(&samples, pad, Padding::Longest)?;
        let (inputs, targets) = tensors(&batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let hidden = decoder.hidden(&inputs, &Activations::default(), &Scope::evaluation())?;
        sum += decoder.loss(&hidden, &targets, 1.0, chunk, &Scope::evaluation())?.f_double_value(&[])?;
        count += targets.count();
    }
    let mut totals = Tensor::f_from_slice(&[sum, count as f64])?;
    group.all_reduce(&mut totals, Reduce::Sum)?;
    let (sum, count) = (totals.f_double_value(&[0])?, totals.f_double_value(&[1])?);
    Ok(HeldOut { loss: sum / count.max(1.0), tokens: count as usize })
}
