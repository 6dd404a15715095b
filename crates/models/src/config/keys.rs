//! The keys under which a file says the sizes of a model.

/// The names of the fields in one kind of file, for messages that speak of what the user sees.
pub(super) struct Keys {
    pub hidden_size: &'static str,
    pub intermediate_size: &'static str,
    pub num_layers: &'static str,
    pub num_heads: &'static str,
    pub num_kv_heads: &'static str,
    pub head_dim: &'static str,
    pub vocab_size: &'static str,
    pub max_positions: &'static str,
    pub norm_eps: &'static str,
    pub rope_theta: &'static str,
    pub rope_scaling: &'static str,
    pub activation: &'static str,
    pub attention_dropout: &'static str,
    pub residual_dropout: &'static str,
    pub embedding_dropout: &'static str,
}

/// Those of most `config.json`.
pub(super) const HUGGING_FACE: Keys = Keys {
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    num_layers: "num_hidden_layers",
    num_heads: "num_attention_heads",
    num_kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    vocab_size: "vocab_size",
    max_positions: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    rope_theta: "rope_theta",
    rope_scaling: "rope_scaling",
    activation: "hidden_act",
    attention_dropout: "attention_dropout",
    residual_dropout: "residual_dropout",
    embedding_dropout: "embedding_dropout",
};
