use tch::{Kind, Tensor};

use crate::coded::Coded;
use crate::{Error, Factors, Quantized};

/// A matrix in compressed form.
#[derive(Debug)]
pub enum Code {
    /// The product of two thin matrices.
    Factors(Factors),
    /// Small integers with scales.
    Quantized(Quantized),
    /// Components of an orthonormal basis, each with its own number of bits.
    Coded(Coded),
}

impl Code {
    /// The same code, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Factors(factors) => Self::Factors(factors.shallow_clone()),
            Self::Quantized(quantized) => Self::Quantized(quantized.shallow_clone()),
            Self::Coded(coded) => Self::Coded(coded.shallow_clone()),
        }
    }

    /// The tensors it holds, as they are held; not the basis of [`Code::Coded`], which others may
    /// share.
    pub fn tensors(&self) -> Vec<&Tensor> {
        match self {
            Self::Factors(factors) => factors.tensors(),
            Self::Quantized(quantized) => quantized.tensors(),
            Self::Coded(coded) => coded.tensors(),
        }
    }

    /// Bytes held, without the basis of [`Code::Coded`], or one that [`Factors`] share.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Factors(factors) => factors.bytes(),
            Self::Quantized(quantized) => quantized.bytes(),
            Self::Coded(coded) => coded.bytes(),
        }
    }

    /// The number of components, where the code has such.
    pub fn rank(&self) -> Option<i64> {
        match self {
            Self::Factors(factors) => Some(factors.rank()),
            Self::Quantized(_) | Self::Coded(_) => None,
        }
    }

    /// The matrix it stands for, `[rows, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        match self {
            Self::Factors(factors) => factors.restore(kind),
            Self::Quantized(quantized) => quantized.restore(kind),
            Self::Coded(coded) => coded.restore(kind),
        }
    }

    /// `gᵀ A` `[m, columns]` for a gradient `g` `[rows, m]`, in `g`'s dtype.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        match self {
            Self::Factors(factors) => factors.contract(gradient),
            Self::Quantized(quantized) => quantized.contract(gradient),
            Self::Coded(coded) => coded.contract(gradient),
        }
    }

    /// `A wᵀ` `[rows, m]` for a weight `w` `[m, columns]`, in `w`'s dtype.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        match self {
            Self::Factors(factors) => factors.project(weight),
            Self::Quantized(quantized) => quantized.project(weight),
            Self::Coded(coded) => coded.project(weight),
        }
    }
}
