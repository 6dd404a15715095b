//! What compression does to this model on this data: the spectrum of every site, the error of every
//! method at equal bytes, and what becomes of the gradients. The model is not changed.

mod candidates;
mod gradients;
mod options;
mod sites;

pub use candidates::{CandidateMethod, inspected_methods};
pub use gradients::{GradientReport, LayerGradient};
pub use options::InspectOptions;
pub use sites::{CurvePoint, MethodError, SiteReport};

use std::sync::Arc;

use serde::Serialize;

use autograd::random::{Distribution, derive_seed, draw};
use collective::Single;
use config::Run;
use data::{Batch, Dataset};
use layers::ActivationStore;
use models::{Checkpoint, Decoder, Model};
use setup::{
    RunData, TextProcessor, add_lora, dataset_order, micro_batches, model_quantization,
    rank_device, tensor_kind,
};

use crate::Result;
use crate::budget::{BitAllocation, CalibrationSamples};
use crate::probe::GradientProbe;
use gradients::{Case, Gradients};
use sites::SiteObserver;

/// The result of an inspection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Batches that were inspected.
    pub batches: u64,
    /// Their tokens, padding not counted.
    pub tokens: u64,
    /// Layers of the model.
    pub model_layers: usize,
    /// How the run's budget is allocated, if it has one.
    pub budget: Option<BitAllocation>,
    /// Each site of the reported layers, in the order of the forward.
    pub sites: Vec<SiteReport>,
    /// The gradients of all trained parameters against the exact ones: as configured, with each
    /// site alone, and with the configured sites in every method at each number of bits.
    pub gradients: Vec<GradientReport>,
}

/// Inspects the first batches of a run. `progress` receives (done, total, what).
///
/// B of a new adapter is drawn at random (normal, 0.01): with B = 0, from where training starts, A
/// has no gradient.
///
/// # Errors
/// As [`setup::check`], and those of forward and backward.
pub fn inspect(
    run: &Run,
    data: &RunData,
    options: &InspectOptions,
    progress: &mut dyn FnMut(u64, u64, &str),
) -> Result<Inspection> {
    let checkpoint = Checkpoint::open(&run.model.path)?;
    let pad = TextProcessor::open(&run.model, &checkpoint)?.pad_token_id();
    let decoder = load_decoder(run, &checkpoint)?;
    let Some(prepared) = data.prepared() else {
        return Err(run.error_at("model", "task", "classifies, which is not inspected yet").into());
    };
    let batches = InspectedBatches::collate(run, &prepared.train, options, pad)?;
    let probe =
        GradientProbe { decoder: &decoder, seed: run.seed, loss_chunk: run.loss_chunk as i64 };
    let indices = dataset_order(run, &prepared.train, 1)?.rank_share(0, 0, 1);
    let samples = CalibrationSamples { dataset: &prepared.train, indices: &indices, pad };
    let mut probing =
        |done, total| progress(done, total, "sensitivity of the gradients at each site");
    let budget = BitAllocation::measure(run, &probe, &samples, &Single::new(), &mut probing)?;
    let table = budget
        .as_ref()
        .map_or_else(|| run.activations.clone(), |allocation| allocation.applied(&run.activations));
    let candidates = candidates::all(&options.bits, &options.methods);
    let cases = gradients::cases(run, &table, &candidates, options);
    let reported = reported_layers(decoder.config().num_layers as usize, options.layers);
    let observer = SiteObserver::new(reported, candidates, run.seed);
    let gradients = compare_gradients(&probe, &batches, cases, &observer, progress)?;
    Ok(Inspection {
        batches: options.batches,
        tokens: batches.tokens,
        model_layers: decoder.config().num_layers as usize,
        budget,
        sites: observer.reports(),
        gradients,
    })
}

fn load_decoder(run: &Run, checkpoint: &Checkpoint) -> Result<Decoder> {
    let (kind, device) = (tensor_kind(run.model.dtype), rank_device(run, 0)?);
    let mut decoder = Decoder::load_quantized(
        checkpoint,
        model_quantization(run.model.quantization),
        kind,
        device,
    )?;
    add_lora(run.lora.as_ref(), &run.model, run.seed, &mut decoder)?;
    if run.lora.as_ref().is_none_or(|lora| lora.adapter.is_none()) {
        fill_b(&decoder, run.seed)?;
    }
    Ok(decoder)
}

