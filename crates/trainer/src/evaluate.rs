//! The validation loss of what a run has trained.

use std::path::PathBuf;

use checkpoint::{CheckpointChoice, SavedCheckpoint, find_checkpoint};
use collective::Single;
use config::{Run, Task};
use models::{Checkpoint, Classifier, Decoder, Model, read_adapter};
use setup::{
    LabelledData, RunData, TextProcessor, add_lora, model_quantization, open_base_model,
    rank_device, tensor_kind,
};

use crate::causal_lm::validation_loss;
use crate::classification::ClassificationTask;
use crate::classification_metrics::ClassReport;
use crate::state::load_parameters;
use crate::task::{Task as _, Validation};
use crate::{Error, Result};

/// Which weights of a run are evaluated.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// The model as it is, without what the run has trained.
    Base,
    /// The model with a PEFT adapter.
    Adapter(PathBuf),
    /// A model directory instead of the model, as a run without `[lora]` writes it.
    Model(PathBuf),
    /// The model with what a checkpoint of the run holds.
    Checkpoint(CheckpointChoice),
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Where the trained weights came from; `None` for the model as it is.
    pub path: Option<PathBuf>,
    /// Steps done, if it was a checkpoint.
    pub step: Option<u64>,
    /// Samples of the validation data.
    pub samples: usize,
    /// Predicted tokens; for classifiers the samples.
    pub targets: usize,
    /// The mean loss over all targets.
    pub loss: f64,
    /// Accuracy and confusion of a classifier.
    pub classes: Option<ClassReport>,
}

impl Evaluation {
    /// `exp(loss)`: the number of equally likely tokens that would give this loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Evaluates `weights` on the validation data of a run, as training does: the same samples, the
/// same batches, and the arithmetic of one rank, so that the loss is the one that a single rank
/// reported. `progress` receives (done, total) in samples.
///
/// # Errors
/// What [`setup::check`] finds; no validation data; an adapter or a checkpoint that is missing,
/// damaged, or of another run.
pub fn evaluate(
    run: &Run,
    data: &RunData,
    weights: &Weights,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Evaluation> {
    let weights = TrainedWeights::find(run, weights)?;
    let checkpoint = weights.open_model()?;
    let (kind, device) = (tensor_kind(run.model.dtype), rank_device(run, 0)?);
    let (group, rows) = (Single::new(), run.rows_at_once(1));
    let validation = match run.model.task {
        Task::CausalLm => {
            let data = data.prepared().ok_or_else(|| no_validation_data(run))?;
            let pad = TextProcessor::open(&run.model, &checkpoint)?.pad_token_id();
            let mut decoder =
                Decoder::load_quantized(&checkpoint, weights.quantization(), kind, device)?;
            weights.load_into(&mut decoder)?;
            let Some(eval) = &data.eval else { return Err(no_validation_data(run)) };
            Some(validation_loss(
                &decoder,
                eval,
                rows?,
                pad,
                run.loss_chunk as i64,
                &group,
                progress,
            )?)
        }
        Task::SequenceClassification | Task::ImageClassification => {
            let data = LabelledData::read(run, 1, &|_, _| ())?;
            let mut classifier =
                Classifier::load(&checkpoint, Some(data.labels.clone()), run.seed, kind, device)?;
            weights.load_into(&mut classifier)?;
            ClassificationTask::new(classifier, data, run.data.class_weights, run.seed, rows?)?
                .evaluate(&group, progress)?
        }
    };
    weights.report(validation.ok_or_else(|| no_validation_data(run))?)
}

/// The weights to evaluate, found but not yet loaded.
struct TrainedWeights<'a> {
    run: &'a Run,
    weights: &'a Weights,
    checkpoint: Option<SavedCheckpoint>,
}

impl<'a> TrainedWeights<'a> {
    fn find(run: &'a Run, weights: &'a Weights) -> Result<Self> {
        let checkpoint = match weights {
            Weights::Checkpoint(choice) => Some(find_checkpoint(run, choice)?),
            Weights::Base | Weights::Adapter(_) | Weights::Model(_) => None,
        };
        Ok(Self { run, weights, checkpoint })
    }

    /// The model to load.
    fn open_model(&self) -> Result<Checkpoint> {
        match self.weights {
            Weights::Model(folder) => Ok(Checkpoint::open(folder)?),
            _ => Ok(open_base_model(&self.run.model)?),
        }
    }

    /// How its weights are quantized; those of another model are not.
    fn quantization(&self) -> models::Quantization {
        match self.weights {
            Weights::Model(_) => models::Quantization::default(),
            _ => model_quantization(self.run.model.quantization),
        }
    }

    fn load_into(&self, model: &mut impl Model) -> Result<()> {
        if let Weights::Adapter(folder) = self.weights {
            let adapter = read_adapter(folder)?;
            model.add_lora(&adapter.config, Some(&adapter.weights), self.run.seed, folder)?;
        }
        if let Some(checkpoint) = &self.checkpoint {
            add_lora(self.run.lora.as_ref(), &self.run.model, self.run.seed, model)?;
            load_parameters(model, &checkpoint.shards()?)?;
        }
        Ok(())
    }

    fn report(self, validation: Validation) -> Result<Evaluation> {
        let Validation { samples, targets, loss, classes } = validation;
        if !loss.is_finite() {
            return Err(Error::NoLoss { loss });
        }
        let (path, step) = match (self.weights, self.checkpoint) {
            (Weights::Adapter(folder) | Weights::Model(folder), _) => (Some(folder.clone()), None),
            (_, Some(checkpoint)) => {
                (Some(checkpoint.folder().to_owned()), Some(checkpoint.step()))
            }
            (_, None) => (None, None),
        };
        Ok(Evaluation { path, step, samples, targets, loss, classes })
    }
}

fn no_validation_data(run: &Run) -> Error {
    let what = "leaves no validation data; give [data] eval, a file of its own, or hold samples out: --set data.eval_samples=32";
    run.error_at("data", "eval_samples", what).into()
}
