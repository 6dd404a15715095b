mod attention;
mod encoding;
mod experts;
mod latent;
mod mlp;
mod relative;
mod shared;
mod windows;

pub(crate) use mlp::MlpShape;
pub(crate) use shared::{Seen, Shared};

use crate::activations::{BlockActivations, Recompute};
use crate::config::{ModelConfig, ResidualConfig};
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Linear, Result};
use attention::Attention;
use autograd::Parameter;
use experts::Experts;
use layers::{Error, SavePolicy, SavedInput, Scope, SharedSave, Site, drop_path, dropout, recompute};
use mlp::Mlp;
use std::sync::Arc;
use tch::Tensor;
use windows::Windows;

/// One layer of a model: a half that attends and a half that does not, each with the norms its model has, added to the residual stream one
/// after the other or both together.
#[derive(Debug)]
pub(crate) struct Block {
    joining: Joining,
    before_attention: Option<Norm>,
    windows: Option<Windows>,
    attention: Attention,
    after_attention: Option<Norm>,
    /// The norm of the residual stream behind the sum.
    of_attended: Option<Norm>,
    before_mlp: Option<Norm>,
    mlp: FeedForward,
    after_mlp: Option<Norm>,
    /// As `of_attended`.
    of_mapped: Option<Norm>,
}

/// How the halves are joined to the residual stream.
#[derive(Clone, Copy, Debug)]
struct Joining {
    /// Whether attention and MLP read the same normed input, and are added together.
    parallel: bool,
    /// What each half is multiplied with before it is added.
    multiplier: f64,
    /// The chance that an element of the attending half, and of the other, is dropped, in training.
    dropout: [f64; 2],
    /// The chance that the attending half of a whole sample is.
    drop_path: f64,
}

impl From<ResidualConfig> for Joining {
    fn from(config: ResidualConfig) -> Self {
        let ResidualConfig { parallel, multiplier, dropout } = config;
        Self { parallel, multiplier, dropout: [dropout; 2], drop_path: 0.0 }
    }
}

/// The half that does not attend.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a layer, and it is never moved in a step")]
enum FeedForward {
    Dense(Mlp),
    Mixture(Box<Experts>),
}

/// The result of an operation.
type Done = std::result::Result<Tensor, Error>;

/// What a half reads beside its input.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    activations: &'a BlockActivations,
    scope: &'a Scope,
}

