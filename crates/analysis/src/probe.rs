use std::sync::Arc;

use tch::Tensor;

use autograd::random::derive_seed;
use data::Batch;
use layers::{ActivationStore, Scope, Targets};
use models::{Activations, Decoder, Model};
use setup::to_device;

use crate::Result;

/// Computes gradients of a model without training it.
pub struct GradientProbe<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// The seed of dropout and random codes.
    pub seed: u64,
    /// Tokens whose logits exist at a time; 0: automatic.
    pub loss_chunk: i64,
}

/// The gradients of all trained parameters, and the bytes that were saved for backward.
pub(crate) struct ProbeResult {
    pub gradients: Vec<Tensor>,
    pub kept_bytes: u64,
    pub exact_bytes: u64,
}

impl GradientProbe<'_> {
    fn scope(&self, index: usize, sites: &Arc<ActivationStore>) -> Scope {
        Scope::training(derive_seed(&[self.seed, index as u64]), Arc::clone(sites))
    }

    /// A forward alone, which updates the state of the sites.
    pub(crate) fn observe(
        &self,
        batch: &Batch,
        index: usize,
        activations: &Activations,
        sites: &Arc<ActivationStore>,
    ) -> Result<()> {
        let (inputs, _) = to_device(batch, self.decoder.device())?;
        drop(self.decoder.forward(&inputs, activations, &self.scope(index, sites))?);
        Ok(())
    }

    /// The gradients of the mean loss over the targets of `batch`; `index` draws the dropout.
    pub(crate) fn gradients(
        &self,
        batch: &Batch,
        index: usize,
        activations: &Activations,
        sites: Arc<ActivationStore>,
    ) -> Result<ProbeResult> {
        let decoder = self.decoder;
        let (inputs, targets) = to_device(batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let scope = self.scope(index, &sites);
        let hidden = decoder.forward(&inputs, activations, &scope)?;
        let loss = decoder.loss(
            &hidden,
            &targets,
            1.0 / targets.count().max(1) as f64,
            self.loss_chunk,
            &scope,
        )?;
        drop(hidden);
        let (kept_bytes, exact_bytes) = (sites.saved_bytes().held(), sites.saved_bytes().exact());
        let trained = decoder.trained();
        let wanted: Vec<&Tensor> = trained.iter().map(|parameter| parameter.tensor()).collect();
        let found = autograd::grad(&[&loss], &wanted, &[None], false, false)?;
        sites.check_finite()?;
        let gradients =
            found.into_iter().zip(&wanted).map(|(gradient, parameter)| match gradient {
                Some(gradient) => Ok(gradient),
                None => Ok(parameter.f_zeros_like()?),
            });
        Ok(ProbeResult { gradients: gradients.collect::<Result<_>>()?, kept_bytes, exact_bytes })
    }
}
