//! A decoder's block, forward and backward, as `models` runs it: what it keeps, and what it holds meanwhile.

use super::meter::Room;
use super::operations::{Bench, Heads, Kept, Map};
use layers::{SavePolicy, Site};
use models::config::NormKind;
use models::{BlockActivations, Recompute};

/// A block, in sizes.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub hidden: u64,
    pub into_attention: Vec<Map>,
    /// Whether one map makes queries, keys and values, so that they are cut apart.
    pub attention_is_cut: bool,
    pub out_of_attention: Map,
    pub into_mlp: Vec<Map>,
    /// Whether one map makes the gate and what it is multiplied with.
    pub mlp_is_cut: bool,
    pub out_of_mlp: Map,
    /// Elements of a gate for each token: in a mixture those of all experts that see it.
    pub inner: u64,
    /// Whether tokens are handed out to experts, each with a copy of its input.
    pub copies: u64,
    pub norm: NormKind,
    pub norms: [bool; 4],
    pub norms_trained: bool,
    pub head_norms: bool,
    pub is_turned: bool,
    pub is_parallel: bool,
    /// Elements for each token of latent forms, which are kept.
    pub latent: u64,
}

/// What a half of a block has kept.
#[derive(Default)]
pub(super) struct KeptHalf {
    norm: Option<Kept>,
    input: Option<Kept>,
    latent: Option<Kept>,
    /// Queries, keys, values and log sums of attention; gate and up of an MLP.
    core: Vec<Kept>,
    head_norms: Vec<Kept>,
    /// The input of the last map.
    output: Option<Kept>,
    post_norm: Option<Kept>,
    /// Whether gradients are asked for: of the half's input, of what its maps read, of what stands between the maps.
    needs: [bool; 3],
}

/// What a block has kept.
pub(super) enum KeptBlock {
    Whole(Box<[KeptHalf; 2]>),
    Recomputed(Kept),
    Halves(Kept, Kept),
}

/// A hidden state, and whether its gradient is asked for.
#[derive(Clone)]
pub(super) struct Hidden {
    pub room: Room,
    pub needs: bool,
}

/// Where a block runs.
pub(super) struct At<'a> {
    pub bench: &'a Bench,
    pub heads: Heads,
}

impl At<'_> {
    fn rows(&self) -> u64 {
        self.heads.batch * self.heads.tokens
    }
}

impl Block {
    fn is_trained(&self) -> bool {
        self.norms_trained || self.maps().any(Map::is_trained)
    }

    fn maps(&self) -> impl Iterator<Item = &Map> {
        self.into_attention.iter().chain([&self.out_of_attention]).chain(&self.into_mlp).chain([&self.out_of_mlp])
    }

    /// The output, and what was kept for backward.
    pub fn forward(&self, at: &At<'_>, x: &Hidden, policy: &BlockActivations) -> (Hidden, Option<KeptBlock>) {
        let (bench, size) = (at.bench, (at.rows(), self.hidden));
        let needs = x.needs || self.is_trained();
        match &policy.recompute {
            Recompute::Nothing => {
                let (out, first, second) = self.whole(at, x, policy, true);
                (out, needs.then_some(KeptBlock::Whole(Box::new([first, second]))))
            }
            Recompute::Layer(keep) => {
                let kept = needs.then(|| KeptBlock::Recomputed(bench.keep(keep, &x.room, size, Site::Layer)));
                let (out, ..) = self.whole(at, x, policy, false);
                (Hidden { needs, ..out }, kept)
            }
            Recompute::Sublayer(keep) => {
                let first = bench.keep(keep, &x.room, size, Site::Attention);
                let between = self.added(at, x, self.attention_half(at, x, policy, false).0);
                let second = match self.is_parallel {
                    true => None,
                    false => Some(bench.keep(keep, &between.room, size, Site::Mlp)),
                };
                let read = if self.is_parallel { x } else { &between };
                let out = self.added(at, &between, self.mlp_half(at, read, policy, false).0);
                let second = second.unwrap_or_else(|| bench.keep(&SavePolicy::Exact, &x.room, (0, 0), Site::Mlp));
                (Hidden { needs, ..out }, needs.then_some(KeptBlock::Halves(first, second)))
            }
        }
    }

