//! The footprint of a decoder in training: its shapes, and what forward and backward of a step
//! allocate.

use std::collections::HashMap;

use layers::RmsWeight;
use layers::footprint::{Heads, LinearShape, LossShape, MemorySim, StepPhase};

use super::{Decoder, LinearOutline};
use crate::block::footprint::{BlockShape, HiddenState, SimContext};
use crate::config::NormKind;
use crate::{Activations, AdapterConfig, ModelConfig, Result};

/// What of a model is trained and quantized, and how a rank computes.
pub struct TrainingSetup<'a> {
    /// The adapter that is trained; `None` if all weights are.
    pub lora: Option<&'a AdapterConfig>,
    /// Whether the A of its pairs is frozen.
    pub frozen_a: bool,
    /// The bytes of quantized weights, by name.
    pub quantized: &'a HashMap<String, u64>,
    /// Bytes of an element of weights and hidden states.
    pub element: u64,
    /// Tokens whose logits exist at a time; `None` for as many as suit the vocabulary.
    pub loss_chunk: Option<u64>,
    /// Whether rows are packed, with a mask of their segments.
    pub is_packed: bool,
    /// CPU threads of a rank.
    pub threads: u64,
    /// Whether a GPU computes.
    pub on_gpu: bool,
}

impl TrainingSetup<'_> {
    /// Whether a parameter of the model itself is trained.
    pub fn trains(&self, name: &str) -> bool {
        self.lora.is_none_or(|config| config.saves(name))
    }

    /// Whether head and embedding are untied, as one of them is trained.
    pub fn unties(&self, model: &ModelConfig) -> bool {
        let (head, embedding) = model.ends();
        model.tie_embeddings
            && self.lora.is_some()
            && (self.trains(&head) || self.trains(&embedding))
    }

    /// The rank of the pair of the linear layer at `path`, if it has one.
    pub fn rank_of(&self, path: &str) -> Option<u64> {
        let config = self.lora?;
        config.targets(path).then(|| config.rank_of(path) as u64)
    }

    fn linear(&self, linear: &LinearOutline) -> LinearShape {
        let weight = format!("{}.weight", linear.path);
        LinearShape {
            outputs: linear.outputs as u64,
            inputs: linear.inputs as u64,
            lora: self.rank_of(&linear.path),
            dora: self.lora.is_some_and(|config| config.use_dora),
            dropout: self.lora.is_some_and(|config| config.lora_dropout > 0.0),
            frozen_a: self.frozen_a,
            weight_trained: self.trains(&weight),
            quantized: self.quantized.contains_key(&weight),
        }
    }
}

/// The shapes of a decoder in training.
#[derive(Clone, Debug)]
pub struct DecoderShape {
    blocks: Vec<BlockShape>,
    /// Heads; batch and tokens are those of a step.
    heads: Heads,
    element: u64,
    /// Columns of a head with rotary embeddings.
    rotary_width: u64,
    /// Whether rows are packed, with a mask of their segments.
    is_packed: bool,
    /// Attention windows of layers.
    windows: Vec<u64>,
    embedding_trained: bool,
    loss: LossShape,
}

impl DecoderShape {
    /// Of `model`, trained as `setup` says.
    ///
    /// # Errors
    /// As [`Decoder::outline`].
    pub fn new(model: &ModelConfig, setup: &TrainingSetup<'_>) -> Result<Self> {
        let (head, embedding) = model.ends();
        let latent = model.attention.latent;
        let blocks = Decoder::outline(model)?.into_iter().zip(&model.layers).map(|(of, layer)| {
            let shape = |linear: &LinearOutline| setup.linear(linear);
            let into_mlp: Vec<LinearShape> = of.into_mlp.iter().map(shape).collect();
            let experts = model.experts.filter(|_| layer.mixture);
            let width = of.out_of_mlp.inputs as u64;
            BlockShape {
                hidden: model.hidden_size as u64,
                qkv_is_fused: of.into_attention.len() == 1 || latent.is_some(),
                into_attention: of
                    .into_attention
                    .iter()
                    .filter(|linear| linear.inputs == model.hidden_size)
                    .map(shape)
                    .collect(),
                out_of_attention: shape(&of.out_of_attention),
                gate_up_is_fused: into_mlp.len() == 1 && into_mlp[0].outputs == 2 * width,
                into_mlp,
                out_of_mlp: shape(&of.out_of_mlp),
                inner: experts.map_or(width, |experts| {
                    experts.routing.per_token as u64 * width + experts.shared_width as u64
                }),
                copies: experts.map_or(0, |experts| experts.routing.per_token as u64),
                norm: rms_weight(model.norm),
                norms: of.norms,
                norms_trained: setup.lora.is_none(),
                head_norms: model.attention.head_norm.is_some(),
                has_rotary: latent.is_none(),
                is_parallel: model.residual.parallel,
                latent: latent.map_or(0, |latent| {
                    (2 * latent.query_rank.unwrap_or(0) + 2 * latent.key_rank + latent.rotary_dim)
                        as u64
                }),
            }
        });
        let head_weight =
            if model.tie_embeddings && !setup.unties(model) { &embedding } else { &head };
        Ok(Self {
            blocks: blocks.collect(),
            heads: heads(model, setup),
            element: setup.element,
            rotary_width: model.attention.rotary_width as u64,
            is_packed: setup.is_packed,
            windows: distinct(model.layers.iter().filter_map(|layer| layer.window)),
            embedding_trained: setup.trains(&embedding),
            loss: LossShape {
                hidden: model.hidden_size as u64,
                vocabulary: model.vocab_size as u64,
                chunk: setup
                    .loss_chunk
                    .unwrap_or_else(|| layers::chunk_tokens(model.vocab_size) as u64),
                norm: rms_weight(model.norm),
                head_trained: setup.trains(&head) || (setup.lora.is_none() && model.tie_embeddings),
                head_quantized: setup.quantized.contains_key(head_weight),
                logit_copies: u64::from(model.head.multiplier != 1.0)
                    + 3 * u64::from(model.head.soft_cap.is_some()),
            },
        })
    }

