use tch::{Kind, Tensor};

use config::Optimizer;

use super::rule::{StepInfo, UpdateRule, zeros_like};
use super::workspace::Workspace;
use crate::Result;

/// Gradient descent with momentum, as `torch.optim.SGD`: weight decay is part of the gradient. Its
/// state takes 4 bytes per element; without momentum it has none.
#[derive(Debug)]
pub(super) struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    elements: usize,
    buffer: Option<Tensor>,
}

impl Sgd {
    pub fn new(parameter: &Tensor, options: &Optimizer) -> Result<Self> {
        let momentum = options.momentum();
        let buffer = if momentum > 0.0 { Some(zeros_like(parameter)?) } else { None };
        let (nesterov, weight_decay) = (options.nesterov(), options.weight_decay);
        Ok(Self { momentum, nesterov, weight_decay, elements: parameter.numel(), buffer })
    }
}

impl UpdateRule for Sgd {
    fn step(
        &mut self,
        parameter: &mut Tensor,
        gradient: &mut Tensor,
        info: StepInfo,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let mut product = workspace.take(Kind::Float, &gradient.size())?;
        if self.weight_decay > 0.0 {
            product.f_copy_(parameter)?;
            let _ = product.f_mul_scalar_(self.weight_decay)?;
            let _ = gradient.f_add_(&product)?;
        }
        if let Some(buffer) = &mut self.buffer {
            let _ = buffer.f_mul_scalar_(self.momentum)?.f_add_(gradient)?;
            if self.nesterov {
                let _ = buffer.f_mul_scalar_out(&product, self.momentum)?;
                let _ = gradient.f_add_(&product)?;
            } else {
                gradient.f_copy_(buffer)?;
            }
        }
        let _ = gradient.f_mul_scalar_(-info.learning_rate)?;
        let _ = parameter.f_add_(gradient)?;
        Ok(())
    }

    fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.buffer.iter().map(|buffer| ("momentum_buffer", buffer)).collect()
    }

    fn workspace_bytes(&self) -> usize {
        Workspace::bytes(Kind::Float, self.elements)
    }
}
