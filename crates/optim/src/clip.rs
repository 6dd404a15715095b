use tch::{Kind, Tensor};

use crate::Result;

/// The norm of all gradients together. If it is above `max_norm`, they are scaled down to it, as
/// `torch.nn.utils.clip_grad_norm_` does; with 0 they are not.
///
/// # Errors
/// Those of libtorch.
pub fn clip_grad_norm(parameters: &[&Tensor], max_norm: f64) -> Result<f64> {
    let _mode = autograd::GradMode::disabled();
    let gradients: Vec<Tensor> =
        parameters.iter().map(|parameter| parameter.grad()).filter(Tensor::defined).collect();
    let norms = gradients.iter().map(block_norms).collect::<std::result::Result<Vec<_>, _>>()?;
    let norm = if norms.is_empty() {
        0.0
    } else {
        Tensor::f_cat(&norms, 0)?.f_to_kind(Kind::Double)?.f_norm()?.f_double_value(&[])?
    };
    let scale = max_norm / (norm + 1e-6);
    if max_norm > 0.0 && scale < 1.0 {
        for mut gradient in gradients {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
    }
    Ok(norm)
}

/// The elements of a gradient whose squares are added up in f32; those of millions would lose
/// digits.
const BLOCK: i64 = 4096;

/// The norms of a gradient's blocks, flat, in f32: no copy of the gradient is made for them.
fn block_norms(gradient: &Tensor) -> std::result::Result<Tensor, tch::TchError> {
    let flat = gradient.f_reshape([-1])?;
    let in_blocks = flat.numel() as i64 / BLOCK * BLOCK;
    let of = |part: Tensor| part.f_linalg_norm(2, [1].as_slice(), false, Kind::Float);
    let blocks = of(flat.f_narrow(0, 0, in_blocks)?.f_view([-1, BLOCK])?)?;
    let rest =
        of(flat.f_narrow(0, in_blocks, flat.numel() as i64 - in_blocks)?.f_view([1, -1])?)?;
    Tensor::f_cat(&[blocks, rest], 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Device;

    /// Leaves with gradients of odd sizes, below, at and above a block's; one that is large, one in
    /// bf16, one without a gradient.
    fn parameters() -> Vec<Tensor> {
        let shapes: [(&[i64], Kind, f64); 6] = [
            (&[], Kind::Float, 1.0),
            (&[0, 3], Kind::Float, 1.0),
            (&[BLOCK], Kind::Float, 1.0),
            (&[3, BLOCK - 1], Kind::Float, 1e3),
            (&[5, 7], Kind::BFloat16, 1.0),
            (&[1 << 22], Kind::Float, 1.0),
        ];
        let leaf = |&(shape, kind, scale): &(&[i64], Kind, f64)| {
            let leaf = Tensor::zeros(shape, (kind, Device::Cpu)).set_requires_grad(true);
            let count: i64 = shape.iter().product();
            let gradient =
                (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7).sin().view(shape)
                    * scale;
            (&leaf * gradient.to_kind(kind)).sum(kind).backward();
            leaf
        };
        let without = Tensor::zeros([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        shapes.iter().map(leaf).chain([without]).collect()
    }

    /// The norm in f64.
    fn norm(parameters: &[&Tensor]) -> f64 {
        let squares = |parameter: &&Tensor| {
            parameter.grad().to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])
        };
        parameters
            .iter()
            .filter(|parameter| parameter.grad().defined())
            .map(squares)
            .sum::<f64>()
            .sqrt()
    }

    #[test]
    fn the_norm_is_that_of_f64_and_gradients_above_the_largest_are_scaled_to_it() {
        let parameters = parameters();
        // All together, and each alone: the large one would hide the others.
        let mut cases: Vec<Vec<&Tensor>> =
            parameters.iter().map(|parameter| vec![parameter]).collect();
        cases.extend([parameters.iter().collect(), Vec::new()]);
        for case in cases {
            let expected = norm(&case);
            for largest in [0.0, 2.0 * expected] {
                let found = clip_grad_norm(&case, largest).unwrap();
                assert!((found - expected).abs() <= 2e-7 * expected, "{found} and {expected}");
                assert_eq!(norm(&case), expected, "nothing to clip");
            }
            clip_grad_norm(&case, 0.5 * expected).unwrap();
            assert!((norm(&case) - 0.5 * expected).abs() <= 5e-3 * expected);
        }
    }

    #[test]
    fn a_norm_of_what_is_not_finite_is_not_finite() {
        let leaf = Tensor::zeros([2 * BLOCK], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let mut gradient = Tensor::ones([2 * BLOCK], (Kind::Float, Device::Cpu));
        let _ = gradient.get(3).fill_(f64::NAN);
        (&leaf * &gradient).sum(Kind::Float).backward();
        assert!(clip_grad_norm(&[&leaf], 1.0).unwrap().is_nan());
        let _ = gradient.fill_(f64::INFINITY);
        let other = Tensor::zeros([2 * BLOCK], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        (&other * &gradient).sum(Kind::Float).backward();
        assert_eq!(clip_grad_norm(&[&other], 0.0).unwrap(), f64::INFINITY);
    }
}
