//! What a run learns, and how its samples become losses.

use tch::Tensor;

use collective::ProcessGroup;
use layers::Scope;
use models::{Activations, Model};

use crate::Result;
use crate::classification_metrics::ClassReport;

/// A model with its training and validation data.
pub(crate) trait Task {
    /// The model.
    fn model(&self) -> &dyn Model;

    /// The number of training samples.
    fn train_samples(&self) -> usize;

    /// A hash of what determined the training samples.
    fn fingerprint(&self) -> &str;

    /// The samples `indices` of `step`, in micro-batches of `rows` each (0: one of all).
    fn micro_batches(&self, step: u64, indices: &[usize], rows: usize) -> Result<RankBatch<'_>>;

    /// The loss on the validation data, if there are any. All ranks call it. `progress` receives
    /// (done, total) in this rank's samples.
    fn evaluate(
        &self,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Validation>>;
}

/// A rank's part of the batch of a step.
pub(crate) struct RankBatch<'a> {
    pub micro_batches: Vec<Box<dyn MicroBatch + 'a>>,
    /// The denominator of the mean loss: predicted tokens, or rows weighted by their class.
    pub targets: f64,
    /// Tokens, padding not counted.
    pub tokens: usize,
}

/// Samples that are computed at once.
pub(crate) trait MicroBatch {
    /// `weight` times the sum of the losses.
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor>;
}

/// The loss on the validation data.
#[derive(Clone, Debug)]
pub(crate) struct Validation {
    pub samples: usize,
    /// Predicted tokens; for classifiers the samples.
    pub targets: usize,
    /// The mean over all targets.
    pub loss: f64,
    /// Accuracy and confusion of a classifier.
    pub classes: Option<ClassReport>,
}
