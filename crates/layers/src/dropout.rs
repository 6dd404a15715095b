use tch::Tensor;

use autograd::random::{Distribution, draw};
use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::footprint::{Allocation, MemorySim};
use crate::{Error, Scope};

/// In training, drops each element with `probability` and scales the others up; the same elements
/// whenever it runs at this site in this step. Nothing is saved: backward draws the mask again.
///
/// # Errors
/// Those of libtorch.
pub fn dropout(x: &Tensor, probability: f64, scope: &Scope) -> Result<Tensor, Error> {
    if !scope.is_training() || probability <= 0.0 {
        return Ok(x.shallow_clone());
    }
    Ok(apply(Dropout { probability, seed: scope.seed() }, &[x])?.remove(0))
}

/// In training, drops whole samples of `x` `[batch, ..]`, as [`dropout`] drops elements (stochastic
/// depth, Huang et al. 2016, arXiv 1603.09382).
///
/// # Errors
/// Those of libtorch.
pub fn drop_path(x: &Tensor, probability: f64, scope: &Scope) -> Result<Tensor, Error> {
    if !scope.is_training() || probability <= 0.0 {
        return Ok(x.shallow_clone());
    }
    let mut samples = vec![1; x.dim()];
    samples[0] = x.size()[0];
    let samples = Tensor::f_empty(&samples[..], (x.kind(), x.device()))?;
    Ok(x.f_mul(&mask(&samples, probability, scope.seed())?)?)
}

struct Dropout {
    probability: f64,
    seed: u64,
}

/// What elements of a tensor shaped like `x` are multiplied with: 0, or more than 1.
pub(crate) fn mask(x: &Tensor, probability: f64, seed: u64) -> Result<Tensor, Error> {
    let kept = 1.0 - probability;
    let mask = draw(Distribution::Bernoulli(kept), &x.size(), x.kind(), x.device(), seed)?;
    Ok(mask.f_mul_scalar(if kept > 0.0 { 1.0 / kept } else { 0.0 })?)
}

impl Function for Dropout {
    fn name(&self) -> String {
        "dropout".into()
    }

    fn forward(
        &mut self,
        _: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        Ok(vec![inputs[0].f_mul(&mask(inputs[0], self.probability, self.seed)?)?])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        Ok(vec![Some(dy.f_mul(&mask(dy, self.probability, self.seed)?)?)])
    }
}

impl MemorySim {
    /// A tensor with elements dropped: the mask is drawn, and multiplied, before it is applied.
    pub(crate) fn drop_elements(&self, elements: u64) -> Allocation {
        let mask = {
            let _drawn = self.tensor(elements);
            self.tensor(elements)
        };
        let _mask = mask;
        self.tensor(elements)
    }
}
