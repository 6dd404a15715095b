use tch::Tensor;

use layers::{Activation, SavedInput, Scope, Site, activate, gated, project, split};

use crate::activations::BlockActivations;
use crate::config::MlpShape;
use crate::config::names::MlpNames;
use crate::linear::Shape;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// An MLP, with a gate or without.
#[derive(Debug)]
pub(crate) struct Mlp {
    activation: Activation,
    inner: Inner,
    down: Linear,
    sites: MlpSites,
}

/// The maps into the inner width.
#[derive(Debug)]
enum Inner {
    Gated([Linear; 2]),
    /// The gate, then up.
    Fused(Linear),
    Plain(Linear),
}

/// The sites at which an MLP saves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MlpSites {
    pub gate: Site,
    pub up: Site,
    pub out: Site,
    /// The random stream of its maps, where several read the same input.
    pub stream: Option<u64>,
}

/// Those of a layer's own MLP.
pub(crate) const OWN: MlpSites =
    MlpSites { gate: Site::Gate, up: Site::Up, out: Site::MlpOut, stream: None };

impl Mlp {
    /// The MLP whose tensors are called `names` after `prefix`.
    pub fn new(
        tensors: &Tensors<'_>,
        shape: MlpShape,
        prefix: &str,
        names: &MlpNames,
        sites: MlpSites,
    ) -> Result<Self> {
        let MlpShape { hidden, width, bias, fan_in_fan_out, activation } = shape;
        let linear = |name: &str, outputs: i64, inputs: i64| {
            let shape = Shape { outputs, inputs, bias, fan_in_fan_out };
            Linear::new(tensors, format!("{prefix}{name}"), shape)
        };
        let (inner, down) = match names {
            MlpNames::Gated([gate, up, down]) => {
                (Inner::Gated([linear(gate, width, hidden)?, linear(up, width, hidden)?]), down)
            }
            MlpNames::Fused([gate_up, down]) => {
                (Inner::Fused(linear(gate_up, 2 * width, hidden)?), down)
            }
            MlpNames::Plain([up, down]) => (Inner::Plain(linear(up, width, hidden)?), down),
        };
        Ok(Self { activation, inner, down: linear(down, hidden, width)?, sites })
    }

    /// The maps into the inner width, and the one out of it.
    pub fn stages(&self) -> (Vec<&Linear>, &Linear) {
        let into = match &self.inner {
            Inner::Gated(maps) => maps.iter().collect(),
            Inner::Fused(map) | Inner::Plain(map) => vec![map],
        };
        (into, &self.down)
    }

    pub fn linears(&self) -> Vec<&Linear> {
        let (mut linears, out) = self.stages();
        linears.push(out);
        linears
    }

    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears: Vec<&mut Linear> = match &mut self.inner {
            Inner::Gated(maps) => maps.iter_mut().collect(),
            Inner::Fused(map) | Inner::Plain(map) => vec![map],
        };
        linears.push(&mut self.down);
        linears
    }

    /// `x` `[.., hidden]` to the same; `input` says how it is saved.
    pub fn forward(
        &self,
        x: &Tensor,
        input: impl Into<SavedInput>,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let (gate, up) = (scope.site(self.sites.gate), scope.site(self.sites.up));
        let into = scope.site(Site::MlpIn);
        let into = self.sites.stream.map_or_else(|| into.clone(), |stream| into.at(stream));
        let inner = match &self.inner {
            Inner::Gated(maps) => {
                let pair = project(x, &[maps[0].projection(), maps[1].projection()], input, &into)?;
                gated(self.activation, &pair[0], &pair[1], &activations.act, [gate, up])?
            }
            Inner::Fused(map) => {
                let both = project(x, &[map.projection()], input, &into)?.remove(0);
                let width = map.size().0 / 2;
                let pair = split(&both, &[width, width])?;
                drop(both);
                gated(self.activation, &pair[0], &pair[1], &activations.act, [gate, up])?
            }
            Inner::Plain(map) => {
                let up = project(x, &[map.projection()], input, &into)?.remove(0);
                activate(self.activation, &up, &activations.act, gate)?
            }
        };
        Ok(project(
            &inner,
            &[self.down.projection()],
            activations.mlp_out,
            &scope.site(self.sites.out),
        )?
        .remove(0))
    }
}
