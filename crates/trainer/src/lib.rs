//! Trains one rank of a fine-tuning run: from a [`config::Run`] to an adapter and its metrics.
//!
//! [`train()`] sets up a task (`train_setup`: a causal language model, or a classifier of texts or
//! images) and runs the training loop (`training_loop`), one step of which is in `trainer`.
//! [`evaluate()`] gives the validation loss of what a run has trained.
//!
//! ```
//! use std::sync::Arc;
//! use loract_trainer::{StopRequest, TrainOutcome, train};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/cases/model");
//! # let data = folder.path().join("train.jsonl");
//! # std::fs::write(&data, "{\"text\": \"one line of text\"}\n".repeat(64))?;
//! # let file = folder.path().join("config.toml");
//! # std::fs::write(&file, format!("[run]\nsteps = 2\n[model]\npath = {model:?}\n[lora]\n[data]\ntrain = {data:?}\nsequence_length = 16\n"))?;
//! let run = config::Run::load(&file, &[format!("run.dir={:?}", folder.path().join("run"))])?;
//! setup::check(&run, 1)?;
//! let data = setup::RunData::prepare(&run, 1, &|_, _| (), &|_| ())?;
//! data.write(&run)?;
//! let group = Arc::new(collective::Single::new());
//! let TrainOutcome::Finished(summary) = train(&run, group, &StopRequest::never())? else { panic!("nobody stopped it") };
//! assert!(summary.adapter.expect("LoRA").join("adapter_model.safetensors").exists());
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod causal_lm;
mod classification;
mod classification_metrics;
mod consistency;
mod error;
mod evaluate;
mod heartbeat;
mod metrics;
mod metrics_file;
mod outputs;
mod shared_bases;
mod signals;
mod state;
mod task;
mod tensorboard;
mod train;
mod train_setup;
mod trainer;
mod training_loop;

pub use classification_metrics::{ClassReport, Confusion};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, Weights, evaluate};
pub use heartbeat::start_heartbeat;
pub use metrics::{StepMetrics, Summary};
pub use signals::{StopRequest, signal_number};
pub use train::{train, train_watched};
pub use training_loop::TrainOutcome;
