//! The resolved tables: one file each, holding its keys, their defaults and their checks.

mod activations;
mod checkpoint;
mod cluster;
mod data;
mod form;
mod gradients;
mod lora;
mod model;
mod optimizer;
mod overrides;
mod run;
mod schedule;
mod sources;

pub use activations::{Activations, Budget, Site, Sites, Stream};
pub use checkpoint::{Checkpoint, StopSignal};
pub use cluster::Cluster;
pub use data::{BadLines, ClassWeights, Data, DataFormat, LossOn, Overflow, Pairs};
pub use form::{BasisKind, Bits, Columns, Factors, Form, Keeping, PartialForm, Rank, Rounding};
pub use gradients::{GradientMethod, Gradients};
pub use lora::{Init, Lora, LoraBias, TargetModules};
pub use model::{Dtype, Model, Quantization, StartingWeights, Task};
pub use optimizer::{MuonScale, Optimizer, OptimizerName};
pub use overrides::{Layers, Override};
pub use run::keys;
pub use run::{Device, Length, Run};
pub use schedule::{Decay, Schedule, ScheduleKind};
pub use sources::{DataSource, DataSources};
