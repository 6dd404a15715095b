use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::generator::{Purpose, generator};

/// What an [`Order`] is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderConfig {
    /// Samples in the data set.
    pub samples: usize,
    /// Seed of the shuffles.
    pub seed: u64,
    /// Samples per step, over all ranks.
    pub batch_size: usize,
    /// Whether each epoch is shuffled; ready batches are taken as they stand
    /// ([`crate::Dataset::is_ordered`]).
    pub shuffle: bool,
}

impl Default for OrderConfig {
    fn default() -> Self {
        Self { samples: 0, seed: 0, batch_size: 8, shuffle: true }
    }
}

/// Which samples make up each step.
///
/// The samples are one endless stream, epoch after epoch; each epoch is a permutation seeded by
/// (seed, epoch), and the step `s` takes the positions `s * batch_size ..` of the stream. So a step
/// depends on its number only, not on what ran before it: a run resumes at the exact sample, on as
/// many ranks as there are then.
#[derive(Debug)]
pub struct Order {
    config: OrderConfig,
    /// The permutations last used, with their epochs: a batch touches few, and the next one the
    /// same.
    recent: Mutex<Vec<(u64, Arc<[usize]>)>>,
}

/// A batch usually lies in one epoch, at its end in two.
const REMEMBERED: usize = 2;

impl Order {
    /// An order for runs on `world_size` ranks, which must all find something to do.
    ///
    /// # Errors
    /// If there are more ranks than samples, or more than samples in a batch.
    pub fn new(config: OrderConfig, world_size: usize) -> Result<Self> {
        let refuse = |option, problem: String, remedy: &str| {
            Err(Error::Options { option, problem, remedy: remedy.into() })
        };
        if world_size == 0 {
            return refuse("world_size", "there are no ranks".into(), "start at least one");
        }
        if config.samples < world_size {
            return refuse(
                "samples",
                format!("more ranks ({world_size}) than samples ({})", config.samples),
                "start fewer ranks, or give more data",
            );
        }
        if config.batch_size < world_size {
            return refuse(
                "batch_size",
                format!(
                    "more ranks ({world_size}) than samples in a batch ({})",
                    config.batch_size
                ),
                "start fewer ranks, or raise the batch size",
            );
        }
        Ok(Self { config, recent: Mutex::new(Vec::new()) })
    }

    /// What it was made of.
    pub fn config(&self) -> OrderConfig {
        self.config
    }

    /// The samples of a step, `[batch_size]`, the same for any number of ranks.
    pub fn global_batch(&self, step: u64) -> Vec<usize> {
        let samples = self.config.samples as u64;
        let first = step * self.config.batch_size as u64;
        let mut epoch = first / samples;
        let mut within = (first % samples) as usize;
        let mut batch = Vec::with_capacity(self.config.batch_size);
        while batch.len() < self.config.batch_size {
            let count = (self.config.samples - within).min(self.config.batch_size - batch.len());
            if self.config.shuffle {
                batch.extend_from_slice(&self.permutation(epoch)[within..within + count]);
            } else {
                batch.extend(within..within + count);
            }
            epoch += 1;
            within = 0;
        }
        batch
    }

    /// The samples of a step that are one rank's: entries `rank`, `rank + world_size`, … of the
    /// global batch. No two ranks share one, together they have all, and every rank has the same
    /// number of steps.
    ///
    /// # Panics
    /// If `rank` is not below `world_size`.
    pub fn rank_share(&self, step: u64, rank: usize, world_size: usize) -> Vec<usize> {
        assert!(rank < world_size, "rank {rank} of {world_size}: ranks count from 0");
        self.global_batch(step).into_iter().skip(rank).step_by(world_size).collect()
    }

    /// Steps until every sample was seen `epochs` times; the last may begin the next epoch.
    pub fn steps(&self, epochs: u64) -> u64 {
        (self.config.samples as u64 * epochs).div_ceil(self.config.batch_size as u64)
    }

    /// How many epochs are over before a step, with the fraction of the one it is in.
    pub fn epochs_before(&self, step: u64) -> f64 {
        step as f64 * self.config.batch_size as f64 / self.config.samples as f64
    }