    /// The gradient of the block's input from that of its output, if it is asked for.
    pub fn backward(&self, at: &At<'_>, kept: KeptBlock, dy: Room, policy: &BlockActivations, needs: bool) -> Option<Room> {
        match kept {
            KeptBlock::Whole(halves) => {
                let [first, second] = *halves;
                self.whole_backward(at, first, second, dy, false)
            }
            KeptBlock::Recomputed(kept) => {
                let x = Hidden { room: at.bench.restore(&kept), needs };
                let (_out, first, second) = self.whole(at, &x, policy, true);
                self.whole_backward(at, first, second, dy, true)
            }
            KeptBlock::Halves(first, second) => {
                let half = |kept: &Kept, dy: Room, needs: bool, of_attention: bool| {
                    let x = Hidden { room: at.bench.restore(kept), needs };
                    let (half, inner) =
                        if of_attention { self.attention_half(at, &x, policy, true) } else { self.mlp_half(at, &x, policy, true) };
                    let _out = self.added(at, &x, half);
                    let dx = if of_attention { self.attention_backward(at, inner, &dy) } else { self.mlp_backward(at, inner, &dy) };
                    self.joined(at, dy, dx, true)
                };
                let between = half(&second, dy, true, false);
                drop(second);
                let dx = half(&first, between, needs, true);
                needs.then_some(dx)
            }
        }
    }

    /// Both halves, added to the residual stream.
    fn whole(&self, at: &At<'_>, x: &Hidden, policy: &BlockActivations, keeping: bool) -> (Hidden, KeptHalf, KeptHalf) {
        let (half, first) = self.attention_half(at, x, policy, keeping);
        let between = self.added(at, x, half);
        let (half, second) = self.mlp_half(at, if self.is_parallel { x } else { &between }, policy, keeping);
        (self.added(at, &between, half), first, second)
    }

    fn whole_backward(&self, at: &At<'_>, first: KeptHalf, second: KeptHalf, dy: Room, is_held: bool) -> Option<Room> {
        let needs = first.needs[0];
        let dx = self.mlp_backward(at, second, &dy);
        let between = self.joined(at, dy, dx, is_held);
        let dx = self.attention_backward(at, first, &between);
        needs.then(|| self.joined(at, between, dx, false))
    }

    fn added(&self, at: &At<'_>, x: &Hidden, half: Hidden) -> Hidden {
        Hidden { room: at.bench.tensor(at.rows() * self.hidden), needs: x.needs || half.needs }
    }

    /// The gradients of the residual stream and of what a half reads of it: added in place, unless somebody else still holds the first.
    fn joined(&self, at: &At<'_>, residual: Room, half: Option<Room>, is_held: bool) -> Room {
        match half {
            Some(_half) if is_held => at.bench.tensor(at.rows() * self.hidden),
            _ => residual,
        }
    }

    fn normed(&self, at: &At<'_>, x: &Hidden, which: usize, keep: Option<&SavePolicy>, site: Site) -> (Hidden, Option<Kept>) {
        if !self.norms[which] {
            return (x.clone(), None);
        }
        let (rows, needs) = (at.rows(), x.needs || self.norms_trained);
        let room = at.bench.norm(&x.room, rows * self.hidden, self.norm);
        let kept = keep.filter(|_| needs).map(|keep| at.bench.keep(keep, &x.room, (rows, self.hidden), site));
        (Hidden { room, needs }, kept)
    }

