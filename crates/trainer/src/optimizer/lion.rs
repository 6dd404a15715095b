use super::{At, Rule, Space, decay, zeros_like};
use crate::Result;
use config::Optimizer;
use tch::{Kind, Tensor};

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the sign of a mean of the gradient. It remembers 4 bytes for each element.
#[derive(Debug)]
pub(super) struct Lion {
    betas: [f64; 2],
    weight_decay: f64,
    mean: Tensor,
}

impl Lion {
    pub fn new(parameter: &Tensor, options: &Optimizer) -> Result<Self> {
        Ok(Self { betas: options.betas(), weight_decay: options.weight_decay, mean: zeros_like(parameter)? })
    }
}

impl Rule for Lion {
    fn step(&mut self, parameter: &mut Tensor, gradient: &mut Tensor, at: At, space: &mut Space) -> Result<()> {
        let [beta1, beta2] = self.betas;
        decay(parameter, at.learning_rate, self.weight_decay)?;
        let mut update = space.take(Kind::Float, &gradient.size())?;
        let _ = self.mean.f_lerp_scalar_out(&update, gradient, 1.0 - beta1)?;
        let _ = self.mean.f_lerp_(gradient, 1.0 - beta2)?;
        let _ = update.f_sign_()?.f_mul_scalar_(-at.learning_rate)?;
        let _ = parameter.f_add_(&update)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("exp_avg", &self.mean)]
    }

    fn workspace(&self) -> usize {
        Space::bytes(Kind::Float, self.mean.numel())
    }
}
