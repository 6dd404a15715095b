mod attention;
mod attention_context;
mod attention_footprint;
mod encoding;
mod experts;
pub(crate) mod footprint;
mod latent;
mod mlp;
mod mlp_footprint;
mod relative;
mod windows;

pub(crate) use attention_context::{AttentionContext, KvCache};

use std::sync::Arc;

use tch::Tensor;

use autograd::Parameter;
use layers::{SavePolicy, SavedInput, Scope, SharedSave, Site, drop_path, dropout, recompute};

use crate::activations::{BlockActivations, Recompute};
use crate::config::{ModelConfig, ResidualConfig};
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Linear, Result};
use attention::Attention;
use experts::Experts;
use mlp::Mlp;
use windows::Windows;

/// One layer of a model: an attention sublayer and an MLP sublayer, each with the norms its model
/// has, added to the residual stream one after the other or both together.
#[derive(Debug)]
pub(crate) struct Block {
    residual: Residual,
    pre_attention_norm: Option<Norm>,
    windows: Option<Windows>,
    attention: Attention,
    post_attention_norm: Option<Norm>,
    /// The norm of the residual stream after the sum (post-norm models).
    post_attn_residual_norm: Option<Norm>,
    pre_mlp_norm: Option<Norm>,
    mlp: FeedForward,
    post_mlp_norm: Option<Norm>,
    /// As `post_attn_residual_norm`.
    post_mlp_residual_norm: Option<Norm>,
}

/// How the sublayers are added to the residual stream.
#[derive(Clone, Copy, Debug)]
struct Residual {
    /// Whether attention and MLP read the same normed input, and are added together.
    parallel: bool,
    /// What each sublayer's output is multiplied with before it is added.
    multiplier: f64,
    /// The probability with which an element of the attention sublayer's output, and of the MLP's,
    /// is dropped, in training.
    dropout: [f64; 2],
    /// The probability with which the attention sublayer of a whole sample is dropped (stochastic
    /// depth).
    drop_path: f64,
}

impl From<ResidualConfig> for Residual {
    fn from(config: ResidualConfig) -> Self {
        let ResidualConfig { parallel, multiplier, dropout } = config;
        Self { parallel, multiplier, dropout: [dropout; 2], drop_path: 0.0 }
    }
}

/// The MLP sublayer: one MLP, or a mixture of experts.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in a layer, and it is never moved in a step"
)]
enum FeedForward {
    Dense(Mlp),
    Mixture(Box<Experts>),
}

/// What a sublayer reads in addition to its input.
#[derive(Clone, Copy)]
struct BlockContext<'a> {
    activations: &'a BlockActivations,
    scope: &'a Scope,
}

impl Block {
    /// Layer `index` of a model.
    pub fn new(tensors: &Tensors<'_>, config: &ModelConfig, index: usize) -> Result<Self> {
        let (names, layer) = (config.names, config.layers[index]);
        let prefix = format!("{}{index}.", names.layers);
        let norm = |name: Option<&str>| match name {
            Some(name) => Norm::new(
                tensors,
                config.norms(),
                &format!("{prefix}{name}"),
                &[config.hidden_size],
            )
            .map(Some),
            None => Ok(None),
        };
        Ok(Self {
            residual: config.residual.into(),
            windows: None,
            post_attn_residual_norm: None,
            post_mlp_residual_norm: None,
            pre_attention_norm: norm(names.norms.pre_attention_norm)?,
            attention: Attention::new(tensors, config, &prefix, layer)?,
            post_attention_norm: norm(names.norms.post_attention_norm)?,
            pre_mlp_norm: norm(names.norms.pre_mlp_norm)?,
            mlp: match (config.experts.filter(|_| layer.mixture), &names.experts) {
                (Some(experts), Some(names)) => FeedForward::Mixture(Box::new(Experts::new(
                    tensors, config, &prefix, names, experts,
                )?)),
                _ => FeedForward::Dense(Mlp::new(
                    tensors,
                    config.mlp(config.intermediate_size),
                    &prefix,
                    &names.mlp,
                    mlp::OWN,
                )?),
            },
            post_mlp_norm: norm(names.norms.post_mlp_norm)?,
        })
    }

    /// The linear layers that adapters may target.
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

