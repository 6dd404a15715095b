//! What a run trains, loaded and ready for the first step.

use std::collections::BTreeSet;

use tch::Device;

use analysis::{CalibrationSamples, GradientProbe, resolve_budget};
use collective::ProcessGroup;
use config::Run;
use data::Order;
use models::{Activations, AdapterConfig, Checkpoint, Classifier, Decoder, Labels, Model};
use setup::{
    LabelledData, RunData, SharedBasisParam, TextProcessor, activation_policies, add_lora,
    dataset_order, model_quantization, sample_order, shared_basis_params, tensor_kind,
};

use crate::Result;
use crate::causal_lm::CausalLmTask;
use crate::classification::ClassificationTask;
use crate::task::Task;

/// A task with everything that its training needs.
pub(crate) struct TrainSetup {
    pub task: Box<dyn Task>,
    /// Which samples make up each step.
    pub order: Order,
    /// The adapter as it will be written; `None` if all weights are trained.
    pub adapter: Option<AdapterConfig>,
    /// The save policies of all layers.
    pub activations: Activations,
    /// Parameters whose gradients lie in bases that all ranks share.
    pub shared_params: Vec<SharedBasisParam>,
    /// Neighbouring layers that share a basis.
    pub basis_layers: usize,
    /// The classes of a classifier.
    pub labels: Option<Labels>,
}

impl TrainSetup {
    /// A decoder with its adapter, the tokenized data, and the bits of its activations.
    pub fn causal_lm(
        run: &Run,
        checkpoint: Checkpoint,
        device: Device,
        group: &dyn ProcessGroup,
    ) -> Result<Self> {
        let pad = TextProcessor::open(&run.model, &checkpoint)?.pad_token_id();
        let quantization = model_quantization(run.model.quantization);
        let mut decoder = Decoder::load_quantized(
            &checkpoint,
            quantization,
            tensor_kind(run.model.dtype),
            device,
        )?;
        drop(checkpoint);
        let fan_in_fan_out = decoder.config().fan_in_fan_out();
        let adapter = add_lora(run.lora.as_ref(), &run.model, run.seed, &mut decoder)?;
        let adapter = adapter.map(|adapter| AdapterConfig { fan_in_fan_out, ..adapter });
        let data = RunData::open(&run.dir)?;
        let order = dataset_order(run, &data.train, group.world_size())?;
        let loss_chunk = run.loss_chunk as i64;

        let probe = GradientProbe { decoder: &decoder, seed: run.seed, loss_chunk };
        let indices = order.rank_share(0, group.rank(), group.world_size());
        let samples = CalibrationSamples { dataset: &data.train, indices: &indices, pad };
        let table = resolve_budget(run, &probe, &samples, group)?;
        let activations = activation_policies(&table, decoder.config());
        let trained: BTreeSet<&str> =
            decoder.trained().into_iter().map(autograd::Parameter::name).collect();
        let is_trained = |name: &str| trained.contains(name);
        let shared_params =
            shared_basis_params(decoder.config(), &activations, adapter.as_ref(), is_trained)?;

        let eval_rows = run.rows_at_once(group.world_size())?;
        let task = Box::new(CausalLmTask { decoder, data, pad, loss_chunk, eval_rows });
        let basis_layers = table.basis_layers.unwrap_or(1);
        Ok(Self { task, order, adapter, activations, shared_params, basis_layers, labels: None })
    }

    /// A classifier of texts or images with its adapter, and the labelled rows.
    pub fn classification(
        run: &Run,
        checkpoint: Checkpoint,
        device: Device,
        world_size: usize,
    ) -> Result<Self> {
        let data = LabelledData::read(run, world_size, &|_, _| ())?;
        let labels = data.labels.clone();
        let kind = tensor_kind(run.model.dtype);
        let mut classifier =
            Classifier::load(&checkpoint, Some(labels.clone()), run.seed, kind, device)?;
        if checkpoint.is_untrained() {
            tracing::info!("the weights are initialized at random");
        } else if !classifier.drawn().is_empty() {
            tracing::info!(
                "initialized at random, as the model does not have it: {}",
                classifier.drawn().join(", ")
            );
        }
        drop(checkpoint);
        let adapter = add_lora(run.lora.as_ref(), &run.model, run.seed, &mut classifier)?;
        let order = sample_order(run, data.train.len(), world_size)?;
        let activations = activation_policies(&run.activations, classifier.config());
        let eval_rows = run.rows_at_once(world_size)?;
        let task = Box::new(ClassificationTask::new(
            classifier,
            data,
            run.data.class_weights,
            run.seed,
            eval_rows,
        )?);
        let basis_layers = run.activations.basis_layers.unwrap_or(1);
        Ok(Self {
            task,
            order,
            adapter,
            activations,
            shared_params: Vec::new(),
            basis_layers,
            labels: Some(labels),
        })
    }
}
