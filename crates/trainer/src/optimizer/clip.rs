use crate::Result;
use tch::{Kind, Tensor};

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
