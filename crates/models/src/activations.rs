use layers::Keep;

/// In what form each site of a decoder keeps what backward needs.
///
/// The default keeps everything exactly, as plain fine-tuning does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activations {
    /// Whether blocks are recomputed in backward, and from what.
    pub recompute: Recompute,
    /// The inputs of both norms of a block.
    pub norm: Keep,
    /// The input of q, k and v.
    pub attn_in: Keep,
    /// The output of the attention, the input of o.
    pub attn_out: Keep,
    /// The input of gate and up.
    pub mlp_in: Keep,
    /// The input of down.
    pub mlp_out: Keep,
    /// The inputs of the gated activation.
    pub act: Keep,
}

/// What is computed again in backward. Inside, the sites' own policies hold while that happens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// Each decoder layer, from its input kept so.
    Layer(Keep),
    /// Attention with its norm, and MLP with its norm, each from its input kept so.
    Sublayer(Keep),
}
