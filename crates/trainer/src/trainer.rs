//! One training step after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::random::derive_seed;
use collective::{ProcessGroup, Reduce};
use config::{Run, Stream};
use data::Order;
use layers::{ActivationStore, Scope};
use models::Activations;
use optim::{Optimizer, Partition, clip_grad_norm, parameter_groups};
use reduce::{GradientReducer, ParamHints, Traffic};
use setup::{SharedBasisParam, reduction_method};

use crate::Result;
use crate::consistency::compare_parameters;
use crate::shared_bases;
use crate::task::{RankBatch, Task};
use crate::train_setup::TrainSetup;

/// A task with its optimizer, gradient reducer and saved activations.
pub(crate) struct Trainer {
    pub(crate) task: Box<dyn Task>,
    pub(crate) group: Arc<dyn ProcessGroup>,
    pub(crate) reducer: GradientReducer,
    pub(crate) optimizer: Optimizer,
    pub(crate) sites: Arc<ActivationStore>,
    /// The trained parameters.
    trained: Vec<Tensor>,
    order: Order,
    activations: Activations,
    /// Parameters whose gradients lie in bases that all ranks share.
    shared_params: Vec<SharedBasisParam>,
    /// Steps from one synchronization of these bases to the next.
    basis_steps: u64,
    seed: u64,
    micro_batch_size: usize,
    max_grad_norm: f64,
}

/// The result of a step, the same on all ranks except for the traffic.
pub(crate) struct StepOutput {
    pub loss: f64,
    pub grad_norm: f64,
    pub tokens: u64,
    pub kept_bytes: u64,
    pub exact_bytes: u64,
    pub peak_bytes: u64,
    pub traffic: Traffic,
    pub status: RankStatus,
}

/// What the ranks exchange at the end of a step, in addition to the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RankStatus {
    /// The signal that asks this rank to stop, or any of them; 0: none.
    pub signal: i32,
    /// Whether this rank has written its shard of a checkpoint, or all have.
    pub is_written: bool,
}

/// The sums over the micro-batches of a step.
#[derive(Default)]
struct Accumulated {
    loss: f64,
    kept_bytes: u64,
    exact_bytes: u64,
}

impl Trainer {
    /// Allocates optimizer states and communication buffers for a task.
    pub fn new(run: &Run, setup: TrainSetup, group: Arc<dyn ProcessGroup>) -> Result<Self> {
        let TrainSetup { task, order, activations, shared_params, basis_layers, .. } = setup;
        let model = task.model();
        let parameters = model.trained();
        let named: Vec<(String, Tensor)> = parameters
            .iter()
            .map(|parameter| (parameter.name().to_owned(), parameter.shallow_clone()))
            .collect();
        let hints = ParamHints {
            with_basis: shared_params.iter().map(|param| param.parameter.clone()).collect(),
            sparse_grad_embeddings: model
                .sparse_grad_embeddings()
                .into_iter()
                .map(|table| table.name().to_owned())
                .collect(),
        };
        let reducer = GradientReducer::with_hints(
            group.clone(),
            &named,
            &hints,
            reduce_config(run, group.world_size()),
        )?;
        let linears: BTreeSet<&str> =
            model.linears().into_iter().map(|linear| linear.weight().name()).collect();
        let lora_plus_ratio = run.lora.as_ref().map_or(1.0, |lora| lora.lora_plus_ratio);
        let groups = parameter_groups(&parameters, &linears, lora_plus_ratio);
        let partition = match run.optimizer.is_sharded() {
            true => Partition { rank: group.rank(), world_size: group.world_size() },
            false => Partition::WHOLE,
        };
        let optimizer = Optimizer::new(&groups, &run.optimizer, partition)?;
        let sites = match run.activations.stream {
            Stream::Main => ActivationStore::default(),
            Stream::Side => ActivationStore::on_side_stream(model.device())?,
        };
        Ok(Self {
            trained: named.into_iter().map(|(_, tensor)| tensor).collect(),
            task,
            group,
            reducer,
            optimizer,
            sites: Arc::new(sites.shared_over(basis_layers)),
            order,
            activations,
            shared_params,
            basis_steps: run.activations.basis_steps,
            seed: run.seed,
            micro_batch_size: run.micro_batch_size,
            max_grad_norm: run.optimizer.clip_grad_norm,
        })
    }

    /// The trained parameters.
    pub fn trained(&self) -> &[Tensor] {
        &self.trained
    }

    /// The device of the model.
    pub fn device(&self) -> Device {
        self.task.model().device()
    }

    /// Compares the trained parameters of all ranks, bit by bit. All ranks call it.
    pub fn compare_trained(&self, step: u64) -> Result<()> {
        compare_parameters(&*self.group, step, &self.task.model().trained())
    }

    /// Compares all parameters of all ranks, the frozen ones too: a rank may have read another
    /// file.
    pub fn compare_all(&self, step: u64) -> Result<()> {
        let model = self.task.model();
        let quantized = model.quantized_weights().into_iter().flat_map(|weight| weight.tensors());
        compare_parameters(
            &*self.group,
            step,
            &model.parameters().into_iter().chain(quantized).collect::<Vec<_>>(),
        )
    }

    /// Tells the reducer the bases that the ranks share. All ranks call it before the first step.
    pub fn publish_shared_bases(&mut self) -> Result<()> {
        shared_bases::publish(&self.sites, &mut self.reducer, &self.shared_params)
    }

