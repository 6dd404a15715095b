use crate::{Error, Keep, Kept, Scope};
use std::sync::{Arc, Mutex, PoisonError};
use tch::Tensor;

/// Where an operation gets its kept input from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It keeps it, as this policy says.
    Keep(Keep),
    /// It is kept already, by the operation that made it.
    Kept(Kept),
    /// Whichever of several operations needs it first keeps it, for all of them.
    Shared(SharedKeep),
}

impl From<Keep> for Source {
    fn from(keep: Keep) -> Self {
        Self::Keep(keep)
    }
}

impl From<&Keep> for Source {
    fn from(keep: &Keep) -> Self {
        Self::Keep(*keep)
    }
}

impl From<&SharedKeep> for Source {
    fn from(shared: &SharedKeep) -> Self {
        Self::Shared(shared.clone())
    }
}

impl Source {
    /// The kept form of `tensor`. What all users of a shared source hand in must be the same tensor in the same shape.
    pub(crate) fn keep(&self, tensor: &Tensor, scope: &Scope) -> Result<Kept, Error> {
        match self {
            Self::Keep(keep) => keep.keep(tensor, scope),
            Self::Kept(kept) => Ok(kept.clone()),
            Self::Shared(shared) => {
                let mut slot = shared.slot.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(kept) = &*slot {
                    return Ok(kept.clone());
                }
                let kept = shared.keep.keep(tensor, scope)?;
                *slot = Some(kept.clone());
                Ok(kept)
            }
        }
    }
}

/// A tensor that several operations read and one `Kept` serves: made by the first that needs it, or never. Lives as long as the forward that
/// hands it round.
#[derive(Clone, Debug)]
pub struct SharedKeep {
    keep: Keep,
    slot: Arc<Mutex<Option<Kept>>>,
}

impl SharedKeep {
    /// To be kept as `keep` says.
    pub fn new(keep: Keep) -> Self {
        Self { keep, slot: Arc::default() }
    }
}
