//! Labelled texts.

use std::sync::Arc;

use tch::{Device, Tensor};

use config::Run;
use data::{Batch, LabelKeys, Labelled, LabelledTexts, Padding, Sample, Tokenizer, read_labelled};
use models::{Checkpoint, EncoderInputs, InputConfig};

use super::samples::{LabelledSamples, LoadedSamples};
use crate::data_options::labelled_fingerprint;
use crate::task_mismatch::task_mismatch;
use crate::{Error, Result, TextProcessor};

/// Tokenized texts.
pub(super) struct Texts {
    rows: Vec<(Sample, u32)>,
    pad: u32,
}

impl Texts {
    /// Reads and tokenizes the training file and the validation file; of the classes `labels` if
    /// they are known.
    pub fn read(
        run: &Run,
        checkpoint: &Checkpoint,
        labels: Option<&[String]>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<LoadedSamples> {
        let config = checkpoint.encoder_config()?;
        let InputConfig::Text(input) = &config.input else {
            return Err(task_mismatch(run, config));
        };
        let Some(tokenizer) = TextProcessor::open(&run.model, checkpoint)?.tokenizer else {
            return Err(run
                .error_at(
                    "model",
                    "tokenizer",
                    "is absent, and the model has none; give its tokenizer.json",
                )
                .into());
        };
        let keys = LabelKeys { text: run.data.text_key.clone(), label: run.data.label_key.clone() };
        let LabelledTexts { mut rows, labels } =
            read_labelled(run.data.train.first(), &keys, labels)?;
        rows.truncate(run.data.max_samples.unwrap_or(usize::MAX));
        let eval = run
            .data
            .eval
            .as_ref()
            .map(|eval| read_labelled(eval.first(), &keys, Some(&labels)))
            .transpose()?;
        let total = (rows.len() + eval.as_ref().map_or(0, |eval| eval.rows.len())) as u64;
        let mut done = 0;
        let mut tokenized = |rows: Vec<Labelled>| {
            let row = |row: Labelled| {
                done += 1;
                if done % 256 == 0 {
                    progress(done, total);
                }
                let sample = tokenize(&tokenizer, &row.text, run.data.sequence_length)?;
                let largest = sample.tokens.iter().max().copied().unwrap_or(0);
                if i64::from(largest) >= input.vocab_size {
                    let what = format!(
                        "gives token id {largest}, and the model knows 0 to {}; use its own",
                        input.vocab_size - 1
                    );
                    return Err(run.error_at("model", "tokenizer", &what).into());
                }
                Ok((sample, row.label))
            };
            let rows = rows.into_iter().map(row).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(
                Arc::new(Self { rows, pad: tokenizer.pad_token_id() }) as Arc<dyn LabelledSamples>
            )
        };
        let train = tokenized(rows)?;
        let eval = eval.map(|eval| tokenized(eval.rows)).transpose()?;
        let fingerprint = labelled_fingerprint(run, &tokenizer, &labels)?;
        Ok(LoadedSamples { labels, train, eval, fingerprint })
    }
}

impl LabelledSamples for Texts {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn class(&self, index: usize) -> u32 {
        self.rows[index].1
    }

    fn tokens(&self, index: usize) -> usize {
        self.rows[index].0.len()
    }

    fn inputs(
        &self,
        indices: &[usize],
        _augmentation_seed: Option<u64>,
        device: Device,
    ) -> Result<EncoderInputs> {
        let samples: Vec<Sample> =
            indices.iter().map(|index| self.rows[*index].0.clone()).collect();
        let batch = Batch::collate(&samples, self.pad, Padding::Longest)?;
        let shape = [batch.rows as i64, batch.columns as i64];
        let present: Vec<i64> = samples
            .iter()
            .flat_map(|sample| (0..batch.columns).map(|column| i64::from(column < sample.len())))
            .collect();
        let tensor = |values: &[i64]| {
            Ok::<_, Error>(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?)
        };
        Ok(EncoderInputs::Text {
            ids: tensor(&batch.input_ids)?,
            present: Some(tensor(&present)?),
            types: None,
        })
    }
}

/// A text with the special tokens that the tokenizer adds, which stay when it is truncated.
fn tokenize(tokenizer: &Tokenizer, text: &str, longest: usize) -> Result<Sample> {
    let mut ids = tokenizer.encode(text, true)?;
    if let Some(last) = ids.last().copied().filter(|_| ids.len() > longest) {
        ids.truncate(longest);
        ids[longest - 1] = last;
    }
    let trained = vec![false; ids.len()];
    Ok(Sample::single(ids, trained))
}
