//! What compression does to this model on this data: the spectrum of every site, the error of every method at equal bytes, and what becomes of
//! the gradients. The model is not changed.

mod candidates;
mod gradients;
mod sites;

pub use candidates::Candidate;
pub use gradients::{GradientReport, LayerGradient};
pub use sites::{CurvePoint, MethodError, SiteReport};

use crate::config::Run;
use crate::step::{micro_batches, tensors};
use crate::{Result, RunData, device, run_data, text};
use autograd::random::{Law, derive_seed, draw};
use data::Batch;
use gradients::Gradients;
use layers::{Scope, Sites, Targets};
use models::{Activations, Checkpoint, Decoder};
use serde::Serialize;
use sites::SiteObserver;
use std::sync::Arc;
use tch::Tensor;

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Batches of the run, from its first.
    pub batches: u64,
    /// Bits per element, both factors, scales and all counted, at which methods are compared.
    pub bits: Vec<f64>,
    /// The most layers whose sites are shown, spread evenly from the first to the last.
    pub layers: usize,
}

impl Default for Look {
    fn default() -> Self {
        Self { batches: 2, bits: vec![2.0, 4.0, 8.0], layers: 8 }
    }
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Batches that were looked at.
    pub batches: u64,
    /// Their tokens, padding not counted.
    pub tokens: u64,
    /// Layers of the model.
    pub model_layers: usize,
    /// Each site of the layers shown, in the order of the forward.
    pub sites: Vec<SiteReport>,
    /// The gradients of all trained parameters against the exact ones: as configured, with each site alone, and with the configured sites in
    /// every method at each number of bits.
    pub gradients: Vec<GradientReport>,
}

/// Looks at the first batches of a run. `progress` is told (done, total, what).
///
/// A new adapter's B is drawn at random (normal, 0.01), as with B = 0, from where training starts, A has no gradient at all.
///
/// # Errors
/// As [`crate::check`] and [`crate::train`].
pub fn inspect(run: &Run, data: &RunData, look: &Look, progress: &mut dyn FnMut(u64, u64, &str)) -> Result<Inspection> {
    let device = device::choose(run, 1)?;
    let checkpoint = Checkpoint::open(&run.model.path)?;
    let pad = text::open(run, &checkpoint)?.tokenizer.map_or(0, |tokenizer| tokenizer.pad_token_id());
    let mut decoder = Decoder::load(&checkpoint, run.model.dtype.kind(), device)?;
    crate::train::add_lora(run, &mut decoder)?;
    fill_b(run, &decoder)?;
    let dataset = &data.prepared().train;
    let order = run_data::order(run, dataset, 1)?;
    let rows = run.rows_at_once(1)?;
    let mut batches = Vec::new();
    let mut tokens = 0;
    for step in 0..look.batches {
        // One micro-batch is one matrix of activations.
        let share = order.rank_share(step, 0, 1);
        let (parts, counted) = micro_batches(dataset, &share[..rows.min(share.len())], rows, pad)?;
        tokens += counted as u64;
        batches.extend(parts);
    }

    let model = Model { run, decoder: &decoder };
    let candidates = candidates::all(&look.bits);
    let cases = gradients::cases(run, &candidates);
    let total = (batches.len() * (cases.len() + 1)) as u64;
    let mut done = 0;
    let mut step = |what: &str| {
        progress(done, total, what);
        done += 1;
    };
    let shown = shown_layers(decoder.config().num_layers as usize, look.layers);
    let observer = SiteObserver::new(shown, candidates, run.seed);
    let mut compared: Vec<Gradients> = cases.iter().map(|_| Gradients::default()).collect();
    for (index, batch) in batches.iter().enumerate() {
        step("exact, and what each method makes of it");
        // Halves recomputed from exact inputs show every site and hold little; their gradients are the exact ones.
        let exact = model.gradients(batch, index, &sites::all_exact(), Arc::new(Sites::observed(observer.clone())))?;
        observer.take_fault()?;
        for (case, compared) in cases.iter().zip(&mut compared) {
            step(&case.name());
            let sites = Arc::new(Sites::default());
            let found = model.gradients(batch, index, &case.activations(&decoder, batch), sites)?;
            compared.add(&exact, &found)?;
        }
    }
    progress(total, total, "done");
    let names: Vec<&str> = decoder.trained().iter().map(|parameter| parameter.name()).collect();
    let reports = cases.into_iter().zip(compared).map(|(case, compared)| compared.report(case, &names)).collect();
    let model_layers = decoder.config().num_layers as usize;
    Ok(Inspection { batches: look.batches, tokens, model_layers, sites: observer.reports(), gradients: reports })
}

/// The model, and how its gradients are taken.
struct Model<'a> {
    run: &'a Run,
    decoder: &'a Decoder,
}

/// The gradients of all trained parameters, and the most bytes that were kept.
struct Taken {
    gradients: Vec<Tensor>,
    kept_bytes: u64,
    exact_bytes: u64,
}

impl Model<'_> {
    fn gradients(&self, batch: &Batch, index: usize, activations: &Activations, sites: Arc<Sites>) -> Result<Taken> {
        let decoder = self.decoder;
        let (inputs, targets) = tensors(batch, decoder.device())?;
        let targets = Targets::new(&targets)?;
        let scope = Scope::training(derive_seed(&[self.run.seed, index as u64]), sites.clone());
        let hidden = decoder.hidden(&inputs, activations, &scope)?;
        let loss = decoder.loss(&hidden, &targets, 1.0 / targets.count().max(1) as f64, self.run.loss_chunk as i64, &scope)?;
        drop(hidden);
        let (kept_bytes, exact_bytes) = (sites.ledger().kept_bytes(), sites.ledger().exact_bytes());
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

fn fill_b(run: &Run, decoder: &Decoder) -> Result<()> {
    if run.lora.as_ref().is_some_and(|lora| lora.adapter.is_some()) {
        return Ok(());
    }
    let _mode = autograd::GradMode::disabled();
    for (index, linear) in decoder.linears().enumerate() {
        let Some((_, b)) = linear.lora() else { continue };
        let drawn = draw(Law::Normal, &b.size(), b.kind(), b.device(), derive_seed(&[run.seed, index as u64]))?;
        b.tensor().shallow_clone().f_copy_(&drawn.f_mul_scalar(0.01)?)?;
    }
    Ok(())
}

/// At most `most` of `layers` layers, the first and the last among them.
fn shown_layers(layers: usize, most: usize) -> Vec<usize> {
    let most = most.max(1);
    if layers <= most {
        return (0..layers).collect();
    }
    (0..most).map(|index| if most == 1 { 0 } else { index * (layers - 1) / (most - 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::shown_layers;

    #[test]
    fn layers_are_shown_from_the_first_to_the_last() {
        assert_eq!(shown_layers(3, 8), [0, 1, 2]);
        assert_eq!(shown_layers(30, 4), [0, 9, 19, 29]);
        assert_eq!(shown_layers(30, 1), [0]);
    }
}
