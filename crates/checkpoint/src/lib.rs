//! Checkpoints of a training run: written in the background, complete or absent, and loaded by any
//! number of ranks.
//!
//! `checkpoints/step-00000100/` in the run's directory holds a safetensors file of each rank, and
//! `manifest.json`, which names every file with its size and checksum. A checkpoint is written to a
//! temporary folder that becomes the checkpoint by one rename ([`Checkpointer`]). [`resume`] loads
//! the newest one that is intact; [`find_checkpoint`] opens one to evaluate it. What is saved is
//! any [`Checkpointable`]: something with `state()` and `load_state()`.
//!
//! ```
//! use loract_checkpoint::{Checkpointable, Checkpointer, InputFingerprints, Result, Shards, TrainState, resume};
//! use tch::Tensor;
//!
//! struct Counter(Tensor);
//!
//! impl Checkpointable for Counter {
//!     fn state(&self) -> Result<Vec<(String, Tensor)>> {
//!         Ok(vec![("count".to_owned(), self.0.copy())])
//!     }
//!
//!     fn load_state(&mut self, shards: &Shards) -> Result<()> {
//!         shards.fill(&self.0, "count", 0)
//!     }
//! }
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("config.toml");
//! # std::fs::write(&file, "[model]\npath = 'm'\n[lora]\n[data]\ntrain = 't'\n")?;
//! # let run = config::Run::load(&file, &[format!("run.dir={:?}", folder.path().join("run"))])?;
//! let group = collective::Single::new();
//! let inputs = InputFingerprints { data: "of the data".to_owned(), base: None };
//! let mut checkpointer = Checkpointer::new(&run, &group, inputs.clone(), None);
//! let progress = TrainState { step: 7, eval_loss: None, eval_loss_before: None, seconds: 1.0 };
//! checkpointer.begin(&Counter(Tensor::from(41.0)), &progress)?;
//! checkpointer.finish(7)?.expect("it is saved");
//!
//! let mut counter = Counter(Tensor::from(0.0));
//! let resumed = resume(&run, &inputs, &group, &mut counter)?;
//! assert_eq!((resumed.step, counter.0.double_value(&[])), (7, 41.0));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod checkpointer;
mod choice;
mod compat;
mod directory;
mod error;
mod inputs;
mod manifest;
mod resume;
mod shard;
mod sharded_tensor;

pub use checkpointer::{Checkpointer, SaveFaults, SaveResult, TrainState};
pub use choice::{CheckpointChoice, SavedCheckpoint, find_checkpoint};
pub use compat::check_compatible;
pub use directory::{checkpoints, newest_checkpoint};
pub use error::{Error, Result};
pub use inputs::InputFingerprints;
pub use manifest::Best;
pub use resume::{ResumePoint, resume};
pub use shard::{Checkpointable, Shards, cpu_copy};
pub use sharded_tensor::{ShardedTensors, TensorRange};
