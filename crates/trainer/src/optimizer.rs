mod adamw;
mod adamw8bit;
mod blockwise;
mod bytes;
mod clip;
mod lion;
mod muon;
mod sgd;
mod space;
mod split;
#[cfg(test)]
mod tests;

pub(crate) use bytes::{TrainedShape, bytes_of};
pub use clip::clip_by_global_norm;
pub(crate) use split::EXCHANGE_BYTES;
pub use split::Part;

use crate::Result;
use adamw::AdamW;
use adamw8bit::AdamW8bit;
pub(crate) use blockwise::BLOCK;
use blockwise::Levels;
use collective::ProcessGroup;
use config::OptimizerMethod;
use lion::Lion;
use muon::Muon;
use sgd::Sgd;
use space::Space;
use split::{Exchange, Piece, flat, pieces};
use std::fmt::Debug;
use std::ops::Range;
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

impl Trained<'_> {
    /// Whether Muon turns it.
    fn is_muon_matrix(&self) -> bool {
        self.is_hidden_matrix && self.tensor.dim() == 2
    }
}

/// How gradients become steps, by the rule that the configuration names. A rule holds what it remembers of one parameter; all of it is
/// allocated here, as is the room for what a step computes on the way.
///
/// A weight in bf16 changes by less than it can show: what is stepped then is a copy in f32, of which it is the rounded value.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
    space: Space,
    exchange: Exchange,
    steps: u64,
}

/// Elements of a parameter, and what is remembered of them.
#[derive(Debug)]
struct Slot {
    leaf: Tensor,
    piece: Piece,
    /// Of the leaf's own memory: all of it in its shape, or a part of it, flat.
    value: Tensor,
    /// The same in f32.
    master: Option<Tensor>,
    rate: f64,
    rule: Box<dyn Rule + Send>,
}

/// What an optimiser remembers of some elements of a parameter.
#[derive(Debug)]
pub struct OptimizerState<'a> {
    /// The parameter's number in the order of [`Optimizer::new`].
    pub parameter: usize,
    /// Its elements, flat.
    pub elements: Range<i64>,
    /// The tensors themselves, by the names that `torch.optim` uses.
    pub tensors: Vec<(&'static str, &'a Tensor)>,
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
    /// For a share of these parameters' elements: where others have the rest, [`Optimizer::exchange`] must follow each step.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(parameters: &[Trained<'_>], options: &config::Optimizer, share: Part) -> Result<Self> {
        let device = parameters.first().map_or(Device::Cpu, |parameter| parameter.tensor.device());
        let levels = match options.method {
            OptimizerMethod::AdamW8bit => Some((Levels::signed(device)?, Levels::unsigned(device)?)),
            _ => None,
        };
        let all = pieces(parameters, options.method, share.ranks);
        let mut slots = Vec::with_capacity(parameters.len());
        let mut bytes = 0;
        for piece in all.iter().filter(|piece| piece.owner == share.rank) {
            let trained = &parameters[piece.parameter];
            let leaf = trained.tensor.shallow_clone();
            let is_whole = piece.elements == (0..leaf.numel() as i64);
            let value = if is_whole { leaf.f_detach()? } else { flat(&leaf, &piece.elements)? };
            let master = match options.master_weights && value.kind() == Kind::BFloat16 {
                true => Some(value.f_to_kind(Kind::Float)?),
                false => None,
            };
            let rule: Box<dyn Rule + Send> = match (options.method, &levels) {
                (OptimizerMethod::AdamW8bit, Some(levels)) => Box::new(AdamW8bit::new(&value, options, levels)?),
                (OptimizerMethod::Lion, _) => Box::new(Lion::new(&value, options)?),
                (OptimizerMethod::Sgd, _) => Box::new(Sgd::new(&value, options)?),
                (OptimizerMethod::Muon, _) if trained.is_muon_matrix() => Box::new(Muon::new(&value, options)?),
                _ => Box::new(AdamW::new(&value, options)?),
            };
            let wide = if value.kind() == Kind::Float { 0 } else { Space::bytes(Kind::Float, value.numel()) };
            bytes = bytes.max(wide + rule.workspace());
            slots.push(Slot { leaf, piece: piece.clone(), value, master, rate: trained.rate, rule });
        }
        let exchange = Exchange::new(parameters, &all, share.ranks, device)?;
        Ok(Self { slots, space: Space::new(bytes, device)?, exchange, steps: 0 })
    }

    /// One step along the parameters' gradients, which it may use up (they hold anything afterwards); parameters without one stay.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn step(&mut self, learning_rate: f64) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.steps += 1;
        for Slot { leaf, piece, value, master, rate, rule } in &mut self.slots {
            let mut gradient = leaf.grad();
            if !gradient.defined() {
                continue;
            }
            if gradient.size() != value.size() {
                gradient = gradient.f_reshape([-1])?.f_narrow(0, piece.elements.start, piece.elements.end - piece.elements.start)?;
            }
            self.space.clear();
            if gradient.kind() != Kind::Float {
                let mut wide = self.space.take(Kind::Float, &gradient.size())?;
                wide.f_copy_(&gradient)?;
                gradient = wide;
            }
            let at = At { learning_rate: learning_rate * *rate, step: self.steps };
            rule.step(master.as_mut().unwrap_or(value), &mut gradient, at, &mut self.space)?;
            if let Some(master) = master {
                value.f_copy_(master)?;
            }
        }
        Ok(())
    }

    /// Gives this rank the elements that others have stepped, and the others its own. All that share call it; alone it does nothing.
    ///
    /// # Errors
    /// Those of the group and of libtorch.
    pub fn exchange(&mut self, group: &dyn ProcessGroup) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.exchange.run(group)
    }

    /// What it remembers, in the order of [`Optimizer::new`].
    pub fn states(&self) -> impl Iterator<Item = OptimizerState<'_>> {
        self.slots.iter().map(|slot| OptimizerState {
            parameter: slot.piece.parameter,
            elements: slot.piece.elements.clone(),
            tensors: slot.rule.state().into_iter().chain(slot.master.as_ref().map(|master| ("master", master))).collect(),
        })
    }

    /// Whether other ranks have a part of it.
    pub fn is_split(&self) -> bool {
        self.exchange.is_needed()
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