    fn permutation(&self, epoch: u64) -> Arc<[usize]> {
        // A panic elsewhere cannot leave a wrong permutation: each is put in whole.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = recent.iter().find(|(known, _)| *known == epoch) {
            return Arc::clone(known);
        }
        let mut permutation: Vec<usize> = (0..self.config.samples).collect();
        permutation.shuffle(&mut generator(self.config.seed, Purpose::Epoch, epoch));
        let permutation: Arc<[usize]> = permutation.into();
        if recent.len() == REMEMBERED {
            recent.remove(0);
        }
        recent.push((epoch, Arc::clone(&permutation)));
        permutation
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(samples: usize, seed: u64, batch_size: usize) -> Order {
        Order::new(OrderConfig { samples, seed, batch_size, shuffle: true }, 1).unwrap()
    }

    fn stream(order: &Order, steps: u64) -> Vec<usize> {
        (0..steps).flat_map(|step| order.global_batch(step)).collect()
    }

    proptest! {
        #[test]
        fn each_sample_comes_once_per_epoch(samples in 1_usize..40, batch_size in 1_usize..20, seed in any::<u64>()) {
            let order = order(samples, seed, batch_size);
            let stream = stream(&order, order.steps(3));
            for epoch in stream.chunks_exact(samples).take(3) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert_eq!(epoch, (0..samples).collect::<Vec<_>>());
            }
        }

        #[test]
        fn the_stream_does_not_depend_on_the_batch_size(samples in 1_usize..40, seed in any::<u64>(), size in 1_usize..20) {
            let (one, many) = (stream(&order(samples, seed, 1), 120), stream(&order(samples, seed, size), 120));
            prop_assert_eq!(&one[..], &many[..120]);
        }

        #[test]
        fn ranks_share_a_batch_without_overlap_or_gap(
            samples in 8_usize..40, batch_size in 8_usize..20, world_size in 1_usize..=8, step in 0_u64..50
        ) {
            let order = order(samples, 7, batch_size);
            let shares: Vec<_> = (0..world_size).map(|rank| order.rank_share(step, rank, world_size)).collect();
            let mut joined = Vec::new();
            for i in 0..batch_size {
                joined.push(shares[i % world_size][i / world_size]);
            }
            prop_assert_eq!(joined, order.global_batch(step));
            prop_assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), batch_size);
            prop_assert!(shares.iter().all(|share| !share.is_empty()));
        }

        #[test]
        fn a_step_needs_no_history(samples in 1_usize..40, batch_size in 1_usize..20, step in 0_u64..60) {
            let used = order(samples, 3, batch_size);
            stream(&used, step);
            prop_assert_eq!(used.global_batch(step), order(samples, 3, batch_size).global_batch(step));
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let first = order(50, 1, 50);
        assert_ne!(first.global_batch(0), first.global_batch(1));
        assert_ne!(first.global_batch(0), order(50, 2, 50).global_batch(0));
    }

    #[test]
    fn stays_the_order_that_runs_were_begun_with() {
        // If an update of `rand` changes this, runs no longer resume at their sample.
        assert_eq!(order(10, 1, 10).global_batch(0), [4, 3, 2, 5, 9, 7, 1, 8, 0, 6]);
    }

    #[test]
    fn without_shuffle_it_is_the_order_of_the_file() {
        let config = OrderConfig { samples: 5, seed: 1, batch_size: 3, shuffle: false };
        let order = Order::new(config, 1).unwrap();
        assert_eq!(stream(&order, 4), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]);
    }

    #[test]
    fn a_batch_may_hold_several_epochs() {
        assert_eq!(order(3, 1, 10).global_batch(4).len(), 10);
    }

    #[test]
    fn refuses_ranks_without_work() {
        let config = OrderConfig { samples: 3, batch_size: 8, ..OrderConfig::default() };
        let message = Order::new(config, 4).unwrap_err().to_string();
        assert!(message.contains("more ranks (4) than samples (3)"), "{message}");
        let config = OrderConfig { samples: 30, batch_size: 3, ..OrderConfig::default() };
        let message = Order::new(config, 4).unwrap_err().to_string();
        assert!(message.contains("more ranks (4) than samples in a batch (3)"), "{message}");
    }

    #[test]
    fn counts_steps_and_epochs() {
        let order = order(10, 1, 4);
        assert_eq!((order.steps(1), order.steps(2)), (3, 5));
        assert!((order.epochs_before(5) - 2.0).abs() < 1e-12);
    }
}