    /// A simulation in which nothing is allocated yet.
    pub fn sim(&self) -> MemorySim {
        MemorySim::new(self.element)
    }

    /// Forward and backward of `batch` sequences of `tokens` tokens, of which all but the last of
    /// each have a target.
    pub fn step(&self, sim: &MemorySim, (batch, tokens): (u64, u64), activations: &Activations) {
        let (rows, targets) = (batch * tokens, batch * (tokens - 1));
        let heads = Heads { batch, tokens, ..self.heads };
        let ctx = SimContext { sim, heads };
        // Ids and targets, the rows that have one, and its id; where packed also positions and
        // segments.
        let _inputs = sim
            .tracker
            .take(8 * (2 * rows + 2 * targets + if self.is_packed { 2 * rows } else { 0 }));
        let positions = if self.is_packed { rows } else { tokens };
        let _tables = sim.tensor(positions * self.rotary_width);
        let masks = 1 + self.windows.iter().filter(|window| **window < tokens).count() as u64;
        let masks = if self.is_packed { batch * masks } else { masks - 1 };
        let _masks = sim.tensor(masks * tokens * tokens);

        let mut x = HiddenState {
            alloc: sim.tensor(rows * self.loss.hidden),
            needs: self.embedding_trained,
        };
        let mut saved = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            sim.tracker.enter(StepPhase::Forward(index));
            let needs = x.needs;
            let (out, of_block) = block.forward(&ctx, &x, activations.layer(index));
            x = out;
            saved.push((of_block, needs));
        }
        sim.tracker.enter(StepPhase::Loss);
        let d_hidden = sim.loss(&self.loss, targets);
        drop(x);
        sim.is_counting.set(false);

        let mut dy = {
            let _scaled = sim.tensor(targets * self.loss.hidden);
            Some(sim.tensor(rows * self.loss.hidden))
        };
        drop(d_hidden);
        for (index, block) in self.blocks.iter().enumerate().rev() {
            sim.tracker.enter(StepPhase::Backward(index));
            let Some((Some(of_block), needs)) = saved.pop() else { break };
            let Some(gradient) = dy.take() else { break };
            dy = block.backward(&ctx, of_block, gradient, activations.layer(index), needs);
        }
        if self.embedding_trained {
            drop(sim.tensor(self.loss.vocabulary * self.loss.hidden));
        }
    }
}

fn heads(model: &ModelConfig, setup: &TrainingSetup<'_>) -> Heads {
    Heads {
        batch: 0,
        tokens: 0,
        queries: model.num_heads as u64,
        keys: if model.attention.latent.is_some() { model.num_heads } else { model.num_kv_heads }
            as u64,
        width: model.head_dim as u64,
        value: model.value_dim() as u64,
        is_eager: model.attention.soft_cap.is_some() || model.attention.dropout > 0.0,
        threads: setup.threads,
        on_gpu: setup.on_gpu,
    }
}

fn rms_weight(norm: NormKind) -> Option<RmsWeight> {
    match norm {
        NormKind::Rms(weight) => Some(weight),
        NormKind::Layer { .. } => None,
    }
}

fn distinct(windows: impl Iterator<Item = i64>) -> Vec<u64> {
    let mut windows: Vec<u64> = windows.map(|window| window as u64).collect();
    windows.sort_unstable();
    windows.dedup();
    windows
}
