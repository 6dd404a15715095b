use crate::generator::{Purpose, generator};

/// Repeats the samples of one source: `weight` times each, where a fraction means that so many of
/// them, drawn by (seed, source), come once more ([`crate::Source::weight`]).
pub(crate) fn repeat(samples: &[usize], weight: f64, seed: u64, source: usize) -> Vec<usize> {
    let whole = weight.floor();
    let more = ((weight - whole) * samples.len() as f64).round() as usize;
    let mut drawn = rand::seq::index::sample(
        &mut generator(seed, Purpose::Weight, source as u64),
        samples.len(),
        more,
    )
    .into_vec();
    drawn.sort_unstable();
    let mut repeated = samples.repeat(whole as usize);
    repeated.extend(drawn.into_iter().map(|index| samples[index]));
    repeated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_sample_comes_as_often_as_its_weight_says(count in 0_usize..60, weight in 0.01_f64..4.0, seed in any::<u64>()) {
            let samples: Vec<usize> = (100..100 + count).collect();
            let repeated = repeat(&samples, weight, seed, 3);
            let often = |sample: &usize| repeated.iter().filter(|found| *found == sample).count();
            prop_assert!(samples.iter().all(|sample| [weight.floor(), weight.ceil()].contains(&(often(sample) as f64))));
            prop_assert!((repeated.len() as f64 - weight * count as f64).abs() <= 0.5 + 1e-9);
            prop_assert_eq!(&repeated, &repeat(&samples, weight, seed, 3));
        }
    }

    #[test]
    fn one_changes_nothing_and_seeds_differ() {
        let samples: Vec<usize> = (0..100).collect();
        assert_eq!(repeat(&samples, 1.0, 7, 0), samples);
        assert_ne!(repeat(&samples, 0.5, 7, 0), repeat(&samples, 0.5, 8, 0));
        assert_ne!(repeat(&samples, 0.5, 7, 0), repeat(&samples, 0.5, 7, 1));
    }
}
