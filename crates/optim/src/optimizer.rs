mod adamw;
mod adamw8bit;
mod blockwise;
mod bytes;
mod lion;
mod muon;
mod param;
mod partition;
mod rule;
mod sgd;
#[cfg(test)]
mod tests;
mod workspace;

pub use bytes::{TrainedShape, optimizer_bytes};
pub use param::TrainedParam;
pub use partition::{EXCHANGE_BYTES, Partition};

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use collective::ProcessGroup;
use config::OptimizerMethod;

use crate::Result;
use adamw::AdamW;
use adamw8bit::AdamW8bit;
use blockwise::{BLOCK, Levels};
use lion::Lion;
use muon::Muon;
use partition::{Exchange, ShardRange, flat, partition};
use rule::{StepInfo, UpdateRule};
use sgd::Sgd;
use workspace::Workspace;

/// Steps parameters along their gradients by the method that `[optimizer] name` selects.
///
/// All states and the workspace of a step are allocated in [`Optimizer::new`]. A bf16 weight would
/// round most updates away; with `master_weights` the optimizer therefore steps an f32 copy and
/// rounds it to the weight.
#[derive(Debug)]
pub struct Optimizer {
    params: Vec<ParamState>,
    workspace: Workspace,
    exchange: Exchange,
    steps: u64,
}

/// A range of a parameter's elements with its state.
#[derive(Debug)]
struct ParamState {
    leaf: Tensor,
    range: ShardRange,
    /// A view of the leaf: all of it in its shape, or a range of it, flat.
    value: Tensor,
    /// The same in f32.
    master: Option<Tensor>,
    lr_scale: f64,
    rule: Box<dyn UpdateRule + Send>,
}

/// The state of a range of a parameter's elements.
#[derive(Debug)]
pub struct OptimizerState<'a> {
    /// The parameter's index in the order of [`Optimizer::new`].
    pub parameter: usize,
    /// Which of its elements, in the flat parameter.
    pub elements: Range<i64>,
    /// The tensors, by the names that `torch.optim` uses.
    pub tensors: Vec<(&'static str, &'a Tensor)>,
}

impl OptimizerState<'_> {
    /// Elements of the parameter for each element of the state tensor `name`: 1, but for the scales
    /// of 8-bit states.
    pub fn elements_per_entry(name: &str) -> i64 {
        if name.ends_with("_scale") { BLOCK } else { 1 }
    }
}

impl Optimizer {
    /// An optimizer for this rank's partition of the elements of `parameters`. If other ranks have
    /// the rest, [`Optimizer::exchange`] must follow each step.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(
        parameters: &[TrainedParam<'_>],
        options: &config::Optimizer,
        part: Partition,
    ) -> Result<Self> {
        let device = parameters.first().map_or(Device::Cpu, |parameter| parameter.tensor.device());
        let levels = match options.method {
            OptimizerMethod::AdamW8bit => {
                Some((Levels::signed(device)?, Levels::unsigned(device)?))
            }
            _ => None,
        };
        let ranges = partition(parameters, options.method, part.world_size);
        let mut params = Vec::with_capacity(parameters.len());
        let mut bytes = 0;
        for range in ranges.iter().filter(|range| range.owner == part.rank) {
            let param =
                ParamState::new(&parameters[range.parameter], range, options, levels.as_ref())?;
            bytes = bytes.max(param.workspace_bytes());
            params.push(param);
        }
        let exchange = Exchange::new(parameters, &ranges, part.world_size, device)?;
        Ok(Self { params, workspace: Workspace::new(bytes, device)?, exchange, steps: 0 })
    }

    /// One step along the parameters' gradients. Parameters without a gradient stay; the gradients
    /// hold unspecified values afterwards.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn step(&mut self, learning_rate: f64) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.steps += 1;
        let info = StepInfo { learning_rate, step: self.steps };
        self.params.iter_mut().try_for_each(|param| param.step(info, &mut self.workspace))
    }

    /// Sends the elements that this rank stepped to the other ranks, and receives theirs (ZeRO
    /// stage 1). All ranks of the partition call it; alone it does nothing.
    ///
    /// # Errors
    /// Those of the group and of libtorch.
    pub fn exchange(&mut self, group: &dyn ProcessGroup) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.exchange.run(group)
    }

    /// The states of this rank's elements, in the order of [`Optimizer::new`].
    pub fn states(&self) -> impl Iterator<Item = OptimizerState<'_>> {
        self.params.iter().map(|param| OptimizerState {
            parameter: param.range.parameter,
            elements: param.range.elements.clone(),
            tensors: param
                .rule
                .state()
                .into_iter()
                .chain(param.master.as_ref().map(|master| ("master", master)))
                .collect(),
        })
    }

    /// Whether other ranks have a part of the states.
    pub fn is_sharded(&self) -> bool {
        self.exchange.is_needed()
    }

    /// Sets the number of steps done, for a run that resumes. The caller fills the tensors of
    /// [`Optimizer::states`].
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

impl ParamState {
    fn new(
        trained: &TrainedParam<'_>,
        range: &ShardRange,
        options: &config::Optimizer,
        levels: Option<&(Levels, Levels)>,
    ) -> Result<Self> {
        let leaf = trained.tensor.shallow_clone();
        let is_whole = range.elements == (0..leaf.numel() as i64);
        let value = if is_whole { leaf.f_detach()? } else { flat(&leaf, &range.elements)? };
        let master = match options.master_weights && value.kind() == Kind::BFloat16 {
            true => Some(value.f_to_kind(Kind::Float)?),
            false => None,
        };
        let rule: Box<dyn UpdateRule + Send> = match (options.method, levels) {
            (OptimizerMethod::AdamW8bit, Some(levels)) => {
                Box::new(AdamW8bit::new(&value, options, levels)?)
            }
            (OptimizerMethod::Lion, _) => Box::new(Lion::new(&value, options)?),
            (OptimizerMethod::Sgd, _) => Box::new(Sgd::new(&value, options)?),
            (OptimizerMethod::Muon, _) if trained.is_muon_matrix() => {
                Box::new(Muon::new(&value, options)?)
            }
            _ => Box::new(AdamW::new(&value, options)?),
        };
        Ok(Self { leaf, range: range.clone(), value, master, lr_scale: trained.lr_scale, rule })
    }

    fn workspace_bytes(&self) -> usize {
        let wide = if self.value.kind() == Kind::Float {
            0
        } else {
            Workspace::bytes(Kind::Float, self.value.numel())
        };
        wide + self.rule.workspace_bytes()
    }

    fn step(&mut self, info: StepInfo, workspace: &mut Workspace) -> Result<()> {
        let mut gradient = self.leaf.grad();
        if !gradient.defined() {
            return Ok(());
        }
        if gradient.size() != self.value.size() {
            let elements = &self.range.elements;
            gradient = gradient.f_reshape([-1])?.f_narrow(
                0,
                elements.start,
                elements.end - elements.start,
            )?;
        }
        workspace.clear();
        if gradient.kind() != Kind::Float {
            let mut wide = workspace.take(Kind::Float, &gradient.size())?;
            wide.f_copy_(&gradient)?;
            gradient = wide;
        }
        let info = StepInfo { learning_rate: info.learning_rate * self.lr_scale, ..info };
        self.rule.step(
            self.master.as_mut().unwrap_or(&mut self.value),
            &mut gradient,
            info,
            workspace,
        )?;
        if let Some(master) = &self.master {
            self.value.f_copy_(master)?;
        }
        Ok(())
    }
}
