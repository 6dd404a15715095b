//! A basis that is the same for many matrices, on many ranks. Projected on it, `A ≈ U Vᵀ`, their
//! products `gᵀ A` are multiples of `Vᵀ`: what a sum over them needs is the sum of coefficients `gᵀ
//! U`.

use tch::Tensor;

use crate::inputs::Inputs;
use crate::orthonormalize::orthonormalize;
use crate::row_space::row_space;
use crate::{Error, TestMatrix};

/// The basis of a site, and what it has accumulated since the last sync.
#[derive(Debug)]
pub(crate) struct SharedBasis {
    /// `V` `[columns, rank]`, orthonormal.
    pub vectors: Tensor,
    /// The sum of `Nᵀ N V` over the matrices seen, `N` being a matrix with rows of unit norm: a
    /// step of subspace iteration, to be added up over all ranks.
    pub accumulated: Option<Tensor>,
}

impl SharedBasis {
    /// The row space of one matrix, all tokens weighing the same: the basis until the first sync.
    pub fn from_matrix(inputs: &Inputs<'_>, rank: i64) -> Result<Self, Error> {
        let (rows, columns) = inputs.a.size2()?;
        let known = rank.min(rows);
        let sketch = row_space(inputs, known, TestMatrix::Norm, true)?.right.f_tr()?;
        // Fewer rows than the basis has columns: the rest is arbitrary until the first sync.
        let missing =
            sketch.f_new_zeros([columns, rank - known], (sketch.kind(), sketch.device()))?;
        let vectors = if known == rank {
            sketch.f_contiguous()?
        } else {
            orthonormalize(&Tensor::f_cat(&[sketch, missing], 1)?)?
        };
        Ok(Self { vectors, accumulated: None })
    }

    /// Adds `a`, whose components are `left`, to what was seen.
    pub fn see(&mut self, a: &Tensor, left: &Tensor) -> Result<(), Error> {
        let norms = a.f_square()?.f_sum_dim_intlist(1, true, a.kind())?;
        let empty = norms.f_eq(0.0)?;
        let weighted = left.f_mul(&norms.f_reciprocal()?.f_masked_fill(&empty, 0.0)?)?;
        match &mut self.accumulated {
            Some(seen) => {
                let _ = seen.f_addmm_(&a.f_tr()?, &weighted)?;
            }
            None => self.accumulated = Some(a.f_tr()?.f_matmul(&weighted)?),
        }
        Ok(())
    }

    /// Updates the basis to the space of `sum` `[columns, rank]`, the sum over all ranks: the same
    /// bits wherever that has the same bits.
    pub fn sync(&mut self, sum: &Tensor) -> Result<(), Error> {
        if sum.size() != self.vectors.size() {
            return Err(Error::Shape {
                operation: "agree",
                expected: format!("{:?}", self.vectors.size()),
                got: sum.size(),
            });
        }
        self.vectors = orthonormalize(sum)?;
        self.accumulated = None;
        Ok(())
    }

    pub fn bytes(&self) -> u64 {
        let of = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        of(&self.vectors) + self.accumulated.as_ref().map_or(0, of)
    }
}
