pub(crate) mod adapted;
pub(crate) mod footprint;
mod outline;
mod quantized;

pub use outline::{BlockOutline, LinearOutline};

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use autograd::Parameter;
use layers::{
    Mask, RotaryTable, Scope, Site, Targets, causal_mask, dropout, embedding, loss_over_chunks,
    segment_mask,
};

use crate::block::{AttentionContext, Block, KvCache};
use crate::config::{EmbeddingScale, LayerRope, RopeConfig};
use crate::lm_head::LmHead;
use crate::quantization::Role;
use crate::tensors::Tensors;
use crate::{Activations, Checkpoint, Model, ModelConfig, Quantization, Result, Weight};

/// A decoder for causal language modelling (the `…ForCausalLM` classes of transformers), made of
/// what its configuration describes.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    embedding: Weight,
    /// The embedding of positions, in models that learn one.
    positions: Option<Parameter>,
    blocks: Vec<Arc<Block>>,
    lm_head: Arc<LmHead>,
}

/// A batch as a decoder reads it.
#[derive(Debug)]
pub struct Inputs {
    /// Token ids `[batch, tokens]`.
    pub ids: Tensor,
    /// Each token's position in its segment `[batch, tokens]`; absent: 0, 1, 2, … in every row.
    pub positions: Option<Tensor>,
    /// Each token's segment `[batch, tokens]` where rows are packed; absent: every row is one. A
    /// token attends to its own segment only.
    pub segments: Option<Tensor>,
}

impl Inputs {
    /// Rows of one segment each. Padding at the right needs no mask: no token attends to what comes
    /// after it.
    pub fn rows(ids: Tensor) -> Self {
        Self { ids, positions: None, segments: None }
    }
}

/// The keys and values of the tokens that generation has processed.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<KvCache>,
    tokens: i64,
}

impl Decoder {
    /// The names and shapes of the tensors a checkpoint of this configuration must hold.
    pub fn tensor_shapes(config: &ModelConfig) -> Vec<(String, Vec<i64>)> {
        let tensors = Tensors::list();
        let _ = Self::new(&tensors, config);
        tensors.into_list()
    }

    /// The same, with what each is for.
    pub(crate) fn tensor_roles(config: &ModelConfig) -> Vec<(String, Vec<i64>, Role)> {
        let tensors = Tensors::list();
        let _ = Self::new(&tensors, config);
        tensors.into_roles()
    }

    /// Reads the weights as `kind` onto `device`, all of them frozen.
    ///
    /// # Errors
    /// Those of [`Checkpoint::check`] and [`Checkpoint::tensor`].
    pub fn load(checkpoint: &Checkpoint, kind: Kind, device: Device) -> Result<Self> {
        Self::load_quantized(checkpoint, Quantization::None, kind, device)
    }

