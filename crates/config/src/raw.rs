//! A configuration as it is written: every key optional, no value checked beyond its type.

use super::tables::DataSources;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All tables.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub run: Run,
    pub model: Model,
    pub lora: Option<Lora>,
    pub activations: Activations,
    pub gradients: Gradients,
    pub data: Data,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub checkpoint: Checkpoint,
    pub cluster: Cluster,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    pub dir: Option<PathBuf>,
    pub seed: Option<u64>,
    pub steps: Option<u64>,
    pub epochs: Option<f64>,
    pub batch_size: Option<usize>,
    pub micro_batch_size: Option<usize>,
    pub device: Option<String>,
    pub threads: Option<usize>,
    pub eval_every: Option<u64>,
    pub log_every: Option<u64>,
    pub check_every: Option<u64>,
    pub tensorboard: Option<bool>,
    pub loss_chunk: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub path: Option<PathBuf>,
    pub task: Option<String>,
    pub weights: Option<String>,
    pub dtype: Option<String>,
    pub quantization: Option<String>,
    pub tokenizer: Option<PathBuf>,
    pub chat_template: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lora {
    pub rank: Option<usize>,
    pub alpha: Option<f64>,
    pub dropout: Option<f64>,
    pub target_modules: Option<OneOrMany>,
    pub exclude_modules: Option<OneOrMany>,
    pub layers_to_transform: Option<Vec<i64>>,
    pub rank_pattern: Option<BTreeMap<String, i64>>,
    pub alpha_pattern: Option<BTreeMap<String, f64>>,
    pub use_rslora: Option<bool>,
    pub use_dora: Option<bool>,
    pub init: Option<String>,
    pub lora_fa: Option<bool>,
    pub lora_plus_ratio: Option<f64>,
    pub modules_to_save: Option<Vec<String>>,
    pub bias: Option<String>,
    pub adapter: Option<PathBuf>,
}

/// A struct of keys that has those of a [`Form`] too; `#[serde(flatten)]` would lose the places of errors.
macro_rules! with_form {
    ($struct:ident { $($own:ident: $type:ty),* }) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $struct {
            $(pub $own: Option<$type>,)*
            pub method: Option<String>,
            pub rank: Option<Rank>,
            pub error: Option<f64>,
            pub max_rank: Option<Rank>,
            pub columns: Option<String>,
            pub keep_norms: Option<bool>,
            pub factors: Option<String>,
            pub power_iterations: Option<u32>,
            pub bits: Option<Bits>,
            pub group: Option<i64>,
            pub rounding: Option<String>,
            pub drift: Option<f64>,
            pub basis: Option<String>,
        }

        impl $struct {
            /// The shared keys, taken out.
            pub(super) fn form(&mut self) -> Form {
                Form {
                    method: self.method.take(),
                    rank: self.rank.take(),
                    error: self.error.take(),
                    max_rank: self.max_rank.take(),
                    columns: self.columns.take(),
                    keep_norms: self.keep_norms.take(),
                    factors: self.factors.take(),
                    power_iterations: self.power_iterations.take(),
                    bits: self.bits.take(),
                    group: self.group.take(),
                    rounding: self.rounding.take(),
                    drift: self.drift.take(),
                    basis: self.basis.take(),
                }
            }
        }
    };
}

with_form!(Activations { sites: OneOrMany, stream: String, difference: bool, budget: Bits, basis_layers: usize, basis_steps: u64, overrides: Vec<Override> });
with_form!(Override { sites: OneOrMany, layers: String });

/// The keys that `[activations]` and its overrides share: how a site keeps its tensor.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub method: Option<String>,
    pub rank: Option<Rank>,
    pub error: Option<f64>,
    pub max_rank: Option<Rank>,
    pub columns: Option<String>,
    pub keep_norms: Option<bool>,
    pub factors: Option<String>,
    pub power_iterations: Option<u32>,
    pub bits: Option<Bits>,
    pub group: Option<i64>,
    pub rounding: Option<String>,
    pub drift: Option<f64>,
    pub basis: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gradients {
    pub method: Option<String>,
    pub rank: Option<usize>,
    pub start_step: Option<u64>,
    pub min_ratio: Option<f64>,
    pub error_feedback: Option<bool>,
    pub warm_start: Option<bool>,
    pub overlap: Option<bool>,
    pub bucket_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    pub train: Option<DataSources>,
    pub eval: Option<DataSources>,
    pub eval_samples: Option<usize>,
    pub format: Option<String>,
    pub sequence_length: Option<usize>,
    pub overflow: Option<String>,
    pub packing: Option<bool>,
    pub loss_on: Option<String>,
    pub shuffle: Option<bool>,
    pub max_samples: Option<usize>,
    pub bad_lines: Option<String>,
    pub text_key: Option<String>,
    pub label_key: Option<String>,
    pub image_key: Option<String>,
    pub flip: Option<bool>,
    pub crop: Option<[f64; 2]>,
    pub labels: Option<Vec<String>>,
    pub class_weights: Option<String>,
    pub pairs: Option<String>,
    pub prompt_template: Option<String>,
    pub columns: Option<BTreeMap<String, String>>,
    pub chat_template_kwargs: Option<toml::Table>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Optimizer {
    pub name: Option<String>,
    pub learning_rate: Option<f64>,
    pub betas: Option<[f64; 2]>,
    pub eps: Option<f64>,
    pub momentum: Option<f64>,
    pub nesterov: Option<bool>,
    pub scale: Option<String>,
    pub weight_decay: Option<f64>,
    pub clip_grad_norm: Option<f64>,
    pub master_weights: Option<bool>,
    pub split: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Schedule {
    pub kind: Option<String>,
    pub warmup_steps: Option<u64>,
    pub decay: Option<Amount>,
    pub min_ratio: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub every: Option<u64>,
    pub keep: Option<usize>,
    pub background: Option<bool>,
    pub signals: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub ranks: Option<usize>,
    pub mpirun: Option<String>,
    pub mpirun_args: Option<Vec<String>>,
    pub heartbeat_seconds: Option<u64>,
    pub stall_seconds: Option<u64>,
    pub name: Option<String>,
    pub nodes: Option<usize>,
    pub cpus_per_rank: Option<usize>,
    pub gpus_per_node: Option<usize>,
    pub memory: Option<String>,
    pub time: Option<String>,
    pub warning_seconds: Option<u64>,
    pub queue: Option<String>,
    pub account: Option<String>,
    pub setup: Option<Vec<String>>,
    pub image: Option<String>,
    pub volume: Option<String>,
}

/// A name, or a list of names.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A whole number, or a fraction of something: `1` and `1.0` differ.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Amount {
    Whole(i64),
    Fraction(f64),
}

/// A number of bits or bytes, or a name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Bits {
    Number(f64),
    Name(String),
}

/// A whole number of columns, a fraction of the width, or a name: `1` and `1.0` differ.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Rank {
    Columns(i64),
    Fraction(f64),
    Name(String),
}
