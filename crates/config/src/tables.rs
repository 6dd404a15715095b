//! The tables: one file each, with the declaration of its keys and the conditions between them.

mod activations;
mod checkpoint;
mod cluster;
mod compression;
mod data;
mod gradients;
mod lora;
mod model;
mod optimizer;
mod overrides;
mod run;
mod schedule;
mod sizes;
mod sources;
mod toleration;

pub use activations::{Activations, Budget, Site, Sites, Stream};
pub use checkpoint::{Checkpoint, StopSignal, StopSignals};
pub use cluster::{Cluster, Container, Mpi};
pub(crate) use compression::{BY, SOME_SITE};
pub use compression::{
    BasisKind, Bits, CompressionConfig, CompressionMethod, CompressionOverrides, Factors, Rank,
    Rounding, Sketch,
};
pub use data::{BadLines, ClassWeights, Data, DataFormat, LossOn, Overflow, Pairs};
pub use gradients::{GradientMethod, Gradients};
pub use lora::{Init, Lora, LoraBias, TargetModules};
pub use model::{Dtype, Model, Quantization, StartingWeights, Task};
pub use optimizer::{MuonScale, Optimizer, OptimizerMethod};
pub use overrides::{Layers, Override, SitePatterns};
pub use run::{Device, Length, RunTable};
pub use schedule::{Decay, Schedule, ScheduleMethod};
pub use sizes::{ByteSize, Memory};
pub use sources::{DataSource, DataSources};
pub use toleration::Toleration;
