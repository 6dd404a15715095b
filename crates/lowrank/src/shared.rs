//! Projections on a basis that is the same for many matrices, on many ranks: what a sum over them needs is then the sum of coefficients.

use crate::decompose::Inputs;
use crate::orthonormalize::orthonormalize;
use crate::rounded::Rounded;
use crate::row_space::row_space;
use crate::{Error, TestMatrix};
use tch::{Kind, Tensor};

/// A matrix as its components in a basis that others hold too: `A ≈ U Vᵀ`.
///
/// Its products are multiples of `Vᵀ`: a sum of [`Shared::contract`] over matrices, or over ranks, is the sum of `gᵀ U`, times `Vᵀ`.
#[derive(Debug)]
pub struct Shared {
    /// `[rows, rank]`
    left: Rounded,
    /// `[columns, rank]`, which the site's [`Memory`](crate::Memory) holds.
    basis: Tensor,
}

impl Shared {
    pub(crate) fn new(left: &Tensor, basis: &Tensor, kind: Kind) -> Result<Self, Error> {
        Ok(Self { left: Rounded::new(left, kind, 1)?, basis: basis.shallow_clone() })
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        Self { left: self.left.shallow_clone(), basis: self.basis.shallow_clone() }
    }

    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.left.tensors().collect()
    }

    /// The basis `V` `[columns, rank]`, orthonormal, in f32 (f64 for matrices in f64).
    pub fn basis(&self) -> &Tensor {
        &self.basis
    }

    /// Bytes held, as [`Shared::bytes_of`].
    pub fn bytes(&self) -> u64 {
        self.left.bytes()
    }

    /// Bytes of the components of `rows` rows, without the basis: `rank · rows · bytes of the dtype`, and for int8 `2 · rows` more for the scales.
    pub fn bytes_of(rows: i64, rank: i64, kind: Kind) -> u64 {
        let scales = if kind == Kind::Int8 { Kind::BFloat16.elt_size_in_bytes() } else { 0 };
        rows as u64 * (rank as u64 * kind.elt_size_in_bytes() as u64 + scales as u64)
    }

    pub(crate) fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        Ok(self.left.to_kind(kind)?.f_matmul(&self.right(kind)?)?)
    }

    pub(crate) fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        let kind = gradient.kind();
        let coefficients = gradient.f_tr()?.f_matmul(&self.left.to_kind(kind)?)?;
        Ok(coefficients.f_matmul(&self.right(kind)?)?)
    }

    pub(crate) fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        let kind = weight.kind();
        let small = self.right(kind)?.f_matmul(&weight.f_tr()?)?;
        Ok(self.left.to_kind(kind)?.f_matmul(&small)?)
    }

    /// `Vᵀ` `[rank, columns]`.
    fn right(&self, kind: Kind) -> Result<Tensor, Error> {
        Ok(self.basis.f_to_kind(kind)?.f_tr()?)
    }
}

/// The basis of a site, and what it has seen since that was agreed on.
#[derive(Debug)]
pub(crate) struct SharedBasis {
    /// `V` `[columns, rank]`, orthonormal.
    pub vectors: Tensor,
    /// The sum of `Nᵀ N V` over the matrices seen, `N` being a matrix with rows of unit norm: a step of subspace iteration, to be added up over
    /// all ranks.
    pub seen: Option<Tensor>,
}

impl SharedBasis {
    /// The row space of one matrix, every token having the same say, for want of a better one.
    pub fn of(inputs: &Inputs<'_>, rank: i64) -> Result<Self, Error> {
        let (rows, columns) = inputs.a.size2()?;
        let known = rank.min(rows);
        let sketch = row_space(inputs, known, TestMatrix::Norm, true)?.right.f_tr()?;
        // Fewer rows than the basis has columns: the rest is arbitrary, until it is agreed on.
        let missing = sketch.f_new_zeros([columns, rank - known], (sketch.kind(), sketch.device()))?;
        let vectors = if known == rank { sketch.f_contiguous()? } else { orthonormalize(&Tensor::f_cat(&[sketch, missing], 1)?)? };
        Ok(Self { vectors, seen: None })
    }

    /// Adds `a`, whose components are `left`, to what was seen.
    pub fn see(&mut self, a: &Tensor, left: &Tensor) -> Result<(), Error> {
        let norms = a.f_square()?.f_sum_dim_intlist(1, true, a.kind())?;
        let empty = norms.f_eq(0.0)?;
        let weighted = left.f_mul(&norms.f_reciprocal()?.f_masked_fill(&empty, 0.0)?)?;
        match &mut self.seen {
            Some(seen) => {
                let _ = seen.f_addmm_(&a.f_tr()?, &weighted)?;
            }
            None => self.seen = Some(a.f_tr()?.f_matmul(&weighted)?),
        }
        Ok(())
    }

    /// Turns to the space of what all have seen, `sum` `[columns, rank]`: the same bits wherever that has the same bits.
    pub fn agree(&mut self, sum: &Tensor) -> Result<(), Error> {
        if sum.size() != self.vectors.size() {
            return Err(Error::Shape { operation: "agree", expected: format!("{:?}", self.vectors.size()), got: sum.size() });
        }
        self.vectors = orthonormalize(sum)?;
        self.seen = None;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        let of = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        of(&self.vectors) + self.seen.as_ref().map_or(0, of)
    }
}
