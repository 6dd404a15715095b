//! The labelled rows of a classifier: a training and a validation split, and their classes.

mod images;
mod samples;
mod texts;

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Tensor};

use config::{ClassWeights, Run, Task};
use data::hold_out;
use models::{Checkpoint, Classifier, EncoderInputs, Labels};

use crate::{Error, Result, open_base_model, sample_order};
use images::Images;
pub(crate) use images::{image_processor, image_tokens};
use samples::{LabelledSamples, LoadedSamples};
use texts::Texts;

/// The rows of a split: some of the samples of a file or folder.
pub struct LabelledSplit {
    samples: Arc<dyn LabelledSamples>,
    chosen: Vec<usize>,
}

impl LabelledSplit {
    /// The first `most` of the samples at `path`.
    fn new(samples: Arc<dyn LabelledSamples>, path: &Path, most: Option<usize>) -> Result<Self> {
        let chosen: Vec<usize> = (0..samples.len().min(most.unwrap_or(usize::MAX))).collect();
        if chosen.is_empty() {
            return Err(Error::Input(format!(
                "{} holds no samples; give one with at least one",
                path.display()
            )));
        }
        Ok(Self { samples, chosen })
    }

    /// The number of rows; never 0.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.chosen.len()
    }

    /// The index of a row's class.
    pub fn class(&self, index: usize) -> u32 {
        self.samples.class(self.chosen[index])
    }

    /// A row's length in tokens.
    pub fn tokens(&self, index: usize) -> usize {
        self.samples.tokens(self.chosen[index])
    }

    /// Rows as the model reads them; with `augmentation_seed` randomly augmented.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn inputs(
        &self,
        indices: &[usize],
        augmentation_seed: Option<u64>,
        device: Device,
    ) -> Result<EncoderInputs> {
        let chosen: Vec<usize> = indices.iter().map(|index| self.chosen[*index]).collect();
        self.samples.inputs(&chosen, augmentation_seed, device)
    }

    /// The classes of rows, `[rows]`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn classes(&self, indices: &[usize], device: Device) -> Result<Tensor> {
        let classes: Vec<i64> = indices.iter().map(|index| i64::from(self.class(*index))).collect();
        Ok(Tensor::f_from_slice(&classes)?.f_to_device(device)?)
    }
}

/// The rows of a classifier and their classes. Every rank reads the same from the same files.
pub struct LabelledData {
    /// The names of the classes.
    pub labels: Labels,
    /// The training split.
    pub train: LabelledSplit,
    /// The validation split.
    pub eval: Option<LabelledSplit>,
    /// A hash of what determined the rows.
    pub fingerprint: String,
}

impl LabelledData {
    /// Reads the rows, writing nothing. `progress` receives (done, total) in rows.
    ///
    /// # Errors
    /// A row that cannot be used, no rows, more ranks than rows, a model that has no tokenizer or
    /// reads something else.
    pub fn read(run: &Run, world_size: usize, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let checkpoint = open_base_model(&run.model)?;
        let known = known_labels(run, &checkpoint);
        let LoadedSamples { labels, train, eval, fingerprint } = match run.model.task {
            Task::ImageClassification => Images::read(run, &checkpoint, known.as_deref())?,
            Task::CausalLm | Task::SequenceClassification => {
                Texts::read(run, &checkpoint, known.as_deref(), progress)?
            }
        };
        if labels.len() < 2 {
            let what = format!(
                "holds {} classes; give samples of two or more, or name them as labels",
                labels.len()
            );
            return Err(run.error_at("data", "train", &what).into());
        }
        let mut train = LabelledSplit::new(train, run.data.train.first(), run.data.max_samples)?;
        let mut eval = match (eval, &run.data.eval) {
            (Some(eval), Some(sources)) => Some(LabelledSplit::new(eval, sources.first(), None)?),
            _ => None,
        };
        if eval.is_none() && run.data.eval_samples > 0 {
            if run.data.eval_samples >= train.len() {
                let what = format!(
                    "is {}, and there are {} rows; hold out fewer",
                    run.data.eval_samples,
                    train.len()
                );
                return Err(run.error_at("data", "eval_samples", &what).into());
            }
            let (kept, held) = hold_out(train.chosen, run.data.eval_samples, run.seed);
            eval = Some(LabelledSplit { samples: train.samples.clone(), chosen: held });
            train.chosen = kept;
        }
        sample_order(run, train.len(), world_size)?;
        Ok(Self { labels: Labels::new(labels), train, eval, fingerprint })
    }

    /// The weight of each class in the loss; `None` if all are 1.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn class_weights(&self, class_weights: ClassWeights) -> Result<Option<Tensor>> {
        if class_weights == ClassWeights::None {
            return Ok(None);
        }
        let mut counts = vec![0_u32; self.labels.len()];
        (0..self.train.len()).for_each(|index| counts[self.train.class(index) as usize] += 1);
        let mean = self.train.len() as f32 / counts.len() as f32;
        // A class without rows needs no weight.
        let weights: Vec<f32> = counts
            .iter()
            .map(|count| if *count > 0 { mean / *count as f32 } else { 0.0 })
            .collect();
        Ok(Some(Tensor::f_from_slice(&weights)?))
    }
}

/// The classes that the run names, otherwise those of a model with a complete classification head.
fn known_labels(run: &Run, checkpoint: &Checkpoint) -> Option<Vec<String>> {
    let of_model = || {
        let labels = &checkpoint.encoder_config().ok()?.labels;
        Classifier::is_whole(checkpoint).then(|| labels.names().to_vec())
    };
    run.data.labels.clone().or_else(of_model)
}
