use crate::generator::{Purpose, generator};

/// Splits `items` into what is trained on and `count` drawn ones, both in their first order. The
/// draw depends on the seed and the number of items only.
pub fn hold_out<T>(items: Vec<T>, count: usize, seed: u64) -> (Vec<T>, Vec<T>) {
    hold_out_samples(items, |_| 1, count, seed)
}

/// The same of items that make several samples each: draws whole items, one after the other, until
/// they make `count` samples or more.
pub(crate) fn hold_out_samples<T>(
    items: Vec<T>,
    samples: impl Fn(&T) -> usize,
    count: usize,
    seed: u64,
) -> (Vec<T>, Vec<T>) {
    let mut held = vec![false; items.len()];
    let mut left = count;
    for index in rand::seq::index::sample(
        &mut generator(seed, Purpose::HoldOut, 0),
        items.len(),
        count.min(items.len()),
    ) {
        if left == 0 {
            break;
        }
        held[index] = true;
        left = left.saturating_sub(samples(&items[index]));
    }
    let (mut kept, mut drawn) = (Vec::new(), Vec::new());
    for (item, held) in items.into_iter().zip(held) {
        if held { drawn.push(item) } else { kept.push(item) }
    }
    (kept, drawn)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_disjoint_and_complete(samples in 1_usize..200, count in 0_usize..250, seed in any::<u64>()) {
            let (kept, drawn) = hold_out((0..samples).collect(), count, seed);
            prop_assert_eq!(drawn.len(), count.min(samples));
            prop_assert!(kept.is_sorted() && drawn.is_sorted());
            let mut all = [kept, drawn].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..samples).collect::<Vec<_>>());
        }
    }

    proptest! {
        #[test]
        fn draws_whole_items_until_they_are_enough(
            sizes in prop::collection::vec(1_usize..9, 1..60), count in 1_usize..80, seed in any::<u64>()
        ) {
            let (kept, drawn) = hold_out_samples((0..sizes.len()).collect(), |&item| sizes[item], count, seed);
            let samples = |items: &[usize]| items.iter().map(|&item| sizes[item]).sum::<usize>();
            prop_assert!(kept.is_empty() || samples(&drawn) >= count);
            prop_assert!(drawn.iter().any(|&last| samples(&drawn) - sizes[last] < count), "none was drawn in vain");
        }
    }

    #[test]
    fn follows_the_seed() {
        let drawn = |seed| hold_out((0..1000).collect(), 20, seed).1;
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
