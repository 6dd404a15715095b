//! The memory of a training step.

use std::collections::BTreeMap;

use layers::Site;
use layers::footprint::StepPhase;
use models::{Activations, DecoderShape};

/// What is allocated in a training step.
#[derive(Clone, Debug)]
pub(crate) struct StepShape {
    pub decoder: DecoderShape,
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

impl StepShape {
    /// A step of `batch` sequences of `tokens` tokens.
    pub fn step(&self, batch: u64, tokens: u64, activations: &Activations) -> StepEstimate {
        let sim = self.decoder.sim();
        let _held = sim.tracker.take(self.held);
        self.decoder.step(&sim, (batch, tokens), activations);
        sim.tracker.enter(StepPhase::Optimizer);
        // The squares of a gradient, for the norm of all.
        drop(sim.tracker.take(4 * self.largest_trained));
        let (peak, phase) = sim.tracker.peak();
        StepEstimate { sites: sim.sites.into_inner(), peak, phase }
    }
}
