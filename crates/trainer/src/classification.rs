//! A classifier of texts or images.

use tch::{Kind, Tensor};

use autograd::random::derive_seed;
use collective::{ProcessGroup, Reduce};
use config::ClassWeights;
use layers::Scope;
use models::{Activations, Classifier, Model};
use setup::{LabelledData, LabelledSplit};

use crate::Result;
use crate::classification_metrics::Confusion;
use crate::task::{MicroBatch, RankBatch, Task, Validation};

/// A classifier with labelled rows.
pub(crate) struct ClassificationTask {
    classifier: Classifier,
    data: LabelledData,
    /// The weight of each class in the loss; `None` if all are 1.
    class_weights: Option<Tensor>,
    seed: u64,
    /// Samples that are evaluated at once.
    eval_rows: usize,
}

impl ClassificationTask {
    /// Classifies the rows of `data`, `eval_rows` at once in evaluation; `seed` determines
    /// augmentation.
    pub fn new(
        classifier: Classifier,
        data: LabelledData,
        weights: ClassWeights,
        seed: u64,
        eval_rows: usize,
    ) -> Result<Self> {
        let device = classifier.device();
        let class_weights =
            data.class_weights(weights)?.map(|weights| weights.f_to_device(device)).transpose()?;
        Ok(Self { classifier, data, class_weights, seed, eval_rows: eval_rows.max(1) })
    }
}

/// Rows that are computed at once; their inputs are loaded when they are needed.
struct RowBatch<'a> {
    task: &'a ClassificationTask,
    indices: Vec<usize>,
    augmentation_seed: u64,
}

impl MicroBatch for RowBatch<'_> {
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor> {
        let ClassificationTask { classifier, class_weights, data, .. } = self.task;
        let inputs =
            data.train.inputs(&self.indices, Some(self.augmentation_seed), classifier.device())?;
        let labels = data.train.classes(&self.indices, classifier.device())?;
        let logits = classifier.logits(&inputs, activations, scope)?;
        Ok(classifier.losses(&logits, &labels, class_weights.as_ref())?.sum.f_mul_scalar(weight)?)
    }
}

impl Task for ClassificationTask {
    fn model(&self) -> &dyn Model {
        &self.classifier
    }

    fn train_samples(&self) -> usize {
        self.data.train.len()
    }

    fn fingerprint(&self) -> &str {
        &self.data.fingerprint
    }

    fn micro_batches(&self, step: u64, indices: &[usize], rows: usize) -> Result<RankBatch<'_>> {
        let rows = if rows > 0 { rows } else { indices.len().max(1) };
        let train = &self.data.train;
        let targets = match &self.class_weights {
            Some(weights) => weights
                .f_index_select(0, &train.classes(indices, weights.device())?)?
                .f_sum(Kind::Double)?
                .f_double_value(&[])?,
            None => indices.len() as f64,
        };
        let augmentation_seed = derive_seed(&[self.seed, step]);
        let batch = |indices: &[usize]| {
            Box::new(RowBatch { task: self, indices: indices.to_vec(), augmentation_seed })
                as Box<dyn MicroBatch + '_>
        };
        Ok(RankBatch {
            micro_batches: indices.chunks(rows).map(batch).collect(),
            targets,
            tokens: indices.iter().map(|index| train.tokens(*index)).sum(),
        })
    }

    fn evaluate(
        &self,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Validation>> {
        let Some(eval) = &self.data.eval else { return Ok(None) };
        let _mode = autograd::GradMode::disabled();
        let (mut totals, confusion) = self.evaluate_own(eval, group, progress)?;
        totals.extend(confusion.counts().iter().map(|count| *count as f64));
        let mut totals = Tensor::f_from_slice(&totals)?;
        group.all_reduce(&mut totals, Reduce::Sum)?;
        let totals = Vec::<f64>::try_from(totals)?;
        let counts = totals[2..].iter().map(|count| *count as u64).collect();
        let report =
            Confusion::from_counts(self.data.labels.len(), counts).report(self.data.labels.names());
        let loss = totals[0] / if totals[1] > 0.0 { totals[1] } else { 1.0 };
        tracing::info!(
            "validation loss {loss:.4}, accuracy {:.4}, macro F1 {:.4}",
            report.accuracy,
            report.macro_f1
        );
        Ok(Some(Validation {
            loss,
            samples: eval.len(),
            targets: eval.len(),
            classes: Some(report),
        }))
    }
}

impl ClassificationTask {
    /// This rank's rows of `eval`: the sum of their losses and that of their weights, and how they
    /// were classified.
    fn evaluate_own(
        &self,
        eval: &LabelledSplit,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Vec<f64>, Confusion)> {
        let mut confusion = Confusion::new(self.data.labels.len());
        let (mut sum, mut count) = (0.0, 0.0);
        let own: Vec<usize> = (group.rank()..eval.len()).step_by(group.world_size()).collect();
        let device = self.classifier.device();
        for (index, indices) in own.chunks(self.eval_rows).enumerate() {
            progress((index * self.eval_rows) as u64, own.len() as u64);
            let inputs = eval.inputs(indices, None, device)?;
            let logits =
                self.classifier.logits(&inputs, &Activations::default(), &Scope::evaluation())?;
            let losses = self.classifier.losses(
                &logits,
                &eval.classes(indices, device)?,
                self.class_weights.as_ref(),
            )?;
            sum += losses.sum.f_double_value(&[])?;
            count += losses.count;
            let predicted =
                Vec::<i64>::try_from(logits.f_argmax(-1, false)?.f_to_device(tch::Device::Cpu)?)?;
            indices.iter().zip(predicted).for_each(|(index, class)| {
                confusion.add(eval.class(*index) as usize, class as usize)
            });
        }
        Ok((vec![sum, count], confusion))
    }
}
