//! Samples with classes: the rows of a run, of texts or images, and what is learnt of them.
//!
//! `rows` has what is trained on and what is held out, from `texts` or `images`; [`Classes`] makes losses of them.

mod check;
mod images;
mod rows;
mod texts;

pub(crate) use check::check;
pub(crate) use rows::Rows;

use crate::classes::Confusion;
use crate::evaluate::HeldOut;
use crate::learner::{Learner, MicroBatch, Share};
use crate::{Result, run_data};
use autograd::random::derive_seed;
use collective::{ProcessGroup, Reduce};
use config::Run;
use data::Order;
use layers::Scope;
use models::{Activations, Classifier, Model};
use rows::Part;
use tch::{Kind, Tensor};

/// A classifier, which learns the classes of rows.
pub(crate) struct Classes<'a> {
    classifier: &'a Classifier,
    rows: &'a Rows,
    weights: Option<Tensor>,
    seed: u64,
}

impl<'a> Classes<'a> {
    pub fn new(run: &Run, classifier: &'a Classifier, rows: &'a Rows) -> Result<Self> {
        let device = classifier.device();
        let weights = rows.class_weights(run)?.map(|weights| weights.f_to_device(device)).transpose()?;
        Ok(Self { classifier, rows, weights, seed: run.seed })
    }
}

/// Rows that are computed at once; their inputs are made when they are needed.
struct RowBatch<'a> {
    classes: &'a Classes<'a>,
    indices: Vec<usize>,
    /// What chance changes of them.
    drawn: u64,
}

impl MicroBatch for RowBatch<'_> {
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor> {
        let Classes { classifier, weights, rows, .. } = self.classes;
        let inputs = rows.train.inputs(&self.indices, Some(self.drawn), classifier.device())?;
        let labels = rows.train.classes(&self.indices, classifier.device())?;
        let logits = classifier.logits(&inputs, activations, scope)?;
        Ok(classifier.losses(&logits, &labels, weights.as_ref())?.sum.f_mul_scalar(weight)?)
    }
}

impl Learner for Classes<'_> {
    fn model(&self) -> &dyn Model {
        self.classifier
    }

    fn samples(&self) -> usize {
        self.rows.train.len()
    }

    fn fingerprint(&self) -> &str {
        &self.rows.fingerprint
    }

    fn order(&self, run: &Run, ranks: usize) -> Result<Order> {
        run_data::order_of(run, self.samples(), ranks)
    }

    fn share(&self, step: u64, indices: &[usize], rows: usize) -> Result<Share<'_>> {
        let rows = if rows > 0 { rows } else { indices.len().max(1) };
        let train = &self.rows.train;
        let targets = match &self.weights {
            Some(weights) => {
                weights.f_index_select(0, &train.classes(indices, weights.device())?)?.f_sum(Kind::Double)?.f_double_value(&[])?
            }
            None => indices.len() as f64,
        };
        let batch = |indices: &[usize]| {
            let drawn = derive_seed(&[self.seed, step]);
            Box::new(RowBatch { classes: self, indices: indices.to_vec(), drawn }) as Box<dyn MicroBatch + '_>
        };
        Ok(Share {
            batches: indices.chunks(rows).map(batch).collect(),
            targets,
            tokens: indices.iter().map(|index| train.tokens(*index)).sum(),
        })
    }

    fn evaluate(&self, run: &Run, group: &dyn ProcessGroup, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<HeldOut>> {
        let Some(eval): Option<&Part> = self.rows.eval.as_ref() else { return Ok(None) };
        let _mode = autograd::GradMode::disabled();
        let classes = self.rows.labels.len();
        let mut confusion = Confusion::new(classes);
        let (mut sum, mut count) = (0.0, 0.0);
        let own: Vec<usize> = (group.rank()..eval.len()).step_by(group.world_size()).collect();
        let device = self.classifier.device();
        let at_once = run.rows_at_once(group.world_size())?.max(1);
        for (index, indices) in own.chunks(at_once).enumerate() {
            progress((index * at_once) as u64, own.len() as u64);
            let inputs = eval.inputs(indices, None, device)?;
            let logits = self.classifier.logits(&inputs, &Activations::default(), &Scope::evaluation())?;
            let losses = self.classifier.losses(&logits, &eval.classes(indices, device)?, self.weights.as_ref())?;
            sum += losses.sum.f_double_value(&[])?;
            count += losses.count;
            let taken = Vec::<i64>::try_from(logits.f_argmax(-1, false)?.f_to_device(tch::Device::Cpu)?)?;
            indices.iter().zip(taken).for_each(|(index, taken)| confusion.add(eval.class(*index) as usize, taken as usize));
        }
        let mut totals: Vec<f64> = vec![sum, count];
        totals.extend(confusion.counts().iter().map(|count| *count as f64));
        let mut totals = Tensor::f_from_slice(&totals)?;
        group.all_reduce(&mut totals, Reduce::Sum)?;
        let totals = Vec::<f64>::try_from(totals)?;
        let report =
            Confusion::of_counts(classes, totals[2..].iter().map(|count| *count as u64).collect()).report(self.rows.labels.names());
        let loss = totals[0] / if totals[1] > 0.0 { totals[1] } else { 1.0 };
        tracing::info!("held-out loss {loss:.4}, accuracy {:.4}, macro F1 {:.4}", report.accuracy, report.macro_f1);
        Ok(Some(HeldOut { loss, samples: eval.len(), targets: eval.len(), classes: Some(report) }))
    }
}
