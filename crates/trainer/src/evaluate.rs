//! The loss of held-out data: in training, and of what a run has trained.

use crate::checkpoint::{self, CheckpointChoice, Manifest};
use crate::classes::ClassReport;
use crate::classify::{Classes, Rows};
use crate::learner::{Language, Learner};
use crate::run_data::RunData;
use crate::step::tensors;
use crate::train::add_lora;
use crate::{Error, Result, base, device, policy_quantization, text};
use collective::{ProcessGroup, Reduce, Single};
use config::{Run, Task};
use data::{Batch, Dataset, Padding};
use layers::{Scope, Targets};
use models::{Activations, Checkpoint, Classifier, Decoder, Model, read_adapter};
use std::path::PathBuf;
use tch::Tensor;

/// Which weights of a run are evaluated.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// The model as it is, without what the run has trained.
    Base,
    /// The model with a PEFT adapter.
    Adapter(PathBuf),
    /// A model directory in the place of the model, such as a run without `[lora]` writes.
    Model(PathBuf),
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
    /// Targets in them: the tokens whose loss was taken, or samples that have classes.
    pub targets: usize,
    /// The mean loss over all targets.
    pub loss: f64,
    /// How they were classified, where they have classes.
    pub classes: Option<ClassReport>,
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
    let trained = Trained::find(run, weights)?;
    let (device, kind) = (device::choose(run, 0)?, device::tensor_kind(run.model.dtype));
    let checkpoint = trained.open_base()?;
    match run.model.task {
        Task::CausalLm => {
            let data = data.prepared().ok_or_else(|| nothing_held_out(run))?;
            let pad = text::open(run, &checkpoint)?.tokenizer.map_or(0, |tokenizer| tokenizer.pad_token_id());
            let mut decoder = Decoder::load_quantized(&checkpoint, trained.quantization(), kind, device)?;
            trained.put_into(&mut decoder)?;
            trained.judge(&Language { decoder: &decoder, data, pad, loss_chunk: run.loss_chunk as i64 }, progress)
        }
        Task::SequenceClassification | Task::ImageClassification => {
            let rows = Rows::read(run, 1, &|_, _| ())?;
            let mut classifier = Classifier::load(&checkpoint, Some(rows.labels.clone()), run.seed, kind, device)?;
            trained.put_into(&mut classifier)?;
            trained.judge(&Classes::new(run, &classifier, &rows)?, progress)
        }
    }
}

/// What a run has trained, found but not yet read.
struct Trained<'a> {
    run: &'a Run,
    weights: &'a Weights,
    checkpoint: Option<(PathBuf, Manifest)>,
}

impl<'a> Trained<'a> {
    fn find(run: &'a Run, weights: &'a Weights) -> Result<Self> {
        let checkpoint = match weights {
            Weights::Checkpoint(choice) => Some(checkpoint::find(run, choice)?),
            Weights::Base | Weights::Adapter(_) | Weights::Model(_) => None,
        };
        Ok(Self { run, weights, checkpoint })
    }

    /// The model to load.
    fn open_base(&self) -> Result<Checkpoint> {
        if let Weights::Model(folder) = self.weights { Ok(Checkpoint::open(folder)?) } else { base::open(self.run) }
    }

    /// How its weights are held: those of another model as they are.
    fn quantization(&self) -> models::Quantization {
        if let Weights::Model(_) = self.weights {
            models::Quantization::default()
        } else {
            policy_quantization::model_quantization(self.run.model.quantization)
        }
    }

    fn put_into(&self, model: &mut impl Model) -> Result<()> {
        if let Weights::Adapter(folder) = self.weights {
            let adapter = read_adapter(folder)?;
            model.add_lora(&adapter.config, Some(&adapter.weights), self.run.seed, folder)?;
        }
        if let Some((folder, manifest)) = &self.checkpoint {
            add_lora(self.run, model)?;
            checkpoint::load_parameters(model, folder, manifest)?;
        }
        Ok(())
    }

    fn judge(self, learner: &dyn Learner, progress: &mut dyn FnMut(u64, u64)) -> Result<Evaluation> {
        let held_out = learner.evaluate(self.run, &Single::new(), progress)?.ok_or_else(|| nothing_held_out(self.run))?;
        let HeldOut { samples, targets, loss, classes } = held_out;
        if !loss.is_finite() {
            return Err(Error::NoLoss { loss });
        }
        let (path, step) = match (self.weights, self.checkpoint) {
            (Weights::Adapter(folder) | Weights::Model(folder), _) => (Some(folder.clone()), None),
            (_, Some((folder, manifest))) => (Some(folder), Some(manifest.step)),
            (_, None) => (None, None),
        };
        Ok(Evaluation { path, step, samples, targets, loss, classes })
    }
}

fn nothing_held_out(run: &Run) -> Error {
    let what = "leaves nothing held out to evaluate; give [data] eval, a file of its own, or hold samples out: --set data.eval_samples=32";
    run.error_at("data", "eval_samples", what).into()
}

/// How held-out data fare.
#[derive(Clone, Debug)]
pub(crate) struct HeldOut {
    pub samples: usize,
    /// Tokens that are predicted, or samples that have classes.
    pub targets: usize,
    /// The mean over all targets.
    pub loss: f64,
    /// How samples were classified that have classes.
    pub classes: Option<ClassReport>,
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
    Ok(HeldOut { samples: dataset.len(), targets: count as usize, loss: sum / count.max(1.0), classes: None })
}
