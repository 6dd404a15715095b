//! Data-parallel gradient reduction, as PyTorch's `DistributedDataParallel` does it: gradients
//! become their mean over all ranks while backward runs; exact, compressed by PowerSGD (Vogels,
//! Karimireddy, Jaggi 2019, arXiv 1905.13727), or as coefficients in bases that the ranks share.
//!
//! Each rank tells the reducer before its last backward pass of a step ([`GradientReducer::begin`])
//! and calls [`GradientReducer::reduce`] after it, which leaves the mean over the ranks in every
//! parameter's `.grad`, with the same bits on each:
//!
//! ```no_run
//! # fn step(group: std::sync::Arc<dyn collective::ProcessGroup>, parameters: Vec<(String, tch::Tensor)>) -> Result<(), reduce::Error> {
//! let mut reducer = reduce::GradientReducer::new(group, &parameters, reduce::Config::default())?;
//! for step in 0..100 {
//!     // ... forward and backward of all micro-batches but the last ...
//!     reducer.begin(step);
//!     // ... forward and backward of the last: gradients are all-reduced as they become complete ...
//!     let traffic = reducer.reduce(step)?;
//!     println!("{} bytes instead of {}", traffic.bytes, traffic.exact_bytes);
//!     // ... a step of the optimizer ...
//!     reducer.zero_gradients()?;
//! }
//! # Ok(()) }
//! ```
//!
//! A gradient travels in a bucket ([`Config::bucket_bytes`]) with its neighbours. Gradient hooks
//! fill the buckets, from the last parameter to the first, and threads with [groups of their
//! own](collective::ProcessGroup::duplicate) compress and sum them while backward continues: two on
//! the CPU, one on a GPU. Where gradients have the dtype of the buckets they live in them: nothing
//! is copied, and exact sums need no memory beyond the gradients.
//!
//! A parameter that backward does not reach on some ranks counts as zero there; one that no rank
//! reaches has no gradient, as in a single process.
//!
//! The same bits need the same arithmetic: ranks that compress must run on the same kind of
//! processor with the same number of threads.
//!
//! Every error that concerns one rank alone (a gradient of another shape, an own list of
//! parameters) is an `Err` on all ranks, and names it.

mod agreement;
mod all_reduce;
mod bucket;
mod bucket_reducer;
mod config;
mod error;
mod hints;
mod parameter;
mod powersgd;
mod powersgd_init;
mod queue;
mod reducer;
mod shared_basis;
mod sparse_rows;
mod workers;

pub use config::{Config, Method, PowerSgdConfig};
pub use error::{Error, Result};
pub use hints::ParamHints;
pub use reducer::{GradientReducer, Traffic};