impl Block {
    /// Layer `index` of a model.
    pub fn new(tensors: &Tensors<'_>, config: &ModelConfig, index: usize) -> Result<Self> {
        let (names, layer) = (config.names, config.layers[index]);
        let prefix = format!("{}{index}.", names.layers);
        let norm = |name: Option<&str>| match name {
            Some(name) => Norm::new(tensors, config.norms(), &format!("{prefix}{name}"), &[config.hidden_size]).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            joining: config.residual.into(),
            windows: None,
            of_attended: None,
            of_mapped: None,
            before_attention: norm(names.norms.before_attention)?,
            attention: Attention::new(tensors, config, &prefix, layer)?,
            after_attention: norm(names.norms.after_attention)?,
            before_mlp: norm(names.norms.before_mlp)?,
            mlp: match (config.experts.filter(|_| layer.mixture), &names.experts) {
                (Some(experts), Some(names)) => FeedForward::Mixture(Box::new(Experts::new(tensors, config, &prefix, names, experts)?)),
                _ => FeedForward::Dense(Mlp::new(tensors, config.mlp(config.intermediate_size), &prefix, &names.mlp, mlp::OWN)?),
            },
            after_mlp: norm(names.norms.after_mlp)?,
        })
    }

    /// The linear layers that adapters may be put beside.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = self.attention.linears();
        linears.extend(match &self.mlp {
            FeedForward::Dense(mlp) => mlp.linears(),
            FeedForward::Mixture(experts) => experts.linears(),
        });
        linears
    }

    /// As [`Block::linears`].
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = self.attention.linears_mut();
        linears.extend(match &mut self.mlp {
            FeedForward::Dense(mlp) => mlp.linears_mut(),
            FeedForward::Mixture(experts) => experts.linears_mut(),
        });
        linears
    }

    /// The linear layers by what they read: those into attention and into the MLP (or one expert), and those out of them.
    pub fn stages(&self) -> ([Vec<&Linear>; 2], [&Linear; 2]) {
        let (into_attention, out_of_attention) = self.attention.stages();
        let (into_mlp, out_of_mlp) = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.stages(),
            FeedForward::Mixture(experts) => experts.stages(),
        };
        ([into_attention, into_mlp], [out_of_attention, out_of_mlp])
    }

    /// Whether there is a norm before attention, behind it, before the MLP, and behind that.
    pub fn norms(&self) -> [bool; 4] {
        [&self.before_attention, &self.after_attention, &self.before_mlp, &self.after_mlp].map(Option::is_some)
    }

    /// All parameters, each once.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let own = self.before_mlp.iter().flat_map(Norm::parameters);
        self.attention_parameters().chain(own).chain(self.rest_of_mlp_parameters())
    }

    fn attention_parameters(&self) -> impl Iterator<Item = &Parameter> {
        let norms = self.before_attention.iter().chain(&self.after_attention).chain(&self.of_attended).flat_map(Norm::parameters);
        norms.chain(self.attention.parameters())
    }

    /// Those that the half of the MLP reads. In parallel halves its norm is that of attention.
    fn mlp_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.norm_of_mlp().into_iter().flat_map(Norm::parameters).chain(self.rest_of_mlp_parameters())
    }

    fn rest_of_mlp_parameters(&self) -> impl Iterator<Item = &Parameter> {
        let maps: Box<dyn Iterator<Item = &Parameter>> = match &self.mlp {
            FeedForward::Dense(mlp) => Box::new(mlp.linears().into_iter().flat_map(Linear::parameters)),
            FeedForward::Mixture(experts) => Box::new(experts.parameters()),
        };
        maps.chain(self.after_mlp.iter().chain(&self.of_mapped).flat_map(Norm::parameters))
    }

    fn norm_of_mlp(&self) -> Option<&Norm> {
        if self.joining.parallel { self.before_attention.as_ref() } else { self.before_mlp.as_ref() }
    }

    /// The block as training runs it: `x` `[batch, tokens, hidden]` to the same, what backward needs being kept as `activations` say.
    pub fn forward(self: &Arc<Self>, x: &Tensor, shared: &Shared, activations: &BlockActivations, scope: &Scope) -> Done {
        match &activations.recompute {
            Recompute::Nothing => self.run(x, shared, activations, scope),
            Recompute::Layer(policy) => {
                let (block, shared, activations, inner) = (self.clone(), shared.shallow_clone(), *activations, scope.clone());
                let run = move |x: &Tensor| block.run(x, &shared, &activations, &inner);
                recompute(run, x, &trained(self.parameters()), policy, &scope.site(Site::Layer))
            }
            Recompute::Sublayer(policy) if self.joining.parallel => {
                // Both halves read the same input, of which one kept form serves both.
                let input = SharedSave::new(*policy);
                let attended = self.recomputed_attention(x, shared, activations, scope, &input, false)?;
                let mapped = self.recomputed_mlp(x, activations, scope, &input, false)?;
                Ok(x.f_add(&attended)?.f_add(&mapped)?)
            }
            Recompute::Sublayer(policy) => {
                let x = self.recomputed_attention(x, shared, activations, scope, policy, true)?;
                self.recomputed_mlp(&x, activations, scope, policy, true)
            }
        }
    }

    /// The attending half from its kept input, added to it if it is the `whole` sublayer.
    fn recomputed_attention(
        self: &Arc<Self>,
        x: &Tensor,
        shared: &Shared,
        activations: &BlockActivations,
        scope: &Scope,
        input: impl Into<SavedInput>,
        whole: bool,
    ) -> Done {
        let (block, shared, activations, inner) = (self.clone(), shared.shallow_clone(), *activations, scope.clone());
        let run = move |x: &Tensor| {
            let around = Surroundings { activations: &activations, scope: &inner };
            if whole { block.attended(x, &shared, None, around) } else { block.attention_half(x, &shared, None, around) }
        };
        recompute(run, x, &trained(self.attention_parameters()), input, &scope.site(Site::Attention))
    }

    /// The other half, likewise.
    fn recomputed_mlp(
        self: &Arc<Self>,
        x: &Tensor,
        activations: &BlockActivations,
        scope: &Scope,
        input: impl Into<SavedInput>,
        whole: bool,
    ) -> Done {
        let (block, activations, inner) = (self.clone(), *activations, scope.clone());
        let run = move |x: &Tensor| {
            let around = Surroundings { activations: &activations, scope: &inner };
            if whole { block.mapped(x, around) } else { block.mlp_half(x, around) }
        };
        recompute(run, x, &trained(self.mlp_parameters()), input, &scope.site(Site::Mlp))
    }

    fn run(&self, x: &Tensor, shared: &Shared, activations: &BlockActivations, scope: &Scope) -> Done {
        self.joined(x, shared, None, Surroundings { activations, scope })
    }

    /// The block as generation runs it, on the tokens that follow those in `seen`.
    pub fn forward_after(&self, x: &Tensor, shared: &Shared, seen: &mut Seen) -> Done {
        let (activations, scope) = (BlockActivations::default(), Scope::evaluation());
        self.joined(x, shared, Some(seen), Surroundings { activations: &activations, scope: &scope })
    }

    /// Both halves, added to the residual stream.
    fn joined(&self, x: &Tensor, shared: &Shared, seen: Option<&mut Seen>, around: Surroundings<'_>) -> Done {
        if !self.joining.parallel {
            return self.mapped(&self.attended(x, shared, seen, around)?, around);
        }
        let normed = normed(self.before_attention.as_ref(), x, Site::AttentionNorm, around)?;
        // Attention and MLP read the same tensor: it is kept once, and as it is if either is to have it so.
        let BlockActivations { attn_in, mlp_in, .. } = *around.activations;
        let input = SharedSave::new(if mlp_in == SavePolicy::Exact { SavePolicy::Exact } else { attn_in });
        let attended = self.attend(&normed, &input, shared, seen, around)?;
        let mapped = self.map(&normed, &input, around)?;
        Ok(x.f_add(&attended)?.f_add(&mapped)?)
    }

    /// The residual stream behind attention.
    fn attended(&self, x: &Tensor, shared: &Shared, seen: Option<&mut Seen>, around: Surroundings<'_>) -> Done {
        let sum = x.f_add(&self.attention_half(x, shared, seen, around)?)?;
        normed(self.of_attended.as_ref(), &sum, Site::AttentionPostNorm, around)
    }

    /// The residual stream behind the MLP.
    fn mapped(&self, x: &Tensor, around: Surroundings<'_>) -> Done {
        let sum = x.f_add(&self.mlp_half(x, around)?)?;
        normed(self.of_mapped.as_ref(), &sum, Site::MlpPostNorm, around)
    }

    fn attention_half(&self, x: &Tensor, shared: &Shared, seen: Option<&mut Seen>, around: Surroundings<'_>) -> Done {
        let normed = normed(self.before_attention.as_ref(), x, Site::AttentionNorm, around)?;
        self.attend(&normed, around.activations.attn_in, shared, seen, around)
    }

    fn mlp_half(&self, x: &Tensor, around: Surroundings<'_>) -> Done {
        let normed = normed(self.norm_of_mlp(), x, Site::MlpNorm, around)?;
        self.map(&normed, &SharedSave::new(around.activations.mlp_in), around)
    }

    /// Attention of what is normed already, up to the residual stream.
    fn attend(&self, x: &Tensor, input: impl Into<SavedInput>, shared: &Shared, seen: Option<&mut Seen>, around: Surroundings<'_>) -> Done {
        let attend = |x: &Tensor, shared: &Shared| self.attention.forward(x, input, shared, seen, around.activations, around.scope);
        let out = match &self.windows {
            Some(windows) => windows.attend(x, shared, attend)?,
            None => attend(x, shared)?,
        };
        let out = normed(self.after_attention.as_ref(), &out, Site::AttentionPostNorm, around)?;
        let out = self.weighted(out, Site::Attention, self.joining.dropout[0], around)?;
        drop_path(&out, self.joining.drop_path, &around.scope.site(Site::Attention).at(2))
    }

    /// The MLP of what is normed already, up to the residual stream.
    fn map(&self, x: &Tensor, input: &SharedSave, around: Surroundings<'_>) -> Done {
        let out = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.forward(x, input, around.activations, around.scope)?,
            FeedForward::Mixture(experts) => experts.forward(x, input, around.activations, around.scope)?,
        };
        let out = normed(self.after_mlp.as_ref(), &out, Site::MlpPostNorm, around)?;
        self.weighted(out, Site::Mlp, self.joining.dropout[1], around)
    }

    /// A half as it is added: with elements dropped, and multiplied.
    fn weighted(&self, half: Tensor, site: Site, chance: f64, around: Surroundings<'_>) -> Done {
        let half = dropout(&half, chance, &around.scope.site(site).at(1))?;
        if self.joining.multiplier == 1.0 { Ok(half) } else { Ok(half.f_mul_scalar(self.joining.multiplier)?) }
    }
}

/// `x` through a norm, if there is one here.
fn normed(norm: Option<&Norm>, x: &Tensor, site: Site, around: Surroundings<'_>) -> Done {
    match norm {
        Some(norm) => norm.forward(x, &around.activations.norm, &around.scope.site(site)),
        None => Ok(x.shallow_clone()),
    }
}

/// The tensors among `parameters` that get gradients.
pub(crate) fn trained<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> Vec<&'a Tensor> {
    parameters.map(Parameter::tensor).filter(|tensor| tensor.requires_grad()).collect()
}
