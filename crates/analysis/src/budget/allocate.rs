//! Allocates bytes where they reduce the error most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use ordered_float::OrderedFloat;

/// The bits per element that a site of a layer can be given.
pub(super) const BIT_LEVELS: [f64; 31] = {
    let mut levels = [0.0; 31];
    let mut at = 0;
    while at < levels.len() {
        levels[at] = 0.5 + 0.25 * at as f64;
        at += 1;
    }
    levels
};

/// The cost of a site of a layer at each of the [`BIT_LEVELS`]: bytes, which rise, and error, which
/// falls.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub bytes: Vec<u64>,
    pub error: Vec<f64>,
}

/// The level of each candidate for which the sum of errors is least within `budget` bytes: greedy
/// steps, which are optimal for convex errors. `None` if not even the lowest levels fit.
pub(super) fn allocate_bits(candidates: &[Candidate], budget: u64) -> Option<Vec<usize>> {
    let mut left = budget.checked_sub(least_bytes(candidates))?;
    let mut levels = vec![0; candidates.len()];
    let cost = |candidate: usize, level: usize| {
        candidates[candidate].bytes[level + 1] - candidates[candidate].bytes[level]
    };
    let step = |candidate: usize, level: usize| {
        let of = &candidates[candidate];
        (level + 1 < of.bytes.len()).then(|| {
            let saved =
                (of.error[level] - of.error[level + 1]) / cost(candidate, level).max(1) as f64;
            // Ordered by the error that a byte saves; of equal ones, the first.
            (OrderedFloat(saved), Reverse(candidate))
        })
    };
    let mut steps: BinaryHeap<_> =
        (0..candidates.len()).filter_map(|candidate| step(candidate, 0)).collect();
    while let Some((_, Reverse(candidate))) = steps.pop() {
        let Some(rest) = left.checked_sub(cost(candidate, levels[candidate])) else { continue };
        left = rest;
        levels[candidate] += 1;
        steps.extend(step(candidate, levels[candidate]));
    }
    Some(levels)
}

/// Bytes of the lowest levels.
pub(super) fn least_bytes(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|candidate| candidate.bytes[0]).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn candidate(weight: f64, levels: usize) -> Candidate {
        let error = (0..levels).map(|level| weight * 0.25f64.powi(level as i32)).collect();
        Candidate { bytes: (0..levels as u64).map(|level| 10 * (level + 1)).collect(), error }
    }

    /// Compares with all allocations of few bytes.
    #[test]
    fn nothing_is_better() {
        let candidates = [candidate(1.0, 4), candidate(30.0, 4), candidate(3.0, 4)];
        let error = |levels: &[usize]| -> f64 {
            levels.iter().zip(&candidates).map(|(level, candidate)| candidate.error[*level]).sum()
        };
        for budget in (30..130).step_by(10) {
            let found = allocate_bits(&candidates, budget).unwrap();
            let mut best = f64::INFINITY;
            for code in 0..64usize {
                let levels = [code % 4, code / 4 % 4, code / 16];
                let bytes: u64 = levels
                    .iter()
                    .zip(&candidates)
                    .map(|(level, candidate)| candidate.bytes[*level])
                    .sum();
                if bytes <= budget {
                    best = best.min(error(&levels));
                }
            }
            assert_eq!(error(&found), best, "{budget}: {found:?}");
        }
    }

    #[test]
    fn too_small_a_budget_is_refused_and_a_large_one_is_not_exceeded() {
        let candidates = [candidate(1.0, 2), candidate(1.0, 2)];
        assert_eq!(allocate_bits(&candidates, 19), None);
        assert_eq!(allocate_bits(&candidates, 1000).unwrap(), [1, 1]);
        assert_eq!(allocate_bits(&candidates, 30).unwrap(), [1, 0]);
    }
}
