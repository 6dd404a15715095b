use crate::Result;
use crate::step::tensors;
use autograd::random::derive_seed;
use data::Batch;
use layers::{ActivationStore, Scope, Targets};
use models::{Activations, Decoder, Model};
use std::sync::Arc;
use tch::Tensor;

/// A model, and how its gradients are taken without training it.
pub(crate) struct Probe<'a> {
    pub decoder: &'a Decoder,
    pub seed: u64,
    pub loss_chunk: i64,
}

/// The gradients of all trained parameters, and the most bytes that were kept.
pub(crate) struct Taken {
    pub gradients: Vec<Tensor>,
    pub kept_bytes: u64,
    pub exact_bytes: u64,
}

impl Probe<'_> {
    fn scope(&self, index: usize, sites: &Arc<ActivationStore>) -> Scope {
        Scope::training(derive_seed(&[self.seed, index as u64]), Arc::clone(sites))
    }

    /// A forward alone, from which the sites remember what they do.
    pub fn show(&self, batch: &Batch, index: usize, activations: &Activations, sites: &Arc<ActivationStore>) -> Result<()> {
        let (inputs, _) = tensors(batch, self.decoder.device())?;
        drop(self.decoder.forward(&inputs, activations, &self.scope(index, sites))?);
        Ok(())
    }

    /// Of the mean loss over the targets of `batch`; `index` draws the dropout.
    pub fn gradients(&self, batch: &Batch, index: usize, activations: &Activations, sites: Arc<ActivationStore>) -> Result<Taken> {
        let decoder = self.decoder;
        let (inputs, targets) = tensors(batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let scope = self.scope(index, &sites);
        let hidden = decoder.forward(&inputs, activations, &scope)?;
        let loss = decoder.loss(&hidden, &targets, 1.0 / targets.count().max(1) as f64, self.loss_chunk, &scope)?;
        drop(hidden);
        let (kept_bytes, exact_bytes) = (sites.saved_bytes().held(), sites.saved_bytes().exact());
        let trained = decoder.trained();
        let wanted: Vec<&Tensor> = trained.iter().map(|parameter| parameter.tensor()).collect();
        let found = autograd::grad(&[&loss], &wanted, &[None], false, false)?;
        sites.check_finite()?;
        let gradients = found.into_iter().zip(&wanted).map(|(gradient, parameter)| match gradient {
            Some(gradient) => Ok(gradient),
            None => Ok(parameter.f_zeros_like()?),
        });
        Ok(Taken { gradients: gradients.collect::<Result<_>>()?, kept_bytes, exact_bytes })
    }
}
