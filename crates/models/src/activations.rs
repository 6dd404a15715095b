use layers::SavePolicy;

use crate::ModelConfig;

/// In what form each site of each layer saves what backward needs.
///
/// The default saves everything exactly, as plain fine-tuning does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Activations {
    every: BlockActivations,
    layers: Vec<BlockActivations>,
}

impl Activations {
    /// Layer `i` as `layers[i]` says.
    pub fn from_layers(layers: Vec<BlockActivations>) -> Self {
        Self { every: BlockActivations::default(), layers }
    }

    /// What holds for a layer.
    pub fn layer(&self, index: usize) -> &BlockActivations {
        self.layers.get(index).unwrap_or(&self.every)
    }
}

impl From<BlockActivations> for Activations {
    /// The same in every layer.
    fn from(every: BlockActivations) -> Self {
        Self { every, layers: Vec::new() }
    }
}

/// In what form each site of one layer saves what backward needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockActivations {
    /// Whether the block is recomputed in backward, and from what.
    pub recompute: Recompute,
    /// The inputs of both norms of a block.
    pub norm: SavePolicy,
    /// The input of q, k and v.
    pub attn_in: SavePolicy,
    /// The output of the attention, the input of o.
    pub attn_out: SavePolicy,
    /// The input of gate and up.
    pub mlp_in: SavePolicy,
    /// The input of down.
    pub mlp_out: SavePolicy,
    /// The inputs of the gated activation.
    pub act: SavePolicy,
}

/// What is computed again in backward. Inside, the sites' own policies hold while that happens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The decoder layer, from its input saved so.
    Layer(SavePolicy),
    /// Attention with its norm, and MLP with its norm, each from its input saved so.
    Sublayer(SavePolicy),
}

impl Activations {
    /// Bytes of the state of sites, from step to step; `basis_layers` neighbouring layers share
    /// one.
    pub fn state_bytes(&self, model: &ModelConfig, basis_layers: usize) -> u64 {
        let (hidden, inner) = (
            model.hidden_size,
            model.experts.map_or(model.intermediate_size, |experts| experts.width),
        );
        let out = model.num_heads * model.value_dim();
        let of = |policy: &BlockActivations| {
            let blocks = match policy.recompute {
                Recompute::Nothing => vec![],
                Recompute::Layer(save) => vec![(save, hidden)],
                Recompute::Sublayer(save) => vec![(save, hidden); 2],
            };
            let sites = [
                (policy.norm, hidden),
                (policy.norm, hidden),
                (policy.attn_in, hidden),
                (policy.attn_out, out),
            ];
            let more = [
                (policy.mlp_in, hidden),
                (policy.mlp_out, inner),
                (policy.act, inner),
                (policy.act, inner),
            ];
            blocks
                .into_iter()
                .chain(sites)
                .chain(more)
                .map(|(save, width)| save.state_bytes(width))
                .sum::<u64>()
        };
        (0..model.layers.len())
            .step_by(basis_layers.max(1))
            .map(|layer| of(self.layer(layer)))
            .sum()
    }
}
