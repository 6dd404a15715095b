use crate::ledger::Entry;
use crate::{Error, Place, Scope};
use lowrank::{Code, Options, decompose};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Kind, Tensor};

/// The inputs of a forward's blocks, each coded as its difference from the one before.
///
/// The residual stream changes little from block to block, so that its differences need a fraction of the bits. Each is taken from the sum of
/// all that was *decoded* before it (differential coding in a closed loop), so that an input has the error of its own difference and no
/// others'. Beside the codes the sum itself is held: backward asks for the last input first, which is the sum, and takes one difference off
/// for each block that it goes down.
#[derive(Debug, Default)]
pub(crate) struct Chain(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    links: usize,
    /// Of the first `links` differences.
    sum: Option<(Tensor, Entry)>,
}

/// An input in a chain.
#[derive(Debug)]
pub(crate) struct Link {
    chain: Arc<Chain>,
    index: usize,
    code: Code,
    kind: Kind,
    place: Place,
}

impl Chain {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Codes `matrix` `[rows, width]` as the next input.
    pub(crate) fn extend(self: &Arc<Self>, matrix: &Tensor, options: &Options, scope: &Scope) -> Result<Link, Error> {
        let place = scope.place();
        let mut state = self.state();
        let first = state.sum.is_none();
        let difference = match &state.sum {
            None => matrix.shallow_clone(),
            Some((sum, _)) if sum.size() == matrix.size() => matrix.f_sub(sum)?,
            Some((sum, _)) => {
                return Err(Error::Shape { operation: "difference", expected: format!("{:?} as before", sum.size()), got: matrix.size() });
            }
        };
        // What a difference loses is made up for by the next, so that the least error is what it is coded for.
        let options = Options { keep_norms: options.keep_norms && first, ..*options };
        let coded = scope.sites().with_memory(place, |memory| decompose(&difference, &options, scope.seed(), memory));
        let code = coded.map_err(|source| Error::Compression { place, source })?;
        let decoded = code.restore(matrix.kind())?;
        state.sum = Some(match state.sum.take() {
            None => {
                let bytes = (decoded.numel() * decoded.kind().elt_size_in_bytes()) as u64;
                (decoded, scope.ledger().enter(bytes, 0))
            }
            Some((sum, entry)) => (sum.f_add(&decoded)?, entry),
        });
        let index = state.links;
        state.links += 1;
        Ok(Link { chain: Arc::clone(self), index, code, kind: matrix.kind(), place })
    }
}

impl Link {
    /// The same link, sharing its storage.
    pub(crate) fn shallow_clone(&self) -> Self {
        Self { chain: Arc::clone(&self.chain), code: self.code.shallow_clone(), ..*self }
    }

    /// Bytes of its code.
    pub(crate) fn bytes(&self) -> u64 {
        self.code.bytes()
    }

    /// The input, `[rows, width]`, which leaves the chain with it: backward goes from the last one to the first, and once.
    pub(crate) fn restore(&self) -> Result<Tensor, Error> {
        let mut state = self.chain.state();
        let next = state.links == self.index + 1;
        let Some((sum, entry)) = state.sum.take_if(|_| next) else { return Err(Error::OutOfOrder { place: self.place }) };
        state.links = self.index;
        if self.index > 0 {
            state.sum = Some((sum.f_sub(&self.code.restore(self.kind)?)?, entry));
        }
        Ok(sum)
    }
}
