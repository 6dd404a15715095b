//! A training step, in sizes.

use super::block::{At, Block, Hidden};
use super::meter::{Meter, Moment};
use super::operations::{Bench, Heads};
use layers::{SavePolicy, Site};
use models::Activations;
use models::config::NormKind;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// A model and its training, in sizes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub blocks: Vec<Block>,
    pub hidden: u64,
    pub vocabulary: u64,
    /// Bytes of an element of weights and hidden states.
    pub element: u64,
    pub norm: NormKind,
    /// Heads; batch and tokens are those of a step.
    pub heads: Heads,
    /// Columns of a head that are turned.
    pub rotary_width: u64,
    /// Whether rows are packed, so that a mask says what belongs together.
    pub is_packed: bool,
    /// Windows that layers have, beside the whole.
    pub windows: Vec<u64>,
    pub head_trained: bool,
    /// Whether the head is held in few bits.
    pub head_packed: bool,
    pub embedding_trained: bool,
    /// Copies of the logits that a multiplier or a cap takes.
    pub logit_copies: u64,
    /// Tokens whose logits exist at a time.
    pub loss_chunk: u64,
    /// What is held all the time.
    pub held: u64,
    /// Elements of the largest trained parameter.
    pub largest_trained: u64,
}

/// What a step comes to.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// What is kept at the end of forward, by site.
    pub sites: BTreeMap<Site, u64>,
    pub peak: u64,
    pub moment: Moment,
}

impl Shape {
    /// A step of `batch` sequences of `tokens` tokens. All but the last token of each have a target.
    pub fn step(&self, batch: u64, tokens: u64, activations: &Activations) -> Course {
        let meter = Meter::new();
        let (rows, targets) = (batch * tokens, batch * (tokens - 1));
        let heads = Heads { batch, tokens, ..self.heads };
        let bench = Bench { meter: meter.clone(), element: self.element, sites: RefCell::default(), is_counting: Cell::new(true) };
        let at = At { bench: &bench, heads };
        let _held = meter.take(self.held);
        // Ids and targets, the rows that have one, and its id; where packed also positions and segments.
        let _inputs = meter.take(8 * (2 * rows + 2 * targets + if self.is_packed { 2 * rows } else { 0 }));
        let positions = if self.is_packed { rows } else { tokens };
        let tables = bench.tensor(positions * self.rotary_width);
        let masks = 1 + self.windows.iter().filter(|window| **window < tokens).count() as u64;
        let masks = if self.is_packed { batch * masks } else { masks - 1 };
        let masks = bench.tensor(masks * tokens * tokens);

        let mut x = Hidden { room: bench.tensor(rows * self.hidden), needs: self.embedding_trained };
        let mut kept = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            meter.enter(Moment::Forward(index));
            let needs = x.needs;
            let (out, of_block) = block.forward(&at, &x, activations.layer(index));
            x = out;
            kept.push((of_block, needs));
        }
        meter.enter(Moment::Loss);
        let d_hidden = self.loss(&bench, targets);
        drop(x);
        bench.is_counting.set(false);

        let mut dy = {
            let _scaled = bench.tensor(targets * self.hidden);
            Some(bench.tensor(rows * self.hidden))
        };
        drop(d_hidden);
        for (index, block) in self.blocks.iter().enumerate().rev() {
            meter.enter(Moment::Backward(index));
            let Some((Some(of_block), needs)) = kept.pop() else { break };
            let Some(gradient) = dy.take() else { break };
            dy = block.backward(&at, of_block, gradient, activations.layer(index), needs);
        }
        if self.embedding_trained {
            drop(bench.tensor(self.vocabulary * self.hidden));
        }
        drop((dy, kept, tables, masks));
        meter.enter(Moment::Optimizer);
        // The squares of a gradient, for the norm of all.
        drop(meter.take(4 * self.largest_trained));
        let (peak, moment) = meter.peak();
        Course { sites: bench.sites.into_inner(), peak, moment }
    }

    /// The loss in chunks; what it keeps.
    fn loss(&self, bench: &Bench, targets: u64) -> [super::operations::Kept; 2] {
        let (hidden, chunk) = (self.hidden, self.loss_chunk.min(targets).max(1));
        let d_hidden = bench.tensor(targets * hidden);
        let d_head = bench.tensor(if self.head_trained { self.vocabulary * hidden } else { 0 });
        {
            let part = bench.tensor(chunk * hidden);
            let normed = bench.norm(&part, chunk * hidden, self.norm);
            let norm = bench.keep(&SavePolicy::Exact, &part, (chunk, hidden), Site::Loss);
            let expanded = || bench.expanded(self.head_packed, self.vocabulary * hidden);
            let logits = {
                let _head = expanded();
                let narrow = bench.tensor(chunk * self.vocabulary);
                let _copies = bench.meter.take(4 * self.logit_copies * chunk * self.vocabulary);
                if bench.element == 4 { narrow } else { bench.meter.take(4 * chunk * self.vocabulary) }
            };
            let normed = self.head_trained.then_some(normed);
            // Their gradient, written over them; in the model's dtype a copy.
            let d_normed = {
                let _head = expanded();
                let _d_logits = (bench.element != 4).then(|| bench.tensor(chunk * self.vocabulary));
                bench.tensor(chunk * hidden)
            };
            let _d_weight = self.head_trained.then(|| bench.tensor(self.vocabulary * hidden));
            drop(normed);
            drop(bench.norm_backward(&norm, &d_normed, chunk * hidden, false));
            drop(logits);
        }
        bench.sites.borrow_mut().remove(&Site::Loss);
        let head = if self.head_trained { (self.vocabulary, hidden) } else { (0, 0) };
        [
            bench.keep(&SavePolicy::Exact, &d_hidden, (targets, hidden), Site::Loss),
            bench.keep(&SavePolicy::Exact, &d_head, head, Site::Loss),
        ]
    }
}