/// The batches of an inspection: one micro-batch is one matrix of activations.
struct InspectedBatches {
    batches: Vec<Batch>,
    /// Earlier ones, which the bases are made of; none for bases of the batch itself.
    older: Vec<Batch>,
    /// Tokens of `batches`, padding not counted.
    tokens: u64,
}

impl InspectedBatches {
    fn collate(run: &Run, dataset: &Dataset, options: &InspectOptions, pad: u32) -> Result<Self> {
        let order = dataset_order(run, dataset, 1)?;
        let rows = run.rows_at_once(1)?;
        let batch = |step: u64| -> Result<(Batch, usize)> {
            let share = order.rank_share(step, 0, 1);
            let (mut batches, tokens) =
                micro_batches(dataset, &share[..rows.min(share.len())], rows, pad)?;
            Ok((batches.remove(0), tokens))
        };
        let (mut batches, mut tokens) = (Vec::new(), 0);
        for step in options.age..options.age + options.batches {
            let (next, count) = batch(step)?;
            batches.push(next);
            tokens += count as u64;
        }
        let older = 0..if options.age > 0 { options.batches } else { 0 };
        let older = older.map(|step| Ok(batch(step)?.0)).collect::<Result<_>>()?;
        Ok(Self { batches, older, tokens })
    }
}

/// The gradients of each case against the exact ones; `observer` sees the exact activations.
fn compare_gradients(
    probe: &GradientProbe<'_>,
    batches: &InspectedBatches,
    cases: Vec<Case>,
    observer: &SiteObserver,
    progress: &mut dyn FnMut(u64, u64, &str),
) -> Result<Vec<GradientReport>> {
    let total = (batches.batches.len() * (cases.len() + 1)) as u64;
    let mut done = 0;
    let mut advance = |what: &str| {
        progress(done, total, what);
        done += 1;
    };
    let mut compared: Vec<Gradients> = cases.iter().map(|_| Gradients::default()).collect();
    for (index, batch) in batches.batches.iter().enumerate() {
        advance("exact activations, and each method's error");
        // Sublayers recomputed from exact inputs expose every site and save little; their gradients
        // are the exact ones.
        let exact = probe.gradients(
            batch,
            index,
            &sites::all_exact(),
            Arc::new(ActivationStore::with_observer(observer.clone())),
        )?;
        observer.take_error()?;
        for (case, compared) in cases.iter().zip(&mut compared) {
            advance(&case.name());
            let activations = case.activations(probe.decoder, batch);
            let sites = Arc::new(ActivationStore::default().shared_over(case.basis_layers()));
            if let (true, Some(older)) = (case.is_older(), batches.older.get(index)) {
                probe.observe(older, index, &activations, &sites)?;
            }
            compared.add(&exact, &probe.gradients(batch, index, &activations, sites)?)?;
        }
    }
    progress(total, total, "done");
    let names: Vec<&str> =
        probe.decoder.trained().iter().map(|parameter| parameter.name()).collect();
    Ok(cases
        .into_iter()
        .zip(compared)
        .map(|(case, compared)| compared.report(case, &names))
        .collect())
}

fn fill_b(decoder: &Decoder, seed: u64) -> Result<()> {
    let _mode = autograd::GradMode::disabled();
    for (index, linear) in decoder.linears().into_iter().enumerate() {
        let Some((_, b)) = linear.lora() else { continue };
        // One that does not start from zero, as PiSSA's, has gradients as it is.
        if b.tensor().f_any()?.f_int64_value(&[])? != 0 {
            continue;
        }
        let drawn = draw(
            Distribution::Normal,
            &b.size(),
            b.kind(),
            b.device(),
            derive_seed(&[seed, index as u64]),
        )?;
        b.tensor().shallow_clone().f_copy_(&drawn.f_mul_scalar(0.01)?)?;
    }
    Ok(())
}

/// At most `most` of `layers` layers, the first and the last among them.
fn reported_layers(layers: usize, most: usize) -> Vec<usize> {
    if layers <= most {
        return (0..layers).collect();
    }
    (0..most).map(|index| if most == 1 { 0 } else { index * (layers - 1) / (most - 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::reported_layers;

    #[test]
    fn layers_are_reported_from_the_first_to_the_last() {
        assert_eq!(reported_layers(3, 8), [0, 1, 2]);
        assert_eq!(reported_layers(30, 4), [0, 9, 19, 29]);
        assert_eq!(reported_layers(30, 1), [0]);
        assert!(reported_layers(30, 0).is_empty());
    }
}
