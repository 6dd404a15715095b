//! From a configuration and a model's description to shapes and bytes.

use std::collections::HashMap;

use tch::Kind;

use compression::Method;
use config::{Dtype, GradientMethod, Run};
use layers::SavePolicy;
use models::{Activations, AdapterConfig, BlockActivations, Checkpoint, Decoder, LinearOutline, ModelConfig, Recompute};
use optim::{EXCHANGE_BYTES, TrainedShape, optimizer_bytes};
use setup::{
    AdapterSource, activation_policies, adapter_source, check_adapter, check_quantization, is_gpu, model_quantization, shared_basis_params,
};

use crate::Result;
use crate::block::Block;
use crate::operations::{Heads, LinearShape};
use crate::step::ModelShape;

/// The cuBLAS workspace of libtorch for each thread, on a Hopper or later (8 MiB on earlier GPUs).
const CUBLAS_WORKSPACE: u64 = 32 << 20;
/// The one of forward, and the one of backward.
const GPU_THREADS: u64 = 2;

/// Bytes that are allocated during the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PersistentBytes {
    pub parameters: u64,
    pub trained_parameters: u64,
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    pub communication: u64,
    /// Workspace of libtorch for matrix products on a GPU.
    pub library: u64,
}

impl PersistentBytes {
    pub fn bytes(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.communication + self.library
    }
}

/// The shapes of a run.
pub(crate) struct RunSizes<'a> {
    run: &'a Run,
    model: &'a ModelConfig,
    /// The adapter; `None` if all weights are trained.
    lora: Option<AdapterConfig>,
    /// The bytes of quantized weights.
    quantized: HashMap<String, u64>,
    element: u64,
}

impl<'a> RunSizes<'a> {
    pub fn new(run: &'a Run, model: &'a ModelConfig, checkpoint: Option<&Checkpoint>) -> Result<Self> {
        let lora = adapter_source(run.lora.as_ref(), &run.model)?;
        check_adapter(run, model, &lora)?;
        check_quantization(run, model, checkpoint, &lora)?;
        let lora = lora.map(|lora| match lora {
            AdapterSource::New(config) => *config,
            AdapterSource::Pretrained(adapter) => adapter.config,
        });
        let quantized = model_quantization(run.model.quantization).quantized_bytes(model, checkpoint).into_iter().collect();
        Ok(Self { run, model, lora, quantized, element: run.model.dtype.bytes() as u64 })
    }

    fn lora_of(&self, path: &str) -> Option<u64> {
        let config = self.lora.as_ref()?;
        config.targets(path).then(|| config.rank_of(path) as u64)
    }

    /// Whether a parameter of the model itself is trained.
    fn trains(&self, name: &str) -> bool {
        self.lora.as_ref().is_none_or(|config| config.saves(name))
    }

    /// Whether head and embedding are untied, as one of them is trained.
    fn unties(&self) -> bool {
        let (head, embedding) = self.model.ends();
        self.model.tie_embeddings && self.lora.is_some() && (self.trains(&head) || self.trains(&embedding))
    }

    /// The bytes of weights and training, and the shapes of what is trained, on one of `world_size` ranks.
    pub fn held(&self, world_size: usize) -> Result<(PersistentBytes, Vec<TrainedShape>)> {
        let kind = if self.run.model.dtype == Dtype::F32 { Kind::Float } else { Kind::BFloat16 };
        let (head, _) = self.model.ends();
        let mut expected = Decoder::tensor_shapes(self.model);
        if self.unties() {
            expected.push((head, vec![self.model.vocab_size, self.model.hidden_size]));
        }
        let elements = |shape: &[i64]| shape.iter().product::<i64>() as u64;
        let mut held =
            PersistentBytes { parameters: expected.iter().map(|(_, shape)| elements(shape)).sum(), ..PersistentBytes::default() };
        let bytes = |name: &str, shape: &[i64]| self.quantized.get(name).copied().unwrap_or_else(|| elements(shape) * self.element);
        held.weights = expected.iter().map(|(name, shape)| bytes(name, shape)).sum();
        let mut trained: Vec<TrainedShape> = expected
            .into_iter()
            .filter(|(name, _)| self.trains(name))
            .map(|(name, shape)| TrainedShape {
                is_hidden_matrix: name.contains(self.model.layer_prefix()) && shape.len() == 2,
                shape,
                kind,
            })
            .collect();
        for linear in self.linears()? {
            let (Some(rank), Some(config)) = (self.lora_of(&linear.path), &self.lora) else { continue };
            let mut pair = vec![vec![rank as i64, linear.inputs], vec![linear.outputs, rank as i64]];
            let begun = if config.is_pissa() { pair.iter().map(|shape| elements(shape)).sum() } else { 0 };
            if config.use_dora {
                pair.push(vec![linear.outputs]);
            }
            let own: u64 = pair.iter().map(|shape| elements(shape)).sum();
            held.parameters += own;
            // Pairs are in f32, and so is what a PiSSA pair began as.
            held.weights += 4 * (own + begun);
            let is_frozen = |index: usize| index == 0 && self.run.lora.as_ref().is_some_and(|lora| lora.lora_fa);
            let pair = pair.into_iter().enumerate().filter(|(index, _)| !is_frozen(*index));
            trained.extend(pair.map(|(_, shape)| TrainedShape { is_hidden_matrix: shape.len() == 2, shape, kind: Kind::Float }));
        }
        held.trained_parameters = trained.iter().map(TrainedShape::elements).sum();
        held.gradients = trained.iter().map(|of| of.elements() * of.kind.elt_size_in_bytes() as u64).sum();
        let (state, workspace) = optimizer_bytes(&trained, &self.run.optimizer);
        held.optimizer = match world_size as u64 {
            // Each rank has its partition of the states, and the broadcast buffer.
            world_size if world_size > 1 && self.run.optimizer.is_sharded() => {
                state.div_ceil(world_size) + workspace + held.gradients.div_ceil(world_size).min(EXCHANGE_BYTES)
            }
            _ => state + workspace,
        };
        held.communication = self.communication(&trained, world_size)?;
        held.library = if is_gpu(self.run) { GPU_THREADS * CUBLAS_WORKSPACE } else { 0 };
        Ok((held, trained))
    }

