//! What a model's configuration says, whichever file it came from.

mod architecture;
mod description;
mod encoder;
mod families;
pub(crate) mod fields;
pub(crate) mod gguf;
pub(crate) mod hugging_face;
mod keys;
mod model;
pub(crate) mod names;
mod rope;
mod rope_table;

pub use architecture::Architecture;
pub use description::{
    AttentionConfig, EmbeddingConfig, EmbeddingScale, ExpertsConfig, HeadConfig, HeadNorm,
    LatentConfig, LayerConfig, LayerRope, NormKind, ResidualConfig,
};
pub use encoder::{
    ClassifierConfig, EncoderAttention, EncoderConfig, EncoderDropout, EncoderLayer, ImageConfig,
    InputConfig, Labels, NormOrder, Pooling, Positions, Problem, RelativePositions, StageConfig,
    TextConfig,
};
pub(crate) use encoder::{LAYER_NORM, MergeNames};
pub use families::SUPPORTED_MODEL_TYPES;
pub(crate) use model::MlpShape;
pub use model::ModelConfig;
pub use rope::{RopeConfig, RopeScaling};
