use std::fmt;

/// A place in a block where something is saved for backward, or drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Site {
    /// The input of a block that is recomputed as a whole.
    Layer,
    /// The input of a recomputed attention sublayer: norm, projections, attention.
    Attention,
    /// The input of a recomputed MLP sublayer: norm, projections, activation.
    Mlp,
    /// The input of the norm before attention.
    AttentionNorm,
    /// The input of the norm before the MLP.
    MlpNorm,
    /// The input of q, k and v.
    AttnIn,
    /// q, k, v and the log sums of attention, which are always saved exactly.
    Core,
    /// The output of attention, the input of o.
    AttnOut,
    /// The input of gate and up.
    MlpIn,
    /// The gate, the input of the activation function.
    Gate,
    /// What the activated gate is multiplied with.
    Up,
    /// The input of down.
    MlpOut,
    /// The gradients that the loss holds.
    Loss,
    /// The input of a norm of the queries (of their latent form, where there is one).
    QueryNorm,
    /// The input of a norm of the keys (of the latent form of keys and values, where there is one).
    KeyNorm,
    /// The latent form of the queries, the input of what expands it.
    QueryLatent,
    /// The latent form of keys and values, the input of what expands it.
    KeyLatent,
    /// The input of a norm after attention.
    AttentionPostNorm,
    /// The input of a norm after the MLP.
    MlpPostNorm,
    /// The scores of a router and the weights it gives to experts, which are always saved exactly.
    Router,
    /// The gate of the expert that all tokens share.
    SharedGate,
    /// What the activated gate of the shared expert is multiplied with.
    SharedUp,
    /// The input of down in the shared expert.
    SharedOut,
    /// The patches of images, the input of what makes them hidden states.
    Patches,
    /// The input of a norm after the embeddings.
    EmbeddingNorm,
    /// The input of what merges neighbouring patches, where that is recomputed.
    Merge,
    /// The input of its norm.
    MergeNorm,
    /// The input of its linear map.
    MergeIn,
    /// The input of the norm after the last layer.
    FinalNorm,
    /// What a head that classifies reads.
    Pooled,
    /// The input of the activation function in such a head.
    HeadGate,
    /// The input of its last map.
    HeadOut,
}

impl Site {
    /// Every site, in the order in which they are declared.
    pub(crate) const ALL: [Self; 32] = [
        Self::Layer,
        Self::Attention,
        Self::Mlp,
        Self::AttentionNorm,
        Self::MlpNorm,
        Self::AttnIn,
        Self::Core,
        Self::AttnOut,
        Self::MlpIn,
        Self::Gate,
        Self::Up,
        Self::MlpOut,
        Self::Loss,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::QueryLatent,
        Self::KeyLatent,
        Self::AttentionPostNorm,
        Self::MlpPostNorm,
        Self::Router,
        Self::SharedGate,
        Self::SharedUp,
        Self::SharedOut,
        Self::Patches,
        Self::EmbeddingNorm,
        Self::Merge,
        Self::MergeNorm,
        Self::MergeIn,
        Self::FinalNorm,
        Self::Pooled,
        Self::HeadGate,
        Self::HeadOut,
    ];

    /// The site called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.name() == name)
    }

    /// The name by which messages and tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::AttentionNorm => "attention norm",
            Self::MlpNorm => "mlp norm",
            Self::AttnIn => "attn_in",
            Self::Core => "attention core",
            Self::AttnOut => "attn_out",
            Self::MlpIn => "mlp_in",
            Self::Gate => "gate",
            Self::Up => "up",
            Self::MlpOut => "mlp_out",
            Self::Loss => "loss",
            Self::QueryNorm => "query norm",
            Self::KeyNorm => "key norm",
            Self::QueryLatent => "query latent",
            Self::KeyLatent => "key latent",
            Self::AttentionPostNorm => "attention post-norm",
            Self::MlpPostNorm => "mlp post-norm",
            Self::Router => "router",
            Self::SharedGate => "shared gate",
            Self::SharedUp => "shared up",
            Self::SharedOut => "shared mlp_out",
            Self::Patches => "patches",
            Self::EmbeddingNorm => "embedding norm",
            Self::Merge => "merge",
            Self::MergeNorm => "merge norm",
            Self::MergeIn => "merge_in",
            Self::FinalNorm => "final norm",
            Self::Pooled => "pooled",
            Self::HeadGate => "head gate",
            Self::HeadOut => "head out",
        }
    }
}

/// A site of one layer of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId {
    /// The layer, from 0; absent outside the layers.
    pub layer: Option<usize>,
    /// The site; absent where no operation has said which it is.
    pub site: Option<Site>,
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.layer, self.site) {
            (Some(layer), Some(site)) => write!(f, "layer {layer}, {}", site.name()),
            (Some(layer), None) => write!(f, "layer {layer}"),
            (None, Some(site)) => f.write_str(site.name()),
            (None, None) => f.write_str("an operation"),
        }
    }
}
