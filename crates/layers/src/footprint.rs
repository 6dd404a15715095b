//! Footprints: what the operations of this crate allocate, save and free, without tensors.
//!
//! A footprint stands in the file of its operation, as a method of [`MemorySim`], and follows it
//! line by line, so that it allocates and frees in the same order: [`MemorySim::norm`] in
//! `rms_norm.rs`, [`MemorySim::project`] in `linear/footprint.rs`, and so on. Who changes an
//! operation changes its footprint; a program that sums them knows the peak of a step before
//! anything is loaded.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::Site;
pub use crate::attention::footprint::Heads;
pub use crate::linear::footprint::LinearShape;
pub use crate::loss::footprint::LossShape;
pub use crate::saved_activation::footprint::SavedTensor;

/// Simulates operations by what they allocate.
pub struct MemorySim {
    /// What is allocated.
    pub tracker: Rc<MemoryTracker>,
    /// Bytes of an element of hidden states.
    pub element: u64,
    /// Bytes saved at each site.
    pub sites: RefCell<BTreeMap<Site, u64>>,
    /// Whether bytes are counted by site, as in forward.
    pub is_counting: Cell<bool>,
}

/// f32, in which norms and scores are computed.
pub(crate) const WIDE: u64 = 4;

impl MemorySim {
    /// Nothing is allocated yet; elements of hidden states have this many bytes.
    pub fn new(element: u64) -> Self {
        Self {
            tracker: MemoryTracker::new(),
            element,
            sites: RefCell::default(),
            is_counting: Cell::new(true),
        }
    }

    /// Whether the model's dtype is f32.
    pub(crate) fn is_wide(&self) -> bool {
        self.element == WIDE
    }

    /// A tensor of the model's dtype.
    pub fn tensor(&self, elements: u64) -> Allocation {
        self.tracker.take(elements * self.element)
    }

    pub(crate) fn wide(&self, elements: u64) -> Allocation {
        self.tracker.take(elements * WIDE)
    }

    /// A tensor as f32: itself, if it is.
    pub(crate) fn widened(&self, x: &Allocation, elements: u64) -> Allocation {
        if self.is_wide() { x.clone() } else { self.wide(elements) }
    }

    /// An f32 tensor in the model's dtype: itself, if it has it.
    pub(crate) fn narrowed(&self, x: Allocation, elements: u64) -> Allocation {
        if self.is_wide() { x } else { self.tensor(elements) }
    }
}

/// A phase of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPhase {
    /// The forward of this layer.
    Forward(usize),
    /// The loss, with the logits of a chunk of tokens.
    Loss,
    /// The backward of this layer, its recomputation included.
    Backward(usize),
    /// The optimizer step.
    Optimizer,
}

/// Counts the bytes that are allocated, and their peak.
#[derive(Debug)]
pub struct MemoryTracker {
    now: Cell<u64>,
    peak: Cell<(u64, StepPhase)>,
    phase: Cell<StepPhase>,
}

impl MemoryTracker {
    /// Nothing is allocated yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(0),
            peak: Cell::new((0, StepPhase::Loss)),
            phase: Cell::new(StepPhase::Loss),
        })
    }

    /// Allocates `bytes`, until the result and all its clones are dropped.
    pub fn take(self: &Rc<Self>, bytes: u64) -> Allocation {
        self.now.set(self.now.get() + bytes);
        if self.now.get() > self.peak.get().0 {
            self.peak.set((self.now.get(), self.phase.get()));
        }
        Allocation(Rc::new(Storage { tracker: self.clone(), bytes }))
    }

    /// Starts a phase.
    pub fn enter(&self, phase: StepPhase) {
        self.phase.set(phase);
    }

    /// The peak, and its phase.
    pub fn peak(&self) -> (u64, StepPhase) {
        self.peak.get()
    }
}

/// The storage of a tensor. A clone shares it, as a view does.
#[derive(Clone, Debug)]
pub struct Allocation(#[expect(dead_code, reason = "freed when dropped")] Rc<Storage>);

#[derive(Debug)]
struct Storage {
    tracker: Rc<MemoryTracker>,
    bytes: u64,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.tracker.now.set(self.tracker.now.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_storage_counts_once_and_the_peak_stays() {
        let tracker = MemoryTracker::new();
        let first = tracker.take(5);
        let view = first.clone();
        tracker.enter(StepPhase::Optimizer);
        drop(tracker.take(7));
        drop(first);
        assert_eq!((tracker.now.get(), tracker.peak()), (5, (12, StepPhase::Optimizer)));
        drop(view);
        assert_eq!(tracker.now.get(), 0);
    }
}
