//! Memory without tensors: allocations that are counted, and freed when dropped.

use std::cell::Cell;
use std::rc::Rc;

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
pub(crate) struct MemoryTracker {
    now: Cell<u64>,
    peak: Cell<(u64, StepPhase)>,
    phase: Cell<StepPhase>,
}

impl MemoryTracker {
    pub fn new() -> Rc<Self> {
        Rc::new(Self { now: Cell::new(0), peak: Cell::new((0, StepPhase::Loss)), phase: Cell::new(StepPhase::Loss) })
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
pub(crate) struct Allocation(#[expect(dead_code, reason = "freed when dropped")] Rc<Storage>);

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
