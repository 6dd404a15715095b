//! From a configuration and a model's description to shapes and bytes.

use std::collections::HashMap;

use tch::Kind;

use config::{Dtype, Run};
use models::{
    AdapterConfig, Checkpoint, Decoder, DecoderShape, LinearOutline, ModelConfig, TrainingSetup,
};
use optim::{EXCHANGE_BYTES, TrainedShape, optimizer_bytes};
use setup::{
    AdapterSource, activation_policies, adapter_source, check_adapter, check_quantization, is_gpu,
    model_quantization, reduction_method, shared_basis_params,
};

use crate::Result;
use crate::step::StepShape;

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
    /// CPU threads of a rank.
    threads: u64,
}

impl<'a> RunSizes<'a> {
    pub fn new(
        run: &'a Run,
        model: &'a ModelConfig,
        checkpoint: Option<&Checkpoint>,
        threads: usize,
    ) -> Result<Self> {
        let lora = adapter_source(run.lora.as_ref(), &run.model)?;
        check_adapter(run, model, &lora)?;
        check_quantization(run, model, checkpoint, &lora)?;
        let lora = lora.map(|lora| match lora {
            AdapterSource::New(config) => *config,
            AdapterSource::Pretrained(adapter) => adapter.config,
        });
        let quantized = model_quantization(run.model.quantization)
            .quantized_bytes(model, checkpoint)
            .into_iter()
            .collect();
        Ok(Self {
            run,
            model,
            lora,
            quantized,
            element: run.model.dtype.bytes() as u64,
            threads: threads as u64,
        })
    }

    /// What is trained and quantized, and how a rank computes.
    fn setup(&self) -> TrainingSetup<'_> {
        TrainingSetup {
            lora: self.lora.as_ref(),
            frozen_a: self.run.lora.as_ref().is_some_and(|lora| lora.lora_fa),
            quantized: &self.quantized,
            element: self.element,
            loss_chunk: (self.run.loss_chunk > 0).then_some(self.run.loss_chunk as u64),
            is_packed: self.run.data.packing,
            threads: self.threads,
            on_gpu: is_gpu(self.run),
        }
    }

    /// The shapes of a step.
    pub fn shape(&self, held: &PersistentBytes, trained: &[TrainedShape]) -> Result<StepShape> {
        Ok(StepShape {
            decoder: DecoderShape::new(self.model, &self.setup())?,
            held: held.bytes(),
            largest_trained: trained.iter().map(TrainedShape::elements).max().unwrap_or(0),
        })
    }

    /// The bytes of weights and training, and the shapes of what is trained, on one of `world_size`
    /// ranks.
    pub fn held(&self, world_size: usize) -> Result<(PersistentBytes, Vec<TrainedShape>)> {
        let kind = if self.run.model.dtype == Dtype::F32 { Kind::Float } else { Kind::BFloat16 };
        let (head, _) = self.model.ends();
        let mut expected = Decoder::tensor_shapes(self.model);
        let setup = self.setup();
        if setup.unties(self.model) {
            expected.push((head, vec![self.model.vocab_size, self.model.hidden_size]));
        }
        let elements = |shape: &[i64]| shape.iter().product::<i64>() as u64;
        let mut held = PersistentBytes {
            parameters: expected.iter().map(|(_, shape)| elements(shape)).sum(),
            ..PersistentBytes::default()
        };
        let bytes = |name: &str, shape: &[i64]| {
            self.quantized.get(name).copied().unwrap_or_else(|| elements(shape) * self.element)
        };
        held.weights = expected.iter().map(|(name, shape)| bytes(name, shape)).sum();
        let mut trained: Vec<TrainedShape> = expected
            .into_iter()
            .filter(|(name, _)| setup.trains(name))
            .map(|(name, shape)| TrainedShape {
                is_hidden_matrix: name.contains(self.model.layer_prefix()) && shape.len() == 2,
                shape,
                kind,
            })
            .collect();
        for linear in self.linears()? {
            let (Some(rank), Some(config)) = (setup.rank_of(&linear.path), &self.lora) else {
                continue;
            };
            let mut pair =
                vec![vec![rank as i64, linear.inputs], vec![linear.outputs, rank as i64]];
            let begun =
                if config.is_pissa() { pair.iter().map(|shape| elements(shape)).sum() } else { 0 };
            if config.use_dora {
                pair.push(vec![linear.outputs]);
            }
            let own: u64 = pair.iter().map(|shape| elements(shape)).sum();
            held.parameters += own;
            // Pairs are in f32, and so is what a PiSSA pair began as.
            held.weights += 4 * (own + begun);
            let is_frozen = |index: usize| {
                index == 0 && self.run.lora.as_ref().is_some_and(|lora| lora.lora_fa)
            };
            let pair = pair.into_iter().enumerate().filter(|(index, _)| !is_frozen(*index));
            trained.extend(pair.map(|(_, shape)| TrainedShape {
                is_hidden_matrix: shape.len() == 2,
                shape,
                kind: Kind::Float,
            }));
        }
        held.trained_parameters = trained.iter().map(TrainedShape::elements).sum();
        held.gradients =
            trained.iter().map(|of| of.elements() * of.kind.elt_size_in_bytes() as u64).sum();
        let (state, workspace) = optimizer_bytes(&trained, &self.run.optimizer);
        held.optimizer = match world_size as u64 {
            // Each rank has its partition of the states, and the broadcast buffer.
            world_size if world_size > 1 && self.run.optimizer.is_sharded() => {
                state.div_ceil(world_size)
                    + workspace
                    + held.gradients.div_ceil(world_size).min(EXCHANGE_BYTES)
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

    /// Buffers of the reducer in addition to the gradients, which are views of them if they have
    /// their dtype; and PowerSGD's state.
    fn communication(&self, trained: &[TrainedShape], world_size: usize) -> Result<u64> {
        let method = reduction_method(&self.run.gradients, world_size);
        let buffers: u64 = trained.iter().map(|of| method.buffer_bytes(&of.shape, of.kind)).sum();
        Ok(buffers + self.coefficients(&method)?)
    }

    /// Coefficients that are sent instead of gradients that lie in shared bases.
    fn coefficients(&self, method: &reduce::Method) -> Result<u64> {
        if !matches!(method, reduce::Method::SharedBasis { .. }) {
            return Ok(0);
        }
        let setup = self.setup();
        let freezes_a = self.run.lora.as_ref().is_some_and(|lora| lora.lora_fa);
        let is_trained = |name: &str| {
            if name.ends_with(".lora_A.weight") { !freezes_a } else { setup.trains(name) }
        };
        let activations = activation_policies(&self.run.activations, self.model);
        let params = shared_basis_params(self.model, &activations, self.lora.as_ref(), is_trained)?;
        Ok(params.iter().map(|of| method.coefficient_bytes(of.shape, of.rank)).sum())
    }
}
