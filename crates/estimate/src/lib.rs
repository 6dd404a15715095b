//! The memory of a fine-tuning run, estimated from its configuration and its model's description
//! before anything is loaded.
//!
//! A step is simulated without tensors: each operation of [`layers`] and each block of [`models`]
//! has a footprint that allocates and frees what it does ([`layers::footprint`]), and a tracker
//! knows the peak. What is allocated during the whole run follows from shapes, by the rules of the
//! crates that allocate it: weights, gradients, optimizer states, communication buffers, state of
//! sites. This crate sums. A first step needs less, as there are no gradients yet; the estimate is
//! of every later one, with all sequences at full length.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/hf/llama");
//! let file = folder.path().join("config.toml");
//! std::fs::write(&file, format!("[model]\npath = {model:?}\n[lora]\n[data]\ntrain = 't'\nsequence_length = 16\n"))?;
//! let run = config::Run::load(&file, &[])?;
//! let plan = loract_estimate::plan(&run, 4, Some(1 << 30))?;
//! assert!(plan.peak_bytes > plan.weight_bytes + plan.kept_bytes);
//! assert!(plan.modes[0].largest_batch > Some(8));
//! # Ok(())
//! # }
//! ```

mod bounds;
mod modes;
mod out_of_memory;
mod plan;
mod sizes;
mod step;

pub use modes::ModePlan;
pub use out_of_memory::memory_advice;
pub use plan::{Plan, SiteBytes, plan};
pub use setup::{Error, Result};
