//! A decoder block, forward and backward, as `models` runs it: what it saves, and what it allocates meanwhile.

use layers::{SavePolicy, Site};
use models::config::NormKind;
use models::{BlockActivations, Recompute};

use crate::memory_tracker::Allocation;
use crate::operations::{Heads, LinearShape, MemorySim, SavedTensor};

/// The shapes of a block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub hidden: u64,
    pub into_attention: Vec<LinearShape>,
    /// Whether one linear layer computes queries, keys and values, which are then split.
    pub qkv_is_fused: bool,
    pub out_of_attention: LinearShape,
    pub into_mlp: Vec<LinearShape>,
    /// Whether one linear layer computes gate and up.
    pub gate_up_is_fused: bool,
    pub out_of_mlp: LinearShape,
    /// Elements of the gate for each token: in a mixture, of all its experts.
    pub inner: u64,
    /// Experts of each token, each with a copy of its input; 0 without experts.
    pub copies: u64,
    pub norm: NormKind,
    pub norms: [bool; 4],
    pub norms_trained: bool,
    pub head_norms: bool,
    pub has_rotary: bool,
    pub is_parallel: bool,
    /// Elements of latent keys and queries for each token.
    pub latent: u64,
}

/// What a sublayer has saved for backward.
#[derive(Default)]
pub(crate) struct SavedSublayer {
    norm: Option<SavedTensor>,
    input: Option<SavedTensor>,
    latent: Option<SavedTensor>,
    /// Queries, keys, values and log sums of attention; gate and up of an MLP.
    core: Vec<SavedTensor>,
    head_norms: Vec<SavedTensor>,
    /// The input of the last linear layer.
    output: Option<SavedTensor>,
    post_norm: Option<SavedTensor>,
    /// Whether gradients are needed: of the sublayer's input, of the input of its linear layers, of what is between them.
    needs: [bool; 3],
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
    fn rows(&self) -> u64 {
        self.heads.batch * self.heads.tokens
    }
}

impl Block {
    fn is_trained(&self) -> bool {
        self.norms_trained || self.linears().any(LinearShape::is_trained)
    }

    fn linears(&self) -> impl Iterator<Item = &LinearShape> {
        self.into_attention.iter().chain([&self.out_of_attention]).chain(&self.into_mlp).chain([&self.out_of_mlp])
    }

