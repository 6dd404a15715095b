use tch::Tensor;

use autograd::Parameter;
use layers::{SavePolicy, Scope, layer_norm, rms_norm};

use crate::Result;
use crate::config::NormKind;
use crate::tensors::Tensors;

/// A norm of a model, of whatever kind.
#[derive(Debug)]
pub(crate) struct Norm {
    kind: NormKind,
    eps: f64,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
}

impl Norm {
    /// The norm at `path`, with parameters of `shape`.
    pub fn new(
        tensors: &Tensors<'_>,
        (kind, eps): (NormKind, f64),
        path: &str,
        shape: &[i64],
    ) -> Result<Self> {
        let (has_weight, has_bias) = match kind {
            NormKind::Rms(_) => (true, false),
            NormKind::Layer { weight, bias } => (weight, bias),
        };
        let load = |has: bool, what: &str| {
            if has {
                tensors.parameter(format!("{path}.{what}"), shape).map(Some)
            } else {
                Ok(None)
            }
        };
        Ok(Self { kind, eps, weight: load(has_weight, "weight")?, bias: load(has_bias, "bias")? })
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.weight.iter().chain(&self.bias)
    }

    /// `x` normed; what backward needs of it is saved as `policy` says at the site of `scope`.
    pub fn forward(
        &self,
        x: &Tensor,
        policy: &SavePolicy,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let weight = self.weight.as_ref().map(Parameter::tensor);
        match (self.kind, weight) {
            (NormKind::Rms(rule), Some(weight)) => {
                rms_norm(x, weight, self.eps, rule, policy, scope)
            }
            _ => layer_norm(
                x,
                weight,
                self.bias.as_ref().map(Parameter::tensor),
                self.eps,
                policy,
                scope,
            ),
        }
    }
}
