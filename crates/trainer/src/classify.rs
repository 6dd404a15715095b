//! Texts with classes: the rows of a run, and what is learnt of them.

use crate::classes::Confusion;
use crate::config::{ClassWeights, Run};
use crate::evaluate::HeldOut;
use crate::learner::{Learner, MicroBatch, Share};
use crate::{Error, Result, run_data, text};
use collective::{ProcessGroup, Reduce};
use data::{Batch, LabelKeys, LabelledTexts, Order, Padding, Sample, Tokenizer, hold_out, read_labelled};
use layers::Scope;
use models::{Activations, Checkpoint, Classifier, EncoderInputs, InputConfig, Labels, Model};
use std::path::Path;
use tch::{Kind, Tensor};

/// The tokenised rows of a run, and their classes. Every rank makes the same of the same files.
pub(crate) struct Rows {
    pub labels: Labels,
    pub train: Vec<Row>,
    pub eval: Option<Vec<Row>>,
    fingerprint: String,
    pad: u32,
}

/// A tokenised text and the number of its class.
pub(crate) struct Row {
    sample: Sample,
    label: u32,
}

impl Rows {
    /// Reads and tokenises, writing nothing. `progress` is told (done, total) in rows.
    ///
    /// # Errors
    /// A row that cannot be used, no rows, more ranks than rows, a model that has no tokenizer or reads no text.
    pub fn read(run: &Run, ranks: usize, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let checkpoint = &Checkpoint::open(&run.model.path)?;
        let config = checkpoint.encoder_config()?;
        let InputConfig::Text(input) = &config.input else {
            let what = format!("is a model of text, and {} reads images", config.model_type);
            return Err(run.refuse("model", "task", &what).into());
        };
        let Some(tokenizer) = text::open(run, checkpoint)?.tokenizer else {
            return Err(run.refuse("model", "tokenizer", "is absent, and the model has none; give its tokenizer.json").into());
        };
        let keys = LabelKeys { text: run.data.text_key.clone(), label: run.data.label_key.clone() };
        let known = known_labels(run, checkpoint);
        let LabelledTexts { mut rows, labels } = read_labelled(&run.data.train, &keys, known.as_deref())?;
        if labels.len() < 2 {
            let what = format!("holds {} classes; give rows of two or more, or name them as labels", labels.len());
            return Err(run.refuse("data", "train", &what).into());
        }
        rows.truncate(run.data.max_samples.unwrap_or(usize::MAX));
        let held = match &run.data.eval {
            Some(path) => Some(read_labelled(path, &keys, Some(&labels))?.rows),
            None => None,
        };
        let total = (rows.len() + held.as_ref().map_or(0, Vec::len)) as u64;
        let mut done = 0;
        let mut tokenised = |rows: Vec<data::Labelled>, path: &Path| {
            let row = |row: data::Labelled| {
                done += 1;
                if done % 256 == 0 {
                    progress(done, total);
                }
                let sample = tokens(&tokenizer, &row.text, run.data.sequence_length)?;
                let largest = sample.tokens.iter().max().copied().unwrap_or(0);
                if i64::from(largest) >= input.vocab_size {
                    let what = format!("gives token id {largest}, and the model knows 0 to {}; use its own", input.vocab_size - 1);
                    return Err(run.refuse("model", "tokenizer", &what).into());
                }
                Ok(Row { sample, label: row.label })
            };
            let rows = rows.into_iter().map(row).collect::<Result<Vec<_>>>()?;
            if rows.is_empty() {
                return Err(Error::Input(format!("{} holds no rows; give a file with at least one", path.display())));
            }
            Ok(rows)
        };
        let mut train = tokenised(rows, &run.data.train)?;
        let mut eval = match (held, &run.data.eval) {
            (Some(held), Some(path)) => Some(tokenised(held, path)?),
            _ => None,
        };
        if eval.is_none() && run.data.eval_samples > 0 {
            if run.data.eval_samples >= train.len() {
                let what = format!("is {}, and there are {} rows; hold out fewer", run.data.eval_samples, train.len());
                return Err(run.refuse("data", "eval_samples", &what).into());
            }
            let (kept, drawn) = hold_out(train, run.data.eval_samples, run.seed);
            (train, eval) = (kept, Some(drawn));
        }
        let fingerprint = run_data::fingerprint(run, &tokenizer, &labels)?;
        let rows = Self { labels: Labels::new(labels), train, eval, fingerprint, pad: tokenizer.pad_token_id() };
        run_data::order_of(run, rows.train.len(), ranks)?;
        Ok(rows)
    }