    /// The output, and what was saved for backward.
    pub fn forward(&self, ctx: &SimContext<'_>, x: &HiddenState, policy: &BlockActivations) -> (HiddenState, Option<SavedBlock>) {
        let (sim, size) = (ctx.sim, (ctx.rows(), self.hidden));
        let needs = x.needs || self.is_trained();
        match &policy.recompute {
            Recompute::Nothing => {
                let (out, first, second) = self.both_sublayers(ctx, x, policy, true);
                (out, needs.then_some(SavedBlock::Whole(Box::new([first, second]))))
            }
            Recompute::Layer(keep) => {
                let saved = needs.then(|| SavedBlock::Recomputed(sim.save(keep, &x.alloc, size, Site::Layer)));
                let (out, ..) = self.both_sublayers(ctx, x, policy, false);
                (HiddenState { needs, ..out }, saved)
            }
            Recompute::Sublayer(keep) => {
                let first = sim.save(keep, &x.alloc, size, Site::Attention);
                let between = self.residual(ctx, x, self.attention_sublayer(ctx, x, policy, false).0);
                let second = match self.is_parallel {
                    true => None,
                    false => Some(sim.save(keep, &between.alloc, size, Site::Mlp)),
                };
                let read = if self.is_parallel { x } else { &between };
                let out = self.residual(ctx, &between, self.mlp_sublayer(ctx, read, policy, false).0);
                let second = second.unwrap_or_else(|| sim.save(&SavePolicy::Exact, &x.alloc, (0, 0), Site::Mlp));
                (HiddenState { needs, ..out }, needs.then_some(SavedBlock::Sublayers(first, second)))
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
                let sublayer = |saved: &SavedTensor, dy: Allocation, needs: bool, of_attention: bool| {
                    let x = HiddenState { alloc: ctx.sim.restore(saved), needs };
                    let (sublayer, inner) = if of_attention {
                        self.attention_sublayer(ctx, &x, policy, true)
                    } else {
                        self.mlp_sublayer(ctx, &x, policy, true)
                    };
                    let _out = self.residual(ctx, &x, sublayer);
                    let dx = if of_attention { self.attention_backward(ctx, inner, &dy) } else { self.mlp_backward(ctx, inner, &dy) };
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
        let (sublayer, second) = self.mlp_sublayer(ctx, if self.is_parallel { x } else { &between }, policy, keeping);
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

    fn residual(&self, ctx: &SimContext<'_>, x: &HiddenState, sublayer: HiddenState) -> HiddenState {
        HiddenState { alloc: ctx.sim.tensor(ctx.rows() * self.hidden), needs: x.needs || sublayer.needs }
    }

    /// The gradients of the residual stream and of what a sublayer reads of it: added in place, unless the first is still referenced.
    fn residual_gradient(&self, ctx: &SimContext<'_>, residual: Allocation, sublayer: Option<Allocation>, is_held: bool) -> Allocation {
        match sublayer {
            Some(_half) if is_held => ctx.sim.tensor(ctx.rows() * self.hidden),
            _ => residual,
        }
    }

    fn normed(
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
        let saved = keep.filter(|_| needs).map(|keep| ctx.sim.save(keep, &x.alloc, (rows, self.hidden), site));
        (HiddenState { alloc, needs }, saved)
    }

    fn attention_sublayer(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
        keeping: bool,
    ) -> (HiddenState, SavedSublayer) {
        let (sim, rows, heads) = (ctx.sim, ctx.rows(), ctx.heads);
        let on = |keep| keeping.then_some(keep);
        let (normed, norm) = self.normed(ctx, x, 0, on(&policy.norm), Site::AttentionNorm);
        let core_needs = normed.needs || self.into_attention.iter().any(LinearShape::is_trained);
        let mut saved = SavedSublayer { norm, needs: [x.needs, normed.needs, core_needs], ..SavedSublayer::default() };

        let mut made = sim.project(rows, &self.into_attention);
        if keeping && self.into_attention.iter().any(LinearShape::reads_input) {
            saved.input = Some(sim.save(&policy.attn_in, &normed.alloc, (rows, self.hidden), Site::AttnIn));
        }
        if keeping && self.latent > 0 && core_needs {
            saved.latent = Some(sim.save(&SavePolicy::Exact, &sim.tensor(rows * self.latent), (rows, self.latent), Site::KeyLatent));
        }
        let [wide, narrow, values] = [heads.queries * heads.width, heads.keys * heads.width, heads.keys * heads.value];
        let cut = || [wide, narrow, values].map(|width| sim.tensor(rows * width)).to_vec();
        if self.qkv_is_fused {
            made = cut();
        }
        if self.head_norms {
            for (index, (width, site)) in [(wide, Site::QueryNorm), (narrow, Site::KeyNorm)].into_iter().enumerate() {
                let alloc = sim.norm(&made[index], rows * width, self.norm);
                if keeping && core_needs {
                    saved.head_norms.push(sim.save(&policy.norm, &made[index], (rows, width), site));
                }
                made[index] = alloc;
            }
        }
        if self.has_rotary {
            let turned = [sim.rotary(rows * wide), sim.rotary(rows * narrow)];
            made.splice(..2, turned);
        }
        let (out, log_sums) = sim.attention(heads);
        if keeping && core_needs {
            let core = [(&made[0], wide), (&made[1], narrow), (&made[2], values)];
            saved.core = core.map(|(alloc, width)| sim.save(&SavePolicy::Exact, alloc, (rows, width), Site::Core)).into();
            // In f32, whatever the model has.
            saved.core.push(sim.save(&SavePolicy::Exact, &log_sums, (rows, heads.queries * 4 / sim.element), Site::Core));
            saved.output = Some(sim.save(&policy.attn_out, &out, (rows, heads.queries * heads.value), Site::AttnOut));
        }
        let alloc = sim.project(rows, &[self.out_of_attention]).remove(0);
        let sublayer = HiddenState { alloc, needs: core_needs || self.out_of_attention.is_trained() };
        let (sublayer, post_norm) = self.normed(ctx, &sublayer, 1, on(&policy.norm), Site::AttentionPostNorm);
        (sublayer, SavedSublayer { post_norm, ..saved })
    }

    fn attention_backward(&self, ctx: &SimContext<'_>, mut saved: SavedSublayer, dy: &Allocation) -> Option<Allocation> {
        let (sim, rows, heads) = (ctx.sim, ctx.rows(), ctx.heads);
        let elements = rows * self.hidden;
        let dy = saved.post_norm.take().map_or_else(|| dy.clone(), |norm| sim.norm_backward(&norm, dy, elements, self.norms_trained));
        let d_out = sim.project_backward(rows, &[self.out_of_attention], saved.output.as_ref(), &[dy], saved.needs[2])?;
        let out = saved.output.as_ref().map(|out| sim.restore(out));
        let mut made = sim.attention_backward(heads).to_vec();
        drop((d_out, out, saved.output.take()));
        saved.core.clear();
        let [wide, narrow] = [heads.queries * heads.width, heads.keys * heads.width];
        if self.has_rotary {
            made[1] = sim.rotary(rows * narrow);
            made[0] = sim.rotary(rows * wide);
        }
        for (index, norm) in saved.head_norms.drain(..).enumerate().rev() {
            made[index] = sim.norm_backward(&norm, &made[index], rows * [wide, narrow][index], self.norms_trained);
        }
        if self.qkv_is_fused {
            made = vec![sim.tensor(rows * (wide + narrow + heads.keys * heads.value))];
        }
        let d_normed = sim.project_backward(rows, &self.into_attention, saved.input.as_ref(), &made, saved.needs[1])?;
        drop((made, saved.input.take(), saved.latent.take()));
        match saved.norm.take() {
            Some(norm) => Some(sim.norm_backward(&norm, &d_normed, elements, self.norms_trained)),
            None => Some(d_normed),
        }
    }

    fn mlp_sublayer(
        &self,
        ctx: &SimContext<'_>,
        x: &HiddenState,
        policy: &BlockActivations,
        keeping: bool,
    ) -> (HiddenState, SavedSublayer) {
        let (sim, rows) = (ctx.sim, ctx.rows());
        let on = |keep| keeping.then_some(keep);
        // In parallel sublayers both read the output of one norm, and one saved form of it serves both.
        let (normed, norm) = match self.is_parallel {
            true => (x.clone(), None),
            false => self.normed(ctx, x, 2, on(&policy.norm), Site::MlpNorm),
        };
        let core_needs = normed.needs || self.into_mlp.iter().any(LinearShape::is_trained);
        let mut saved = SavedSublayer { norm, needs: [x.needs, normed.needs, core_needs], ..SavedSublayer::default() };
        if keeping && !self.is_parallel && self.into_mlp.iter().any(LinearShape::reads_input) {
            saved.input = Some(sim.save(&policy.mlp_in, &normed.alloc, (rows, self.hidden), Site::MlpIn));
        }
        let elements = rows * self.inner;
        let inner = {
            let _dispatched = (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
            let made = sim.project(self.mlp_rows(rows), &self.into_mlp);
            let (gate, up) = match (self.gate_up_is_fused, made.as_slice()) {
                (true, _) => (sim.tensor(elements), Some(sim.tensor(elements))),
                (false, [gate, up, ..]) => (gate.clone(), Some(up.clone())),
                (false, made) => (made[0].clone(), None),
            };
            if self.gate_up_is_fused {
                drop(made);
            }
            if keeping && core_needs {
                saved.core.push(sim.save(&policy.act, &gate, (rows, self.inner), Site::Gate));
                saved.core.extend(up.as_ref().map(|up| sim.save(&policy.act, up, (rows, self.inner), Site::Up)));
            }
            sim.gated(elements)
        };
        if keeping && self.out_of_mlp.reads_input() {
            saved.output = Some(sim.save(&policy.mlp_out, &inner, (rows, self.inner), Site::MlpOut));
        }
        let _copies = (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
        let alloc = sim.project(rows, &[self.out_of_mlp]).remove(0);
        let sublayer = HiddenState { alloc, needs: core_needs || self.out_of_mlp.is_trained() };
        let (sublayer, post_norm) = self.normed(ctx, &sublayer, 3, on(&policy.norm), Site::MlpPostNorm);
        (sublayer, SavedSublayer { post_norm, ..saved })
    }

    fn mlp_backward(&self, ctx: &SimContext<'_>, mut saved: SavedSublayer, dy: &Allocation) -> Option<Allocation> {
        let (sim, rows) = (ctx.sim, ctx.rows());
        let elements = rows * self.hidden;
        let dy = saved.post_norm.take().map_or_else(|| dy.clone(), |norm| sim.norm_backward(&norm, dy, elements, self.norms_trained));
        let _copies = (self.copies > 0).then(|| sim.tensor(rows * self.copies * self.hidden));
        let inner_linear = LinearShape { inputs: self.out_of_mlp.inputs * self.mlp_rows(rows) / rows, ..self.out_of_mlp };
        let d_inner = sim.project_backward(rows, &[inner_linear], saved.output.as_ref(), &[dy], saved.needs[2])?;
        drop(saved.output.take());
        let inner = rows * self.inner;
        let mut made = match saved.core.as_slice() {
            [gate, up] => sim.gated_backward(gate, up, inner).to_vec(),
            [x] => vec![sim.activate_backward(x, inner)],
            _ => return None,
        };
        drop(d_inner);
        saved.core.clear();
        if self.gate_up_is_fused {
            made = vec![sim.tensor(2 * inner)];
        }
        let d_normed = sim.project_backward(self.mlp_rows(rows), &self.into_mlp, saved.input.as_ref(), &made, saved.needs[1])?;
        drop((made, saved.input.take()));
        match saved.norm.take() {
            Some(norm) => Some(sim.norm_backward(&norm, &d_normed, elements, self.norms_trained)),
            None => Some(d_normed),
        }
    }

    /// Rows that an expert's linears see in all: each token once for each of its experts.
    fn mlp_rows(&self, rows: u64) -> u64 {
        rows * self.copies.max(1)
    }
}
