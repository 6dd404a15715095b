mod adamw;
mod adamw8bit;
mod blockwise;
mod clip;
mod lion;
mod muon;
mod sgd;
mod space;
#[cfg(test)]
mod tests;

pub use clip::clip_by_global_norm;

use crate::Result;
use crate::config::{self, OptimizerName};
use adamw::AdamW;
use adamw8bit::AdamW8bit;
use blockwise::Levels;
use lion::Lion;
use muon::Muon;
use sgd::Sgd;
use space::Space;
use std::fmt::Debug;
use tch::{Device, Kind, Tensor};

/// A parameter to be trained.
#[derive(Clone, Copy, Debug)]
pub struct Trained<'a> {
    /// The tensor, whose `.grad` a step reads.
    pub tensor: &'a Tensor,
    /// Its own learning rate, as a multiple of the step's.
    pub rate: f64,
    /// Whether it is a matrix between hidden layers, and neither an embedding nor the head: Muon is for those.
    pub is_hidden_matrix: bool,
}

/// How gradients become steps, by the rule that the configuration names. A rule holds what it remembers of one parameter; all of it is
/// allocated here, as is the room for what a step computes on the way.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
    space: Space,
    steps: u64,
}

#[derive(Debug)]
struct Slot {
    parameter: Tensor,
    rate: f64,
    rule: Box<dyn Rule + Send>,
}

/// Where a step is.
#[derive(Clone, Copy, Debug)]
struct At {
    learning_rate: f64,
    /// Counted from 1.
    step: u64,
}

/// What one parameter's steps follow.
trait Rule: Debug {
    /// One step along `gradient`, which is in f32 and may be written over.
    fn step(&mut self, parameter: &mut Tensor, gradient: &mut Tensor, at: At, space: &mut Space) -> Result<()>;

    /// What it remembers, by the names that `torch.optim` uses.
    fn state(&self) -> Vec<(&'static str, &Tensor)>;

    /// Bytes that it takes from the space in a step.
    fn workspace(&self) -> usize {
        0
    }
}

impl Optimizer {
    /// For these parameters.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(parameters: &[Trained<'_>], options: &config::Optimizer) -> Result<Self> {
        let device = parameters.first().map_or(Device::Cpu, |parameter| parameter.tensor.device());
        let levels = match options.name {
            OptimizerName::AdamW8bit => Some((Levels::signed(device)?, Levels::unsigned(device)?)),
            _ => None,
        };
        let mut slots = Vec::with_capacity(parameters.len());
        let mut bytes = 0;
        for Trained { tensor, rate, is_hidden_matrix } in parameters {
            let rule: Box<dyn Rule + Send> = match (options.name, &levels) {
                (OptimizerName::AdamW8bit, Some(levels)) => Box::new(AdamW8bit::new(tensor, options, levels)?),
                (OptimizerName::Lion, _) => Box::new(Lion::new(tensor, options)?),
                (OptimizerName::Sgd, _) => Box::new(Sgd::new(tensor, options)?),
                (OptimizerName::Muon, _) if *is_hidden_matrix && tensor.dim() == 2 => Box::new(Muon::new(tensor, options)?),
                _ => Box::new(AdamW::new(tensor, options)?),
            };
            let wide = if tensor.kind() == Kind::Float { 0 } else { Space::bytes(Kind::Float, tensor.numel()) };
            bytes = bytes.max(wide + rule.workspace());
            slots.push(Slot { parameter: tensor.shallow_clone(), rate: *rate, rule });
        }
        Ok(Self { slots, space: Space::new(bytes, device)?, steps: 0 })
    }

    /// One step along the parameters' gradients, which it may use up (they hold anything afterwards); parameters without one stay.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn step(&mut self, learning_rate: f64) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.steps += 1;
        for Slot { parameter, rate, rule, .. } in &mut self.slots {
            let mut gradient = parameter.grad();
            if !gradient.defined() {
                continue;
            }
            self.space.clear();
            if gradient.kind() != Kind::Float {
                let mut wide = self.space.take(Kind::Float, &gradient.size())?;
                wide.f_copy_(&gradient)?;
                gradient = wide;
            }
            rule.step(parameter, &mut gradient, At { learning_rate: learning_rate * *rate, step: self.steps }, &mut self.space)?;
        }
        Ok(())
    }

    /// What it remembers of each parameter, in the order of [`Optimizer::new`]: the tensors themselves, by the names that `torch.optim` uses.
    pub fn states(&self) -> impl Iterator<Item = Vec<(&'static str, &Tensor)>> {
        self.slots.iter().map(|slot| slot.rule.state())
    }

    /// Goes on as after so many steps; the states are the caller's part.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

/// Zeros in f32 in the shape of `parameter`.
fn zeros_like(parameter: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_zeros(parameter.size(), (Kind::Float, parameter.device()))?)
}

/// Weight decay that no gradient sees (arXiv 1711.05101).
fn decay(parameter: &mut Tensor, learning_rate: f64, weight_decay: f64) -> Result<()> {
    if weight_decay > 0.0 {
        let _ = parameter.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
    }
    Ok(())
}
