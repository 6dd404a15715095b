use crate::Ledger;
use autograd::random::derive_seed;
use std::sync::Arc;

/// Where an operation runs: its random stream, the ledger of what is kept, and whether dropout is on.
///
/// The seed is derived from names (step, rank, layer, site), never drawn, so that a repeated forward makes the same choices, and switching one
/// choice off changes no other.
#[derive(Clone, Debug)]
pub struct Scope {
    seed: u64,
    training: bool,
    ledger: Arc<Ledger>,
}

impl Scope {
    /// For a training step: dropout is on.
    pub fn training(seed: u64, ledger: Arc<Ledger>) -> Self {
        Self { seed, training: true, ledger }
    }

    /// For evaluation: dropout is off.
    pub fn evaluation() -> Self {
        Self { seed: 0, training: false, ledger: Arc::default() }
    }

    /// The scope of a part of this one: of a layer, of a site.
    pub fn at(&self, part: u64) -> Self {
        Self { seed: derive_seed(&[self.seed, part]), ..self.clone() }
    }

    /// The seed of the random choices made here.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether dropout is on.
    pub fn is_training(&self) -> bool {
        self.training
    }

    /// Where what is kept is entered.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}
