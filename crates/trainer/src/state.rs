//! The state of a [`Trainer`], as checkpoints hold it.
//!
//! Parameters are the same on all ranks, so each rank writes every `world_size`-th of them, as
//! `parameter.NAME`. So it does with optimizer states (`optimizer.STATE.NAME`), unless ZeRO shards
//! them. Each rank writes all of its own: the state of PowerSGD as `powersgd.…`
//! ([`reduce::GradientReducer::state`]), and that of the sites of its activations as `activation.…`
//! ([`layers::ActivationStore::state`]).

use tch::Tensor;

use checkpoint::{Checkpointable, Error, Result, ShardedTensors, Shards, TensorRange, cpu_copy};
use models::Model;
use optim::OptimizerState;

use crate::trainer::Trainer;

const PARAMETER: &str = "parameter.";
const OPTIMIZER: &str = "optimizer.";
const POWERSGD: &str = "powersgd.";
/// Within the state of PowerSGD: the error of compression so far, which differs between ranks.
const ERROR: &str = "error.";
const ACTIVATION: &str = "activation.";
/// Within the state of sites: a basis that is the same on all ranks.
const SHARED: &str = ".shared";

impl Checkpointable for Trainer {
    fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let (rank, world_size) = (self.group.rank(), self.group.world_size());
        let trained = self.task.model().trained();
        let mut state = Vec::new();
        for parameter in trained.iter().skip(rank).step_by(world_size) {
            state.push((format!("{PARAMETER}{}", parameter.name()), cpu_copy(parameter.tensor())?));
        }
        let is_own = |state: &OptimizerState<'_>| {
            self.optimizer.is_sharded() || state.parameter % world_size == rank
        };
        for own in self.optimizer.states().filter(is_own) {
            let parameter = trained[own.parameter];
            for (name, tensor) in &own.tensors {
                let range = tensor_range(name, parameter.name(), parameter.numel(), &own);
                state.push((range.stored_name(), cpu_copy(tensor)?));
            }
        }
        for (name, tensor) in self.reducer.state() {
            state.push((format!("{POWERSGD}{name}"), cpu_copy(&tensor)?));
        }
        let sites = self.sites.state().map_err(Error::state)?;
        state.extend(
            sites.into_iter().map(|(name, tensor)| (format!("{ACTIVATION}{name}"), tensor)),
        );
        Ok(state)
    }

    /// On the same number of ranks, training continues as if it had not stopped. On another number,
    /// parameters and optimizer states are the same; each rank takes the mean of PowerSGD's errors,
    /// so that their mean over the ranks is unchanged; and sites start over, except for bases that
    /// all ranks share.
    fn load_state(&mut self, shards: &Shards) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        load_parameters(self.task.model(), shards)?;
        self.load_optimizer(shards)?;
        let (rank, world_size) = (self.group.rank(), self.group.world_size());
        if shards.world_size() == world_size {
            self.reducer.load_state(&shards.with_prefix(POWERSGD, rank)?).map_err(Error::state)?;
            return self.load_sites(shards.with_prefix(ACTIVATION, rank)?);
        }
        tracing::info!(
            "{} ranks wrote it, and {world_size} resume: the order of samples stays, each rank takes the mean of the ranks' \
             gradient errors, and compression of activations starts over except for bases that all ranks share",
            shards.world_size()
        );
        self.load_mean_errors(shards)?;
        let shared = shards
            .with_prefix(ACTIVATION, 0)?
            .into_iter()
            .filter(|(name, _)| name.ends_with(SHARED))
            .collect();
        self.load_sites(shared)
    }
}

impl Trainer {
    fn load_optimizer(&mut self, shards: &Shards) -> Result<()> {
        let trained = self.task.model().trained();
        let stored = ShardedTensors::new(shards, OPTIMIZER);
        for state in self.optimizer.states() {
            let parameter = trained[state.parameter];
            for (name, target) in &state.tensors {
                stored.fill(
                    target,
                    &tensor_range(name, parameter.name(), parameter.numel(), &state),
                )?;
            }
        }
        self.optimizer.set_steps(shards.step());
        Ok(())
    }

    fn load_sites(&self, state: Vec<(String, Tensor)>) -> Result<()> {
        self.sites.load_state(state, self.device()).map_err(Error::state)
    }

    /// The state of PowerSGD from another number of ranks: the mean of their errors, and all else
    /// from the first.
    fn load_mean_errors(&mut self, shards: &Shards) -> Result<()> {
        let expected = self.reducer.state();
        let is_written = shards.names(0).iter().any(|name| name.starts_with(POWERSGD));
        if expected.is_empty() || !is_written {
            // A single rank compresses nothing, and makes no error.
            if is_written {
                tracing::warn!(
                    "the gradient errors of the ranks are dropped: this run has nothing to compress"
                );
            }
            return Ok(());
        }
        let stored = |name: String| {
            let of_ranks = format!("{POWERSGD}{name}");
            let tensor = if name.starts_with(ERROR) {
                shards.mean(&of_ranks)?
            } else {
                shards.tensor(&of_ranks, 0)?
            };
            Ok((name, tensor))
        };
        let state =
            expected.into_iter().map(|(name, _)| stored(name)).collect::<Result<Vec<_>>>()?;
        self.reducer.load_state(&state).map_err(Error::state)
    }
}

/// The elements that `state` has of the state tensor `name` of a parameter.
fn tensor_range(
    name: &str,
    parameter: &str,
    numel: usize,
    state: &OptimizerState<'_>,
) -> TensorRange {
    TensorRange {
        name: format!("{OPTIMIZER}{name}.{parameter}"),
        elements: state.elements.clone(),
        numel: numel as i64,
        elements_per_entry: OptimizerState::elements_per_entry(name),
    }
}

/// Loads the trained parameters of a checkpoint into `model`.
pub(crate) fn load_parameters(model: &dyn Model, shards: &Shards) -> Result<()> {
    let _mode = autograd::GradMode::disabled();
    for (index, parameter) in model.trained().iter().enumerate() {
        shards.fill(
            parameter.tensor(),
            &format!("{PARAMETER}{}", parameter.name()),
            index % shards.world_size(),
        )?;
    }
    Ok(())
}
