use crate::Result;
use crate::learner::{Learner, Share};
use crate::optimizer::{Optimizer, clip_by_global_norm};
use crate::shared_bases::{self, Reader};
use autograd::random::derive_seed;
use collective::{ProcessGroup, Reduce};
use data::{Batch, Dataset, Order, Padding, Sample};
use layers::{ActivationStore, Scope};
use models::{Activations, Inputs};
use reduce::{GradientReducer, Traffic};
use std::sync::Arc;
use tch::{Device, Tensor};

/// What a step needs, made once before the first.
pub(crate) struct Stepper<'a> {
    pub learner: &'a dyn Learner,
    pub trained: Vec<&'a Tensor>,
    pub group: &'a dyn ProcessGroup,
    pub order: &'a Order,
    pub activations: Activations,
    pub reducer: GradientReducer,
    pub optimizer: Optimizer,
    pub sites: Arc<ActivationStore>,
    /// Weights whose gradients lie in bases that the ranks share.
    pub readers: Vec<Reader>,
    /// Steps from one agreement on these bases to the next.
    pub basis_steps: u64,
    pub seed: u64,
    pub micro_batch_size: usize,
    pub clip_grad_norm: f64,
}

/// What a step came to, the same on all ranks but for the traffic.
pub(crate) struct Outcome {
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: u64,
    pub kept_bytes: u64,
    pub exact_bytes: u64,
    pub peak_bytes: u64,
    pub traffic: Traffic,
    pub status: RankStatus,
}

/// What the ranks tell each other at the end of a step, beside the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RankStatus {
    /// The signal that asks this rank to stop, or any of them; 0: none.
    pub signal: i32,
    /// Whether this rank has written its share of a checkpoint, or all have.
    pub is_written: bool,
}

impl Stepper<'_> {
    /// Step `step` (from 0): this rank's share of the global batch forward and backward, micro-batch by micro-batch; gradients to their mean
    /// over the global number of targets; clipped; one step of the optimiser. `status` is what this rank tells at its end.
    pub fn run(&mut self, step: u64, learning_rate: f64, status: impl FnOnce() -> RankStatus) -> Result<Outcome> {
        let device = self.learner.model().device();
        autograd::memory::reset_peak(device)?;
        let (rank, world_size) = (self.group.rank(), self.group.world_size());
        let share = self.order.rank_share(step, rank, world_size);
        let Share { batches, targets, tokens } = self.learner.share(step, &share, self.micro_batch_size)?;

        let mut totals = Tensor::f_from_slice(&[targets, tokens as f64])?;
        self.group.all_reduce(&mut totals, Reduce::Sum)?;
        let global_targets = totals.f_double_value(&[0])?;
        let global_targets = if global_targets > 0.0 { global_targets } else { 1.0 };
        // The reducer takes the mean over the ranks, so that their sum needs the factor `world_size`.
        let weight = world_size as f64 / global_targets;

        let agrees = shared_bases::is_due(step, self.basis_steps);
        self.sites.observe(agrees);
        let (mut loss, mut kept_bytes, mut exact_bytes) = (0.0, 0, 0);
        for (micro, batch) in batches.iter().enumerate() {
            let scope = Scope::training(derive_seed(&[self.seed, step, rank as u64, micro as u64]), self.sites.clone());
            let micro_loss = {
                let _span = tracing::trace_span!("forward", micro).entered();
                batch.loss(weight, &self.activations, &scope)?
            };
            let ledger = self.sites.saved_bytes();
            let held = ledger.held() + self.sites.state_bytes();
            if held >= kept_bytes {
                (kept_bytes, exact_bytes) = (held, ledger.exact());
            }
            if micro + 1 == batches.len() {
                self.reducer.begin(step);
            }
            {
                let _span = tracing::trace_span!("backward", micro).entered();
                autograd::backward(&[&micro_loss], &[None], false)?;
            }
            loss += micro_loss.f_double_value(&[])?;
            // Here the host has waited for a GPU in any case.
            self.sites.check_finite()?;
        }
        let mut traffic = {
            let _span = tracing::trace_span!("wait for gradients").entered();
            self.reducer.reduce(step)?
        };
        let grad_norm = {
            let _span = tracing::trace_span!("optimizer").entered();
            let grad_norm = clip_by_global_norm(&self.trained, self.clip_grad_norm)?;
            self.optimizer.step(learning_rate)?;
            self.optimizer.exchange(self.group)?;
            self.reducer.zero_gradients()?;
            grad_norm
        };
        if agrees {
            traffic.bytes += shared_bases::agree(&self.sites, self.group, &mut self.reducer, &self.readers, step)?;
        }

        let peak = autograd::memory::peak(device)?;
        let status = status();
        let status = [f64::from(status.signal), f64::from(u8::from(status.is_written))];
        let own = Tensor::f_from_slice(&[loss, kept_bytes as f64, exact_bytes as f64, peak as f64, status[0], status[1]])?;
        let all = self.group.all_gather(&own)?;
        let most = |column: i64| all.f_select(1, column)?.f_max()?.f_double_value(&[]);
        let status = RankStatus { signal: most(4)? as i32, is_written: all.f_select(1, 5)?.f_min()?.f_double_value(&[])? > 0.0 };
        Ok(Outcome {
            loss: all.f_select(1, 0)?.f_mean(tch::Kind::Double)?.f_double_value(&[])?,
            grad_norm,
            tokens: totals.f_double_value(&[1])? as u64,
            kept_bytes: most(1)? as u64,
            exact_bytes: most(2)? as u64,
            peak_bytes: most(3)? as u64,
            traffic,
            status,
        })
    }
}

/// The micro-batches of a share, of `rows` samples each (0: one of all), and its tokens, padding not counted.
pub(crate) fn micro_batches(dataset: &Dataset, share: &[usize], rows: usize, pad: u32) -> Result<(Vec<Batch>, usize)> {
    let rows = if rows > 0 { rows } else { share.len().max(1) };
    let mut tokens = 0;
    let mut batches = Vec::with_capacity(share.len().div_ceil(rows));
    for indices in share.chunks(rows) {
        let samples = indices.iter().map(|index| dataset.sample(*index)).collect::<data::Result<Vec<_>>>()?;
        tokens += samples.iter().map(Sample::len).sum::<usize>();
        batches.push(Batch::collate(&samples, pad, Padding::Longest)?);
    }
    Ok((batches, tokens))
}

/// A batch as the model reads it, and its targets.
pub(crate) fn tensors(batch: &Batch, device: Device) -> Result<(Inputs, Tensor)> {
    let shape = [batch.rows as i64, batch.columns as i64];
    let tensor = |values: &[i64]| Ok::<_, crate::Error>(Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device)?);
    let packed = batch.segments.is_some();
    let inputs = Inputs {
        ids: tensor(&batch.input_ids)?,
        // In rows of one segment positions are 0, 1, 2, …, which the model makes itself.
        positions: if packed { Some(tensor(&batch.positions)?) } else { None },
        segments: batch.segments.as_deref().map(tensor).transpose()?,
    };
    Ok((inputs, tensor(&batch.targets)?))
}
