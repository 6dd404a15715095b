//! What compression does to this model on this data: the spectrum of every site, the error of every method at equal bytes, and what becomes of
//! the gradients. The model is not changed.

mod candidates;
mod gradients;
mod sites;

pub use candidates::{Candidate, methods};
pub use gradients::{GradientReport, LayerGradient};
pub use sites::{CurvePoint, MethodError, SiteReport};

use crate::budget::{Division, Samples};
use crate::probe::Probe;
use crate::step::micro_batches;
use crate::{Result, RunData, device, policy_quantization, run_data, text};
use autograd::random::{Law, derive_seed, draw};
use collective::Single;
use config::Run;
use data::Batch;
use gradients::Gradients;
use layers::Sites;
use models::{Checkpoint, Decoder, Model};
use serde::Serialize;
use sites::SiteObserver;
use std::sync::Arc;

/// What to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Batches of the run, from its first.
    pub batches: u64,
    /// Bits per element, both factors, scales and all counted, at which methods are compared.
    pub bits: Vec<f64>,
    /// The most layers whose sites are shown, spread evenly from the first to the last.
    pub layers: usize,
    /// Methods that are compared, by their first word (`"coded"`); all of them if there is none.
    pub methods: Vec<String>,
    /// `coded` is also shown in the basis of a batch so many batches earlier; 0: it is not.
    pub age: u64,
    /// Such an older basis is also shown with so many neighbouring layers sharing one.
    pub shared: Vec<usize>,
}

impl Default for Look {
    fn default() -> Self {
        Self { batches: 2, bits: vec![2.0, 4.0, 8.0], layers: 8, methods: Vec::new(), age: 0, shared: Vec::new() }
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
    /// How the run's budget is divided, if it has one.
    pub budget: Option<Division>,
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
    let device = device::choose(run, 0)?;
    let checkpoint = Checkpoint::open(&run.model.path)?;
    let pad = text::open(run, &checkpoint)?.tokenizer.map_or(0, |tokenizer| tokenizer.pad_token_id());
    let mut decoder = Decoder::load_quantized(
        &checkpoint,
        policy_quantization::model_quantization(run.model.quantization),
        device::tensor_kind(run.model.dtype),
        device,
    )?;
    crate::train::add_lora(run, &mut decoder)?;
    fill_b(run, &decoder)?;
    let Some(prepared) = data.prepared() else {
        return Err(run.error_at("model", "task", "classifies, which is not inspected yet").into());
    };
    let dataset = &prepared.train;
    let order = run_data::order(run, dataset, 1)?;
    let rows = run.rows_at_once(1)?;
    // One micro-batch is one matrix of activations.
    let batch = |step: u64| -> Result<(Batch, usize)> {
        let share = order.rank_share(step, 0, 1);
        let (mut parts, tokens) = micro_batches(dataset, &share[..rows.min(share.len())], rows, pad)?;
        Ok((parts.remove(0), tokens))
    };
    let batches = (look.age..look.age + look.batches).map(batch).collect::<Result<Vec<_>>>()?;
    let older = (0..if look.age > 0 { look.batches } else { 0 }).map(batch).collect::<Result<Vec<_>>>()?;
    let tokens = batches.iter().map(|(_, tokens)| *tokens as u64).sum();

    let probe = Probe { decoder: &decoder, seed: run.seed, loss_chunk: run.loss_chunk as i64 };
    let candidates = candidates::all(&look.bits, &look.methods);
    let share = order.rank_share(0, 0, 1);
    let samples = Samples { dataset, indices: &share, pad };
    let mut probing = |done, total| progress(done, total, "what a loss at each site costs the gradients");
    let budget = Division::of(run, &probe, &samples, &Single::new(), &mut probing)?;
    let table = budget.as_ref().map_or_else(|| run.activations.clone(), |division| division.applied(&run.activations));
    let cases = gradients::cases(run, &table, &candidates, look);
    let total = (batches.len() * (cases.len() + 1)) as u64;
    let mut done = 0;
    let mut step = |what: &str| {
        progress(done, total, what);
        done += 1;
    };
    let shown = shown_layers(decoder.config().num_layers as usize, look.layers);
    let observer = SiteObserver::new(shown, candidates, run.seed);
    let mut compared: Vec<Gradients> = cases.iter().map(|_| Gradients::default()).collect();
    for (index, (batch, _)) in batches.iter().enumerate() {
        step("exact, and what each method makes of it");
        // Halves recomputed from exact inputs show every site and hold little; their gradients are the exact ones.
        let exact = probe.gradients(batch, index, &sites::all_exact(), Arc::new(Sites::observed(observer.clone())))?;
        observer.take_fault()?;
        for (case, compared) in cases.iter().zip(&mut compared) {
            step(&case.name());
            let activations = case.activations(&decoder, batch);
            let sites = Arc::new(Sites::default().sharing(case.basis_layers()));
            if let (true, Some((older, _))) = (case.is_older(), older.get(index)) {
                probe.show(older, index, &activations, &sites)?;
            }
            let found = probe.gradients(batch, index, &activations, sites)?;
            compared.add(&exact, &found)?;
        }
    }
    progress(total, total, "done");
    let names: Vec<&str> = decoder.trained().iter().map(|parameter| parameter.name()).collect();
    let reports = cases.into_iter().zip(compared).map(|(case, compared)| compared.report(case, &names)).collect();
    let model_layers = decoder.config().num_layers as usize;
    Ok(Inspection { batches: look.batches, tokens, model_layers, budget, sites: observer.reports(), gradients: reports })
}

fn fill_b(run: &Run, decoder: &Decoder) -> Result<()> {
    if run.lora.as_ref().is_some_and(|lora| lora.adapter.is_some()) {
        return Ok(());
    }
    let _mode = autograd::GradMode::disabled();
    for (index, linear) in decoder.linears().into_iter().enumerate() {
        let Some((_, b)) = linear.lora() else { continue };
        // One that starts from something, as PiSSA's does, has gradients as it is.
        if b.tensor().f_any()?.f_int64_value(&[])? != 0 {
            continue;
        }
        let drawn = draw(Law::Normal, &b.size(), b.kind(), b.device(), derive_seed(&[run.seed, index as u64]))?;
        b.tensor().shallow_clone().f_copy_(&drawn.f_mul_scalar(0.01)?)?;
    }
    Ok(())
}

/// At most `most` of `layers` layers, the first and the last among them.
fn shown_layers(layers: usize, most: usize) -> Vec<usize> {
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
        assert!(shown_layers(30, 0).is_empty());
    }
}
