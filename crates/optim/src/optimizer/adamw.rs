use tch::Tensor;

use config::Optimizer;

use super::rule::{StepInfo, UpdateRule, decay, zeros_like};
use super::workspace::Workspace;
use crate::Result;

/// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101), as `torch.optim.AdamW`. Its states take 8
/// bytes per element.
#[derive(Debug)]
pub(super) struct AdamW {
    adam: Adam,
    /// Of the gradient, in f32.
    first: Tensor,
    /// Of its square, in f32.
    second: Tensor,
}

/// The numbers of Adam.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adam {
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

impl Adam {
    pub fn new(options: &Optimizer) -> Self {
        Self { betas: options.betas(), eps: options.eps(), weight_decay: options.weight_decay }
    }

    /// Brings both moments up to date with `gradient`, and writes over it the step that they make.
    pub fn update(
        &self,
        first: &mut Tensor,
        second: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
    ) -> Result<()> {
        let [beta1, beta2] = self.betas;
        let steps = info.step as f64;
        let (correction1, correction2) = (1.0 - beta1.powf(steps), 1.0 - beta2.powf(steps));
        let _ = first.f_lerp_(gradient, 1.0 - beta1)?;
        let _ = gradient.f_square_()?;
        let _ = second.f_lerp_(gradient, 1.0 - beta2)?;
        let _ = second.f_sqrt_out(gradient)?;
        let _ = gradient.f_mul_scalar_(1.0 / correction2.sqrt())?;
        let _ = gradient.f_add_scalar_(self.eps)?;
        let _ = first.f_div_out(gradient, gradient)?;
        let _ = gradient.f_mul_scalar_(-info.learning_rate / correction1)?;
        Ok(())
    }
}

impl AdamW {
    pub fn new(parameter: &Tensor, options: &Optimizer) -> Result<Self> {
        Ok(Self {
            adam: Adam::new(options),
            first: zeros_like(parameter)?,
            second: zeros_like(parameter)?,
        })
    }
}

impl UpdateRule for AdamW {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        _: &mut Workspace,
    ) -> Result<()> {
        decay(parameter, info.learning_rate, self.adam.weight_decay)?;
        self.adam.update(&mut self.first, &mut self.second, gradient, info)?;
        let _ = parameter.f_add_(gradient)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("exp_avg", &self.first), ("exp_avg_sq", &self.second)]
    }
}
