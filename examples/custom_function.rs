//! A custom autograd function with `autograd` alone: rounding whose gradient passes straight
//! through.
//!
//! `cargo run --release -p loract-examples --bin custom_function`

use autograd::{Backward, BoxError, Forward, Function, apply, backward};
use tch::{Kind, Tensor};

/// Rounds to multiples of a step. The derivative of rounding is zero almost everywhere, which
/// teaches nothing; so backward pretends that it is one (the straight-through estimator, arXiv
/// 1308.3432).
struct StraightThrough {
    step: f64,
}

impl Function for StraightThrough {
    fn name(&self) -> String {
        "straight_through".into()
    }

    fn forward(
        &mut self,
        _: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![inputs[0].f_div_scalar(self.step)?.f_round()?.f_mul_scalar(self.step)?])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        Ok(vec![gradients[0].as_ref().map(Tensor::shallow_clone)])
    }
}

fn main() -> anyhow::Result<()> {
    // Find the point that rounds to the target, by gradient descent through the rounding.
    let target = Tensor::from_slice(&[0.5, -1.25, 2.0]);
    let mut x = Tensor::from_slice(&[0.0, 0.0, 0.0]).set_requires_grad(true);
    for _ in 0..200 {
        let rounded = apply(StraightThrough { step: 0.25 }, &[&x])?.remove(0);
        let loss = (rounded - &target).square().sum(Kind::Double);
        x.zero_grad();
        backward(&[&loss], &[None], false)?;
        let _mode = autograd::GradMode::disabled();
        let step = x.grad() * 0.05;
        let _ = x.f_sub_(&step)?;
    }
    let found = apply(StraightThrough { step: 0.25 }, &[&x])?.remove(0);
    println!(
        "target {:?}\nfound  {:?}",
        Vec::<f64>::try_from(&target)?,
        Vec::<f64>::try_from(&found)?
    );
    anyhow::ensure!(found == target, "descent did not find the target");
    Ok(())
}
