//! The sensitivity of the gradients to an error at each site of each layer.

use std::ops::Range;
use std::sync::Arc;

use tch::Kind;

use compression::coded::{Basis, bound};
use config::{Activations, BasisKind, Bits, CompressionConfig, CompressionMethod, Site};
use data::Batch;
use layers::{ActivationStore, SavePolicy};
use setup::{block_policies, compression_options, site_width};

use super::allocate::BIT_LEVELS;
use crate::Result;
use crate::probe::{GradientProbe, ProbeResult};

/// The most backward passes of a measurement.
const PROBES: usize = 16;

/// The bits per element at which a site is measured.
const PROBE_BITS: f64 = 2.0;

/// The bits per element of deltas that are not measured: nearly exact, so that their site serves
/// those that are.
const REST_BITS: f64 = 12.0;

/// A coded site of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sensitivity {
    pub layer: usize,
    pub site: Site,
    /// `‖g − ĝ‖² / ‖g‖²` of all gradients per unit of the squared error of a token at this site, or
    /// of its delta if it is delta-coded.
    pub sensitivity: f64,
    /// The squared error of a token at each of the [`BIT_LEVELS`], summed over the tensors of the
    /// site.
    pub lost: Vec<f64>,
}

/// The sites of the layers that are coded.
pub(super) fn coded_sites(
    table: &Activations,
    layers: usize,
) -> Vec<(Site, usize, CompressionConfig)> {
    let coded = |(site, layer)| {
        let (form, _) = table.compression_at(site, layer)?;
        (form.method == CompressionMethod::Coded).then_some((site, layer, form))
    };
    let sites = Site::ALL.into_iter().filter(|site| table.sites.has(*site));
    sites.flat_map(|site| (0..layers).map(move |layer| (site, layer))).filter_map(coded).collect()
}