    /// Step `step` (from 0): forward and backward of this rank's batch, one micro-batch after the
    /// other; gradients averaged over the global number of targets, and clipped; one optimizer
    /// step. `status` is what this rank reports at the end.
    pub fn step(
        &mut self,
        step: u64,
        learning_rate: f64,
        status: impl FnOnce() -> RankStatus,
    ) -> Result<StepOutput> {
        autograd::memory::reset_peak(self.device())?;
        let syncs_bases = shared_bases::is_due(step, self.basis_steps);
        self.sites.observe(syncs_bases);
        let (accumulated, tokens) = self.forward_backward(step)?;
        let (grad_norm, mut traffic) = self.update(step, learning_rate)?;
        if syncs_bases {
            let (group, params) = (&*self.group, &self.shared_params);
            traffic.bytes +=
                shared_bases::sync(&self.sites, group, &mut self.reducer, params, step)?;
        }
        self.gather(accumulated, tokens, grad_norm, traffic, status())
    }

    /// Accumulates the gradients of this rank's batch. Also returns the tokens of all ranks.
    fn forward_backward(&mut self, step: u64) -> Result<(Accumulated, u64)> {
        let Self { task, group, reducer, sites, activations, .. } = self;
        let (rank, world_size) = (group.rank(), group.world_size());
        let indices = self.order.rank_share(step, rank, world_size);
        let RankBatch { micro_batches, targets, tokens } =
            task.micro_batches(step, &indices, self.micro_batch_size)?;

        let mut totals = Tensor::f_from_slice(&[targets, tokens as f64])?;
        group.all_reduce(&mut totals, Reduce::Sum)?;
        let global_targets = totals.f_double_value(&[0])?;
        let global_targets = if global_targets > 0.0 { global_targets } else { 1.0 };
        // The reducer averages over the ranks, so that their sum needs the factor `world_size`.
        let weight = world_size as f64 / global_targets;

        let mut sums = Accumulated::default();
        for (micro, batch) in micro_batches.iter().enumerate() {
            let scope = Scope::training(
                derive_seed(&[self.seed, step, rank as u64, micro as u64]),
                sites.clone(),
            );
            let loss = {
                let _span = tracing::trace_span!("forward", micro).entered();
                batch.loss(weight, activations, &scope)?
            };
            let saved = sites.saved_bytes();
            let kept_bytes = saved.held() + sites.state_bytes();
            if kept_bytes >= sums.kept_bytes {
                (sums.kept_bytes, sums.exact_bytes) = (kept_bytes, saved.exact());
            }
            if micro + 1 == micro_batches.len() {
                reducer.begin(step);
            }
            {
                let _span = tracing::trace_span!("backward", micro).entered();
                autograd::backward(&[&loss], &[None], false)?;
            }
            sums.loss += loss.f_double_value(&[])?;
            // The host has just waited for the GPU in any case.
            sites.check_finite()?;
        }
        Ok((sums, totals.f_double_value(&[1])? as u64))
    }

    /// Averages the gradients over all ranks, clips them, and steps; returns their norm before
    /// clipping.
    fn update(&mut self, step: u64, learning_rate: f64) -> Result<(f64, Traffic)> {
        let traffic = {
            let _span = tracing::trace_span!("wait for gradients").entered();
            self.reducer.reduce(step)?
        };
        let _span = tracing::trace_span!("optimizer").entered();
        let grad_norm =
            clip_grad_norm(&self.trained.iter().collect::<Vec<_>>(), self.max_grad_norm)?;
        self.optimizer.step(learning_rate)?;
        self.optimizer.exchange(&*self.group)?;
        self.reducer.zero_gradients()?;
        Ok((grad_norm, traffic))
    }

    /// Exchanges the metrics of all ranks: the mean of their losses, and the maximum of their
    /// bytes.
    fn gather(
        &self,
        sums: Accumulated,
        tokens: u64,
        grad_norm: f64,
        traffic: Traffic,
        status: RankStatus,
    ) -> Result<StepOutput> {
        let peak = autograd::memory::peak(self.device())? as f64;
        let (kept_bytes, exact_bytes) = (sums.kept_bytes as f64, sums.exact_bytes as f64);
        let status = [f64::from(status.signal), f64::from(u8::from(status.is_written))];
        let own = Tensor::f_from_slice(&[
            sums.loss,
            kept_bytes,
            exact_bytes,
            peak,
            status[0],
            status[1],
        ])?;
        let all = self.group.all_gather(&own)?;
        let max = |column: i64| all.f_select(1, column)?.f_max()?.f_double_value(&[]);
        let is_written = all.f_select(1, 5)?.f_min()?.f_double_value(&[])? > 0.0;
        Ok(StepOutput {
            loss: all.f_select(1, 0)?.f_mean(Kind::Double)?.f_double_value(&[])?,
            grad_norm,
            tokens,
            kept_bytes: max(1)? as u64,
            exact_bytes: max(2)? as u64,
            peak_bytes: max(3)? as u64,
            traffic,
            status: RankStatus { signal: max(4)? as i32, is_written },
        })
    }
}

/// The `[gradients]` table as the reducer reads it.
fn reduce_config(run: &Run, world_size: usize) -> reduce::Config {
    let table = &run.gradients;
    let method = reduction_method(table, world_size);
    reduce::Config {
        method,
        seed: run.seed,
        bucket_bytes: table.bucket_bytes.bytes() as usize,
        overlap: table.overlap,
    }
}
