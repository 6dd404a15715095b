use crate::activations::{BlockActivations, Recompute};
use crate::{Checkpoint, Linear, ModelConfig, Result};
use autograd::Parameter;
use layers::{Error, Mask, RotaryTable, Scope, Site, Source, attention, project, recompute, rms_norm, rotary, silu_mul};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// One layer of a decoder: `x + attention(norm(x))`, then `x + mlp(norm(x))` (`LlamaDecoderLayer` of transformers).
#[derive(Debug)]
pub(crate) struct Block {
    shape: Shape,
    input_norm: Parameter,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Parameter,
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    head_dim: i64,
    norm_eps: f64,
}

/// What all blocks of one forward share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub table: RotaryTable,
    pub mask: Mask,
}

impl Shared {
    fn shallow_clone(&self) -> Self {
        Self { table: self.table.shallow_clone(), mask: self.mask.shallow_clone() }
    }
}

/// The keys and values of the tokens already seen, `[1, tokens, kv_heads, head_dim]` each, while generating.
pub(crate) type KeysAndValues = Option<(Tensor, Tensor)>;

impl Block {
    /// The names and shapes of layer `index`'s tensors.
    pub fn expected(config: &ModelConfig, index: i64) -> Vec<(String, Vec<i64>)> {
        let prefix = format!("model.layers.{index}");
        let hidden = config.hidden_size;
        let mut tensors = vec![
            (format!("{prefix}.input_layernorm.weight"), vec![hidden]),
            (format!("{prefix}.post_attention_layernorm.weight"), vec![hidden]),
        ];
        for (name, outputs, inputs, bias) in Self::linears_of(config) {
            tensors.extend(Linear::expected(&format!("{prefix}.{name}"), outputs, inputs, bias));
        }
        tensors
    }

    /// Name, outputs, inputs, bias.
    fn linears_of(config: &ModelConfig) -> [(&'static str, i64, i64, bool); 7] {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let (attention, mlp) = (config.attention_bias, config.mlp_bias);
        [
            ("self_attn.q_proj", queries, hidden, attention),
            ("self_attn.k_proj", keys, hidden, attention),
            ("self_attn.v_proj", keys, hidden, attention),
            ("self_attn.o_proj", hidden, queries, attention),
            ("mlp.gate_proj", inner, hidden, mlp),
            ("mlp.up_proj", inner, hidden, mlp),
            ("mlp.down_proj", hidden, inner, mlp),
        ]
    }

    pub fn load(checkpoint: &Checkpoint, index: i64, kind: Kind, device: Device) -> Result<Self> {
        let config = checkpoint.config();
        let prefix = format!("model.layers.{index}");
        let norm = |name: &str| {
            let name = format!("{prefix}.{name}.weight");
            Ok(Parameter::new(name.clone(), checkpoint.tensor(&name, kind, device)?))
        };
        let linear = |name: &str, bias: bool| Linear::load(checkpoint, &format!("{prefix}.{name}"), bias, kind, device);
        let (attention, mlp) = (config.attention_bias, config.mlp_bias);
        Ok(Self {
            shape: Shape { head_dim: config.head_dim, norm_eps: config.norm_eps },
            input_norm: norm("input_layernorm")?,
            q: linear("self_attn.q_proj", attention)?,
            k: linear("self_attn.k_proj", attention)?,
            v: linear("self_attn.v_proj", attention)?,
            o: linear("self_attn.o_proj", attention)?,
            post_norm: norm("post_attention_layernorm")?,
            gate: linear("mlp.gate_proj", mlp)?,
            up: linear("mlp.up_proj", mlp)?,
            down: linear("mlp.down_proj", mlp)?,
        })
    }

    pub fn linears(&self) -> [&Linear; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    pub fn linears_mut(&mut self) -> [&mut Linear; 7] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down]
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.attention_parameters().chain(self.mlp_parameters())
    }

