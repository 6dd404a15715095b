//! A language model, which learns to predict the next token.

use tch::Tensor;

use collective::{ProcessGroup, Reduce};
use data::{Batch, Dataset, Padding, Prepared};
use layers::{Scope, Targets};
use models::{Activations, Decoder, Model};
use setup::{micro_batches, to_device};

use crate::Result;
use crate::task::{MicroBatch, RankBatch, Task, Validation};

/// A decoder with tokenized data.
pub(crate) struct CausalLmTask {
    pub decoder: Decoder,
    pub data: Prepared,
    /// The id that pads batches.
    pub pad: u32,
    /// Tokens whose logits exist at a time; 0: automatic.
    pub loss_chunk: i64,
    /// Samples that are evaluated at once.
    pub eval_rows: usize,
}

struct TokenBatch<'a> {
    task: &'a CausalLmTask,
    batch: Batch,
}

impl Task for CausalLmTask {
    fn model(&self) -> &dyn Model {
        &self.decoder
    }

    fn train_samples(&self) -> usize {
        self.data.train.len()
    }

    fn fingerprint(&self) -> &str {
        self.data.train.fingerprint()
    }

    fn micro_batches(&self, _step: u64, indices: &[usize], rows: usize) -> Result<RankBatch<'_>> {
        let (batches, tokens) = micro_batches(&self.data.train, indices, rows, self.pad)?;
        let targets = batches.iter().map(Batch::target_count).sum::<usize>() as f64;
        let boxed = |batch| Box::new(TokenBatch { task: self, batch }) as Box<dyn MicroBatch + '_>;
        Ok(RankBatch { micro_batches: batches.into_iter().map(boxed).collect(), targets, tokens })
    }

    fn evaluate(
        &self,
        group: &dyn ProcessGroup,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<Validation>> {
        let Some(eval) = &self.data.eval else { return Ok(None) };
        let validation = validation_loss(
            &self.decoder,
            eval,
            self.eval_rows,
            self.pad,
            self.loss_chunk,
            group,
            progress,
        )?;
        tracing::info!("validation loss {:.4}", validation.loss);
        Ok(Some(validation))
    }
}

impl MicroBatch for TokenBatch<'_> {
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor> {
        let CausalLmTask { decoder, loss_chunk, .. } = self.task;
        let (inputs, targets) = to_device(&self.batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let hidden = decoder.forward(&inputs, activations, scope)?;
        Ok(decoder.loss(&hidden, &targets, weight, *loss_chunk, scope)?)
    }
}

/// The mean loss over all targets of `dataset`, whose samples the ranks share, `rows` at a time.
/// `progress` receives (done, total) in this rank's samples.
pub(crate) fn validation_loss(
    decoder: &Decoder,
    dataset: &Dataset,
    rows: usize,
    pad: u32,
    loss_chunk: i64,
    group: &dyn ProcessGroup,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Validation> {
    let _mode = autograd::GradMode::disabled();
    let own: Vec<usize> = (group.rank()..dataset.len()).step_by(group.world_size()).collect();
    let (mut sum, mut count) = (0.0, 0);
    for (index, indices) in own.chunks(rows.max(1)).enumerate() {
        progress((index * rows.max(1)) as u64, own.len() as u64);
        let samples =
            indices.iter().map(|index| dataset.sample(*index)).collect::<data::Result<Vec<_>>>()?;
        let batch = Batch::collate(&samples, pad, Padding::Longest)?;
        let (inputs, targets) = to_device(&batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let hidden = decoder.forward(&inputs, &Activations::default(), &Scope::evaluation())?;
        sum += decoder
            .loss(&hidden, &targets, 1.0, loss_chunk, &Scope::evaluation())?
            .f_double_value(&[])?;
        count += targets.count();
    }
    let mut totals = Tensor::f_from_slice(&[sum, count as f64])?;
    group.all_reduce(&mut totals, Reduce::Sum)?;
    let (sum, count) = (totals.f_double_value(&[0])?, totals.f_double_value(&[1])?);
    Ok(Validation {
        samples: dataset.len(),
        targets: count as usize,
        loss: sum / count.max(1.0),
        classes: None,
    })
}
