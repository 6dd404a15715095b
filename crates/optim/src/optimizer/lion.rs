use tch::{Kind, Tensor};

use config::Optimizer;

use super::rule::{StepInfo, UpdateRule, decay, zeros_like};
use super::workspace::Workspace;
use crate::Result;

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the sign of a mean of the gradient. Its
/// state takes 4 bytes per element.
#[derive(Debug)]
pub(super) struct Lion {
    betas: [f64; 2],
    weight_decay: f64,
    mean: Tensor,
}

impl Lion {
    pub fn new(parameter: &Tensor, options: &Optimizer) -> Result<Self> {
        Ok(Self {
            betas: options.betas(),
            weight_decay: options.weight_decay,
            mean: zeros_like(parameter)?,
        })
    }
}

impl UpdateRule for Lion {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let [beta1, beta2] = self.betas;
        decay(parameter, info.learning_rate, self.weight_decay)?;
        let mut update = workspace.take(Kind::Float, &gradient.size())?;
        let _ = self.mean.f_lerp_scalar_out(&update, gradient, 1.0 - beta1)?;
        let _ = self.mean.f_lerp_(gradient, 1.0 - beta2)?;
        let _ = update.f_sign_()?.f_mul_scalar_(-info.learning_rate)?;
        let _ = parameter.f_add_(&update)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("exp_avg", &self.mean)]
    }

    fn workspace_bytes(&self) -> usize {
        Workspace::bytes(Kind::Float, self.mean.numel())
    }
}
