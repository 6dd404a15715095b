//! The memory of a training step.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use layers::{SavePolicy, Site};
use models::Activations;
use models::config::NormKind;

use crate::block::{Block, HiddenState, SimContext};
use crate::memory_tracker::{MemoryTracker, StepPhase};
use crate::operations::{Heads, MemorySim, SavedTensor};

/// The shapes of a model in training.
#[derive(Clone, Debug)]
pub(crate) struct ModelShape {
    pub blocks: Vec<Block>,
    pub hidden: u64,
    pub vocabulary: u64,
    /// Bytes of an element of weights and hidden states.
    pub element: u64,
    pub norm: NormKind,
    /// Heads; batch and tokens are those of a step.
    pub heads: Heads,
    /// Columns of a head with rotary embeddings.
    pub rotary_width: u64,
    /// Whether rows are packed, with a mask of their segments.
    pub is_packed: bool,
    /// Attention windows of layers.
    pub windows: Vec<u64>,
    pub head_trained: bool,
    /// Whether the head is quantized.
    pub head_quantized: bool,
    pub embedding_trained: bool,
    /// Copies of the logits that a multiplier or a cap takes.
    pub logit_copies: u64,
    /// Tokens whose logits exist at a time.
    pub loss_chunk: u64,
    /// Bytes that are allocated during the whole run.
    pub held: u64,
    /// Elements of the largest trained parameter.
    pub largest_trained: u64,
}

/// The memory that a step needs.
#[derive(Clone, Debug)]
pub(crate) struct StepEstimate {
    /// What is saved at the end of forward, by site.
    pub sites: BTreeMap<Site, u64>,
    pub peak: u64,
    pub phase: StepPhase,
}

impl ModelShape {
    /// A step of `batch` sequences of `tokens` tokens. All but the last token of each have a target.
    pub fn step(&self, batch: u64, tokens: u64, activations: &Activations) -> StepEstimate {
        let tracker = MemoryTracker::new();
        let (rows, targets) = (batch * tokens, batch * (tokens - 1));
        let heads = Heads { batch, tokens, ..self.heads };
        let sim = MemorySim { tracker: tracker.clone(), element: self.element, sites: RefCell::default(), is_counting: Cell::new(true) };
        let ctx = SimContext { sim: &sim, heads };
        let _held = tracker.take(self.held);
        // Ids and targets, the rows that have one, and its id; where packed also positions and segments.
        let _inputs = tracker.take(8 * (2 * rows + 2 * targets + if self.is_packed { 2 * rows } else { 0 }));
        let positions = if self.is_packed { rows } else { tokens };
        let tables = sim.tensor(positions * self.rotary_width);
        let masks = 1 + self.windows.iter().filter(|window| **window < tokens).count() as u64;
        let masks = if self.is_packed { batch * masks } else { masks - 1 };
        let masks = sim.tensor(masks * tokens * tokens);

        let mut x = HiddenState { alloc: sim.tensor(rows * self.hidden), needs: self.embedding_trained };
        let mut saved = Vec::with_capacity(self.blocks.len());
        for (index, block) in self.blocks.iter().enumerate() {
            tracker.enter(StepPhase::Forward(index));
            let needs = x.needs;
            let (out, of_block) = block.forward(&ctx, &x, activations.layer(index));
            x = out;
            saved.push((of_block, needs));
        }
        tracker.enter(StepPhase::Loss);
        let d_hidden = self.loss(&sim, targets);
        drop(x);
        sim.is_counting.set(false);

        let mut dy = {
            let _scaled = sim.tensor(targets * self.hidden);
            Some(sim.tensor(rows * self.hidden))
        };
        drop(d_hidden);
        for (index, block) in self.blocks.iter().enumerate().rev() {
            tracker.enter(StepPhase::Backward(index));
            let Some((Some(of_block), needs)) = saved.pop() else { break };
            let Some(gradient) = dy.take() else { break };
            dy = block.backward(&ctx, of_block, gradient, activations.layer(index), needs);
        }
        if self.embedding_trained {
            drop(sim.tensor(self.vocabulary * self.hidden));
        }
        drop((dy, saved, tables, masks));
        tracker.enter(StepPhase::Optimizer);
        // The squares of a gradient, for the norm of all.
        drop(tracker.take(4 * self.largest_trained));
        let (peak, phase) = tracker.peak();
        StepEstimate { sites: sim.sites.into_inner(), peak, phase }
    }

    /// The loss in chunks; what it saves.
    fn loss(&self, sim: &MemorySim, targets: u64) -> [SavedTensor; 2] {
        let (hidden, chunk) = (self.hidden, self.loss_chunk.min(targets).max(1));
        let d_hidden = sim.tensor(targets * hidden);
        let d_head = sim.tensor(if self.head_trained { self.vocabulary * hidden } else { 0 });
        {
            let part = sim.tensor(chunk * hidden);
            let normed = sim.norm(&part, chunk * hidden, self.norm);
            let norm = sim.save(&SavePolicy::Exact, &part, (chunk, hidden), Site::Loss);
            let dequantized = || sim.dequantized(self.head_quantized, self.vocabulary * hidden);
            let logits = {
                let _head = dequantized();
                let narrow = sim.tensor(chunk * self.vocabulary);
                let _copies = sim.tracker.take(4 * self.logit_copies * chunk * self.vocabulary);
                if sim.element == 4 { narrow } else { sim.tracker.take(4 * chunk * self.vocabulary) }
            };
            let normed = self.head_trained.then_some(normed);
            // Their gradient, written over them; in the model's dtype a copy.
            let d_normed = {
                let _head = dequantized();
                let _d_logits = (sim.element != 4).then(|| sim.tensor(chunk * self.vocabulary));
                sim.tensor(chunk * hidden)
            };
            let _d_weight = self.head_trained.then(|| sim.tensor(self.vocabulary * hidden));
            drop(normed);
            drop(sim.norm_backward(&norm, &d_normed, chunk * hidden, false));
            drop(logits);
        }
        sim.sites.borrow_mut().remove(&Site::Loss);
        let head = if self.head_trained { (self.vocabulary, hidden) } else { (0, 0) };
        [sim.save(&SavePolicy::Exact, &d_hidden, (targets, hidden), Site::Loss), sim.save(&SavePolicy::Exact, &d_head, head, Site::Loss)]
    }
}
