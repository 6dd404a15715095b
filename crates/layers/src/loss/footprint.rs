//! The footprint of the loss over chunks of tokens.

use crate::footprint::{MemorySim, SavedTensor};
use crate::{RmsWeight, SavePolicy, Site};

/// The shapes of the final norm, the head and the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossShape {
    /// Width of hidden states.
    pub hidden: u64,
    /// Entries of the vocabulary.
    pub vocabulary: u64,
    /// Tokens whose logits exist at a time.
    pub chunk: u64,
    /// The weight of the final RMSNorm; `None` for LayerNorm.
    pub norm: Option<RmsWeight>,
    /// Whether the head's weight is trained.
    pub head_trained: bool,
    /// Whether it is quantized.
    pub head_quantized: bool,
    /// Copies of the logits that a multiplier or a cap takes.
    pub logit_copies: u64,
}

impl MemorySim {
    /// The loss in chunks; what it saves.
    pub fn loss(&self, of: &LossShape, targets: u64) -> [SavedTensor; 2] {
        let (hidden, chunk) = (of.hidden, of.chunk.min(targets).max(1));
        let d_hidden = self.tensor(targets * hidden);
        let d_head = self.tensor(if of.head_trained { of.vocabulary * hidden } else { 0 });
        {
            let part = self.tensor(chunk * hidden);
            let normed = self.norm(&part, chunk * hidden, of.norm);
            let norm = self.save(&SavePolicy::Exact, &part, (chunk, hidden), Site::Loss);
            let dequantized = || self.dequantized(of.head_quantized, of.vocabulary * hidden);
            let logits = {
                let _head = dequantized();
                let narrow = self.tensor(chunk * of.vocabulary);
                let _copies = self.tracker.take(4 * of.logit_copies * chunk * of.vocabulary);
                if self.is_wide() { narrow } else { self.tracker.take(4 * chunk * of.vocabulary) }
            };
            let normed = of.head_trained.then_some(normed);
            // Their gradient, written over them; in the model's dtype a copy.
            let d_normed = {
                let _head = dequantized();
                let _d_logits = (!self.is_wide()).then(|| self.tensor(chunk * of.vocabulary));
                self.tensor(chunk * hidden)
            };
            let _d_weight = of.head_trained.then(|| self.tensor(of.vocabulary * hidden));
            drop(normed);
            drop(self.norm_backward(&norm, &d_normed, chunk * hidden, false));
            drop(logits);
        }
        self.sites.borrow_mut().remove(&Site::Loss);
        let head = if of.head_trained { (of.vocabulary, hidden) } else { (0, 0) };
        [
            self.save(&SavePolicy::Exact, &d_hidden, (targets, hidden), Site::Loss),
            self.save(&SavePolicy::Exact, &d_head, head, Site::Loss),
        ]
    }
}
