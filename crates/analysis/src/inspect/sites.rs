use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tch::{Kind, Tensor};

use compression::{SiteState, decompose, per_token_error, relative_error, spectrum};
use layers::{Observer, SavePolicy, Site, SiteId};
use models::{Activations, BlockActivations, Recompute};

use super::candidates::CandidateMethod;
use crate::Result;

/// One site of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteReport {
    /// The layer, from 0.
    pub layer: usize,
    /// The site, by the names of `[activations] sites`, with what it is where a name stands for
    /// several.
    pub site: String,
    /// Tokens of the last batch.
    pub rows: i64,
    /// Its width.
    pub width: i64,
    /// The least per-token error of any rank: the spectrum, cumulated, at ranks that grow by about
    /// a seventh.
    pub optimum: Vec<CurvePoint>,
    /// Each method at each number of bits, over the batches.
    pub methods: Vec<MethodError>,
}

/// The least error of a token at a rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Components.
    pub rank: usize,
    /// `sqrt(1 − share of the energy held)`, a root mean square over tokens and batches.
    pub error: f64,
}

/// The error of a method at a site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodError {
    /// The method, and the bits it was allowed.
    #[serde(flatten)]
    pub candidate: CandidateMethod,
    /// All bytes of the code over the elements.
    pub bits_per_element: f64,
    /// Components, where it has such.
    pub rank: Option<i64>,
    /// Root mean square over tokens and batches, norms restored.
    pub per_token_error: f64,
    /// `‖A − Â‖ / ‖A‖`, a root mean square over batches.
    pub relative_error: f64,
}

/// Every sublayer recomputed from its exact input: every site is observed, and little memory is
/// used.
pub(super) fn all_exact() -> Activations {
    BlockActivations {
        recompute: Recompute::Sublayer(SavePolicy::Exact),
        ..BlockActivations::default()
    }
    .into()
}

/// Measures each tensor when it is observed, so that none is stored.
#[derive(Clone)]
pub(super) struct SiteObserver(Arc<Inner>);

struct Inner {
    layers: Vec<usize>,
    candidates: Vec<CandidateMethod>,
    seed: u64,
    observed: Mutex<Observed>,
}

#[derive(Default)]
struct Observed {
    places: BTreeMap<SiteId, Sums>,
    error: Option<compression::Error>,
}

/// Sums over batches: of squares, where they are of errors.
#[derive(Default)]
struct Sums {
    batches: f64,
    rows: i64,
    width: i64,
    lost: Vec<f64>,
    methods: Vec<MethodSums>,
}

#[derive(Clone, Default)]
struct MethodSums {
    batches: f64,
    bits: f64,
    rank: Option<i64>,
    per_token: f64,
    relative: f64,
}

impl SiteObserver {
    pub fn new(layers: Vec<usize>, candidates: Vec<CandidateMethod>, seed: u64) -> Self {
        Self(Arc::new(Inner { layers, candidates, seed, observed: Mutex::default() }))
    }

