use crate::{Error, Keep, Kept, Scope, Site};
use autograd::{Backward, BoxError, Forward, Function, apply};
use tch::Tensor;

/// `silu(gate) · up`, elementwise, of two tensors of one shape: the gated activation of a Llama MLP (Shazeer 2020, arXiv 2002.05202).
///
/// Both are kept as `keep` says, at the sites [`Site::Gate`] and [`Site::Up`] of `scope`.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; those of keeping.
pub fn silu_mul(gate: &Tensor, up: &Tensor, keep: &Keep, scope: &Scope) -> Result<Tensor, Error> {
    if gate.size() != up.size() {
        return Err(Error::Shape { operation: "silu_mul", expected: format!("two tensors {:?}", gate.size()), got: up.size() });
    }
    let function = SiluMul { keep: *keep, scope: scope.clone(), kept: None };
    Ok(apply(function, &[gate, up])?.remove(0))
}

struct SiluMul {
    keep: Keep,
    scope: Scope,
    kept: Option<(Kept, Kept)>,
}

impl Function for SiluMul {
    fn name(&self) -> String {
        "silu_mul".into()
    }

    fn forward(&mut self, context: &mut Forward<'_>, inputs: &[&Tensor]) -> Result<Vec<Tensor>, BoxError> {
        let (gate, up) = (inputs[0], inputs[1]);
        if context.any_needs_grad() {
            self.kept = Some((self.keep.keep(gate, &self.scope.site(Site::Gate))?, self.keep.keep(up, &self.scope.site(Site::Up))?));
        }
        Ok(vec![gate.f_silu()?.f_mul_(up)?])
    }

    fn backward(&self, context: &Backward<'_>, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some((gate, up))) = (&gradients[0], &self.kept) else { return Ok(vec![None, None]) };
        let gate = gate.restore()?;
        let d_gate = if context.needs_grad(0) { Some(gate.f_silu_backward(&dy.f_mul(&up.restore()?)?)?) } else { None };
        let d_up = if context.needs_grad(1) { Some(gate.f_silu()?.f_mul_(dy)?) } else { None };
        Ok(vec![d_gate, d_up])
    }
}
