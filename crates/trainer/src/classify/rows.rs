//! The rows of a run: what is trained on, what is held out, and the classes of both.

use super::images::Images;
use super::texts::Texts;
use crate::{Error, Result, base, run_data};
use config::{ClassWeights, Run, Task};
use data::hold_out;
use models::{Checkpoint, Classifier, EncoderInputs, Labels};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Tensor};

/// Samples that have classes, as one file or folder gives them.
pub(super) trait Samples {
    /// How many.
    fn len(&self) -> usize;

    /// The number of a sample's class.
    fn class(&self, index: usize) -> u32;

    /// Its length in tokens, as the model sees it.
    fn tokens(&self, index: usize) -> usize;

    /// Samples as the model reads them; `drawn`: changed by chance as in training, by this seed.
    fn inputs(&self, indices: &[usize], drawn: Option<u64>, device: Device) -> Result<EncoderInputs>;
}

/// Some of the samples of a file or folder.
pub(super) struct Part {
    samples: Arc<dyn Samples>,
    chosen: Vec<usize>,
}

impl Part {
    /// The first `most` of the samples at `path`.
    fn of(samples: Arc<dyn Samples>, path: &Path, most: Option<usize>) -> Result<Self> {
        let chosen: Vec<usize> = (0..samples.len().min(most.unwrap_or(usize::MAX))).collect();
        if chosen.is_empty() {
            return Err(Error::Input(format!("{} holds no samples; give one with at least one", path.display())));
        }
        Ok(Self { samples, chosen })
    }

    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    pub fn class(&self, index: usize) -> u32 {
        self.samples.class(self.chosen[index])
    }

    pub fn tokens(&self, index: usize) -> usize {
        self.samples.tokens(self.chosen[index])
    }

    pub fn inputs(&self, indices: &[usize], drawn: Option<u64>, device: Device) -> Result<EncoderInputs> {
        let chosen: Vec<usize> = indices.iter().map(|index| self.chosen[*index]).collect();
        self.samples.inputs(&chosen, drawn, device)
    }

    /// The classes of some samples `[samples]`.
    pub fn classes(&self, indices: &[usize], device: Device) -> Result<Tensor> {
        let classes: Vec<i64> = indices.iter().map(|index| i64::from(self.class(*index))).collect();
        Ok(Tensor::f_from_slice(&classes)?.f_to_device(device)?)
    }
}

/// What was read, before it is known what is held out.
pub(super) struct Read {
    pub labels: Vec<String>,
    pub train: Arc<dyn Samples>,
    pub eval: Option<Arc<dyn Samples>>,
    /// A hash of what shaped the samples.
    pub fingerprint: String,
}

/// The rows of a run, and their classes. Every rank makes the same of the same files.
pub(crate) struct Rows {
    pub labels: Labels,
    pub(super) train: Part,
    pub(super) eval: Option<Part>,
    pub(super) fingerprint: String,
}

impl Rows {
    /// Reads them, writing nothing. `progress` is told (done, total) in rows.
    ///
    /// # Errors
    /// A row that cannot be used, no rows, more ranks than rows, a model that has no tokenizer or reads something else.
    pub fn read(run: &Run, ranks: usize, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let checkpoint = base::open(run)?;
        let known = known_labels(run, &checkpoint);
        let Read { labels, train, eval, fingerprint } = match run.model.task {
            Task::ImageClassification => Images::read(run, &checkpoint, known.as_deref())?,
            Task::CausalLm | Task::SequenceClassification => Texts::read(run, &checkpoint, known.as_deref(), progress)?,
        };
        if labels.len() < 2 {
            let what = format!("holds {} classes; give samples of two or more, or name them as labels", labels.len());
            return Err(run.error_at("data", "train", &what).into());
        }
        let mut train = Part::of(train, run.data.train.first(), run.data.max_samples)?;
        let mut eval = match (eval, &run.data.eval) {
            (Some(eval), Some(sources)) => Some(Part::of(eval, sources.first(), None)?),
            _ => None,
        };
        if eval.is_none() && run.data.eval_samples > 0 {
            if run.data.eval_samples >= train.len() {
                let what = format!("is {}, and there are {} rows; hold out fewer", run.data.eval_samples, train.len());
                return Err(run.error_at("data", "eval_samples", &what).into());
            }
            let (kept, held) = hold_out(train.chosen, run.data.eval_samples, run.seed);
            eval = Some(Part { samples: train.samples.clone(), chosen: held });
            train.chosen = kept;
        }
        run_data::order_of(run, train.len(), ranks)?;
        Ok(Self { labels: Labels::new(labels), train, eval, fingerprint })
    }

    /// The weight of each class in the loss, if they are not alike.
    pub(super) fn class_weights(&self, run: &Run) -> Result<Option<Tensor>> {
        if run.data.class_weights == ClassWeights::None {
            return Ok(None);
        }
        let mut counts = vec![0_u32; self.labels.len()];
        (0..self.train.len()).for_each(|index| counts[self.train.class(index) as usize] += 1);
        let share = self.train.len() as f32 / counts.len() as f32;
        // A class without rows has no weight either: no loss asks for it.
        let weights: Vec<f32> = counts.iter().map(|count| if *count > 0 { share / *count as f32 } else { 0.0 }).collect();
        Ok(Some(Tensor::f_from_slice(&weights)?))
    }
}

/// The classes that the run names, or those of a model that has a classifier for them.
fn known_labels(run: &Run, checkpoint: &Checkpoint) -> Option<Vec<String>> {
    let of_model = || {
        let labels = &checkpoint.encoder_config().ok()?.labels;
        Classifier::is_whole(checkpoint).then(|| labels.names().to_vec())
    };
    run.data.labels.clone().or_else(of_model)
}
