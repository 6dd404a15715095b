//! What a decoder's configuration says, whichever file it came from.

pub(crate) mod fields;
pub(crate) mod gguf;
pub(crate) mod hugging_face;
mod rope;

pub use rope::{RopeConfig, RopeScaling};

use crate::Result;
use fields::Fields;

/// The architectures this crate implements, by Hugging Face's `model_type` (GGUF's `general.architecture`).
pub const SUPPORTED_MODEL_TYPES: &[&str] = &["llama"];

/// The shape and the constants of a decoder. Once read it is consistent: sizes are positive and heads divide evenly.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Hugging Face's name of the architecture: one of [`SUPPORTED_MODEL_TYPES`].
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_layers: i64,
    /// Number of query heads.
    pub num_heads: i64,
    /// Number of key and value heads; divides `num_heads`.
    pub num_kv_heads: i64,
    /// Width of one head; `num_heads * head_dim` need not equal `hidden_size`.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Longest sequence the model was made for, in tokens.
    pub max_positions: i64,
    /// The epsilon of the norms.
    pub norm_eps: f64,
    /// The rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the output projection is the embedding itself.
    pub tie_embeddings: bool,
    /// Whether the q, k, v and o projections have biases.
    pub attention_bias: bool,
    /// Whether the projections of the MLP have biases.
    pub mlp_bias: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<i64>,
    /// The tokens that end a text: none, one or several.
    pub eos_token_ids: Vec<i64>,
    /// The token that fills up a batch.
    pub pad_token_id: Option<i64>,
}

/// No size of a real model is larger; below it, products of two sizes fit in 64 bits.
const LARGEST_SIZE: i64 = 1 << 31;

impl ModelConfig {
    /// Refuses what cannot be a model, by the key under which `names` finds it in the user's file.
    fn validate(self, fields: &Fields<'_>, names: &Names) -> Result<Self> {
        let sizes = [
            (names.hidden_size, self.hidden_size),
            (names.intermediate_size, self.intermediate_size),
            (names.num_layers, self.num_layers),
            (names.num_heads, self.num_heads),
            (names.num_kv_heads, self.num_kv_heads),
            (names.head_dim, self.head_dim),
            (names.vocab_size, self.vocab_size),
            (names.max_positions, self.max_positions),
        ];
        for (key, size) in sizes {
            if !(1..=LARGEST_SIZE).contains(&size) {
                return Err(fields.invalid(key, format!("{size} is not between 1 and {LARGEST_SIZE}")));
            }
        }
        if self.num_heads % self.num_kv_heads != 0 {
            let why = format!("{} does not divide the {} query heads", self.num_kv_heads, self.num_heads);
            return Err(fields.invalid(names.num_kv_heads, why));
        }
        if self.head_dim % 2 != 0 {
            let why = format!("rotary embeddings turn pairs, and {} is odd", self.head_dim);
            return Err(fields.invalid(names.head_dim, why));
        }
        for (key, number) in [(names.norm_eps, self.norm_eps), (names.rope_theta, self.rope.theta)] {
            if !(number.is_finite() && number > 0.0) {
                return Err(fields.invalid(key, format!("{number} is not a positive number")));
            }
        }
        self.rope.scaling.validate().map_err(|why| fields.invalid(names.rope_scaling, why))?;
        Ok(self)
    }
}

/// The names of the fields in one kind of file, for messages that speak of what the user sees.
struct Names {
    hidden_size: &'static str,
    intermediate_size: &'static str,
    num_layers: &'static str,
    num_heads: &'static str,
    num_kv_heads: &'static str,
    head_dim: &'static str,
    vocab_size: &'static str,
    max_positions: &'static str,
    norm_eps: &'static str,
    rope_theta: &'static str,
    rope_scaling: &'static str,
}

/// The width of a head when the file does not say: the hidden size shared out, which must come out even.
fn shared_head_dim(fields: &Fields<'_>, key: &str, hidden_size: i64, num_heads: i64) -> Result<i64> {
    if num_heads < 1 || hidden_size % num_heads != 0 {
        let why = format!("it is absent, and {num_heads} heads do not divide the hidden size {hidden_size}");
        return Err(fields.invalid(key, why));
    }
    Ok(hidden_size / num_heads)
}
