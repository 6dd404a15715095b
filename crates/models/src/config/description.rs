//! The parts a decoder may be made of. Families differ in these values, not in code.

use layers::{Pairs, RmsWeight, Routing};

/// The kind of a model's norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms(RmsWeight),
    /// Mean and variance, with a weight, with a bias, or without.
    Layer {
        /// Whether there is a weight.
        weight: bool,
        /// Whether there is a bias.
        bias: bool,
    },
}

/// How tokens attend to each other.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// Whether the maps of queries, keys and values have biases (with latent attention: the maps
    /// into the latent forms).
    pub bias: bool,
    /// Whether the map out of attention has a bias.
    pub output_bias: bool,
    /// The norms of queries and keys.
    pub head_norm: Option<HeadNorm>,
    /// The limit that elements of queries, keys and values are cut to.
    pub clip: Option<f64>,
    /// The limit that scores approach.
    pub soft_cap: Option<f64>,
    /// The chance that the weight of a key is dropped, in training.
    pub dropout: f64,
    /// How many columns of a head rotary embeddings turn: the first (with latent attention, the
    /// last).
    pub rotary_width: i64,
    /// Which columns they turn together.
    pub rotary_pairs: Pairs,
    /// Latent forms of queries, keys and values.
    pub latent: Option<LatentConfig>,
}

/// What the norms of queries and keys span; they are of the model's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// Each head, by one weight for all heads.
    PerHead,
    /// Each head, by a weight of its own.
    OwnWeights,
    /// All heads together.
    Whole,
}

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentConfig {
    /// Width of the latent form of the queries, if they have one.
    pub query_rank: Option<i64>,
    /// Width of the latent form of keys and values.
    pub key_rank: i64,
    /// Columns of a query or key that carry no position; they come first.
    pub plain_dim: i64,
    /// Columns that rotary embeddings turn; in keys, all heads share them.
    pub rotary_dim: i64,
    /// Width of the values of one head.
    pub value_dim: i64,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// How many tokens, itself included, a token attends to at most.
    pub window: Option<i64>,
    /// Which rotary embedding queries and keys get.
    pub rope: LayerRope,
    /// What scores are multiplied with.
    pub scale: f64,
    /// Whether the MLP is a mixture of experts.
    pub mixture: bool,
}

/// Which rotary embedding a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerRope {
    /// That of the model.
    Global,
    /// That of local layers.
    Local,
    /// None.
    Absent,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertsConfig {
    /// How many there are.
    pub count: i64,
    /// Width inside each.
    pub width: i64,
    /// Width inside the expert that all tokens share; 0 without one.
    pub shared_width: i64,
    /// How a token's experts are chosen and weighed.
    pub routing: Routing,
    /// Whether PEFT's "all-linear" counts the router among the linear layers, as it does where that
    /// is an `nn.Linear`.
    pub router_is_linear: bool,
}

/// How a layer's sublayers are added to the residual stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResidualConfig {
    /// Whether attention and MLP read the same normed input, and are added together.
    pub parallel: bool,
    /// What each sublayer's output is multiplied with before it is added.
    pub multiplier: f64,
    /// The chance that an element of it is dropped, in training.
    pub dropout: f64,
}

/// How tokens become hidden states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmbeddingConfig {
    /// What embeddings are multiplied with.
    pub scale: EmbeddingScale,
    /// The token whose embedding gets no gradient from its use as an input (`padding_idx` of
    /// transformers).
    pub padding: Option<i64>,
    /// The chance that an element is dropped, in training.
    pub dropout: f64,
}

/// What embeddings are multiplied with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum EmbeddingScale {
    /// This number.
    By(f64),
    /// The square root of the hidden size, rounded to the dtype of the weights.
    RootOfWidth,
}

/// How hidden states become logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadConfig {
    /// Whether the output projection has a bias.
    pub bias: bool,
    /// What logits are multiplied with.
    pub multiplier: f64,
    /// The limit that logits approach.
    pub soft_cap: Option<f64>,
}
