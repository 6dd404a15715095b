use crate::chain::Chain;
use crate::{Ledger, Place, Site, Sites};
use autograd::random::derive_seed;
use std::sync::Arc;

/// Where an operation runs: its place in the model, its random stream, what the sites share, and whether dropout is on.
///
/// The seed is derived from names (step, rank, layer, site), never drawn, so that a repeated forward makes the same choices, and switching one
/// choice off changes no other.
#[derive(Clone, Debug)]
pub struct Scope {
    seed: u64,
    training: bool,
    place: Place,
    sites: Arc<Sites>,
    chain: Arc<Chain>,
}

impl Scope {
    /// For one forward of a training step: dropout is on.
    pub fn training(seed: u64, sites: Arc<Sites>) -> Self {
        Self { seed, training: true, place: Place::default(), sites, chain: Arc::default() }
    }

    /// For evaluation: dropout is off.
    pub fn evaluation() -> Self {
        Self { seed: 0, training: false, place: Place::default(), sites: Arc::default(), chain: Arc::default() }
    }

    /// The scope of a layer of the model.
    pub fn layer(&self, index: usize) -> Self {
        Self { place: Place { layer: Some(index), site: None }, ..self.at(index as u64) }
    }

    /// The scope of a site of this layer.
    pub fn site(&self, site: Site) -> Self {
        Self { place: Place { site: Some(site), ..self.place }, ..self.at(site as u64) }
    }

    /// The same place with a random stream of its own for the `part`-th of several alike.
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

    /// Where in the model this is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// What all sites share.
    pub fn sites(&self) -> &Sites {
        &self.sites
    }

    /// The same scope for blocks whose inputs are no differences from those before: the width of the residual stream changes there.
    pub fn stage(&self) -> Self {
        Self { chain: Arc::default(), ..self.clone() }
    }

    /// Says that the forward has passed the last block, and what only the next would have needed is freed.
    pub fn end_of_blocks(&self) {
        self.chain.end();
    }

    /// The inputs of blocks that are kept as differences.
    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Where what is kept is entered.
    pub fn ledger(&self) -> &Arc<Ledger> {
        self.sites.ledger()
    }
}
