//! The footprint of a decoder block, forward and backward: what it saves, and what it allocates
//! meanwhile. Its sublayers are in `attention_footprint.rs` and `mlp_footprint.rs`.

use layers::footprint::{Allocation, Heads, LinearShape, MemorySim, SavedTensor};
use layers::{RmsWeight, SavePolicy, Site};

use crate::{BlockActivations, Recompute};

/// The shapes of a block.
#[derive(Clone, Debug)]
pub struct BlockShape {
    /// Width of hidden states.
    pub hidden: u64,
    /// The linear layers that make queries, keys and values of them.
    pub into_attention: Vec<LinearShape>,
    /// Whether one linear layer computes queries, keys and values, which are then split.
    pub qkv_is_fused: bool,
    /// The one after attention.
    pub out_of_attention: LinearShape,
    /// Those into the inner width of the MLP.
    pub into_mlp: Vec<LinearShape>,
    /// Whether one linear layer computes gate and up.
    pub gate_up_is_fused: bool,
    /// The one out of it.
    pub out_of_mlp: LinearShape,
    /// Elements of the gate for each token: in a mixture, of all its experts.
    pub inner: u64,
    /// Experts of each token, each with a copy of its input; 0 without experts.
    pub copies: u64,
    /// The weight of its RMSNorms; `None` for LayerNorms.
    pub norm: Option<RmsWeight>,
    /// Whether there is a norm before attention, after it, before the MLP, and after that.
    pub norms: [bool; 4],
    /// Whether their weights are trained.
    pub norms_trained: bool,
    /// Whether the heads of queries and keys have norms.
    pub head_norms: bool,
    /// Whether queries and keys have rotary embeddings.
    pub has_rotary: bool,
    /// Whether attention and MLP read the same norm.
    pub is_parallel: bool,
    /// Elements of latent keys and queries for each token.
    pub latent: u64,
}

/// What a sublayer has saved for backward.
#[derive(Default)]
pub(crate) struct SavedSublayer {
    pub norm: Option<SavedTensor>,
    pub input: Option<SavedTensor>,
    pub latent: Option<SavedTensor>,
    /// Queries, keys, values and log sums of attention; gate and up of an MLP.
    pub core: Vec<SavedTensor>,
    pub head_norms: Vec<SavedTensor>,
    /// The input of the last linear layer.
    pub output: Option<SavedTensor>,
    pub post_norm: Option<SavedTensor>,
    /// Whether gradients are needed: of the sublayer's input, of the input of its linear layers, of
    /// what is between them.
    pub needs: [bool; 3],
}

/// What a block has saved for backward.
pub(crate) enum SavedBlock {
    Whole(Box<[SavedSublayer; 2]>),
    Recomputed(SavedTensor),
    Sublayers(SavedTensor, SavedTensor),
}

/// A hidden state, and whether its gradient is needed.
#[derive(Clone)]
pub(crate) struct HiddenState {
    pub alloc: Allocation,
    pub needs: bool,
}

/// The simulation that a block runs in, and the shape of the batch.
pub(crate) struct SimContext<'a> {
    pub sim: &'a MemorySim,
    pub heads: Heads,
}

impl SimContext<'_> {
    pub fn rows(&self) -> u64 {
        self.heads.batch * self.heads.tokens
    }
}

impl BlockShape {
    fn is_trained(&self) -> bool {
        self.norms_trained || self.linears().any(LinearShape::is_trained)
    }

    fn linears(&self) -> impl Iterator<Item = &LinearShape> {
        self.into_attention
            .iter()
            .chain([&self.out_of_attention])
            .chain(&self.into_mlp)
            .chain([&self.out_of_mlp])
    }

    /// The output, and what was saved for backward.
    pub fn forward(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
    ) -> (HiddenState, Option<SavedBlock>) {
        let (sim, size) = (ctx.sim, (ctx.rows(), self.hidden));
        let needs = x.needs || self.is_trained();
        match &policy.recompute {
            Recompute::Nothing => {
                let (out, first, second) = self.both_sublayers(ctx, x, policy, true);
                (out, needs.then_some(SavedBlock::Whole(Box::new([first, second]))))
            }
            Recompute::Layer(keep) => {
                let saved = needs
                    .then(|| SavedBlock::Recomputed(sim.save(keep, &x.alloc, size, Site::Layer)));
                let (out, ..) = self.both_sublayers(ctx, x, policy, false);
                (HiddenState { needs, ..out }, saved)
            }
            Recompute::Sublayer(keep) => {
                let first = sim.save(keep, &x.alloc, size, Site::Attention);
                let between =
                    self.residual(ctx, x, self.attention_sublayer(ctx, x, policy, false).0);
                let second = match self.is_parallel {
                    true => None,
                    false => Some(sim.save(keep, &between.alloc, size, Site::Mlp)),
                };
                let read = if self.is_parallel { x } else { &between };
                let out =
                    self.residual(ctx, &between, self.mlp_sublayer(ctx, read, policy, false).0);
                let second = second
                    .unwrap_or_else(|| sim.save(&SavePolicy::Exact, &x.alloc, (0, 0), Site::Mlp));
                (
                    HiddenState { needs, ..out },
                    needs.then_some(SavedBlock::Sublayers(first, second)),
                )
            }
        }
    }

