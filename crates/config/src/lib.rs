//! What a run is: the TOML file, its defaults and its overrides, read once and checked once.
//!
//! Every key is declared once, in the file of its table in `tables/`: name, type, default, valid
//! values, help, and an example. From that declaration come the struct that a program reads,
//! parsing with error messages and suggestions, `--set`, the configuration in full
//! ([`Run::to_toml`]), the reference of all keys ([`reference()`]), the explanation of one
//! ([`explain`]) and the JSON schema ([`schema`]).
//!
//! ```
//! let folder = std::env::temp_dir().join("loract-config-example");
//! std::fs::create_dir_all(&folder)?;
//! let file = folder.join("run.toml");
//! std::fs::write(&file, "[model]\npath = \"llama\"\n[data]\ntrain = \"chat.jsonl\"\n")?;
//!
//! let run = loract_config::Run::load(&file, &["run.batch_size=16".into()])?;
//! assert_eq!((run.batch_size, run.data.sequence_length), (16, 512));
//!
//! let error = loract_config::Run::load(&file, &["optimizer.lr=1e-4".into()]).unwrap_err().to_string();
//! assert!(error.contains("[optimizer] lr: unknown key, did you mean `learning_rate`?"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An error names the file and line (or the override), the table and key, and the valid values:
//!
//! ```text
//! configs/demo.toml:14: [optimizer] eps: must be > 0 (valid: a number > 0)
//! ```
//!
//! Paths are relative to the current directory and kept as written.

mod choice;
mod closest;
mod declare;
mod error;

mod place;
mod range;
mod reference;
mod registry;
mod run;
mod schema;
mod source;
mod source_map;
mod suggest;
mod tables;
pub mod units;
mod value;

pub use error::Error;
pub use reference::{commented, explain, reference};
pub use run::{Run, keys as keys_of};
pub use schema::schema;
pub use tables::{
    Activations, BadLines, BasisKind, Bits, Budget, ByteSize, Checkpoint, ClassWeights, Cluster,
    CompressionConfig, CompressionMethod, CompressionOverrides, Container, Data, DataFormat,
    DataSource, DataSources, Decay, Device, Dtype, Factors, GradientMethod, Gradients, Init,
    Layers, Length, Lora, LoraBias, LossOn, Memory, Model, Mpi, MuonScale, Optimizer,
    OptimizerMethod, Overflow, Override, Pairs, Quantization, Rank, Rounding, RunTable, Schedule,
    ScheduleMethod, Site, SitePatterns, Sites, Sketch, StartingWeights, StopSignal, StopSignals,
    Stream, TargetModules, Task, Toleration,
};

#[cfg(test)]
mod tests;
