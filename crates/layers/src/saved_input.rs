use std::sync::{Arc, Mutex, PoisonError};

use tch::Tensor;

use crate::{Error, SavePolicy, SavedActivation, Scope};

/// Where an operation gets its saved input from.
#[derive(Clone, Debug)]
pub enum SavedInput {
    /// It saves it itself, as this policy says.
    Policy(SavePolicy),
    /// The operation that made it has saved it already.
    Saved(SavedActivation),
    /// Whichever of several operations needs it first saves it, for all of them.
    Shared(SharedSave),
}

impl From<SavePolicy> for SavedInput {
    fn from(policy: SavePolicy) -> Self {
        Self::Policy(policy)
    }
}

impl From<&SavePolicy> for SavedInput {
    fn from(policy: &SavePolicy) -> Self {
        Self::Policy(*policy)
    }
}

impl From<&SharedSave> for SavedInput {
    fn from(shared: &SharedSave) -> Self {
        Self::Shared(shared.clone())
    }
}

impl SavedInput {
    /// Saves `tensor`, or hands out what was saved already. What all users of a shared save hand in
    /// must be the same tensor in the same shape.
    pub(crate) fn save(&self, tensor: &Tensor, scope: &Scope) -> Result<SavedActivation, Error> {
        match self {
            Self::Policy(policy) => policy.save(tensor, scope),
            Self::Saved(saved) => Ok(saved.clone()),
            Self::Shared(shared) => {
                let mut slot = shared.slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(saved) = &*slot {
                    return Ok(saved.clone());
                }
                let saved = shared.policy.save(tensor, scope)?;
                *slot = Some(saved.clone());
                Ok(saved)
            }
        }
    }
}

/// A tensor that several operations read and one `SavedActivation` serves: made by the first that
/// needs it, or never. Lives as long as the forward that hands it round.
#[derive(Clone, Debug)]
pub struct SharedSave {
    policy: SavePolicy,
    slot: Arc<Mutex<Option<SavedActivation>>>,
}

impl SharedSave {
    /// To be saved as `policy` says.
    pub fn new(policy: SavePolicy) -> Self {
        Self { policy, slot: Arc::default() }
    }
}