    /// The gradient of the block's input from that of its output, if it is needed.
    pub fn backward(
        &self,
        ctx: &SimContext<'_>,
        saved: SavedBlock,
        dy: Allocation,
        policy: &BlockActivations,
        needs: bool,
    ) -> Option<Allocation> {
        match saved {
            SavedBlock::Whole(sublayers) => {
                let [first, second] = *sublayers;
                self.both_backward(ctx, first, second, dy, false)
            }
            SavedBlock::Recomputed(saved) => {
                let x = HiddenState { alloc: ctx.sim.restore(&saved), needs };
                let (_out, first, second) = self.both_sublayers(ctx, &x, policy, true);
                self.both_backward(ctx, first, second, dy, true)
            }
            SavedBlock::Sublayers(first, second) => {
                let sublayer =
                    |saved: &SavedTensor, dy: Allocation, needs: bool, of_attention: bool| {
                        let x = HiddenState { alloc: ctx.sim.restore(saved), needs };
                        let (sublayer, inner) = if of_attention {
                            self.attention_sublayer(ctx, &x, policy, true)
                        } else {
                            self.mlp_sublayer(ctx, &x, policy, true)
                        };
                        let _out = self.residual(ctx, &x, sublayer);
                        let dx = if of_attention {
                            self.attention_backward(ctx, inner, &dy)
                        } else {
                            self.mlp_backward(ctx, inner, &dy)
                        };
                        self.residual_gradient(ctx, dy, dx, true)
                    };
                let between = sublayer(&second, dy, true, false);
                drop(second);
                let dx = sublayer(&first, between, needs, true);
                needs.then_some(dx)
            }
        }
    }

    /// Both sublayers, added to the residual stream.
    fn both_sublayers(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
        keeping: bool,
    ) -> (HiddenState, SavedSublayer, SavedSublayer) {
        let (sublayer, first) = self.attention_sublayer(ctx, x, policy, keeping);
        let between = self.residual(ctx, x, sublayer);
        let (sublayer, second) =
            self.mlp_sublayer(ctx, if self.is_parallel { x } else { &between }, policy, keeping);
        (self.residual(ctx, &between, sublayer), first, second)
    }

    fn both_backward(
        &self,
        ctx: &SimContext<'_>,
        first: SavedSublayer,
        second: SavedSublayer,
        dy: Allocation,
        is_held: bool,
    ) -> Option<Allocation> {
        let needs = first.needs[0];
        let dx = self.mlp_backward(ctx, second, &dy);
        let between = self.residual_gradient(ctx, dy, dx, is_held);
        let dx = self.attention_backward(ctx, first, &between);
        needs.then(|| self.residual_gradient(ctx, between, dx, false))
    }

    fn residual(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        sublayer: HiddenState,
    ) -> HiddenState {
        HiddenState {
            alloc: ctx.sim.tensor(ctx.rows() * self.hidden),
            needs: x.needs || sublayer.needs,
        }
    }

    /// The gradients of the residual stream and of what a sublayer reads of it: added in place,
    /// unless the first is still referenced.
    fn residual_gradient(
        &self,
        ctx: &SimContext<'_>,
        residual: Allocation,
        sublayer: Option<Allocation>,
        is_held: bool,
    ) -> Allocation {
        match sublayer {
            Some(_half) if is_held => ctx.sim.tensor(ctx.rows() * self.hidden),
            _ => residual,
        }
    }

    pub(super) fn normed(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        which: usize,
        keep: Option<&SavePolicy>,
        site: Site,
    ) -> (HiddenState, Option<SavedTensor>) {
        if !self.norms[which] {
            return (x.clone(), None);
        }
        let (rows, needs) = (ctx.rows(), x.needs || self.norms_trained);
        let alloc = ctx.sim.norm(&x.alloc, rows * self.hidden, self.norm);
        let saved = keep
            .filter(|_| needs)
            .map(|keep| ctx.sim.save(keep, &x.alloc, (rows, self.hidden), site));
        (HiddenState { alloc, needs }, saved)
    }

    /// The gradient of the input of a norm of hidden states, where there is that norm.
    pub(super) fn norm_backward(
        &self,
        ctx: &SimContext<'_>,
        norm: Option<SavedTensor>,
        dy: &Allocation,
    ) -> Allocation {
        let elements = ctx.rows() * self.hidden;
        match norm {
            Some(norm) => ctx.sim.norm_backward(&norm, dy, elements, self.norms_trained),
            None => dy.clone(),
        }
    }
}
