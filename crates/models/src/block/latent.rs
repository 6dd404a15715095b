use tch::Tensor;

use layers::{Error, RotaryTable, SavedInput, Scope, Site, project, rotary, split};

use crate::activations::BlockActivations;
use crate::config::names::LatentNames;
use crate::config::{LatentConfig, ModelConfig};
use crate::linear::Shape;
use crate::norm::Norm;
use crate::tensors::Tensors;
use crate::{Linear, Result};

/// Queries, keys and values by way of narrow latent forms (`DeepseekV3Attention` of transformers).
#[derive(Debug)]
pub(crate) struct Latent {
    config: LatentConfig,
    query: Query,
    /// To the latent form of keys and values, and the rotary part of the keys.
    key_down: Linear,
    key_norm: Norm,
    key_up: Linear,
}

#[derive(Debug)]
enum Query {
    Direct(Linear),
    Latent { down: Linear, norm: Norm, up: Linear },
}

/// `q_a_layernorm` and `kv_a_layernorm` have this, whatever the model's epsilon is.
const EPS: f64 = 1e-6;

impl Latent {
    pub fn new(
        tensors: &Tensors<'_>,
        config: &ModelConfig,
        prefix: &str,
        names: &LatentNames,
    ) -> Result<Self> {
        let latent = config.attention.latent.unwrap_or(LatentConfig {
            query_rank: None,
            key_rank: config.head_dim,
            plain_dim: 0,
            rotary_dim: config.head_dim,
            value_dim: config.head_dim,
        });
        let (hidden, heads) = (config.hidden_size, config.num_heads);
        let linear = |name: &str, outputs: i64, inputs: i64, bias: bool| {
            Linear::new(
                tensors,
                format!("{prefix}{name}"),
                Shape { outputs, inputs, bias, fan_in_fan_out: false },
            )
        };
        let norm = |name: &str, width: i64| {
            Norm::new(tensors, (config.norm, EPS), &format!("{prefix}{name}"), &[width])
        };
        let queries = heads * config.head_dim;
        let query = match latent.query_rank {
            None => Query::Direct(linear(names.query, queries, hidden, false)?),
            Some(rank) => Query::Latent {
                down: linear(names.query_down, rank, hidden, config.attention.bias)?,
                norm: norm(names.query_norm, rank)?,
                up: linear(names.query_up, queries, rank, false)?,
            },
        };
        Ok(Self {
            config: latent,
            query,
            key_down: linear(
                names.key_down,
                latent.key_rank + latent.rotary_dim,
                hidden,
                config.attention.bias,
            )?,
            key_norm: norm(names.key_norm, latent.key_rank)?,
            key_up: linear(
                names.key_up,
                heads * (latent.plain_dim + latent.value_dim),
                latent.key_rank,
                false,
            )?,
        })
    }

    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = match &self.query {
            Query::Direct(map) => vec![map],
            Query::Latent { down, up, .. } => vec![down, up],
        };
        linears.extend([&self.key_down, &self.key_up]);
        linears
    }

    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = match &mut self.query {
            Query::Direct(map) => vec![map],
            Query::Latent { down, up, .. } => vec![down, up],
        };
        linears.extend([&mut self.key_down, &mut self.key_up]);
        linears
    }

    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let query = match &self.query {
            Query::Direct(_) => None,
            Query::Latent { norm, .. } => Some(norm),
        };
        query.into_iter().chain([&self.key_norm])
    }

    /// Queries and keys `[batch, tokens, heads, plain + rotary]`, turned by `table`, and values
    /// `[batch, tokens, heads, value]`.
    pub fn forward(
        &self,
        x: &Tensor,
        input: SavedInput,
        table: &RotaryTable,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> layers::Result<[Tensor; 3]> {
        let LatentConfig { key_rank, plain_dim, rotary_dim, value_dim, .. } = self.config;
        let size = x.size();
        let heads = |y: &Tensor, width: i64| y.f_view([size[0], size[1], -1, width]);
        let expand = |y: &Tensor, map: &Linear, site: Site| {
            Ok::<_, Error>(
                project(y, &[map.projection()], activations.attn_in, &scope.site(site))?.remove(0),
            )
        };
        // One saved input serves both maps that read it.
        let first = match &self.query {
            Query::Direct(map) => map,
            Query::Latent { down, .. } => down,
        };
        let mut maps = project(
            x,
            &[first.projection(), self.key_down.projection()],
            input,
            &scope.site(Site::AttnIn),
        )?;
        let (compressed, q) = (maps.remove(1), maps.remove(0));
        let q = match &self.query {
            Query::Direct(_) => q,
            Query::Latent { norm, up, .. } => {
                let normed = norm.forward(&q, &activations.norm, &scope.site(Site::QueryNorm))?;
                expand(&normed, up, Site::QueryLatent)?
            }
        };
        let q = rotary(
            &heads(&q, plain_dim + rotary_dim)?,
            &table.shallow_clone().from_column(plain_dim),
        )?;

        let parts = split(&compressed, &[key_rank, rotary_dim])?;
        let normed =
            self.key_norm.forward(&parts[0], &activations.norm, &scope.site(Site::KeyNorm))?;
        let expanded =
            heads(&expand(&normed, &self.key_up, Site::KeyLatent)?, plain_dim + value_dim)?;
        let mut parts_of_heads = split(&expanded, &[plain_dim, value_dim])?;
        let (v, plain) = (parts_of_heads.remove(1), parts_of_heads.remove(0));
        let turned = rotary(&heads(&parts[1], rotary_dim)?, table)?;
        let turned = turned.f_expand([size[0], size[1], q.size()[2], rotary_dim], false)?;
        let k = Tensor::f_cat(&[&plain, &turned], 3)?;
        Ok([q, k, v])
    }
}