    /// Every linear layer that an adapter may target, those of experts included.
    fn linears(&self) -> Result<Vec<LinearOutline>> {
        Ok(Decoder::linear_outlines(self.model)?)
    }

    /// Buffers of the reducer in addition to the gradients, which are views of them if they have their dtype; and PowerSGD's
    /// state.
    fn communication(&self, trained: &[TrainedShape], world_size: usize) -> Result<u64> {
        let table = &self.run.gradients;
        let buffer = |of: &TrainedShape, kind: Kind| if of.kind == kind { 0 } else { of.elements() * kind.elt_size_in_bytes() as u64 };
        let bytes_of = |of: &TrainedShape| match table.method {
            GradientMethod::Bf16 if world_size > 1 => buffer(of, Kind::BFloat16),
            GradientMethod::PowerSgd if world_size > 1 => {
                let (rows, columns) = of.shape.split_first().map_or((0, 0), |(rows, rest)| (*rows, rest.iter().product::<i64>()));
                let rank = (table.rank as i64).min(rows).min(columns);
                let is_smaller = rank > 0 && (rows * columns) as f64 >= table.min_ratio * (rank * (rows + columns)) as f64;
                if of.shape.len() < 2 || !is_smaller {
                    return buffer(of, Kind::Float);
                }
                // What was dropped; P, Q, and the Q to start from.
                let dropped = if table.error_feedback { of.elements() } else { 0 };
                buffer(of, Kind::Float) + 4 * (dropped + (rank * (rows + 2 * columns)) as u64)
            }
            _ => buffer(of, Kind::Float),
        };
        let buffers: u64 = trained.iter().map(bytes_of).sum();
        Ok(buffers + if world_size > 1 { self.coefficients()? } else { 0 })
    }

    /// Coefficients that are sent instead of gradients that lie in shared bases.
    fn coefficients(&self) -> Result<u64> {
        if self.run.gradients.method != GradientMethod::SharedBasis {
            return Ok(0);
        }
        let freezes_a = self.run.lora.as_ref().is_some_and(|lora| lora.lora_fa);
        let is_trained = |name: &str| if name.ends_with(".lora_A.weight") { !freezes_a } else { self.trains(name) };
        let activations = activation_policies(&self.run.activations, self.model);
        let params = shared_basis_params(self.model, &activations, self.lora.as_ref(), is_trained)?;
        let compressed = params.iter().filter(|of| of.shape[1] as f64 >= self.run.gradients.min_ratio * of.rank as f64);
        Ok(compressed.map(|of| 4 * (of.shape[0] * of.rank) as u64).sum())
    }

    /// Bytes of the state of sites: bases, each twice while it is updated, and the factors of a warm start.
    pub fn memories(&self, activations: &Activations, basis_layers: usize) -> u64 {
        let model = self.model;
        let (hidden, inner) = (model.hidden_size, model.experts.map_or(model.intermediate_size, |experts| experts.width));
        let out = model.num_heads * model.value_dim();
        let of = |policy: &BlockActivations| {
            let blocks = match policy.recompute {
                Recompute::Nothing => vec![],
                Recompute::Layer(keep) => vec![(keep, hidden)],
                Recompute::Sublayer(keep) => vec![(keep, hidden); 2],
            };
            let sites = [(policy.norm, hidden), (policy.norm, hidden), (policy.attn_in, hidden), (policy.attn_out, out)];
            let more = [(policy.mlp_in, hidden), (policy.mlp_out, inner), (policy.act, inner), (policy.act, inner)];
            blocks.into_iter().chain(sites).chain(more).map(|(keep, width)| memory(&keep, width)).sum::<u64>()
        };
        (0..model.layers.len()).step_by(basis_layers.max(1)).map(|layer| of(activations.layer(layer))).sum()
    }