    fn attention_half(&self, at: &At<'_>, x: &Hidden, policy: &BlockActivations, keeping: bool) -> (Hidden, KeptHalf) {
        let (bench, rows, heads) = (at.bench, at.rows(), at.heads);
        let on = |keep| keeping.then_some(keep);
        let (normed, norm) = self.normed(at, x, 0, on(&policy.norm), Site::AttentionNorm);
        let core_needs = normed.needs || self.into_attention.iter().any(Map::is_trained);
        let mut kept = KeptHalf { norm, needs: [x.needs, normed.needs, core_needs], ..KeptHalf::default() };

        let mut made = bench.project(rows, &self.into_attention);
        if keeping && self.into_attention.iter().any(Map::reads_input) {
            kept.input = Some(bench.keep(&policy.attn_in, &normed.room, (rows, self.hidden), Site::AttnIn));
        }
        if keeping && self.latent > 0 && core_needs {
            kept.latent = Some(bench.keep(&SavePolicy::Exact, &bench.tensor(rows * self.latent), (rows, self.latent), Site::KeyLatent));
        }
        let [wide, narrow, values] = [heads.queries * heads.width, heads.keys * heads.width, heads.keys * heads.value];
        let cut = || [wide, narrow, values].map(|width| bench.tensor(rows * width)).to_vec();
        if self.attention_is_cut {
            made = cut();
        }
        if self.head_norms {
            for (index, (width, site)) in [(wide, Site::QueryNorm), (narrow, Site::KeyNorm)].into_iter().enumerate() {
                let room = bench.norm(&made[index], rows * width, self.norm);
                if keeping && core_needs {
                    kept.head_norms.push(bench.keep(&policy.norm, &made[index], (rows, width), site));
                }
                made[index] = room;
            }
        }
        if self.is_turned {
            let turned = [bench.rotary(rows * wide), bench.rotary(rows * narrow)];
            made.splice(..2, turned);
        }
        let (out, log_sums) = bench.attention(heads);
        if keeping && core_needs {
            let core = [(&made[0], wide), (&made[1], narrow), (&made[2], values)];
            kept.core = core.map(|(room, width)| bench.keep(&SavePolicy::Exact, room, (rows, width), Site::Core)).into();
            // In f32, whatever the model has.
            kept.core.push(bench.keep(&SavePolicy::Exact, &log_sums, (rows, heads.queries * 4 / bench.element), Site::Core));
            kept.output = Some(bench.keep(&policy.attn_out, &out, (rows, heads.queries * heads.value), Site::AttnOut));
        }
        let room = bench.project(rows, &[self.out_of_attention]).remove(0);
        let half = Hidden { room, needs: core_needs || self.out_of_attention.is_trained() };
        let (half, post_norm) = self.normed(at, &half, 1, on(&policy.norm), Site::AttentionPostNorm);
        (half, KeptHalf { post_norm, ..kept })
    }

    fn attention_backward(&self, at: &At<'_>, mut kept: KeptHalf, dy: &Room) -> Option<Room> {
        let (bench, rows, heads) = (at.bench, at.rows(), at.heads);
        let elements = rows * self.hidden;
        let dy = kept.post_norm.take().map_or_else(|| dy.clone(), |norm| bench.norm_backward(&norm, dy, elements, self.norms_trained));
        let d_out = bench.project_backward(rows, &[self.out_of_attention], kept.output.as_ref(), &[dy], kept.needs[2])?;
        let out = kept.output.as_ref().map(|out| bench.restore(out));
        let mut made = bench.attention_backward(heads).to_vec();
        drop((d_out, out, kept.output.take()));
        kept.core.clear();
        let [wide, narrow] = [heads.queries * heads.width, heads.keys * heads.width];
        if self.is_turned {
            made[1] = bench.rotary(rows * narrow);
            made[0] = bench.rotary(rows * wide);
        }
        for (index, norm) in kept.head_norms.drain(..).enumerate().rev() {
            made[index] = bench.norm_backward(&norm, &made[index], rows * [wide, narrow][index], self.norms_trained);
        }
        if self.attention_is_cut {
            made = vec![bench.tensor(rows * (wide + narrow + heads.keys * heads.value))];
        }
        let d_normed = bench.project_backward(rows, &self.into_attention, kept.input.as_ref(), &made, kept.needs[1])?;
        drop((made, kept.input.take(), kept.latent.take()));
        match kept.norm.take() {
            Some(norm) => Some(bench.norm_backward(&norm, &d_normed, elements, self.norms_trained)),
            None => Some(d_normed),
        }
    }