    /// The same, with the weights quantized that `quantization` says. They expand to `kind`, and
    /// cannot be trained.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_quantized(
        checkpoint: &Checkpoint,
        quantization: Quantization,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let config = checkpoint.config()?;
        checkpoint.check(&Self::tensor_shapes(config))?;
        Self::new(&Tensors::Read { drawn: None, checkpoint, kind, device, quantization }, config)
    }

    fn new(tensors: &Tensors<'_>, config: &ModelConfig) -> Result<Self> {
        let names = config.names;
        let embedding = tensors.weight(
            format!("{}.weight", names.embedding),
            &[config.vocab_size, config.hidden_size],
            Role::Vocabulary,
        )?;
        let positions = match names.positions {
            Some(name) => Some(tensors.parameter(
                format!("{name}.weight"),
                &[config.max_positions, config.hidden_size],
            )?),
            None => None,
        };
        let lm_head = Arc::new(LmHead::new(tensors, config, &embedding)?);
        let blocks = (0..config.layers.len())
            .map(|index| Block::new(tensors, config, index).map(Arc::new))
            .collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), embedding, positions, blocks, lm_head })
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The position of each token, `[batch or 1, tokens]`.
    fn positions(&self, inputs: &Inputs, seen: i64) -> layers::Result<Tensor> {
        let tokens = inputs.ids.size()[1];
        match &inputs.positions {
            Some(positions) => Ok(positions.shallow_clone()),
            None => Ok(Tensor::f_arange_start(seen, seen + tokens, (Kind::Int64, self.device()))?
                .f_view([1, tokens])?),
        }
    }

    /// What all blocks share in a forward of tokens that follow `seen` others.
    fn attention_context(
        &self,
        inputs: &Inputs,
        positions: &Tensor,
        seen: i64,
    ) -> layers::Result<AttentionContext> {
        let (tokens, kind) = (inputs.ids.size()[1], self.kind());
        let used = |rope| self.config.layers.iter().any(|layer| layer.rope == rope);
        let table = |rope: Option<&RopeConfig>, is_used: bool| match rope.filter(|_| is_used) {
            Some(rope) => self.table(rope, positions, seen + tokens).map(Some),
            None => Ok(None),
        };
        let tables = [
            table(Some(&self.config.rope), used(LayerRope::Global))?,
            table(self.config.local_rope.as_ref(), used(LayerRope::Local))?,
        ];
        let mut masks: Vec<(Option<i64>, Mask)> = Vec::new();
        for layer in &self.config.layers {
            if !masks.iter().any(|(window, _)| *window == layer.window) {
                let mask = match &inputs.segments {
                    Some(segments) => segment_mask(segments, layer.window, kind)?,
                    None => causal_mask(tokens, seen, layer.window, kind, self.device())?,
                };
                masks.push((layer.window, mask));
            }
        }
        Ok(AttentionContext { tables, masks, grid: None })
    }

    /// The rotary table of `rope` at `positions` that lie below `end`.
    fn table(
        &self,
        rope: &RopeConfig,
        positions: &Tensor,
        end: i64,
    ) -> layers::Result<RotaryTable> {
        // Positions restart in packed rows: what counts is the largest. Only a table that depends
        // on it makes the host wait for it.
        let length = match rope.changes_beyond() {
            Some(limit) if end > limit => positions.f_max()?.f_int64_value(&[])? + 1,
            _ => end,
        };
        let attention = &self.config.attention;
        let frequencies =
            Tensor::f_from_slice(&rope.inverse_frequencies(attention.rotary_width, length))?
                .f_to_device(self.device())?;
        Ok(RotaryTable::new(positions, &frequencies, rope.attention_factor(), self.kind())?
            .with_pairs(attention.rotary_pairs))
    }

    /// The hidden states that go into the first block.
    fn embed(&self, ids: &Tensor, positions: &Tensor, scope: &Scope) -> layers::Result<Tensor> {
        let config = &self.config.embedding;
        let mut x = embedding(self.embedding.matrix(), ids, config.padding)?;
        if let Some(weight) = &self.positions {
            x = x.f_add(&embedding(weight.tensor(), positions, None)?)?;
        }
        let x = match config.scale {
            EmbeddingScale::By(1.0) => x,
            EmbeddingScale::By(number) => x.f_mul_scalar(number)?,
            EmbeddingScale::RootOfWidth => {
                let root = Tensor::f_from_slice(&[(self.config.hidden_size as f64).sqrt()])?;
                x.f_mul(&root.f_to_kind(x.kind())?.f_to_device(x.device())?)?
            }
        };
        dropout(&x, config.dropout, &scope.site(Site::Layer))
    }

    /// The hidden states after the last block `[batch, tokens, hidden]`, before the final norm.
    ///
    /// # Errors
    /// Those of the operations, as an id outside the vocabulary.
    pub fn forward(
        &self,
        inputs: &Inputs,
        activations: &Activations,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let positions = self.positions(inputs, 0)?;
        let context = self.attention_context(inputs, &positions, 0)?;
        let mut x = self.embed(&inputs.ids, &positions, scope)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &context, activations.layer(index), &scope.layer(index))?;
        }
        scope.end_of_blocks();
        Ok(x)
    }

    /// The logits of hidden states `[.., hidden]`: `[.., vocabulary]`, in f32 or better.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn logits(&self, hidden: &Tensor) -> layers::Result<Tensor> {
        self.lm_head.logits(hidden)
    }

    /// `weight` times the sum of the losses at all targets, the logits of at most `chunk` tokens
    /// existing at a time (0: those that fit in 64 MiB).
    ///
    /// # Errors
    /// Those of the operations.
    pub fn loss(
        &self,
        hidden: &Tensor,
        targets: &Targets,
        weight: f64,
        chunk: i64,
        scope: &Scope,
    ) -> layers::Result<Tensor> {
        let chunk = if chunk > 0 { chunk } else { layers::chunk_tokens(self.config.vocab_size) };
        let lm_head = self.lm_head.clone();
        let parameters = self.lm_head.tensors();
        let scope = scope.at(self.blocks.len() as u64);
        loss_over_chunks(
            move |hidden: &Tensor| lm_head.logits(hidden),
            hidden,
            &parameters,
            targets,
            weight,
            chunk,
            &scope,
        )
    }

    /// An empty cache.
    pub fn cache(&self) -> Cache {
        Cache { layers: self.blocks.iter().map(|_| KvCache::default()).collect(), tokens: 0 }
    }

    /// The logits `[vocabulary]` of the token that follows those in the cache and `ids` (one row,
    /// at least one); the cache then holds them too.
    ///
    /// # Errors
    /// Those of the operations.
    pub fn next_logits(&self, ids: &[i64], cache: &mut Cache) -> layers::Result<Tensor> {
        let _mode = autograd::GradMode::disabled();
        let inputs =
            Inputs::rows(Tensor::f_from_slice(ids)?.f_view([1, -1])?.f_to_device(self.device())?);
        let positions = self.positions(&inputs, cache.tokens)?;
        let context = self.attention_context(&inputs, &positions, cache.tokens)?;
        let mut x = self.embed(&inputs.ids, &positions, &Scope::evaluation())?;
        for (block, cache) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.forward_after(&x, &context, cache)?;
        }
        cache.tokens += ids.len() as i64;
        Ok(self.logits(&x.f_select(1, -1)?)?.f_view([-1])?)
    }
}
