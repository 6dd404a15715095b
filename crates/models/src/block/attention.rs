use tch::Tensor;

use autograd::Parameter;
use layers::{
    Error, SavedInput, Scope, Scores, Site, biased_attention, clamp, project, rotary, split,
};

use super::attention_context::{AttentionContext, KvCache};
use super::latent::Latent;
use super::relative::Relative;
use crate::activations::BlockActivations;
use crate::config::names::QueryNames;
use crate::config::{EncoderConfig, HeadNorm, LayerConfig, LayerRope, ModelConfig, StageConfig};
use crate::linear::Shape;
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// The attention of a layer: queries, keys and values, and the map after them.
#[derive(Debug)]
pub(crate) struct Attention {
    layer: LayerConfig,
    scores: Scores,
    clip: Option<f64>,
    head_norm: Option<HeadNorm>,
    heads: Heads,
    maps: Maps,
    norms: Option<[Norm; 2]>,
    relative: Option<Relative>,
    o: Linear,
}

/// How many heads of what width.
#[derive(Clone, Copy, Debug)]
struct Heads {
    queries: i64,
    keys: i64,
    width: i64,
}

/// The maps that make queries, keys and values.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in a layer, and it is never moved in a step"
)]
enum Maps {
    Separate([Linear; 3]),
    Fused(Linear),
    Latent(Box<Latent>),
}

impl Attention {
    pub fn new(
        tensors: &Tensors<'_>,
        config: &ModelConfig,
        prefix: &str,
        layer: LayerConfig,
    ) -> Result<Self> {
        let (names, hidden) = (config.names, config.hidden_size);
        let heads =
            Heads { queries: config.num_heads, keys: config.num_kv_heads, width: config.head_dim };
        let linear = |name: &str, outputs: i64, inputs: i64, bias: bool| {
            let shape = Shape { outputs, inputs, bias, fan_in_fan_out: names.fan_in_fan_out };
            Linear::new(tensors, format!("{prefix}{name}"), shape)
        };
        let (queries, keys, bias) =
            (heads.queries * heads.width, heads.keys * heads.width, config.attention.bias);
        let maps = match &names.queries {
            QueryNames::Separate([q, k, v]) => Maps::Separate([
                linear(q, queries, hidden, bias)?,
                linear(k, keys, hidden, bias)?,
                linear(v, keys, hidden, bias)?,
            ]),
            QueryNames::Fused(qkv) => Maps::Fused(linear(qkv, queries + 2 * keys, hidden, bias)?),
            QueryNames::Latent(names) => {
                Maps::Latent(Box::new(Latent::new(tensors, config, prefix, names)?))
            }
        };
        let norm = |name: &str, span: HeadNorm, heads: i64| {
            let shape = match span {
                HeadNorm::PerHead => vec![config.head_dim],
                HeadNorm::OwnWeights => vec![heads, config.head_dim],
                HeadNorm::Whole => vec![heads * config.head_dim],
            };
            Norm::new(tensors, config.norms(), &format!("{prefix}{name}"), &shape)
        };
        let head_norm = config.attention.head_norm;
        let norms = match head_norm {
            Some(span) => Some([
                norm(names.query_norm, span, heads.queries)?,
                norm(names.key_norm, span, heads.keys)?,
            ]),
            None => None,
        };
        let o = linear(
            names.output,
            hidden,
            heads.queries * config.value_dim(),
            config.attention.output_bias,
        )?;
        let scores = Scores {
            scale: layer.scale,
            soft_cap: config.attention.soft_cap,
            dropout: config.attention.dropout,
        };
        Ok(Self {
            layer,
            scores,
            clip: config.attention.clip,
            head_norm,
            heads,
            maps,
            norms,
            relative: None,
            o,
        })
    }

    /// The attention of a layer of an encoder, in which tokens attend to those before and after
    /// them.
    pub fn new_encoder(
        tensors: &Tensors<'_>,
        config: &EncoderConfig,
        prefix: &str,
        stage: &StageConfig,
    ) -> Result<Self> {
        let (names, width) = (config.names, stage.width);
        let linear = |name: &str, bias: bool| {
            Linear::new(
                tensors,
                format!("{prefix}{name}"),
                Shape { outputs: width, inputs: width, bias, fan_in_fan_out: false },
            )
        };
        let [q, k, v] = names.queries;
        let heads = Heads { queries: stage.heads, keys: stage.heads, width: width / stage.heads };
        let scale = 1.0 / (heads.width as f64).sqrt();
        Ok(Self {
            layer: LayerConfig { window: None, rope: LayerRope::Absent, scale, mixture: false },
            scores: Scores { dropout: config.attention.dropout, ..Scores::from(scale) },
            clip: None,
            head_norm: None,
            heads,
            maps: Maps::Separate([
                linear(q, config.attention.bias)?,
                linear(k, config.attention.bias)?,
                linear(v, config.attention.bias)?,
            ]),
            norms: None,
            relative: Relative::new(
                tensors,
                config.attention.relative,
                format!("{prefix}{}", names.relative),
                stage.heads,
                heads.width,
            )?,
            o: linear(names.output, true)?,
        })
    }