    /// The linear layers by what they read: those into attention and into the MLP (or one expert),
    /// and those out of them.
    pub fn stages(&self) -> ([Vec<&Linear>; 2], [&Linear; 2]) {
        let (into_attention, out_of_attention) = self.attention.stages();
        let (into_mlp, out_of_mlp) = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.stages(),
            FeedForward::Mixture(experts) => experts.stages(),
        };
        ([into_attention, into_mlp], [out_of_attention, out_of_mlp])
    }

    /// Whether there is a norm before attention, after it, before the MLP, and after that.
    pub fn norms(&self) -> [bool; 4] {
        [
            &self.pre_attention_norm,
            &self.post_attention_norm,
            &self.pre_mlp_norm,
            &self.post_mlp_norm,
        ]
        .map(Option::is_some)
    }

    /// All parameters, each once.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let own = self.pre_mlp_norm.iter().flat_map(Norm::parameters);
        self.attention_parameters().chain(own).chain(self.mlp_parameters_without_norm())
    }

    fn attention_parameters(&self) -> impl Iterator<Item = &Parameter> {
        let norms = self
            .pre_attention_norm
            .iter()
            .chain(&self.post_attention_norm)
            .chain(&self.post_attn_residual_norm)
            .flat_map(Norm::parameters);
        norms.chain(self.attention.parameters())
    }

    /// Those that the MLP sublayer reads. Where the sublayers run in parallel, its norm is that of
    /// attention.
    fn mlp_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.mlp_norm()
            .into_iter()
            .flat_map(Norm::parameters)
            .chain(self.mlp_parameters_without_norm())
    }

    fn mlp_parameters_without_norm(&self) -> impl Iterator<Item = &Parameter> {
        let maps: Box<dyn Iterator<Item = &Parameter>> = match &self.mlp {
            FeedForward::Dense(mlp) => {
                Box::new(mlp.linears().into_iter().flat_map(Linear::parameters))
            }
            FeedForward::Mixture(experts) => Box::new(experts.parameters()),
        };
        maps.chain(
            self.post_mlp_norm
                .iter()
                .chain(&self.post_mlp_residual_norm)
                .flat_map(Norm::parameters),
        )
    }

    fn mlp_norm(&self) -> Option<&Norm> {
        if self.residual.parallel {
            self.pre_attention_norm.as_ref()
        } else {
            self.pre_mlp_norm.as_ref()
        }
    }

    /// The block as training runs it: `x` `[batch, tokens, hidden]` to the same, what backward
    /// needs being saved as `activations` say.
    pub fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        attn: &AttentionContext,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        match &activations.recompute {
            Recompute::Nothing => self.run(x, attn, activations, scope),
            Recompute::Layer(policy) => {
                let (block, attn, activations, inner) =
                    (self.clone(), attn.shallow_clone(), *activations, scope.clone());
                let run = move |x: &Tensor| block.run(x, &attn, &activations, &inner);
                recompute(run, x, &trained(self.parameters()), policy, &scope.site(Site::Layer))
            }
            Recompute::Sublayer(policy) if self.residual.parallel => {
                // Both sublayers read the same input: one saved activation serves both.
                let input = SharedSave::new(*policy);
                let attention =
                    self.recompute_attention(x, attn, activations, scope, &input, false)?;
                let mlp = self.recompute_mlp(x, activations, scope, &input, false)?;
                Ok(x.f_add(&attention)?.f_add(&mlp)?)
            }
            Recompute::Sublayer(policy) => {
                let x = self.recompute_attention(x, attn, activations, scope, policy, true)?;
                self.recompute_mlp(&x, activations, scope, policy, true)
            }
        }
    }

    /// The attention sublayer, recomputed in backward from its saved input; added to the residual
    /// stream if `whole`.
    fn recompute_attention(
        self: &Arc<Self>,
        x: &Tensor,
        attn: &AttentionContext,
        activations: &BlockActivations,
        scope: &Scope,
        input: impl Into<SavedInput>,
        whole: bool,
    ) -> layers::Result<Tensor> {
        let (block, attn, activations, inner) =
            (self.clone(), attn.shallow_clone(), *activations, scope.clone());
        let run = move |x: &Tensor| {
            let context = BlockContext { activations: &activations, scope: &inner };
            if whole {
                block.attn_residual(x, &attn, None, context)
            } else {
                block.attention_sublayer(x, &attn, None, context)
            }
        };
        recompute(
            run,
            x,
            &trained(self.attention_parameters()),
            input,
            &scope.site(Site::Attention),
        )
    }

    /// The MLP sublayer, likewise.
    fn recompute_mlp(
        self: &Arc<Self>,
        x: &Tensor,
        activations: &BlockActivations,
        scope: &Scope,
        input: impl Into<SavedInput>,
        whole: bool,
    ) -> layers::Result<Tensor> {
        let (block, activations, inner) = (self.clone(), *activations, scope.clone());
        let run = move |x: &Tensor| {
            let context = BlockContext { activations: &activations, scope: &inner };
            if whole { block.mlp_residual(x, context) } else { block.mlp_sublayer(x, context) }
        };
        recompute(run, x, &trained(self.mlp_parameters()), input, &scope.site(Site::Mlp))
    }

    fn run(
        &self,
        x: &Tensor,
        attn: &AttentionContext,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        self.forward_inner(x, attn, None, BlockContext { activations, scope })
    }

    /// The block as generation runs it, on the tokens that follow those in `cache`.
    pub fn forward_after(
        &self,
        x: &Tensor,
        attn: &AttentionContext,
        cache: &mut KvCache,
    ) -> layers::Result<Tensor> {
        let (activations, scope) = (BlockActivations::default(), Scope::evaluation());
        self.forward_inner(
            x,
            attn,
            Some(cache),
            BlockContext { activations: &activations, scope: &scope },
        )
    }

    /// Both sublayers, added to the residual stream.
    fn forward_inner(
        &self,
        x: &Tensor,
        attn: &AttentionContext,
        cache: Option<&mut KvCache>,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        if !self.residual.parallel {
            return self.mlp_residual(&self.attn_residual(x, attn, cache, context)?, context);
        }
        let normed = normed(self.pre_attention_norm.as_ref(), x, Site::AttentionNorm, context)?;
        // Attention and MLP read the same tensor: it is saved once, and exactly if either asks for
        // that.
        let BlockActivations { attn_in, mlp_in, .. } = *context.activations;
        let input =
            SharedSave::new(if mlp_in == SavePolicy::Exact { SavePolicy::Exact } else { attn_in });
        let attention = self.attend(&normed, &input, attn, cache, context)?;
        let mlp = self.mlp(&normed, &input, context)?;
        Ok(x.f_add(&attention)?.f_add(&mlp)?)
    }

    /// The residual stream after attention.
    fn attn_residual(
        &self,
        x: &Tensor,
        attn: &AttentionContext,
        cache: Option<&mut KvCache>,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        let sum = x.f_add(&self.attention_sublayer(x, attn, cache, context)?)?;
        normed(self.post_attn_residual_norm.as_ref(), &sum, Site::AttentionPostNorm, context)
    }

    /// The residual stream after the MLP.
    fn mlp_residual(&self, x: &Tensor, context: BlockContext<'_>) -> layers::Result<Tensor> {
        let sum = x.f_add(&self.mlp_sublayer(x, context)?)?;
        normed(self.post_mlp_residual_norm.as_ref(), &sum, Site::MlpPostNorm, context)
    }

    fn attention_sublayer(
        &self,
        x: &Tensor,
        attn: &AttentionContext,
        cache: Option<&mut KvCache>,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        let normed = normed(self.pre_attention_norm.as_ref(), x, Site::AttentionNorm, context)?;
        self.attend(&normed, context.activations.attn_in, attn, cache, context)
    }

    fn mlp_sublayer(&self, x: &Tensor, context: BlockContext<'_>) -> layers::Result<Tensor> {
        let normed = normed(self.mlp_norm(), x, Site::MlpNorm, context)?;
        self.mlp(&normed, &SharedSave::new(context.activations.mlp_in), context)
    }

    /// Attention of what is normed already, up to the residual stream.
    fn attend(
        &self,
        x: &Tensor,
        input: impl Into<SavedInput>,
        attn: &AttentionContext,
        cache: Option<&mut KvCache>,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        let attend = |x: &Tensor, attn: &AttentionContext| {
            self.attention.forward(x, input, attn, cache, context.activations, context.scope)
        };
        let out = match &self.windows {
            Some(windows) => windows.attend(x, attn, attend)?,
            None => attend(x, attn)?,
        };
        let out =
            normed(self.post_attention_norm.as_ref(), &out, Site::AttentionPostNorm, context)?;
        let out = self.scale_and_drop(out, Site::Attention, self.residual.dropout[0], context)?;
        drop_path(&out, self.residual.drop_path, &context.scope.site(Site::Attention).at(2))
    }

    /// The MLP of what is normed already, up to the residual stream.
    fn mlp(
        &self,
        x: &Tensor,
        input: &SharedSave,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        let out = match &self.mlp {
            FeedForward::Dense(mlp) => mlp.forward(x, input, context.activations, context.scope)?,
            FeedForward::Mixture(experts) => {
                experts.forward(x, input, context.activations, context.scope)?
            }
        };
        let out = normed(self.post_mlp_norm.as_ref(), &out, Site::MlpPostNorm, context)?;
        self.scale_and_drop(out, Site::Mlp, self.residual.dropout[1], context)
    }

    /// A sublayer's output as it is added: with elements dropped, and multiplied.
    fn scale_and_drop(
        &self,
        output: Tensor,
        site: Site,
        chance: f64,
        context: BlockContext<'_>,
    ) -> layers::Result<Tensor> {
        let output = dropout(&output, chance, &context.scope.site(site).at(1))?;
        if self.residual.multiplier == 1.0 {
            Ok(output)
        } else {
            Ok(output.f_mul_scalar(self.residual.multiplier)?)
        }
    }
}

/// `x` through a norm, if there is one here.
fn normed(
    norm: Option<&Norm>,
    x: &Tensor,
    site: Site,
    context: BlockContext<'_>,
) -> layers::Result<Tensor> {
    match norm {
        Some(norm) => norm.forward(x, &context.activations.norm, &context.scope.site(site)),
        None => Ok(x.shallow_clone()),
    }
}

/// The tensors among `parameters` that get gradients.
pub(crate) fn trained<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> Vec<&'a Tensor> {
    parameters.map(Parameter::tensor).filter(|tensor| tensor.requires_grad()).collect()
}
