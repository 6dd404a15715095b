use tch::Tensor;

use autograd::{Backward, BoxError, Forward, Function, apply};

use crate::footprint::{Allocation, MemorySim, SavedTensor};
use crate::{Activation, Error, SavePolicy, SavedActivation, Scope};

/// `f(gate) · up`, elementwise, of two tensors of one shape: the gated activation of an MLP
/// (Shazeer 2020, arXiv 2002.05202).
///
/// Both are saved as `policy` says, each at its own site: the gate at that of `scopes[0]`, the
/// other at that of `scopes[1]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; those of saving.
pub fn gated(
    activation: Activation,
    gate: &Tensor,
    up: &Tensor,
    policy: &SavePolicy,
    scopes: [Scope; 2],
) -> Result<Tensor, Error> {
    if gate.size() != up.size() {
        return Err(Error::Shape {
            operation: "gated",
            expected: format!("two tensors {:?}", gate.size()),
            got: up.size(),
        });
    }
    Ok(apply(Gated { activation, policy: *policy, scopes, saved: None }, &[gate, up])?.remove(0))
}

struct Gated {
    activation: Activation,
    policy: SavePolicy,
    scopes: [Scope; 2],
    saved: Option<(SavedActivation, SavedActivation)>,
}

impl Function for Gated {
    fn name(&self) -> String {
        "gated".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        let (gate, up) = (inputs[0], inputs[1]);
        if context.any_needs_grad() {
            self.saved = Some((
                self.policy.save(gate, &self.scopes[0])?,
                self.policy.save(up, &self.scopes[1])?,
            ));
        }
        Ok(vec![self.activation.forward(gate)?.f_mul_(up)?])
    }

    fn backward(
        &self,
        context: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some((gate, up))) = (&gradients[0], &self.saved) else {
            return Ok(vec![None, None]);
        };
        let gate = gate.restore()?;
        let d_gate = if context.needs_grad(0) {
            Some(self.activation.backward(&gate, &dy.f_mul(&up.restore()?)?)?)
        } else {
            None
        };
        let d_up = if context.needs_grad(1) {
            Some(self.activation.forward(&gate)?.f_mul_(dy)?)
        } else {
            None
        };
        Ok(vec![d_gate, d_up])
    }
}

/// `f(x)`, elementwise: the activation of an MLP without a gate. `x` is saved as `policy` says, at
/// the site of `scope`.
///
/// # Errors
/// Those of saving.
pub fn activate(
    activation: Activation,
    x: &Tensor,
    policy: &SavePolicy,
    scope: Scope,
) -> Result<Tensor, Error> {
    Ok(apply(Plain { activation, policy: *policy, scope, saved: None }, &[x])?.remove(0))
}

struct Plain {
    activation: Activation,
    policy: SavePolicy,
    scope: Scope,
    saved: Option<SavedActivation>,
}

impl Function for Plain {
    fn name(&self) -> String {
        "activate".into()
    }

    fn forward(
        &mut self,
        context: &mut Forward<'_>,
        inputs: &[&Tensor],
    ) -> Result<Vec<Tensor>, BoxError> {
        if context.any_needs_grad() {
            self.saved = Some(self.policy.save(inputs[0], &self.scope)?);
        }
        Ok(vec![self.activation.forward(inputs[0])?])
    }

    fn backward(
        &self,
        _: &Backward<'_>,
        gradients: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>, BoxError> {
        let (Some(dy), Some(saved)) = (&gradients[0], &self.saved) else { return Ok(vec![None]) };
        Ok(vec![Some(self.activation.backward(&saved.restore()?, dy)?)])
    }
}

impl MemorySim {
    /// `f(gate) · up`, or `f(x)`.
    pub fn gated(&self, elements: u64) -> Allocation {
        self.tensor(elements)
    }

    /// The gradients of both.
    pub fn gated_backward(
        &self,
        gate: &SavedTensor,
        up: &SavedTensor,
        elements: u64,
    ) -> [Allocation; 2] {
        let _gate = self.restore(gate);
        let d_gate = {
            let _up = self.restore(up);
            let _product = self.tensor(elements);
            self.tensor(elements)
        };
        [d_gate, self.tensor(elements)]
    }

    /// The gradient of `f(x)`.
    pub fn activate_backward(&self, saved: &SavedTensor, elements: u64) -> Allocation {
        let _x = self.restore(saved);
        self.tensor(elements)
    }
}
