use crate::Result;
use crate::config::Optimizer;
use tch::{Kind, Tensor};

/// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101), step for step as `torch.optim.AdamW`.
#[derive(Debug)]
pub struct AdamW {
    parameters: Vec<Moments>,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    steps: i32,
}

#[derive(Debug)]
struct Moments {
    parameter: Tensor,
    /// Of the gradient, in f32.
    first: Tensor,
    /// Of its square, in f32.
    second: Tensor,
}

impl AdamW {
    /// For these parameters; its moments take 8 bytes for each element, from now on.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(parameters: &[&Tensor], options: &Optimizer) -> Result<Self> {
        let moments = |parameter: &&Tensor| {
            let zeros = || Tensor::f_zeros(parameter.size(), (Kind::Float, parameter.device()));
            Ok(Moments { parameter: parameter.shallow_clone(), first: zeros()?, second: zeros()? })
        };
        let parameters = parameters.iter().map(moments).collect::<Result<_>>()?;
        Ok(Self { parameters, betas: options.betas, eps: options.eps, weight_decay: options.weight_decay, steps: 0 })
    }

    /// The moments of each parameter, in the order of [`AdamW::new`]: of the gradient, and of its square.
    pub(crate) fn moments(&self) -> impl Iterator<Item = [&Tensor; 2]> {
        self.parameters.iter().map(|moments| [&moments.first, &moments.second])
    }

    /// Goes on as after so many steps; the moments are the caller's part.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
    }

    /// One step along the parameters' gradients; those without one stay.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn step(&mut self, learning_rate: f64) -> Result<()> {
        let _mode = autograd::GradMode::disabled();
        self.steps += 1;
        let [beta1, beta2] = self.betas;
        let (correction1, correction2) = (1.0 - beta1.powi(self.steps), 1.0 - beta2.powi(self.steps));
        for Moments { parameter, first, second } in &mut self.parameters {
            let gradient = parameter.grad();
            if !gradient.defined() {
                continue;
            }
            let gradient = gradient.f_to_kind(Kind::Float)?;
            let _ = parameter.f_mul_scalar_(1.0 - learning_rate * self.weight_decay)?;
            let _ = first.f_lerp_(&gradient, 1.0 - beta1)?;
            let _ = second.f_mul_scalar_(beta2)?;
            let _ = second.f_addcmul_(&gradient, &gradient.f_mul_scalar(1.0 - beta2)?)?;
            let mut denominator = second.f_sqrt()?;
            let _ = denominator.f_mul_scalar_(1.0 / correction2.sqrt())?;
            let _ = denominator.f_add_scalar_(self.eps)?;
            let update = first.f_div(&denominator)?.f_mul_scalar(-learning_rate / correction1)?;
            let _ = parameter.f_add_(&update.f_to_kind(parameter.kind())?)?;
        }
        Ok(())
    }
}

/// The norm of all gradients together; if it is above `largest` (and that is not 0), they are scaled down to it, as
/// `torch.nn.utils.clip_grad_norm_` does.
///
/// # Errors
/// Those of libtorch.
pub fn clip_by_global_norm(parameters: &[&Tensor], largest: f64) -> Result<f64> {
    let _mode = autograd::GradMode::disabled();
    let gradients: Vec<Tensor> = parameters.iter().map(|parameter| parameter.grad()).filter(Tensor::defined).collect();
    let squares = gradients
        .iter()
        .map(|gradient| gradient.f_to_kind(Kind::Float)?.f_square()?.f_sum(Kind::Double))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let norm = if squares.is_empty() { 0.0 } else { Tensor::f_stack(&squares, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?.sqrt() };
    let scale = largest / (norm + 1e-6);
    if largest > 0.0 && scale < 1.0 {
        for mut gradient in gradients {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
    }
    Ok(norm)
}
