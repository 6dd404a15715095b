use tch::Tensor;

use layers::{
    Activation, Dispatch, Scope, SharedSave, Site, expert_inputs, expert_outputs, gated, project,
    route,
};

use super::mlp::{self, Mlp, MlpSites};
use crate::activations::BlockActivations;
use crate::config::names::{ExpertNames, MlpNames};
use crate::config::{ExpertsConfig, ModelConfig};
use crate::linear::Shape;
use crate::quantization::Role;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// A mixture of experts in the place of an MLP: a router gives each token to some of them, and
/// perhaps one sees all tokens.
#[derive(Debug)]
pub(crate) struct Experts {
    config: ExpertsConfig,
    activation: Activation,
    router: Linear,
    correction: Option<Constant>,
    /// gate, up, down.
    experts: Vec<[Linear; 3]>,
    shared: Option<Mlp>,
}

/// A tensor that is not a parameter, which several threads may read.
type Constant = autograd::Parameter;

/// The sites of the shared expert: they are its own, as its tensors live together with those of the
/// others.
const SHARED: MlpSites = MlpSites {
    gate: Site::SharedGate,
    up: Site::SharedUp,
    out: Site::SharedOut,
    stream: Some(u64::MAX),
};

impl Experts {
    /// The mixture whose tensors are called `names` after `prefix`.
    pub fn new(
        tensors: &Tensors<'_>,
        config: &ModelConfig,
        prefix: &str,
        names: &ExpertNames,
        experts: ExpertsConfig,
    ) -> Result<Self> {
        let (hidden, width) = (config.hidden_size, experts.width);
        let linear = |path: String, outputs: i64, inputs: i64| {
            Linear::new(
                tensors,
                path,
                Shape { outputs, inputs, bias: false, fan_in_fan_out: false },
            )
        };
        let [gate, up, down] = names.expert;
        let one = |index: i64| {
            let path = |name: &str| format!("{prefix}{}{index}.{name}", names.experts);
            Ok([
                linear(path(gate), width, hidden)?,
                linear(path(up), width, hidden)?,
                linear(path(down), hidden, width)?,
            ])
        };
        let router =
            Shape { outputs: experts.count, inputs: hidden, bias: false, fan_in_fan_out: false };
        let router =
            Linear::with_role(tensors, format!("{prefix}{}", names.router), router, Role::Other)?;
        let correction = match names.correction {
            Some(name) => {
                let name = format!("{prefix}{name}");
                let tensor = tensors.constant(&name, &[experts.count])?;
                Some(Constant::new(name, tensor))
            }
            None => None,
        };
        let shared = match names.shared.filter(|_| experts.shared_width > 0) {
            Some(names) => Some(Mlp::new(
                tensors,
                config.mlp(experts.shared_width),
                prefix,
                &MlpNames::Gated(names),
                SHARED,
            )?),
            None => None,
        };
        let all = (0..experts.count).map(one).collect::<Result<_>>()?;
        Ok(Self {
            config: experts,
            activation: config.activation,
            router,
            correction,
            experts: all,
            shared,
        })
    }

    /// The maps of one expert, which are like those of all, into its inner width and out of it.
    pub fn stages(&self) -> (Vec<&Linear>, &Linear) {
        let [gate, up, down] = &self.experts[0];
        (vec![gate, up], down)
    }

    /// The linear layers that adapters may target.
    pub fn linears(&self) -> Vec<&Linear> {
        let router = self.config.router_is_linear.then_some(&self.router);
        let shared = self.shared.iter().flat_map(Mlp::linears);
        router.into_iter().chain(self.experts.iter().flatten()).chain(shared).collect()
    }

    /// As [`Experts::linears`].
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let router = self.config.router_is_linear.then_some(&mut self.router);
        let shared = self.shared.iter_mut().flat_map(Mlp::linears_mut);
        router.into_iter().chain(self.experts.iter_mut().flatten()).chain(shared).collect()
    }

    pub fn parameters(&self) -> impl Iterator<Item = &autograd::Parameter> {
        let router = (!self.config.router_is_linear).then_some(&self.router);
        router.into_iter().chain(self.linears()).flat_map(Linear::parameters)
    }

    /// `x` `[batch, tokens, hidden]` to the same. What reads `x` here shares one saved tensor:
    /// router, experts, and the shared one.
    pub fn forward(
        &self,
        x: &Tensor,
        input: &SharedSave,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let size = x.size();
        let rows = x.f_reshape([-1, self.router.size().1])?;
        let into = scope.site(Site::MlpIn);
        let routing = scope.site(Site::Router);
        let scores = project(&rows, &[self.router.projection()], input, &into)?.remove(0);
        let correction = self.correction.as_ref().map(Constant::tensor);
        let (chosen, weights) = route(&scores, correction, &self.config.routing, &routing)?;
        drop(scores);
        let dispatch = Dispatch::new(&chosen, self.config.count)?;
        let maps: Vec<_> = self
            .experts
            .iter()
            .map(|[gate, up, _]| vec![gate.projection(), up.projection()])
            .collect();
        let pair = expert_inputs(&rows, &maps, &dispatch, input, &into)?;
        let places = [scope.site(mlp::OWN.gate), scope.site(mlp::OWN.up)];
        let inner = gated(self.activation, &pair[0], &pair[1], &activations.act, places)?;
        drop(pair);
        let down: Vec<_> = self.experts.iter().map(|[_, _, down]| down.projection()).collect();
        let out = expert_outputs(
            &inner,
            &weights,
            &down,
            &dispatch,
            &activations.mlp_out,
            &scope.site(mlp::OWN.out),
            scope,
        )?;
        drop(inner);
        let out = match &self.shared {
            Some(shared) => out.f_add(&shared.forward(&rows, input, activations, scope)?)?,
            None => out,
        };
        Ok(out.f_view(&size[..])?)
    }
}