    /// The error of an observation, if one failed.
    pub fn take_error(&self) -> Result<()> {
        self.observed().error.take().map_or(Ok(()), |error| Err(error.into()))
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds up one tensor.
    fn add(&self, sums: &mut Sums, tensor: &Tensor) -> std::result::Result<(), compression::Error> {
        let width = tensor.size().last().copied().unwrap_or(1);
        let matrix = tensor.f_reshape([-1, width])?.f_to_kind(Kind::Float)?;
        let rows = matrix.size()[0];
        (sums.rows, sums.width) = (rows, width);
        sums.batches += 1.0;
        let mut left = 1.0;
        let shares = spectrum(&matrix)?;
        sums.lost.resize(sums.lost.len().max(shares.len()), 0.0);
        for (lost, share) in sums.lost.iter_mut().zip(&shares) {
            left -= share;
            *lost += left.max(0.0);
        }
        sums.methods.resize(self.0.candidates.len(), MethodSums::default());
        for (candidate, method) in self.0.candidates.iter().zip(&mut sums.methods) {
            let Some(options) = candidate.options(rows, width).filter(|_| !candidate.difference)
            else {
                continue;
            };
            let code = decompose(&matrix, &options, self.0.seed, &mut SiteState::default())?;
            let restored = code.restore(Kind::Float)?;
            method.batches += 1.0;
            method.bits = 8.0 * code.bytes() as f64 / (rows * width) as f64;
            method.rank = code.rank();
            method.per_token += per_token_error(&matrix, &restored)?.powi(2);
            method.relative += relative_error(&matrix, &restored)?.powi(2);
        }
        Ok(())
    }

    /// The reports, in the order of the forward.
    pub fn reports(&self) -> Vec<SiteReport> {
        let observed = self.observed();
        let mut reports: Vec<(SiteId, SiteReport)> = Vec::new();
        for (&place, sums) in &observed.places {
            let (Some(layer), Some(site)) = (place.layer, place.site) else { continue };
            let mean = |sum: f64, count: f64| (sum / count.max(1.0)).sqrt();
            let methods = self
                .0
                .candidates
                .iter()
                .zip(&sums.methods)
                .filter(|(_, method)| method.batches > 0.0);
            let report = SiteReport {
                layer,
                site: name(site).to_owned(),
                rows: sums.rows,
                width: sums.width,
                optimum: ranks(sums.lost.len())
                    .map(|rank| CurvePoint { rank, error: mean(sums.lost[rank - 1], sums.batches) })
                    .collect(),
                methods: methods
                    .map(|(candidate, method)| MethodError {
                        candidate: candidate.clone(),
                        bits_per_element: method.bits,
                        rank: method.rank,
                        per_token_error: mean(method.per_token, method.batches),
                        relative_error: mean(method.relative, method.batches),
                    })
                    .collect(),
            };
            reports.push((place, report));
        }
        reports.sort_by_key(|(place, _)| *place);
        reports.into_iter().map(|(_, report)| report).collect()
    }
}

impl Observer for SiteObserver {
    fn observe(&self, place: SiteId, tensor: &Tensor) {
        let shown = place.layer.is_some_and(|layer| self.0.layers.contains(&layer))
            && place.site.is_some_and(|site| !name(site).is_empty());
        let mut observed = self.observed();
        if !shown || observed.error.is_some() {
            return;
        }
        let mut sums = observed.places.remove(&place).unwrap_or_default();
        match self.add(&mut sums, tensor) {
            Ok(()) => drop(observed.places.insert(place, sums)),
            Err(error) => observed.error = Some(error),
        }
    }
}

/// The name in `[activations] sites`; empty for what is no site there, or is reported under another
/// name.
fn name(site: Site) -> &'static str {
    match site {
        Site::Attention => "layer, sublayer (attention), norm",
        Site::Mlp => "sublayer (mlp), norm",
        Site::AttnIn => "attn_in",
        Site::AttnOut => "attn_out",
        Site::MlpIn => "mlp_in",
        Site::Gate => "act (gate)",
        Site::Up => "act (up)",
        Site::MlpOut => "mlp_out",
        Site::QueryNorm => "norm (query)",
        Site::KeyNorm => "norm (key)",
        Site::AttentionPostNorm => "norm (after attention)",
        Site::MlpPostNorm => "norm (after mlp)",
        Site::QueryLatent => "attn_in (query latent)",
        Site::KeyLatent => "attn_in (key latent)",
        Site::SharedGate => "act (shared gate)",
        Site::SharedUp => "act (shared up)",
        Site::SharedOut => "mlp_out (shared)",
        Site::Merge => "layer, sublayer (merge)",
        Site::MergeNorm => "norm (merge)",
        Site::MergeIn => "mlp_in (merge)",
        Site::FinalNorm => "norm (last)",
        Site::Layer
        | Site::AttentionNorm
        | Site::MlpNorm
        | Site::Core
        | Site::Router
        | Site::Loss => "",
        Site::Patches | Site::EmbeddingNorm | Site::Pooled | Site::HeadGate | Site::HeadOut => "",
    }
}

/// 1, 2, … up to `most`, growing by about a seventh, `most` itself included.
fn ranks(most: usize) -> impl Iterator<Item = usize> {
    let next = move |rank: &usize| (*rank < most).then(|| (*rank + (*rank / 7).max(1)).min(most));
    std::iter::successors((most > 0).then_some(1), next)
}