    /// The maps into attention, and the one out of it.
    pub fn stages(&self) -> (Vec<&Linear>, &Linear) {
        let into = match &self.maps {
            Maps::Separate(maps) => maps.iter().collect(),
            Maps::Fused(map) => vec![map],
            Maps::Latent(latent) => latent.linears(),
        };
        (into, &self.o)
    }

    pub fn linears(&self) -> Vec<&Linear> {
        let (mut linears, out) = self.stages();
        linears.push(out);
        linears
    }

    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears: Vec<&mut Linear> = match &mut self.maps {
            Maps::Separate(maps) => maps.iter_mut().collect(),
            Maps::Fused(map) => vec![map],
            Maps::Latent(latent) => latent.linears_mut(),
        };
        linears.push(&mut self.o);
        linears
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let latent = match &self.maps {
            Maps::Latent(latent) => Some(latent.norms()),
            _ => None,
        };
        let norms = self.norms.iter().flatten().chain(latent.into_iter().flatten());
        let relative = self.relative.iter().map(Relative::weight);
        self.linears()
            .into_iter()
            .flat_map(Linear::parameters)
            .chain(norms.flat_map(Norm::parameters))
            .chain(relative)
    }

    /// `x` `[batch, tokens, hidden]` to the same; `input` says how it is saved. Generation hands in
    /// its `cache`.
    pub fn forward(
        &self,
        x: &Tensor,
        input: impl Into<SavedInput>,
        context: &AttentionContext,
        cache: Option<&mut KvCache>,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let table = context.table(self.layer.rope);
        let [q, mut k, mut v] = match (&self.maps, table) {
            (Maps::Latent(latent), Some(table)) => {
                latent.forward(x, input.into(), table, activations, scope)?
            }
            _ => {
                let [q, k, v] = self.queries(x, input.into(), activations, scope)?;
                match table {
                    Some(table) => [rotary(&q, table)?, rotary(&k, table)?, v],
                    None => [q, k, v],
                }
            }
        };
        if let Some(cache) = cache {
            (k, v) = cache.extend(k, v)?;
        }
        let mask = context.mask(self.layer.window)?;
        let bias = self.relative.as_ref().map(Relative::bias);
        let (out, saved) = biased_attention(
            [&q, &k, &v],
            bias.as_ref(),
            mask,
            self.scores,
            &activations.attn_out,
            scope,
        )?;
        let input = saved.map_or(SavedInput::Policy(activations.attn_out), SavedInput::Saved);
        Ok(project(&out, &[self.o.projection()], input, &scope.site(Site::AttnOut))?.remove(0))
    }

    /// Queries, keys and values by head, cut and normed but not yet turned.
    fn queries(
        &self,
        x: &Tensor,
        input: SavedInput,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<[Tensor; 3]> {
        let into = scope.site(Site::AttnIn);
        let Heads { queries, keys, width } = self.heads;
        let mut qkv = match &self.maps {
            Maps::Separate(maps) => project(
                x,
                &[maps[0].projection(), maps[1].projection(), maps[2].projection()],
                input,
                &into,
            )?,
            Maps::Fused(map) => {
                let all = project(x, &[map.projection()], input, &into)?.remove(0);
                split(&all, &[queries * width, keys * width, keys * width])?
            }
            Maps::Latent(_) => Vec::new(),
        };
        if let Some(limit) = self.clip {
            qkv = qkv
                .iter()
                .map(|x| clamp(x, limit, &scope.site(Site::Core)))
                .collect::<std::result::Result<_, _>>()?;
        }
        let (v, k, q) = (qkv.pop(), qkv.pop(), qkv.pop());
        let (Some(v), Some(k), Some(q)) = (v, k, q) else {
            return Err(Error::Shape {
                operation: "attention",
                expected: "a rotary table for latent attention".into(),
                got: x.size(),
            });
        };
        let size = x.size();
        let heads = |y: &Tensor| y.f_view([size[0], size[1], -1, width]);
        let norm = |which: usize, y: Tensor, site: Site| match &self.norms {
            Some(norms) => norms[which].forward(&y, &activations.norm, &scope.site(site)),
            None => Ok(y),
        };
        let whole = self.head_norm == Some(HeadNorm::Whole);
        let (q, k) = match whole {
            true => (heads(&norm(0, q, Site::QueryNorm)?)?, heads(&norm(1, k, Site::KeyNorm)?)?),
            false => (norm(0, heads(&q)?, Site::QueryNorm)?, norm(1, heads(&k)?, Site::KeyNorm)?),
        };
        Ok([q, k, heads(&v)?])
    }
}
