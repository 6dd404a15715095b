//! Memory without tensors: sizes that are taken and given back.

use std::cell::Cell;
use std::rc::Rc;

/// When, in a step, something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// In the forward of this layer.
    Forward(usize),
    /// In the loss, with the logits of a chunk of tokens.
    Loss,
    /// In the backward of this layer, its recomputation included.
    Backward(usize),
    /// While the optimiser steps.
    Optimizer,
}

/// Counts the bytes that are held, and the most that were.
#[derive(Debug)]
pub(super) struct Meter {
    now: Cell<u64>,
    peak: Cell<(u64, Moment)>,
    moment: Cell<Moment>,
}

impl Meter {
    pub fn new() -> Rc<Self> {
        Rc::new(Self { now: Cell::new(0), peak: Cell::new((0, Moment::Loss)), moment: Cell::new(Moment::Loss) })
    }

    /// Something of so many bytes, held as long as the result or a clone of it.
    pub fn take(self: &Rc<Self>, bytes: u64) -> Room {
        self.now.set(self.now.get() + bytes);
        if self.now.get() > self.peak.get().0 {
            self.peak.set((self.now.get(), self.moment.get()));
        }
        Room(Rc::new(Held { meter: self.clone(), bytes }))
    }

    /// From here on.
    pub fn enter(&self, moment: Moment) {
        self.moment.set(moment);
    }

    /// The most that was held, and when.
    pub fn peak(&self) -> (u64, Moment) {
        self.peak.get()
    }
}

/// The storage of a tensor. A clone shares it, as a view does.
#[derive(Clone, Debug)]
pub(super) struct Room(#[expect(dead_code, reason = "held, and given back when dropped")] Rc<Held>);

#[derive(Debug)]
struct Held {
    meter: Rc<Meter>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.meter.now.set(self.meter.now.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_counts_once_and_the_peak_stays() {
        let meter = Meter::new();
        let first = meter.take(5);
        let view = first.clone();
        meter.enter(Moment::Optimizer);
        drop(meter.take(7));
        drop(first);
        assert_eq!((meter.now.get(), meter.peak()), (5, (12, Moment::Optimizer)));
        drop(view);
        assert_eq!(meter.now.get(), 0);
    }
}
