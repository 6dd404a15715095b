//! What all optimizers have in common: the update of one parameter.

use std::fmt::Debug;

use tch::{Kind, Tensor};

use super::workspace::Workspace;
use crate::Result;

/// What an update rule needs to know of the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepInfo {
    pub learning_rate: f64,
    /// Counted from 1.
    pub step: u64,
}

/// The update of one parameter, with its state.
pub(super) trait UpdateRule: Debug {
    /// One step along `gradient`, which is in f32 and may be overwritten.
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        workspace: &mut Workspace,
    ) -> Result<()>;

    /// Its state tensors, by the names that `torch.optim` uses.
    fn state(&self) -> Vec<(&'static str, &Tensor)>;

    /// Bytes of workspace that a step takes.
    fn workspace_bytes(&self) -> usize {
        0
    }
}

/// Zeros in f32 in the shape of `parameter`.
pub(super) fn zeros_like(parameter: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_zeros(parameter.size(), (Kind::Float, parameter.device()))?)
}

/// Weight decay that no gradient sees (arXiv 1711.05101).
pub(super) fn decay(parameter: &mut Tensor, learning_rate: f64, weight_decay: f64) -> Result<()> {
    if weight_decay > 0.0 {
        let _ = parameter.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
    }
    Ok(())
}
