//! Where the tensors of a family are called what. A norm stands where it has a name; the names of
//! the projections say how they are cut.

/// The names of a family's tensors, without `.weight` and `.bias`. Those of a layer follow its
/// prefix: `model.layers.0.` and so on.
#[derive(Debug, PartialEq)]
pub(crate) struct TensorNames {
    /// The embedding of tokens.
    pub embedding: &'static str,
    /// The embedding of positions, in families that learn one.
    pub positions: Option<&'static str>,
    /// What stands before the number of a layer.
    pub layers: &'static str,
    /// The norm after the last layer.
    pub final_norm: &'static str,
    /// The output projection.
    pub head: &'static str,
    /// The norms of a layer.
    pub norms: NormNames,
    /// The maps into attention.
    pub queries: QueryNames,
    /// The norms of queries and keys, where the configuration has them.
    pub query_norm: &'static str,
    /// See `query_norm`.
    pub key_norm: &'static str,
    /// The map out of attention.
    pub output: &'static str,
    /// The maps of an MLP.
    pub mlp: MlpNames,
    /// A mixture of experts, in layers that have one.
    pub experts: Option<ExpertNames>,
    /// Whether linear weights are stored `[in, out]` (`Conv1D`).
    pub fan_in_fan_out: bool,
    /// Parts of names of tensors that are known and not needed.
    pub ignored: &'static [&'static str],
}

impl TensorNames {
    /// What stands before the names of all tensors but those of the head: the part of the
    /// embedding's name up to the first dot.
    pub fn prefix(&self) -> &'static str {
        self.embedding.find('.').map_or("", |dot| &self.embedding[..=dot])
    }
}

/// The norms of a layer that there are.
#[derive(Debug, PartialEq)]
pub(crate) struct NormNames {
    pub pre_attention_norm: Option<&'static str>,
    pub post_attention_norm: Option<&'static str>,
    pub pre_mlp_norm: Option<&'static str>,
    pub post_mlp_norm: Option<&'static str>,
}

/// The maps that make queries, keys and values.
#[derive(Debug, PartialEq)]
pub(crate) enum QueryNames {
    /// One each.
    Separate([&'static str; 3]),
    /// One for all, whose outputs are the queries, then the keys, then the values.
    Fused(&'static str),
    /// By way of latent forms (DeepSeek-V2, arXiv 2405.04434).
    Latent(LatentNames),
}

/// The tensors of latent attention.
#[derive(Debug, PartialEq)]
pub(crate) struct LatentNames {
    /// The map of the queries where they have no latent form.
    pub query: &'static str,
    pub query_down: &'static str,
    pub query_norm: &'static str,
    pub query_up: &'static str,
    pub key_down: &'static str,
    pub key_norm: &'static str,
    pub key_up: &'static str,
}

/// The maps of an MLP: after the prefix of the layer, or of an expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MlpNames {
    /// gate, up, down.
    Gated([&'static str; 3]),
    /// One whose outputs are the gate, then up; and down.
    Fused([&'static str; 2]),
    /// up and down, without a gate.
    Plain([&'static str; 2]),
}

/// The tensors of a mixture of experts.
#[derive(Debug, PartialEq)]
pub(crate) struct ExpertNames {
    pub router: &'static str,
    /// What is added to the scores for the choice.
    pub correction: Option<&'static str>,
    /// What stands before the number of an expert.
    pub experts: &'static str,
    /// The maps of an expert, following that number.
    pub expert: [&'static str; 3],
    /// The maps of the expert that all tokens share.
    pub shared: Option<[&'static str; 3]>,
}

/// The names that Llama has, and most families after it.
pub(crate) const LLAMA: TensorNames = TensorNames {
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers.",
    final_norm: "model.norm",
    head: "lm_head",
    norms: NormNames {
        pre_attention_norm: Some("input_layernorm"),
        post_attention_norm: None,
        pre_mlp_norm: Some("post_attention_layernorm"),
        post_mlp_norm: None,
    },
    queries: QueryNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    mlp: MlpNames::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    experts: None,
    fan_in_fan_out: false,
    ignored: &[".rotary_emb.inv_freq"],
};