    /// The shapes of a step.
    pub fn shape(&self, held: &PersistentBytes, trained: &[TrainedShape], threads: usize) -> Result<ModelShape> {
        let (model, lora) = (self.model, self.run.lora.as_ref());
        let (head, embedding) = model.ends();
        let shape = |linear: &LinearOutline| LinearShape {
            outputs: linear.outputs as u64,
            inputs: linear.inputs as u64,
            lora: self.lora_of(&linear.path),
            dora: self.lora.as_ref().is_some_and(|config| config.use_dora),
            dropout: self.lora.as_ref().is_some_and(|config| config.lora_dropout > 0.0),
            frozen_a: lora.is_some_and(|lora| lora.lora_fa),
            weight_trained: self.trains(&format!("{}.weight", linear.path)),
            quantized: self.quantized.contains_key(&format!("{}.weight", linear.path)),
        };
        let latent = model.attention.latent;
        let blocks = Decoder::outline(model)?.into_iter().zip(&model.layers).map(|(of, layer)| {
            let into_mlp: Vec<LinearShape> = of.into_mlp.iter().map(shape).collect();
            let experts = model.experts.filter(|_| layer.mixture);
            let width = of.out_of_mlp.inputs as u64;
            Block {
                hidden: model.hidden_size as u64,
                qkv_is_fused: of.into_attention.len() == 1 || latent.is_some(),
                into_attention: of.into_attention.iter().filter(|linear| linear.inputs == model.hidden_size).map(shape).collect(),
                out_of_attention: shape(&of.out_of_attention),
                gate_up_is_fused: into_mlp.len() == 1 && into_mlp[0].outputs == 2 * width,
                into_mlp,
                out_of_mlp: shape(&of.out_of_mlp),
                inner: experts.map_or(width, |experts| experts.routing.per_token as u64 * width + experts.shared_width as u64),
                copies: experts.map_or(0, |experts| experts.routing.per_token as u64),
                norm: model.norm,
                norms: of.norms,
                norms_trained: self.lora.is_none(),
                head_norms: model.attention.head_norm.is_some(),
                has_rotary: latent.is_none(),
                is_parallel: model.residual.parallel,
                latent: latent.map_or(0, |latent| (2 * latent.query_rank.unwrap_or(0) + 2 * latent.key_rank + latent.rotary_dim) as u64),
            }
        });
        let chunk = if self.run.loss_chunk > 0 { self.run.loss_chunk as i64 } else { layers::chunk_tokens(model.vocab_size) };
        Ok(ModelShape {
            blocks: blocks.collect(),
            hidden: model.hidden_size as u64,
            vocabulary: model.vocab_size as u64,
            element: self.element,
            norm: model.norm,
            heads: Heads {
                batch: 0,
                tokens: 0,
                queries: model.num_heads as u64,
                keys: if latent.is_some() { model.num_heads } else { model.num_kv_heads } as u64,
                width: model.head_dim as u64,
                value: model.value_dim() as u64,
                is_eager: model.attention.soft_cap.is_some() || model.attention.dropout > 0.0,
                threads: threads as u64,
                on_gpu: is_gpu(self.run),
            },
            rotary_width: model.attention.rotary_width as u64,
            is_packed: self.run.data.packing,
            windows: distinct(model.layers.iter().filter_map(|layer| layer.window)),
            head_trained: self.trains(&head) || (self.lora.is_none() && model.tie_embeddings),
            head_quantized: self.quantized.contains_key(if model.tie_embeddings && !self.unties() { &embedding } else { &head }),
            embedding_trained: self.trains(&embedding),
            logit_copies: u64::from(model.head.multiplier != 1.0) + 3 * u64::from(model.head.soft_cap.is_some()),
            loss_chunk: chunk as u64,
            held: held.bytes(),
            largest_trained: trained.iter().map(TrainedShape::elements).max().unwrap_or(0),
        })
    }
}

/// Bytes of the state of a site of this width.
fn memory(keep: &SavePolicy, width: i64) -> u64 {
    let (SavePolicy::Code(options) | SavePolicy::Delta(options)) = keep else { return 0 };
    let element = if options.factors == Kind::Float { 4 } else { 2 };
    match options.method {
        Method::Coded { rotate: true, .. } => 2 * (width * (element * width + 4)) as u64,
        Method::Coded { .. } => 0,
        // In f32, with the sum that it accumulates.
        Method::Shared => options.rank.resolve(width, width).map_or(0, |rank| 2 * 4 * (rank * width) as u64),
        method if method.is_warm() => options.rank.resolve(i64::MAX, width).map_or(0, |rank| (element * rank * width) as u64),
        _ => 0,
    }
}

fn distinct(windows: impl Iterator<Item = i64>) -> Vec<u64> {
    let mut windows: Vec<u64> = windows.map(|window| window as u64).collect();
    windows.sort_unstable();
    windows.dedup();
    windows
}
