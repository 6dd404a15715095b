//! A site's state as tensors, to be saved and loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use tch::{Device, Tensor};

use crate::coded::{AdaptiveBasis, Basis};
use crate::{Error, SiteState};

const OPERATION: &str = "site state";
/// [`SiteState::basis`].
const BASIS: &str = "basis";
/// Of [`SiteState::coded_basis`], and of the one that is being made to replace it.
const CODED: BasisNames = BasisNames { vectors: "vectors", variances: "variances" };
const NEXT: BasisNames = BasisNames { vectors: "next_vectors", variances: "next_variances" };
/// [`SiteState::shared_basis`].
const SHARED: &str = "shared";
/// How the basis follows what it sees.
const FOLLOWS: &str = "follows";

/// The names of a basis's vectors, as they are held, and of their variances, in f64.
struct BasisNames {
    vectors: &'static str,
    variances: &'static str,
}

impl SiteState {
    /// All that the next matrix's code depends on, by name: copies on the CPU. Empty before the
    /// first matrix.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn tensors(&self) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let mut tensors = Vec::new();
        if let Some(basis) = self.basis() {
            tensors.push((BASIS, copy(basis)?));
        }
        if let Some(basis) = self.shared_basis() {
            tensors.push((SHARED, copy(basis)?));
        }
        if let Some(adaptive) = self.adaptive() {
            CODED.write(adaptive.basis(), &mut tensors)?;
            adaptive.next().map_or(Ok(()), |next| NEXT.write(next, &mut tensors))?;
            tensors.push((FOLLOWS, Tensor::f_from_slice(&adaptive.numbers())?));
        }
        Ok(tensors)
    }

    /// The state that [`SiteState::tensors`] gave, on `device`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a part that is unknown or missing, and whatever [`Basis::from_parts`]
    /// refuses.
    pub fn from_tensors<'a>(
        parts: impl IntoIterator<Item = (&'a str, Tensor)>,
        device: Device,
    ) -> Result<Self, Error> {
        let mut parts: BTreeMap<&str, Tensor> = parts.into_iter().collect();
        let basis = parts.remove(BASIS).map(|basis| basis.f_to_device(device)).transpose()?;
        let shared = parts.remove(SHARED).map(|basis| basis.f_to_device(device)).transpose()?;
        let (coded, next) = (CODED.read(&mut parts, device)?, NEXT.read(&mut parts, device)?);
        let numbers = parts.remove(FOLLOWS).map(Vec::<f64>::try_from).transpose()?;
        if let Some(unknown) = parts.keys().next() {
            return refuse(unknown);
        }
        let adaptive = match (coded, numbers) {
            (Some(coded), Some(numbers)) => Some(
                AdaptiveBasis::from_numbers(Arc::new(coded), next, &numbers)
                    .map_or_else(|| refuse("other numbers of a basis"), Ok)?,
            ),
            (None, None) if next.is_none() => None,
            _ => return refuse("a part of a basis without the others"),
        };
        Ok(Self::from_parts(basis, adaptive, shared))
    }
}

impl BasisNames {
    fn write(&self, basis: &Basis, tensors: &mut Vec<(&'static str, Tensor)>) -> Result<(), Error> {
        tensors.push((self.vectors, copy(&basis.vectors(basis.kind())?)?));
        tensors.push((self.variances, Tensor::f_from_slice(&basis.variances()?)?));
        Ok(())
    }

    fn read(
        &self,
        parts: &mut BTreeMap<&str, Tensor>,
        device: Device,
    ) -> Result<Option<Basis>, Error> {
        match (parts.remove(self.vectors), parts.remove(self.variances)) {
            (Some(vectors), Some(variances)) => Ok(Some(Basis::from_parts(
                &vectors.f_to_device(device)?,
                &Vec::<f64>::try_from(variances)?,
            )?)),
            (None, None) => Ok(None),
            _ => refuse("a basis without its variances, or the reverse"),
        }
    }
}

/// On the CPU.
fn copy(tensor: &Tensor) -> Result<Tensor, Error> {
    let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

fn refuse<T>(got: &str) -> Result<T, Error> {
    Err(Error::Setting {
        operation: OPERATION,
        option: "part",
        expected: "basis, shared, or vectors with variances and what follows",
        got: got.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::coded::{Rate, Rounding};
    use crate::{Method, Options, TestMatrix, decompose};
    use tch::Kind;

    /// A matrix of falling spectrum that differs from step to step.
    fn matrix(step: i64) -> Tensor {
        let rows = Tensor::arange(60 * 24, (Kind::Float, Device::Cpu)).view([60, 24]);
        let waves = (rows * (0.37 + 0.01 * step as f64)).sin();
        waves * Tensor::linspace(2.0, 0.1, 24, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn a_loaded_state_gives_the_same_codes() {
        let coded = |drift| Method::Coded {
            rate: Rate::Bits(2.0),
            rounding: Rounding::Trellis,
            drift,
            rotate: true,
        };
        let methods = [
            Method::Qb { test_matrix: TestMatrix::Warm },
            Method::RowSpace { test_matrix: TestMatrix::Warm, unit_rows: true },
            coded(0.0),
            coded(1.1),
            Method::Shared,
        ];
        for (method, factors) in
            methods.into_iter().flat_map(|method| [(method, Kind::Float), (method, Kind::BFloat16)])
        {
            let options = Options { method, factors, ..Options::default() };
            let mut state = SiteState::default();
            assert!(state.tensors().unwrap().is_empty());
            for step in 0..3 {
                state.observe(method == Method::Shared);
                decompose(&matrix(step), &options, 1, &mut state).unwrap();
                if let Some(seen) = state.accumulated().map(Tensor::copy) {
                    state.sync(&seen).unwrap();
                }
            }
            state.observe(false);
            let tensors = state.tensors().unwrap();
            assert!(!tensors.is_empty(), "{method:?} has a state");
            let mut again = SiteState::from_tensors(tensors, Device::Cpu).unwrap();
            for step in 3..6 {
                let next = |state| {
                    decompose(&matrix(step), &options, 1, state)
                        .unwrap()
                        .restore(Kind::Float)
                        .unwrap()
                };
                assert_eq!(
                    next(&mut state),
                    next(&mut again),
                    "{method:?} in {factors:?}, step {step}"
                );
            }
            let cold = decompose(&matrix(5), &options, 1, &mut SiteState::default())
                .unwrap()
                .restore(Kind::Float)
                .unwrap();
            let warm = decompose(&matrix(5), &options, 1, &mut again)
                .unwrap()
                .restore(Kind::Float)
                .unwrap();
            assert_ne!(cold, warm, "{method:?}: the state matters");
        }
    }

    #[test]
    fn a_part_that_is_unknown_or_missing_is_named() {
        let tensor = || Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        for parts in [vec![("base", tensor())], vec![("vectors", tensor())]] {
            assert!(
                SiteState::from_tensors(parts, Device::Cpu)
                    .unwrap_err()
                    .to_string()
                    .contains("vectors with variances")
            );
        }
    }
}
