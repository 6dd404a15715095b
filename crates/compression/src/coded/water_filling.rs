//! Bits where they save most: reverse water-filling (Cover and Thomas, "Elements of Information
//! Theory", 10.3.3), in whole bits and in theory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ordered_float::OrderedFloat;

use kernels::components::{Losses, TRELLIS_LOST, WIDTHS};

/// When bits are no longer given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// This many are given, or all that the components can take.
    Bits(u64),
    /// No more than this is lost.
    Lost(f64),
}

/// The next step of a component, by what a bit of it saves.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    saved: OrderedFloat<f64>,
    /// Of two that save alike, the first.
    component: Reverse<usize>,
    /// The places in [`WIDTHS`] from which and to which it leads.
    from: usize,
    to: usize,
}

impl Step {
    /// The one that saves most for each of its bits, of those that cost no more than `left`: where
    /// a single bit saves little, several may save much.
    fn best(losses: &[Losses], component: usize, from: usize, left: u64) -> Option<Self> {
        let steps = (from + 1..WIDTHS.len()).filter(|&to| cost(from, to) <= left).map(|to| {
            let saved = (losses[component][from] - losses[component][to]) / cost(from, to) as f64;
            Self { saved: OrderedFloat(saved), component: Reverse(component), from, to }
        });
        steps
            .filter(|step| *step.saved > 0.0)
            .reduce(|best, step| if step.saved > best.saved { step } else { best })
    }
}

/// Bits between two places in [`WIDTHS`].
fn cost(from: usize, to: usize) -> u64 {
    u64::from(WIDTHS[to] - WIDTHS[from])
}

/// The width of each component's code: one step after another to the component of which a bit saves
/// most. Bits that would save nothing are not given.
pub(crate) fn widths(losses: &[Losses], until: Until) -> Vec<u8> {
    let mut places = vec![0; losses.len()];
    let mut left = if let Until::Bits(bits) = until { bits } else { u64::MAX };
    let mut lost = losses.iter().map(|losses| losses[0]).sum::<f64>();
    let mut steps: BinaryHeap<_> =
        (0..losses.len()).filter_map(|component| Step::best(losses, component, 0, left)).collect();
    while let Some(Step { component: Reverse(component), from, to, .. }) = steps.pop() {
        if matches!(until, Until::Lost(most) if lost <= most) {
            break;
        }
        let mut from = from;
        if cost(from, to) <= left {
            left -= cost(from, to);
            lost -= losses[component][from] - losses[component][to];
            places[component] = to;
            from = to;
        }
        steps.extend(Step::best(losses, component, from, left));
    }
    places.into_iter().map(|place| WIDTHS[place]).collect()
}

/// What a normally distributed component of this variance loses at each of the [`WIDTHS`] on a
/// trellis.
pub(crate) fn normal_losses(variance: f64) -> Losses {
    std::array::from_fn(|place| variance * TRELLIS_LOST.get(place).copied().unwrap_or(0.0))
}

/// The rate–distortion bound: no code of `bits` per row has a smaller relative error `sqrt(E‖x −
/// x̂‖² / E‖x‖²)` for normally distributed rows whose components have these variances. For another
/// distribution of the same variances the bound can only be lower.
///
/// Variances below the water level θ are dropped, and the others get `½ log₂(variance / θ)` bits
/// each.
pub fn bound(variances: &[f64], bits: f64) -> f64 {
    let sorted = descending(variances);
    let total: f64 = sorted.iter().sum();
    let mut logarithms = 0.0;
    for (at, variance) in sorted.iter().enumerate() {
        logarithms += variance.log2();
        let level = ((logarithms - 2.0 * bits) / (at + 1) as f64).exp2();
        if sorted.get(at + 1).is_none_or(|&next| next <= level) {
            let lost =
                (at + 1) as f64 * level.min(*variance) + sorted[at + 1..].iter().sum::<f64>();
            return (lost / total).min(1.0).sqrt();
        }
    }
    0.0
}

