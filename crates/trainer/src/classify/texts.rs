//! Texts with classes.

use super::check::other_input;
use super::rows::{Read, Samples};
use crate::{Error, Result, run_data, text};
use config::Run;
use data::{Batch, LabelKeys, Labelled, LabelledTexts, Padding, Sample, Tokenizer, read_labelled};
use models::{Checkpoint, EncoderInputs, InputConfig};
use std::sync::Arc;
use tch::{Device, Tensor};

/// Tokenised texts.
pub(super) struct Texts {
    rows: Vec<(Sample, u32)>,
    pad: u32,
}

impl Texts {
    /// Reads and tokenises the training data and what is held out in a file of its own; of the classes `labels` where they are known.
    pub fn read(run: &Run, checkpoint: &Checkpoint, labels: Option<&[String]>, progress: &dyn Fn(u64, u64)) -> Result<Read> {
        let config = checkpoint.encoder_config()?;
        let InputConfig::Text(input) = &config.input else { return Err(other_input(run, config)) };
        let Some(tokenizer) = text::open(run, checkpoint)?.tokenizer else {
            return Err(run.error_at("model", "tokenizer", "is absent, and the model has none; give its tokenizer.json").into());
        };
        let keys = LabelKeys { text: run.data.text_key.clone(), label: run.data.label_key.clone() };
        let LabelledTexts { mut rows, labels } = read_labelled(run.data.train.first(), &keys, labels)?;
        rows.truncate(run.data.max_samples.unwrap_or(usize::MAX));
        let eval = run.data.eval.as_ref().map(|eval| read_labelled(eval.first(), &keys, Some(&labels))).transpose()?;
        let total = (rows.len() + eval.as_ref().map_or(0, |eval| eval.rows.len())) as u64;
        let mut done = 0;
        let mut tokenised = |rows: Vec<Labelled>| {
            let row = |row: Labelled| {
                done += 1;
                if done % 256 == 0 {
                    progress(done, total);
                }
                let sample = tokens(&tokenizer, &row.text, run.data.sequence_length)?;
                let largest = sample.tokens.iter().max().copied().unwrap_or(0);
                if i64::from(largest) >= input.vocab_size {
                    let what = format!("gives token id {largest}, and the model knows 0 to {}; use its own", input.vocab_size - 1);
                    return Err(run.error_at("model", "tokenizer", &what).into());
                }
                Ok((sample, row.label))
            };
            let rows = rows.into_iter().map(row).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(Arc::new(Self { rows, pad: tokenizer.pad_token_id() }) as Arc<dyn Samples>)
        };
        let train = tokenised(rows)?;
        let eval = eval.map(|eval| tokenised(eval.rows)).transpose()?;
        let fingerprint = run_data::fingerprint(run, &tokenizer, &labels)?;
        Ok(Read { labels, train, eval, fingerprint })
    }
}

impl Samples for Texts {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn class(&self, index: usize) -> u32 {
        self.rows[index].1
    }

    fn tokens(&self, index: usize) -> usize {
        self.rows[index].0.len()
    }

    fn inputs(&self, indices: &[usize], _drawn: Option<u64>, device: Device) -> Result<EncoderInputs> {
        let samples: Vec<Sample> = indices.iter().map(|index| self.rows[*index].0.clone()).collect();
        let batch = Batch::collate(&samples, self.pad, Padding::Longest)?;
        let shape = [batch.rows as i64, batch.columns as i64];
        let present: Vec<i64> =
            samples.iter().flat_map(|sample| (0..batch.columns).map(|column| i64::from(column < sample.len()))).collect();
        let tensor = |values: &[i64]| Ok::<_, Error>(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?);
        Ok(EncoderInputs::Text { ids: tensor(&batch.input_ids)?, present: Some(tensor(&present)?), types: None })
    }
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
