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
    let norms = gradients.iter().map(block_norms).collect::<std::result::Result<Vec<_>, _>>()?;
    let norm = if norms.is_empty() { 0.0 } else { Tensor::f_cat(&norms, 0)?.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])? };
    let scale = largest / (norm + 1e-6);
    if largest > 0.0 && scale < 1.0 {
        for mut gradient in gradients {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
    }
    Ok(norm)
}

/// The elements of a gradient whose squares are added up in f32; those of millions would lose digits.
const BLOCK: i64 = 4096;

/// The norms of a gradient's blocks, flat, in f32: no copy of the gradient is made for them.
fn block_norms(gradient: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    let flat = gradient.f_reshape([-1])?;
    let in_blocks = flat.numel() as i64 / BLOCK * BLOCK;
    let of = |part: Tensor| part.f_linalg_norm(2, [1].as_slice(), false, Kind::Float);
    let blocks = of(flat.f_narrow(0, 0, in_blocks)?.f_view([-1, BLOCK])?)?;
    let rest = of(flat.f_narrow(0, in_blocks, flat.numel() as i64 - in_blocks)?.f_view([1, -1])?)?;
    Tensor::f_cat(&[blocks, rest], 0)
}
