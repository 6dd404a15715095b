//! One rank of a fine-tuning run: from a [`config::Run`] to an adapter and its metrics.
//!
//! [`plan`](fn@plan) says beforehand what a run will hold. The way of a run: [`check`] opens everything and finds what is wrong, writing nothing;
//! [`RunData`] is the tokenised data; [`train`] is the loop, one step of which is in `step.rs`. [`evaluate`](fn@evaluate), [`verify`], [`generate`]
//! and [`inspect`](fn@inspect) use a model without training it; [`merge`](fn@merge) writes it with its adapter inside.

mod base;
mod budget;
mod check;
mod checkpoint;
mod classes;
mod classify;
mod device;
mod error;
mod evaluate;
mod fault_injection;
mod fingerprint;
mod generate;
mod inspect;
mod learner;
mod merge;
mod metrics;
mod optimizer;
mod out_of_memory;
mod parameter_groups;
mod plan;
mod policy;
mod policy_lora;
mod policy_quantization;
mod probe;
mod run_data;
mod schedule;
mod shared_bases;
mod signals;
mod step;
mod tensorboard;
mod text;
mod train;
mod verify;
mod watch;

pub use budget::{Division, Share};
pub use check::check;
pub use checkpoint::{CheckpointChoice, check_agreement, checkpoints, newest_checkpoint};
pub use classes::{ClassReport, Confusion};
pub use data::{Dataset, LengthBin, ShownToken};
pub use device::device_of_one;
pub use error::{Error, Result};
pub use evaluate::{Evaluation, Weights, evaluate};
pub use fault_injection::VARIABLE as INJECT_FAULT_VARIABLE;
pub use generate::{Prompt, generate};
pub use inspect::{
    Candidate, CurvePoint, GradientReport, Inspection, LayerGradient, Look, MethodError, SiteReport, inspect, methods as inspected_methods,
};
pub use merge::{MergeRequest, merge};
pub use metrics::{StepMetrics, Summary};
pub use optimizer::{Optimizer, OptimizerState, Part, Trained, clip_by_global_norm};
pub use parameter_groups::parameter_groups;
pub use plan::{ModePlan, Moment, Plan, SiteBytes, plan};
pub use policy::{Widths, activations};
pub use run_data::RunData;
pub use schedule::learning_rate;
pub use signals::{StopRequest, signal_number};
pub use train::{Ending, train};
pub use verify::{Compared, verify};