    fn attention_parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.input_norm).chain([&self.q, &self.k, &self.v, &self.o].into_iter().flat_map(Linear::parameters))
    }

    fn mlp_parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.post_norm).chain([&self.gate, &self.up, &self.down].into_iter().flat_map(Linear::parameters))
    }

    /// The block as training runs it: `x` `[batch, tokens, hidden]` to the same, what backward needs being kept as `activations` say.
    pub fn forward(
        self: &Arc<Self>,
        x: &Tensor,
        shared: &Shared,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> std::result::Result<Tensor, Error> {
        fn trained<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> Vec<&'a Tensor> {
            parameters.map(Parameter::tensor).filter(|tensor| tensor.requires_grad()).collect()
        }
        let (block, shared, policy, inner) = (self.clone(), shared.shallow_clone(), *activations, scope.clone());
        match &activations.recompute {
            Recompute::Nothing => self.run(x, &shared, activations, scope),
            Recompute::Layer(keep) => {
                let run = move |x: &Tensor| block.run(x, &shared, &policy, &inner);
                recompute(run, x, &trained(self.parameters()), keep, &scope.site(Site::Layer))
            }
            Recompute::Sublayer(keep) => {
                let (block_again, inner_again) = (self.clone(), scope.clone());
                let run = move |x: &Tensor| block.attention_sublayer(x, &shared, &mut None, &policy, &inner);
                let x = recompute(run, x, &trained(self.attention_parameters()), keep, &scope.site(Site::Attention))?;
                let run = move |x: &Tensor| block_again.mlp_sublayer(x, &policy, &inner_again);
                recompute(run, &x, &trained(self.mlp_parameters()), keep, &scope.site(Site::Mlp))
            }
        }
    }

    fn run(&self, x: &Tensor, shared: &Shared, activations: &BlockActivations, scope: &Scope) -> std::result::Result<Tensor, Error> {
        let x = self.attention_sublayer(x, shared, &mut None, activations, scope)?;
        self.mlp_sublayer(&x, activations, scope)
    }

    /// The block as generation runs it, on the tokens that follow those in `seen`.
    pub fn forward_after(&self, x: &Tensor, shared: &Shared, seen: &mut KeysAndValues) -> std::result::Result<Tensor, Error> {
        let (activations, scope) = (BlockActivations::default(), Scope::evaluation());
        let x = self.attention_sublayer(x, shared, seen, &activations, &scope)?;
        self.mlp_sublayer(&x, &activations, &scope)
    }

    fn attention_sublayer(
        &self,
        x: &Tensor,
        shared: &Shared,
        seen: &mut KeysAndValues,
        activations: &BlockActivations,
        scope: &Scope,
    ) -> std::result::Result<Tensor, Error> {
        let size = x.size();
        let heads = |y: &Tensor| y.f_view([size[0], size[1], -1, self.shape.head_dim]);
        let normed = rms_norm(x, &self.input_norm, self.shape.norm_eps, &activations.norm, &scope.site(Site::AttentionNorm))?;
        let maps = [self.q.projection(), self.k.projection(), self.v.projection()];
        let qkv = project(&normed, &maps, activations.attn_in, &scope.site(Site::AttnIn))?;
        drop(normed);
        let q = rotary(&heads(&qkv[0])?, &shared.table)?;
        let mut k = rotary(&heads(&qkv[1])?, &shared.table)?;
        let mut v = heads(&qkv[2])?;
        drop(qkv);
        if let Some((keys, values)) = seen {
            k = Tensor::f_cat(&[&*keys, &k], 1)?;
            v = Tensor::f_cat(&[&*values, &v], 1)?;
            *seen = Some((k.shallow_clone(), v.shallow_clone()));
        }
        let scale = 1.0 / (self.shape.head_dim as f64).sqrt();
        let (out, kept) = attention(&q, &k, &v, &shared.mask, scale, &activations.attn_out, scope)?;
        let source = kept.map_or(Source::Keep(activations.attn_out), Source::Kept);
        let mut projected = project(&out, &[self.o.projection()], source, &scope.site(Site::AttnOut))?;
        Ok(x.f_add(&projected.remove(0))?)
    }

    fn mlp_sublayer(&self, x: &Tensor, activations: &BlockActivations, scope: &Scope) -> std::result::Result<Tensor, Error> {
        let normed = rms_norm(x, &self.post_norm, self.shape.norm_eps, &activations.norm, &scope.site(Site::MlpNorm))?;
        let gate_up = project(&normed, &[self.gate.projection(), self.up.projection()], activations.mlp_in, &scope.site(Site::MlpIn))?;
        drop(normed);
        let inner = silu_mul(&gate_up[0], &gate_up[1], &activations.act, scope)?;
        drop(gate_up);
        let mut projected = project(&inner, &[self.down.projection()], activations.mlp_out, &scope.site(Site::MlpOut))?;
        Ok(x.f_add(&projected.remove(0))?)
    }
}
