//! A site's memory as tensors, to be written down and taken up again.

use crate::coded::Basis;
use crate::{Error, Memory};
use std::sync::Arc;
use tch::{Device, Tensor};

const OPERATION: &str = "memory";
/// [`Memory::basis`].
const BASIS: &str = "basis";
/// The vectors of [`Memory::coded_basis`], as they are held.
const VECTORS: &str = "vectors";
/// Their variances, in f64.
const VARIANCES: &str = "variances";

impl Memory {
    /// All that the next matrix's code depends on, by name: copies on the CPU. Empty before the first matrix.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn state(&self) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let copy = |tensor: &Tensor| -> Result<Tensor, Error> {
            let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), Device::Cpu))?;
            copy.f_copy_(tensor)?;
            Ok(copy)
        };
        let mut state = Vec::new();
        if let Some(basis) = self.basis() {
            state.push((BASIS, copy(basis)?));
        }
        if let Some(coded) = self.coded_basis() {
            state.push((VECTORS, copy(&coded.vectors(coded.kind())?)?));
            state.push((VARIANCES, Tensor::f_from_slice(&coded.variances()?)?));
        }
        Ok(state)
    }

    /// The memory that [`Memory::state`] described, on `device`.
    ///
    /// # Errors
    /// [`Error::Setting`] for a part that is unknown or missing, and whatever [`Basis::from_parts`] refuses.
    pub fn from_state<'a>(parts: impl IntoIterator<Item = (&'a str, Tensor)>, device: Device) -> Result<Self, Error> {
        let (mut basis, mut vectors, mut variances) = (None, None, None);
        for (name, tensor) in parts {
            match name {
                BASIS => basis = Some(tensor.f_to_device(device)?),
                VECTORS => vectors = Some(tensor.f_to_device(device)?),
                VARIANCES => variances = Some(Vec::<f64>::try_from(tensor)?),
                _ => return refuse(name),
            }
        }
        let mut memory = basis.map(Self::from_basis).unwrap_or_default();
        match (vectors, variances) {
            (Some(vectors), Some(variances)) => memory.remember_coded(Arc::new(Basis::from_parts(&vectors, &variances)?)),
            (None, None) => {}
            _ => return refuse("a basis without its variances, or the reverse"),
        }
        Ok(memory)
    }
}

fn refuse<T>(got: &str) -> Result<T, Error> {
    Err(Error::Setting { operation: OPERATION, option: "part", expected: "basis, or vectors with variances", got: got.to_owned() })
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
    fn a_memory_taken_up_again_gives_the_same_codes() {
        let coded = Method::Coded { rate: Rate::Bits(2.0), rounding: Rounding::Trellis, drift: 0.0 };
        let methods =
            [Method::Qb { test_matrix: TestMatrix::Warm }, Method::RowSpace { test_matrix: TestMatrix::Warm, unit_rows: true }, coded];
        for (method, factors) in methods.into_iter().flat_map(|method| [(method, Kind::Float), (method, Kind::BFloat16)]) {
            let options = Options { method, factors, ..Options::default() };
            let mut memory = Memory::default();
            assert!(memory.state().unwrap().is_empty());
            for step in 0..3 {
                decompose(&matrix(step), &options, 1, &mut memory).unwrap();
            }
            let state = memory.state().unwrap();
            assert!(!state.is_empty(), "{method:?} has a memory");
            let mut again = Memory::from_state(state, Device::Cpu).unwrap();
            for step in 3..6 {
                let next = |memory| decompose(&matrix(step), &options, 1, memory).unwrap().restore(Kind::Float).unwrap();
                assert_eq!(next(&mut memory), next(&mut again), "{method:?} in {factors:?}, step {step}");
            }
            let cold = decompose(&matrix(5), &options, 1, &mut Memory::default()).unwrap().restore(Kind::Float).unwrap();
            let warm = decompose(&matrix(5), &options, 1, &mut again).unwrap().restore(Kind::Float).unwrap();
            assert_ne!(cold, warm, "{method:?}: the memory matters");
        }
    }

    #[test]
    fn a_part_that_is_unknown_or_missing_is_named() {
        let tensor = || Tensor::zeros([4, 2], (Kind::Float, Device::Cpu));
        for parts in [vec![("base", tensor())], vec![("vectors", tensor())]] {
            assert!(Memory::from_state(parts, Device::Cpu).unwrap_err().to_string().contains("vectors with variances"));
        }
    }
}
