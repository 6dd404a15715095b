//! What a run learns, and how its samples become losses.

use crate::evaluate::{self, HeldOut};
use crate::step::{micro_batches, tensors};
use crate::{Result, run_data};
use collective::ProcessGroup;
use config::Run;
use data::{Batch, Order, Prepared};
use layers::{Scope, Targets};
use models::{Activations, Decoder, Model};
use tch::Tensor;

/// A model with the data that it is trained on and judged by.
pub(crate) trait Learner {
    /// The model.
    fn model(&self) -> &dyn Model;

    /// Training samples.
    fn samples(&self) -> usize;

    /// A hash of what shaped the training samples.
    fn fingerprint(&self) -> &str;

    /// Which samples make up each step.
    fn order(&self, run: &Run, ranks: usize) -> Result<Order>;

    /// The samples `indices` for step `step`, in micro-batches of `rows` each (0: one of all).
    fn share(&self, step: u64, indices: &[usize], rows: usize) -> Result<Share<'_>>;

    /// How the held-out data fare, if there are any; all ranks must ask together.
    /// `progress` is told how many of its own samples this rank has done, of how many.
    fn evaluate(&self, run: &Run, group: &dyn ProcessGroup, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<HeldOut>>;
}

/// A rank's part of a step.
pub(crate) struct Share<'a> {
    pub batches: Vec<Box<dyn MicroBatch + 'a>>,
    /// What the mean loss counts: tokens that are predicted, or rows with the weights of their classes.
    pub targets: f64,
    /// Padding not counted.
    pub tokens: usize,
}

/// Samples that are computed at once.
pub(crate) trait MicroBatch {
    /// `weight` times the sum of the losses.
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor>;
}

/// A language model, which learns the next token.
pub(crate) struct Language<'a> {
    pub decoder: &'a Decoder,
    pub data: &'a Prepared,
    pub pad: u32,
    pub loss_chunk: i64,
}

struct TokenBatch<'a> {
    language: &'a Language<'a>,
    batch: Batch,
}

impl Learner for Language<'_> {
    fn model(&self) -> &dyn Model {
        self.decoder
    }

    fn samples(&self) -> usize {
        self.data.train.len()
    }

    fn fingerprint(&self) -> &str {
        self.data.train.fingerprint()
    }

    fn order(&self, run: &Run, ranks: usize) -> Result<Order> {
        run_data::order(run, &self.data.train, ranks)
    }

    fn share(&self, _step: u64, indices: &[usize], rows: usize) -> Result<Share<'_>> {
        let (batches, tokens) = micro_batches(&self.data.train, indices, rows, self.pad)?;
        let targets = batches.iter().map(Batch::target_count).sum::<usize>() as f64;
        let boxed = |batch| Box::new(TokenBatch { language: self, batch }) as Box<dyn MicroBatch + '_>;
        Ok(Share { batches: batches.into_iter().map(boxed).collect(), targets, tokens })
    }

    fn evaluate(&self, run: &Run, group: &dyn ProcessGroup, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<HeldOut>> {
        let Some(eval) = &self.data.eval else { return Ok(None) };
        let rows = run.rows_at_once(group.world_size())?;
        let held_out = evaluate::held_out_loss(self.decoder, eval, rows, self.pad, self.loss_chunk, group, progress)?;
        tracing::info!("held-out loss {:.4}", held_out.loss);
        Ok(Some(held_out))
    }
}

impl MicroBatch for TokenBatch<'_> {
    fn loss(&self, weight: f64, activations: &Activations, scope: &Scope) -> Result<Tensor> {
        let Language { decoder, loss_chunk, .. } = self.language;
        let (inputs, targets) = tensors(&self.batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let hidden = decoder.forward(&inputs, activations, scope)?;
        Ok(decoder.loss(&hidden, &targets, weight, *loss_chunk, scope)?)
    }
}
