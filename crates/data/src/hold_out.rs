use crate::generator::{Purpose, generator};

/// Splits `items` into what is trained on and `count` drawn ones, both in their first order. The draw depends on the
/// seed and the number of items only.
pub fn hold_out<T>(items: Vec<T>, count: usize, seed: u64) -> (Vec<T>, Vec<T>) {
    let mut held = vec![false; items.len()];
    let count = count.min(items.len());
    for index in rand::seq::index::sample(&mut generator(seed, Purpose::HoldOut, 0), items.len(), count) {
        held[index] = true;
    }
    let (mut kept, mut drawn) = (Vec::with_capacity(items.len() - count), Vec::with_capacity(count));
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

    #[test]
    fn follows_the_seed() {
        let drawn = |seed| hold_out((0..1000).collect(), 20, seed).1;
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
