use std::sync::Arc;

use autograd::random::derive_seed;

use crate::delta_chain::DeltaChain;
use crate::{ActivationStore, SavedBytes, Site, SiteId};

/// Where an operation runs: its site in the model, its random stream, what the sites share, and
/// whether dropout is on.
///
/// The seed is derived from names (step, rank, layer, site), never drawn, so that a repeated
/// forward makes the same choices, and switching one choice off changes no other.
#[derive(Clone, Debug)]
pub struct Scope {
    seed: u64,
    training: bool,
    site_id: SiteId,
    store: Arc<ActivationStore>,
    chain: Arc<DeltaChain>,
}

impl Scope {
    /// For one forward of a training step: dropout is on.
    pub fn training(seed: u64, store: Arc<ActivationStore>) -> Self {
        Self { seed, training: true, site_id: SiteId::default(), store, chain: Arc::default() }
    }

    /// For evaluation: dropout is off.
    pub fn evaluation() -> Self {
        Self {
            seed: 0,
            training: false,
            site_id: SiteId::default(),
            store: Arc::default(),
            chain: Arc::default(),
        }
    }

    /// The scope of a layer of the model.
    pub fn layer(&self, index: usize) -> Self {
        Self { site_id: SiteId { layer: Some(index), site: None }, ..self.at(index as u64) }
    }

    /// The scope of a site of this layer.
    pub fn site(&self, site: Site) -> Self {
        Self { site_id: SiteId { site: Some(site), ..self.site_id }, ..self.at(site as u64) }
    }

    /// The same site with a random stream of its own for the `part`-th of several alike.
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
    pub fn site_id(&self) -> SiteId {
        self.site_id
    }

    /// What all sites share.
    pub fn store(&self) -> &ActivationStore {
        &self.store
    }

    /// The same scope for blocks whose inputs are no differences from those before: the width of
    /// the residual stream changes there.
    pub fn stage(&self) -> Self {
        Self { chain: Arc::default(), ..self.clone() }
    }

    /// Says that the forward has passed the last block, and what only the next would have needed is
    /// freed.
    pub fn end_of_blocks(&self) {
        self.chain.end();
    }

    /// The inputs of blocks that are saved as deltas.
    pub(crate) fn delta_chain(&self) -> &Arc<DeltaChain> {
        &self.chain
    }

    /// The count of the bytes saved for backward.
    pub fn saved_bytes(&self) -> &Arc<SavedBytes> {
        self.store.saved_bytes()
    }
}
