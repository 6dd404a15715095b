//! What a run is: the TOML file, its defaults and its overrides, read once and checked once.
//!
//! A file is read into one raw struct per table (`raw.rs`, in which everything is optional) and resolved into a
//! [`Run`], in which every key has its value and every value is valid. An error names the file and line (or the override),
//! the table and key, and the valid values:
//!
//! ```text
//! configs/demo.toml:14: [activations] rank: must be > 0 (valid: a fraction 0 < r <= 1, or a whole number of columns >= 1)
//! ```
//!
//! Paths are relative to the current directory and kept as written. The fields of the structs here are the manual of the keys.

mod choice;
mod error;
mod keys;
mod place;
mod raw;
mod source;
mod tables;

pub use error::Error;
pub use tables::keys as keys_of;
pub use tables::{
    Activations, BadLines, BasisKind, Bits, Budget, Checkpoint, ClassWeights, Cluster, Columns, Data, DataFormat, DataSource, DataSources,
    Decay, Device, Dtype, Factors, Form, GradientMethod, Gradients, Init, Keeping, Layers, Length, Lora, LoraBias, LossOn, Model,
    MuonScale, Optimizer, OptimizerName, Overflow, Override, Pairs, PartialForm, Quantization, Rank, Rounding, Run, Schedule, ScheduleKind,
    Site, Sites, StartingWeights, StopSignal, Stream, TargetModules, Task,
};

#[cfg(test)]
mod tests;