/// The bits per row at which [`bound`] is `error`.
pub fn bits_at_bound(variances: &[f64], error: f64) -> f64 {
    let sorted = descending(variances);
    // From the small end, so that what is left of a large sum is not rounding.
    let mut rests = vec![0.0; sorted.len() + 1];
    for (at, variance) in sorted.iter().enumerate().rev() {
        rests[at] = rests[at + 1] + variance;
    }
    let lost = error * error * rests[0];
    if lost >= rests[0] {
        return 0.0;
    }
    let mut logarithms = 0.0;
    for (at, variance) in sorted.iter().enumerate() {
        logarithms += variance.log2();
        let level = (lost - rests[at + 1]) / (at + 1) as f64;
        if level > 0.0 && sorted.get(at + 1).is_none_or(|&next| next <= level) {
            return 0.5 * (logarithms - (at + 1) as f64 * level.log2());
        }
    }
    f64::INFINITY
}

fn descending(variances: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> =
        variances.iter().copied().filter(|&variance| variance > 0.0).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::components::{EXACT, WIDEST};
    use proptest::prelude::*;

    proptest! {
        /// All bits are given, none could be moved with profit, and the code that results is above
        /// the bound, by less than a bit.
        #[test]
        fn water_is_level(logarithms in prop::collection::vec(-20.0f64..0.0, 1..60), part in 0.0f64..1.0) {
            let variances: Vec<f64> = logarithms.iter().map(|logarithm| logarithm.exp2()).collect();
            let losses: Vec<Losses> = variances.iter().map(|&variance| normal_losses(variance)).collect();
            let bits = (part * 8.0 * variances.len() as f64) as u64;
            let widths = widths(&losses, Until::Bits(bits));
            prop_assert_eq!(widths.iter().map(|&width| u64::from(width)).sum::<u64>(), bits);
            let place = |width: u8| usize::from(width).min(WIDEST + 1);
            let loses = widths.iter().zip(&losses).filter(|(width, _)| **width > 0).map(|(&width, losses)| losses[place(width) - 1] - losses[place(width)]);
            let gains = widths.iter().zip(&losses).filter(|(width, _)| **width < 8).map(|(&width, losses)| losses[place(width)] - losses[place(width) + 1]);
            if let (Some(lost), Some(gained)) = (loses.min_by(f64::total_cmp), gains.max_by(f64::total_cmp)) {
                prop_assert!(lost >= gained);
            }
            let lost: f64 = widths.iter().zip(&losses).map(|(&width, losses)| losses[place(width)]).sum();
            let error = (lost / variances.iter().sum::<f64>()).sqrt();
            prop_assert!(error >= bound(&variances, bits as f64) - 1e-9);
            if widths.iter().all(|&width| width < 8) {
                prop_assert!(bits_at_bound(&variances, error) > bits as f64 - variances.len() as f64);
            }
        }

        #[test]
        fn the_bound_is_undone(logarithms in prop::collection::vec(-20.0f64..0.0, 1..60), bits in 0.01f64..300.0) {
            let variances: Vec<f64> = logarithms.iter().map(|logarithm| logarithm.exp2()).collect();
            prop_assert!((bits_at_bound(&variances, bound(&variances, bits)) - bits).abs() < 1e-6 * bits.max(1.0));
        }
    }

    #[test]
    fn an_error_stops_the_water_as_soon_as_it_is_met() {
        let losses: Vec<Losses> = [1.0, 0.1, 0.01].map(normal_losses).to_vec();
        let lost = |widths: &[u8]| -> f64 {
            widths.iter().zip(&losses).map(|(&width, losses)| losses[usize::from(width)]).sum()
        };
        let found = widths(&losses, Until::Lost(0.05));
        let bits: u64 = found.iter().map(|&width| u64::from(width)).sum();
        assert!(lost(&found) <= 0.05 && lost(&widths(&losses, Until::Bits(bits - 1))) > 0.05);
        assert_eq!(widths(&losses, Until::Lost(2.0)), [0, 0, 0]);
        assert_eq!(widths(&losses, Until::Bits(1000)), [EXACT; 3]);
    }
}
