//! A decoder as training sees it.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind};

use autograd::Parameter;
use layers::QuantizedWeight;

use super::Decoder;
use crate::{AdapterConfig, Error, Linear, Model, ModelConfig, Result, Weight};

impl Decoder {
    /// The paths of the linear layers of all blocks, as adapters name them.
    pub fn linear_paths(config: &ModelConfig) -> Vec<String> {
        Self::listed(config)
            .iter()
            .flat_map(Self::linears)
            .map(|linear| linear.path().to_owned())
            .collect()
    }

    /// The names of all parameters, a head that is the embedding having its own.
    pub fn parameter_names(config: &ModelConfig) -> Vec<String> {
        let head = config.tie_embeddings.then(|| format!("{}.weight", config.names.head));
        Self::tensor_shapes(config).into_iter().map(|(name, _)| name).chain(head).collect()
    }

    /// The model with parameters that have names and no numbers.
    pub(crate) fn listed(config: &ModelConfig) -> Result<Self> {
        Self::new(&crate::tensors::Tensors::list(), config)
    }
}

/// Whether an adapter trains a head or an embedding whole that is tied to the other in the model.
pub(crate) fn unties(model: &ModelConfig, adapter: &AdapterConfig) -> bool {
    let saves = |name: &str| adapter.saves(&format!("{name}.weight"));
    model.tie_embeddings && (saves(model.names.head) || saves(model.names.embedding))
}

impl Model for Decoder {
    fn parameters(&self) -> Vec<&Parameter> {
        let blocks = self.blocks.iter().flat_map(|block| block.parameters());
        self.embedding
            .parameter()
            .into_iter()
            .chain(&self.positions)
            .chain(blocks)
            .chain(self.lm_head.parameters())
            .collect()
    }

    fn quantized_weights(&self) -> Vec<&QuantizedWeight> {
        // In a mixture of experts the router is a linear layer, and is not quantized.
        let linears = self.linears().into_iter().filter_map(|linear| linear.weight().quantized());
        self.embedding
            .quantized()
            .into_iter()
            .chain(linears)
            .chain(self.lm_head.head().and_then(Weight::quantized))
            .collect()
    }

    fn sparse_grad_embeddings(&self) -> Vec<&Parameter> {
        let tokens = self.lm_head.head().and_then(|_| self.embedding.parameter());
        tokens.into_iter().chain(&self.positions).collect()
    }

    fn device(&self) -> Device {
        self.embedding.device()
    }

    fn kind(&self) -> Kind {
        self.embedding.kind()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.blocks.iter().flat_map(|block| block.linears()).collect()
    }

    fn linears_mut(&mut self) -> Option<Vec<&mut Linear>> {
        let blocks: Option<Vec<_>> = self.blocks.iter_mut().map(Arc::get_mut).collect();
        Some(blocks?.into_iter().flat_map(|block| block.linears_mut()).collect())
    }

    fn untie(&mut self, config: &AdapterConfig, place: &Path) -> Result<()> {
        let head = format!("{}.weight", self.config.names.head);
        if unties(&self.config, config) {
            let in_use =
                || Error::Adapter { path: place.to_owned(), why: "the model is in use".into() };
            Arc::get_mut(&mut self.lm_head)
                .ok_or_else(in_use)?
                .untie(head.clone())
                .map_err(Error::torch(&head, place))?;
        }
        Ok(())
    }
}
