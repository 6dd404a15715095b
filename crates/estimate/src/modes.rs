//! Ways to save activations, side by side.

use serde::Serialize;

use config::{Activations, Bits, CompressionMethod, Run, Site, Sites};
use models::ModelConfig;
use setup::activation_policies;

use crate::bounds::can_be_counted;
use crate::step::{StepEstimate, StepShape};

/// A way to save activations, and the memory that it needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModePlan {
    /// As tables call it.
    pub mode: String,
    /// What is saved for backward at the end of forward.
    pub kept_bytes: u64,
    /// The state of sites, from step to step.
    pub basis_bytes: u64,
    /// The peak.
    pub peak_bytes: u64,
    /// The most sequences at once that fit, of the configured length; 0: not even one.
    pub largest_batch: Option<u64>,
    /// The longest sequences that fit, as many at once as configured; 0: none.
    pub longest_context: Option<u64>,
}

/// The largest batch that is tried.
const LARGEST_BATCH: u64 = 1 << 20;

/// The configured way first, then every other; each with its step of `batch` sequences of `tokens`
/// tokens.
pub(crate) fn plan(
    run: &Run,
    model: &ModelConfig,
    shape: &StepShape,
    (batch, tokens): (u64, u64),
    memory: Option<u64>,
) -> Vec<(ModePlan, StepEstimate)> {
    let ways = std::iter::once(("as configured".to_owned(), run.activations.clone()))
        .chain(others(&run.activations));
    let of = |(mode, table): (String, Activations)| {
        let activations = activation_policies(&table, model);
        let basis_bytes = activations.state_bytes(model, table.basis_layers.unwrap_or(1));
        let shape = StepShape { held: shape.held + basis_bytes, ..shape.clone() };
        let step = shape.step(batch, tokens, &activations);
        let fits = |batch: u64, tokens: u64, memory: u64| {
            can_be_counted(model, batch, tokens)
                && shape.step(batch, tokens, &activations).peak <= memory
        };
        let plan = ModePlan {
            mode,
            kept_bytes: step.sites.values().sum(),
            basis_bytes,
            peak_bytes: step.peak,
            largest_batch: memory
                .map(|memory| largest(LARGEST_BATCH, |batch| fits(batch, tokens, memory))),
            longest_context: memory.map(|memory| {
                largest(model.max_positions as u64, |tokens| fits(batch, tokens, memory))
            }),
        };
        (plan, step)
    };
    ways.map(of).collect()
}

/// The ways that differ in what they save: low-rank methods take the same bytes at the same rank.
fn others(configured: &Activations) -> Vec<(String, Activations)> {
    let plain = |sites| Activations {
        sites,
        overrides: Vec::new(),
        budget: None,
        delta: false,
        ..configured.clone()
    };
    let mut ways = vec![
        ("none: plain training".to_owned(), plain(Sites::None)),
        ("checkpoint".to_owned(), plain(Sites::Checkpoint)),
    ];
    for site in [Site::Layer, Site::Sublayer] {
        let way = |words: String, method: CompressionMethod, bits: Bits| {
            let mut table = plain(Sites::Of(vec![site]));
            (table.compression.method, table.compression.bits) = (method, bits);
            (format!("{site}, {words}"), table)
        };
        let rank = match configured.compression.rank {
            config::Rank::Fraction(fraction) => format!("rank {fraction}"),
            config::Rank::Columns(columns) => format!("rank {columns}"),
            config::Rank::Auto => "rank auto".into(),
        };
        ways.push(way(
            format!("qb, rowspace, rsvd, svd, nystrom ({rank})"),
            CompressionMethod::Svd,
            configured.compression.bits,
        ));
        ways.push(way(
            "quantized (8 bits)".into(),
            CompressionMethod::Quantized,
            Bits::Number(8.0),
        ));
        ways.push(way(
            "quantized (4 bits)".into(),
            CompressionMethod::Quantized,
            Bits::Number(4.0),
        ));
        ways.push(way("coded (2 bits)".into(), CompressionMethod::Coded, Bits::Number(2.0)));
    }
    ways
}

/// The largest number up to `most` that `fits`, where all below it do too; 0 if none does.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut known, mut step) = (0, 1);
    // Doubled as long as it fits, then halved.
    while known + step <= most && fits(known + step) {
        known += step;
        step *= 2;
    }
    while step > 0 {
        if known + step <= most && fits(known + step) {
            known += step;
        }
        step /= 2;
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_that_fits_is_found() {
        for (limit, most, found) in
            [(0, 100, 0), (1, 100, 1), (77, 100, 77), (500, 100, 100), (64, 100, 64), (63, 63, 63)]
        {
            assert_eq!(largest(most, |number| number <= limit), found, "{limit} of {most}");
        }
    }
}
