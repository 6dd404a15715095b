//! Which samples make up each step.

use config::Run;
use data::{Dataset, Order, OrderConfig};

use crate::Result;
use crate::data_options::at_key;

/// The order of the samples of a dataset. A dataset with an order of its own is not shuffled.
///
/// # Errors
/// Fewer samples or a smaller batch than ranks.
pub fn dataset_order(run: &Run, train: &Dataset, world_size: usize) -> Result<Order> {
    order(run, train.len(), run.data.shuffle && !train.is_ordered(), world_size)
}

/// The order of `samples` samples.
///
/// # Errors
/// As [`dataset_order`].
pub fn sample_order(run: &Run, samples: usize, world_size: usize) -> Result<Order> {
    order(run, samples, run.data.shuffle, world_size)
}

fn order(run: &Run, samples: usize, shuffle: bool, world_size: usize) -> Result<Order> {
    let config = OrderConfig { samples, seed: run.seed, batch_size: run.batch_size, shuffle };
    Order::new(config, world_size).map_err(|error| at_key(run, error))
}