    /// The weight of each class in the loss, if they are not alike.
    fn class_weights(&self, run: &Run) -> Result<Option<Tensor>> {
        if run.data.class_weights == ClassWeights::None {
            return Ok(None);
        }
        let mut counts = vec![0_u32; self.labels.len()];
        self.train.iter().for_each(|row| counts[row.label as usize] += 1);
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

/// A text with the tokens that the model's tokenizer puts around it, which stay where it is cut.
fn tokens(tokenizer: &Tokenizer, text: &str, longest: usize) -> Result<Sample> {
    let mut ids = tokenizer.encode(text, true)?;
    if let Some(last) = ids.last().copied().filter(|_| ids.len() > longest) {
        ids.truncate(longest);
        ids[longest - 1] = last;
    }
    let trained = vec![false; ids.len()];
    Ok(Sample::single(ids, trained))
}

/// A classifier, which learns the classes of rows.
pub(crate) struct Classes<'a> {
    classifier: &'a Classifier,
    rows: &'a Rows,
    weights: Option<Tensor>,
}

impl<'a> Classes<'a> {
    pub fn new(run: &Run, classifier: &'a Classifier, rows: &'a Rows) -> Result<Self> {
        let device = classifier.device();
        let weights = rows.class_weights(run)?.map(|weights| weights.f_to_device(device)).transpose()?;
        Ok(Self { classifier, rows, weights })
    }

    fn batch(&self, rows: &[&Row]) -> Result<RowBatch<'_>> {
        let samples: Vec<Sample> = rows.iter().map(|row| row.sample.clone()).collect();
        let batch = Batch::collate(&samples, self.rows.pad, Padding::Longest)?;
        let shape = [batch.rows as i64, batch.columns as i64];
        let device = self.classifier.device();
        let present: Vec<i64> =
            samples.iter().flat_map(|sample| (0..batch.columns).map(|column| i64::from(column < sample.len()))).collect();
        let tensor = |values: &[i64]| Ok::<_, Error>(Tensor::f_from_slice(values)?.f_to_device(device)?);
        let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.label)).collect();
        let inputs = EncoderInputs::Text {
            ids: tensor(&batch.input_ids)?.f_view(shape)?,
            present: Some(tensor(&present)?.f_view(shape)?),
            types: None,
        };
        Ok(RowBatch { classes: self, inputs, labels: tensor(&labels)?, tokens: samples.iter().map(Sample::len).sum() })
    }
}

struct RowBatch<'a> {
    classes: &'a Classes<'a>,
    inputs: EncoderInputs,
    labels: Tensor,
    tokens: usize,
}

impl MicroBatch for RowBatch<'_> {
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor> {
        let Classes { classifier, weights, .. } = self.classes;
        let logits = classifier.logits(&self.inputs, activations, scope)?;
        Ok(classifier.losses(&logits, &self.labels, weights.as_ref())?.sum.f_mul_scalar(weight)?)
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

    fn share(&self, indices: &[usize], rows: usize) -> Result<Share<'_>> {
        let rows = if rows > 0 { rows } else { indices.len().max(1) };
        let (mut batches, mut targets, mut tokens) = (Vec::new(), 0.0, 0);
        for indices in indices.chunks(rows) {
            let rows: Vec<&Row> = indices.iter().map(|index| &self.rows.train[*index]).collect();
            let batch = self.batch(&rows)?;
            targets += match &self.weights {
                Some(weights) => weights.f_index_select(0, &batch.labels)?.f_sum(Kind::Double)?.f_double_value(&[])?,
                None => rows.len() as f64,
            };
            tokens += batch.tokens;
            batches.push(Box::new(batch) as Box<dyn MicroBatch + '_>);
        }
        Ok(Share { batches, targets, tokens })
    }

    fn evaluate(&self, run: &Run, group: &dyn ProcessGroup, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<HeldOut>> {
        let Some(eval) = &self.rows.eval else { return Ok(None) };
        let _mode = autograd::GradMode::disabled();
        let classes = self.rows.labels.len();
        let mut confusion = Confusion::new(classes);
        let (mut sum, mut count) = (0.0, 0.0);
        let own: Vec<&Row> = eval.iter().skip(group.rank()).step_by(group.world_size()).collect();
        let at_once = run.rows_at_once(group.world_size())?.max(1);
        for (index, rows) in own.chunks(at_once).enumerate() {
            progress((index * at_once) as u64, own.len() as u64);
            let batch = self.batch(rows)?;
            let logits = self.classifier.logits(&batch.inputs, &Activations::default(), &Scope::evaluation())?;
            let losses = self.classifier.losses(&logits, &batch.labels, self.weights.as_ref())?;
            sum += losses.sum.f_double_value(&[])?;
            count += losses.count;
            let taken = Vec::<i64>::try_from(logits.f_argmax(-1, false)?.f_to_device(tch::Device::Cpu)?)?;
            rows.iter().zip(taken).for_each(|(row, taken)| confusion.add(row.label as usize, taken as usize));
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