    fn mlp_half(&self, at: &At<'_>, x: &Hidden, policy: &BlockActivations, keeping: bool) -> (Hidden, KeptHalf) {
        let (bench, rows) = (at.bench, at.rows());
        let on = |keep| keeping.then_some(keep);
        // In parallel halves both read the output of one norm, and one kept form of it serves both.
        let (normed, norm) = match self.is_parallel {
            true => (x.clone(), None),
            false => self.normed(at, x, 2, on(&policy.norm), Site::MlpNorm),
        };
        let core_needs = normed.needs || self.into_mlp.iter().any(Map::is_trained);
        let mut kept = KeptHalf { norm, needs: [x.needs, normed.needs, core_needs], ..KeptHalf::default() };
        if keeping && !self.is_parallel && self.into_mlp.iter().any(Map::reads_input) {
            kept.input = Some(bench.keep(&policy.mlp_in, &normed.room, (rows, self.hidden), Site::MlpIn));
        }
        let elements = rows * self.inner;
        let inner = {
            let _handed_out = (self.copies > 0).then(|| bench.tensor(rows * self.copies * self.hidden));
            let made = bench.project(self.mlp_rows(rows), &self.into_mlp);
            let (gate, up) = match (self.mlp_is_cut, made.as_slice()) {
                (true, _) => (bench.tensor(elements), Some(bench.tensor(elements))),
                (false, [gate, up, ..]) => (gate.clone(), Some(up.clone())),
                (false, made) => (made[0].clone(), None),
            };
            if self.mlp_is_cut {
                drop(made);
            }
            if keeping && core_needs {
                kept.core.push(bench.keep(&policy.act, &gate, (rows, self.inner), Site::Gate));
                kept.core.extend(up.as_ref().map(|up| bench.keep(&policy.act, up, (rows, self.inner), Site::Up)));
            }
            bench.gated(elements)
        };
        if keeping && self.out_of_mlp.reads_input() {
            kept.output = Some(bench.keep(&policy.mlp_out, &inner, (rows, self.inner), Site::MlpOut));
        }
        let _copies = (self.copies > 0).then(|| bench.tensor(rows * self.copies * self.hidden));
        let room = bench.project(rows, &[self.out_of_mlp]).remove(0);
        let half = Hidden { room, needs: core_needs || self.out_of_mlp.is_trained() };
        let (half, post_norm) = self.normed(at, &half, 3, on(&policy.norm), Site::MlpPostNorm);
        (half, KeptHalf { post_norm, ..kept })
    }

    fn mlp_backward(&self, at: &At<'_>, mut kept: KeptHalf, dy: &Room) -> Option<Room> {
        let (bench, rows) = (at.bench, at.rows());
        let elements = rows * self.hidden;
        let dy = kept.post_norm.take().map_or_else(|| dy.clone(), |norm| bench.norm_backward(&norm, dy, elements, self.norms_trained));
        let _copies = (self.copies > 0).then(|| bench.tensor(rows * self.copies * self.hidden));
        let inner_map = Map { inputs: self.out_of_mlp.inputs * self.mlp_rows(rows) / rows, ..self.out_of_mlp };
        let d_inner = bench.project_backward(rows, &[inner_map], kept.output.as_ref(), &[dy], kept.needs[2])?;
        drop(kept.output.take());
        let inner = rows * self.inner;
        let mut made = match kept.core.as_slice() {
            [gate, up] => bench.gated_backward(gate, up, inner).to_vec(),
            [x] => vec![bench.activate_backward(x, inner)],
            _ => return None,
        };
        drop(d_inner);
        kept.core.clear();
        if self.mlp_is_cut {
            made = vec![bench.tensor(2 * inner)];
        }
        let d_normed = bench.project_backward(self.mlp_rows(rows), &self.into_mlp, kept.input.as_ref(), &made, kept.needs[1])?;
        drop((made, kept.input.take()));
        match kept.norm.take() {
            Some(norm) => Some(bench.norm_backward(&norm, &d_normed, elements, self.norms_trained)),
            None => Some(d_normed),
        }
    }

    /// Rows that an expert's maps see in all: each token once for each of its experts.
    fn mlp_rows(&self, rows: u64) -> u64 {
        rows * self.copies.max(1)
    }
}
