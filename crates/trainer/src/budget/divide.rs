//! Bytes where they save most.

use ordered_float::OrderedFloat;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The bits per element that a site of a layer can be given.
pub(super) const LEVELS: [f64; 31] = {
    let mut levels = [0.0; 31];
    let mut at = 0;
    while at < levels.len() {
        levels[at] = 0.5 + 0.25 * at as f64;
        at += 1;
    }
    levels
};

/// What a site of a layer takes and loses at each of the [`LEVELS`]; both grow and fall.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub bytes: Vec<u64>,
    pub lost: Vec<f64>,
}

/// The level of each choice for which the sum of all `lost` is least within `budget` bytes, as far as convex losses can be known by their
/// steps; `None` if not even the lowest levels fit.
pub(super) fn divide(choices: &[Choice], budget: u64) -> Option<Vec<usize>> {
    let mut left = budget.checked_sub(least(choices))?;
    let mut levels = vec![0; choices.len()];
    let cost = |choice: usize, level: usize| choices[choice].bytes[level + 1] - choices[choice].bytes[level];
    let step = |choice: usize, level: usize| {
        let of = &choices[choice];
        (level + 1 < of.bytes.len()).then(|| {
            let saved = (of.lost[level] - of.lost[level + 1]) / cost(choice, level).max(1) as f64;
            // By what a byte of it saves; of two that save alike, the first.
            (OrderedFloat(saved), Reverse(choice))
        })
    };
    let mut steps: BinaryHeap<_> = (0..choices.len()).filter_map(|choice| step(choice, 0)).collect();
    while let Some((_, Reverse(choice))) = steps.pop() {
        let Some(rest) = left.checked_sub(cost(choice, levels[choice])) else { continue };
        left = rest;
        levels[choice] += 1;
        steps.extend(step(choice, levels[choice]));
    }
    Some(levels)
}

/// Bytes of the lowest levels.
pub(super) fn least(choices: &[Choice]) -> u64 {
    choices.iter().map(|choice| choice.bytes[0]).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn choice(weight: f64, levels: usize) -> Choice {
        let lost = (0..levels).map(|level| weight * 0.25f64.powi(level as i32)).collect();
        Choice { bytes: (0..levels as u64).map(|level| 10 * (level + 1)).collect(), lost }
    }

    /// Every way to divide few bytes, tried out.
    #[test]
    fn nothing_is_better() {
        let choices = [choice(1.0, 4), choice(30.0, 4), choice(3.0, 4)];
        let lost = |levels: &[usize]| -> f64 { levels.iter().zip(&choices).map(|(level, choice)| choice.lost[*level]).sum() };
        for budget in (30..130).step_by(10) {
            let found = divide(&choices, budget).unwrap();
            let mut best = f64::INFINITY;
            for code in 0..64usize {
                let levels = [code % 4, code / 4 % 4, code / 16];
                let bytes: u64 = levels.iter().zip(&choices).map(|(level, choice)| choice.bytes[*level]).sum();
                if bytes <= budget {
                    best = best.min(lost(&levels));
                }
            }
            assert_eq!(lost(&found), best, "{budget}: {found:?}");
        }
    }

    #[test]
    fn too_little_is_not_divided_and_no_more_is_given_than_can_be_taken() {
        let choices = [choice(1.0, 2), choice(1.0, 2)];
        assert_eq!(divide(&choices, 19), None);
        assert_eq!(divide(&choices, 1000).unwrap(), [1, 1]);
        assert_eq!(divide(&choices, 30).unwrap(), [1, 0]);
    }
}