/// Codes one site of a few neighbouring layers at a time, all else being exact, and compares the
/// gradients of `batch`. `tokens` is the size of the matrices in training, which are larger than
/// `batch`.
///
/// With delta coding one layer is measured at a time: the error of a delta is relative to the
/// delta, and the first one, the residual stream itself, cannot be compared with the others.
pub(super) fn measure(
    table: &Activations,
    probe: &GradientProbe<'_>,
    batch: &Batch,
    tokens: i64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Sensitivity>> {
    let model = probe.decoder.config();
    let layers = model.num_layers as usize;
    let sites_coded = coded_sites(table, layers);
    let sites: Vec<Site> = Site::ALL
        .into_iter()
        .filter(|site| sites_coded.iter().any(|(of, ..)| of == site))
        .collect();
    let at_once = |site| {
        if is_delta(table, site) {
            1
        } else {
            layers.div_ceil((PROBES / sites.len().max(1)).max(1))
        }
    };
    let saved = |keep: &dyn Fn(Site, usize) -> SavePolicy| {
        models::Activations::from_layers(
            (0..layers)
                .map(|layer| block_policies(&table.sites, |site| keep(site, layer)))
                .collect(),
        )
    };
    let total = sites.iter().map(|site| layers.div_ceil(at_once(*site)) as u64).sum();
    let mut done = 0;
    progress(done, total);
    let exact = probe.gradients(batch, 0, &saved(&|_, _| SavePolicy::Exact), Arc::default())?;
    let mut found = Vec::new();
    for &site in &sites {
        for start in (0..layers).step_by(at_once(site)) {
            let probed = start..layers.min(start + at_once(site));
            let form = |layer| {
                sites_coded
                    .iter()
                    .find(|(of, at, _)| (*of, *at) == (site, layer))
                    .map(|(.., form)| form)
            };
            let keep = |of: Site, layer: usize| {
                let form = if of == site { form(layer) } else { None };
                let form = form.and_then(|form| {
                    probed_form(form, probed.contains(&layer), is_delta(table, site))
                });
                let options =
                    form.and_then(|form| compression_options(&form, site_width(of, model, layer)));
                options.map_or(SavePolicy::Exact, |options| {
                    if is_delta(table, of) {
                        SavePolicy::Delta(options)
                    } else {
                        SavePolicy::Code(options)
                    }
                })
            };
            let store = Arc::new(ActivationStore::default());
            let compressed = probe.gradients(batch, 0, &saved(&keep), Arc::clone(&store))?;
            found.extend(attributed(
                site,
                &probed,
                distance(&exact, &compressed)?,
                &store.bases(),
                tokens,
            )?);
            done += 1;
            progress(done, total);
        }
    }
    Ok(found)
}

/// Whether a site is delta-coded.
fn is_delta(table: &Activations, site: Site) -> bool {
    table.delta && matches!(site, Site::Layer | Site::Sublayer)
}

/// How a layer is saved while it, or another one, is measured; `None`: exactly.
fn probed_form(
    form: &CompressionConfig,
    probed: bool,
    is_delta_coded: bool,
) -> Option<CompressionConfig> {
    match (probed, is_delta_coded) {
        (true, _) => Some(CompressionConfig {
            bits: Bits::Number(PROBE_BITS),
            drift: f64::INFINITY,
            ..form.clone()
        }),
        (false, true) => Some(CompressionConfig {
            bits: Bits::Number(REST_BITS),
            basis: BasisKind::None,
            ..form.clone()
        }),
        (false, false) => None,
    }
}

/// The error of the gradients, attributed to the measured layers.
fn attributed(
    site: Site,
    probed: &Range<usize>,
    error: f64,
    bases: &[(layers::SiteId, Arc<Basis>)],
    tokens: i64,
) -> Result<Vec<Sensitivity>> {
    let mut found: Vec<Sensitivity> = probed
        .clone()
        .map(|layer| Sensitivity {
            layer,
            site,
            sensitivity: 0.0,
            lost: vec![0.0; BIT_LEVELS.len()],
        })
        .collect();
    let mut probed_lost = 0.0;
    for (place, basis) in bases {
        let Some(of) =
            place.layer.and_then(|layer| found.get_mut(layer.checked_sub(probed.start)?))
        else {
            continue;
        };
        let variances = basis.variances()?;
        probed_lost += token_error(&variances, PROBE_BITS, tokens);
        of.lost
            .iter_mut()
            .zip(BIT_LEVELS)
            .for_each(|(sum, bits)| *sum += token_error(&variances, bits, tokens));
    }
    if probed_lost > 0.0 {
        found.iter_mut().for_each(|of| of.sensitivity = error / probed_lost);
    }
    found.retain(|of| of.lost[0] > 0.0);
    Ok(found)
}

/// The squared error of a token at the rate-distortion bound, for these bits per element less
/// gains, widths and scales.
fn token_error(variances: &[f64], bits: f64, tokens: i64) -> f64 {
    let components = variances.len() as f64;
    let fixed = 16.0 + 16.0 * components / tokens as f64;
    bound(variances, (bits * components - fixed).max(0.0)).powi(2)
}

/// `‖g − ĝ‖² / ‖g‖²`.
fn distance(exact: &ProbeResult, found: &ProbeResult) -> Result<f64> {
    let (mut total, mut lost) = (0.0, 0.0);
    for (exact, found) in exact.gradients.iter().zip(&found.gradients) {
        let exact = exact.f_to_kind(Kind::Double)?;
        total += exact.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        lost += exact.f_sub(found)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    }
    Ok(if total > 0.0 { lost / total } else { 0.0 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::{Device, Tensor};

    #[test]
    fn the_distance_is_that_of_all_gradients_as_one_vector() {
        let taken = |values: [f64; 2]| ProbeResult {
            gradients: values.map(|value| Tensor::from_slice(&[value])).into(),
            kept_bytes: 0,
            exact_bytes: 0,
        };
        assert!(
            (distance(&taken([3.0, 4.0]), &taken([3.0, 1.0])).unwrap() - 9.0 / 25.0).abs() < 1e-12
        );
        assert_eq!(distance(&taken([0.0, 0.0]), &taken([0.0, 0.0])).unwrap(), 0.0);
    }

    /// The error of several layers, attributed in proportion to each one's own; a layer that saves
    /// nothing has none.
    #[test]
    fn an_error_is_attributed_by_what_each_layer_loses() {
        let basis = |variances: &[f64]| {
            let size = variances.len() as i64;
            Arc::new(
                Basis::from_parts(&Tensor::eye(size, (Kind::Float, Device::Cpu)), variances)
                    .unwrap(),
            )
        };
        let place = |layer| layers::SiteId { layer: Some(layer), site: Some(layers::Site::Layer) };
        let mut few = [0.001; 64];
        few[0] = 1.0 - 63.0 * 0.001;
        let bases = [(place(4), basis(&[1.0 / 64.0; 64])), (place(6), basis(&few))];
        let found = attributed(Site::Layer, &(4..7), 0.5, &bases, 1 << 20).unwrap();
        assert_eq!(found.iter().map(|of| of.layer).collect::<Vec<_>>(), [4, 6]);
        let probed = BIT_LEVELS.iter().position(|bits| *bits == PROBE_BITS).unwrap();
        let explained: f64 = found.iter().map(|of| of.sensitivity * of.lost[probed]).sum();
        assert!(
            (explained - 0.5).abs() < 1e-9 && found[0].sensitivity == found[1].sensitivity,
            "{found:?}"
        );
        assert!(
            found[0].lost[probed] > found[1].lost[probed],
            "energy in one direction is easily coded"
        );
        assert!(found.iter().all(|of| of.lost.windows(2).all(|pair| pair[1] <= pair[0])));
    }
}
