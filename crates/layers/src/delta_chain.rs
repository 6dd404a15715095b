use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Kind, Tensor};

use compression::{Code, Options, decompose};

use crate::{Error, Scope, SiteId};

/// The inputs of a forward's blocks, each coded as its difference from the one before.
///
/// The residual stream changes little from block to block, so that its differences need a fraction
/// of the bits. Each is taken from the sum of all that was *decoded* before it (differential coding
/// in a closed loop), so that an input has the error of its own difference and no others'. Nothing
/// but the codes is held between forward and backward: backward asks for the last input first, for
/// which it adds them all up once, and then takes one off for each block that it goes down.
#[derive(Debug, Default)]
pub(crate) struct DeltaChain(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    codes: Vec<Code>,
    /// Of all codes, in f32: the stream grows from block to block, and bf16's rounding of its end
    /// would drown its beginning.
    sum: Option<Tensor>,
}

/// An input in a chain.
#[derive(Clone, Debug)]
pub(crate) struct DeltaEntry {
    chain: Arc<DeltaChain>,
    index: usize,
    bytes: u64,
    kind: Kind,
    site_id: SiteId,
}

impl State {
    /// The sum of all codes, to be put back; `None` of none.
    fn take_sum(&mut self, kind: Kind) -> Result<Option<Tensor>, Error> {
        if self.sum.is_none() {
            for code in &self.codes {
                let part = decoded(code, kind)?;
                self.sum = Some(match self.sum.take() {
                    None => part,
                    Some(sum) => sum.f_add(&part)?,
                });
            }
        }
        Ok(self.sum.take())
    }
}

/// What a code of a tensor of this kind stands for, as it is summed.
fn decoded(code: &Code, kind: Kind) -> Result<Tensor, Error> {
    Ok(code.restore(kind)?.f_to_kind(summed(kind))?)
}

fn summed(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

impl DeltaChain {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Codes `matrix` `[rows, width]` as the next input.
    pub(crate) fn extend(
        self: &Arc<Self>,
        matrix: &Tensor,
        options: &Options,
        scope: &Scope,
    ) -> Result<DeltaEntry, Error> {
        let (site_id, kind) = (scope.site_id(), matrix.kind());
        let mut state = self.state();
        let sum = state.take_sum(kind)?;
        let difference = match &sum {
            None => matrix.shallow_clone(),
            Some(sum) if sum.size() == matrix.size() => matrix.f_sub(sum)?.f_to_kind(kind)?,
            Some(sum) => {
                return Err(Error::Shape {
                    operation: "difference",
                    expected: format!("{:?} as before", sum.size()),
                    got: matrix.size(),
                });
            }
        };
        // What a difference loses is made up for by the next, so that the least error is what it is
        // coded for.
        let options = Options { keep_norms: options.keep_norms && sum.is_none(), ..*options };
        let coded = scope
            .store()
            .with_state(site_id, |state| decompose(&difference, &options, scope.seed(), state));
        let code = coded.map_err(|source| Error::Compression { site_id, source })?;
        let part = decoded(&code, kind)?;
        state.sum = Some(match sum {
            None => part,
            Some(sum) => sum.f_add(&part)?,
        });
        let entry = DeltaEntry {
            chain: Arc::clone(self),
            index: state.codes.len(),
            bytes: code.bytes(),
            kind,
            site_id,
        };
        state.codes.push(code);
        Ok(entry)
    }

    /// The forward has passed the last block: only the codes are held.
    pub(crate) fn end(&self) {
        self.state().sum = None;
    }
}

impl DeltaEntry {
    /// Bytes of its code.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The input, `[rows, width]`, which leaves the chain with it: backward goes from the last one
    /// to the first, and once.
    pub(crate) fn restore(&self) -> Result<Tensor, Error> {
        let mut state = self.chain.state();
        if state.codes.len() != self.index + 1 {
            return Err(Error::OutOfOrder { site_id: self.site_id });
        }
        let sum = state.take_sum(self.kind)?;
        let (Some(sum), Some(code)) = (sum, state.codes.pop()) else {
            return Err(Error::OutOfOrder { site_id: self.site_id });
        };
        if self.index > 0 {
            state.sum = Some(sum.f_sub(&decoded(&code, self.kind)?)?);
        }
        Ok(sum.f_to_kind(self.kind)?)
    }
}
