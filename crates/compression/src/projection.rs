use tch::{Kind, Tensor};

use crate::Error;
use crate::linalg::ready;
use crate::orthonormalize::{basis, orthonormalize};

/// Which factor is an orthonormal basis, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// The columns of the left factor are, and the right one is `leftᵀ A`.
    Left,
    /// The rows of the right factor are, and the left one is `A rightᵀ`.
    Right,
    /// Neither: the product is no orthogonal projection.
    Neither,
}

/// `A ≈ left · right` as a method found it, before it is rounded.
#[derive(Debug)]
pub(crate) struct Projection {
    pub left: Tensor,
    pub right: Tensor,
    pub basis: Basis,
}

impl Projection {
    /// Onto the orthonormal columns of `q` `[rows, rank]`.
    pub(crate) fn onto_columns(a: &Tensor, q: Tensor) -> Result<Self, Error> {
        let right = q.f_tr()?.f_matmul(a)?;
        Ok(Self { left: q, right, basis: Basis::Left })
    }

    /// Onto the orthonormal columns of `v` `[columns, rank]`.
    pub(crate) fn onto_rows(a: &Tensor, v: &Tensor) -> Result<Self, Error> {
        Ok(Self { left: a.f_matmul(v)?, right: v.f_tr()?, basis: Basis::Right })
    }

    /// The projection of `a` onto the row space of this one, after a power iteration: `V ← orth(Aᵀ
    /// A V)`.
    pub(crate) fn sharpened(self, a: &Tensor) -> Result<Self, Error> {
        let own = if self.basis == Basis::Right {
            self
        } else {
            Self::onto_rows(a, &basis(&self.right.f_tr()?.f_contiguous()?)?)?
        };
        Self::onto_rows(a, &basis(&a.f_tr()?.f_matmul(&own.left)?)?)
    }

    /// Turned so that the components are ordered by what they hold, most first, and cut to the
    /// first `rank` of them: the best of that rank within the same basis.
    pub(crate) fn cut(self, rank: i64) -> Result<Self, Error> {
        let Self { left, right, basis } = self;
        let kind = left.kind();
        let loaded = match basis {
            Basis::Left => right.f_tr()?,
            _ => left.shallow_clone(),
        };
        let turn = leading_eigenvectors(&gram(&loaded)?, rank)?.f_to_kind(kind)?;
        Ok(Self { left: left.f_matmul(&turn)?, right: turn.f_tr()?.f_matmul(&right)?, basis })
    }

    /// The same product with an orthonormal right factor. With one scale per row, small integers
    /// can then hold the left one: otherwise its components differ by as much as the singular
    /// values do, and errors that would cancel no longer do.
    pub(crate) fn balanced(self) -> Result<Self, Error> {
        if self.basis == Basis::Right {
            return Ok(self);
        }
        let v = orthonormalize(&self.right.f_tr()?)?;
        Ok(Self {
            left: self.left.f_matmul(&self.right.f_matmul(&v)?)?,
            right: v.f_tr()?,
            basis: Basis::Neither,
        })
    }

    /// The first `rank` components.
    pub(crate) fn first(self, rank: i64) -> Result<Self, Error> {
        Ok(Self {
            left: self.left.f_narrow(1, 0, rank)?,
            right: self.right.f_narrow(0, 0, rank)?,
            basis: self.basis,
        })
    }

    /// `‖(left right)_i‖²` for each row, `[rows, 1]`, without the product being formed.
    pub(crate) fn row_energies(&self) -> Result<Tensor, Error> {
        let (left, right) = (&self.left, &self.right);
        let shares = match self.basis {
            Basis::Right => left.f_square()?,
            _ => left.f_matmul(&right.f_matmul(&right.f_tr()?)?)?.f_mul(left)?,
        };
        Ok(shares.f_sum_dim_intlist(1, true, left.kind())?)
    }
}

/// `mᵀ m` in f64: in f32, a tail below 3e-4 of the largest singular value would drown in rounding.
pub(crate) fn gram(matrix: &Tensor) -> Result<Tensor, Error> {
    let matrix = matrix.f_to_kind(Kind::Double)?;
    Ok(matrix.f_tr()?.f_matmul(&matrix)?)
}

/// The eigenvectors of the `count` largest eigenvalues of a symmetric matrix, as columns, largest
/// first.
pub(crate) fn leading_eigenvectors(symmetric: &Tensor, count: i64) -> Result<Tensor, Error> {
    let (_, vectors) = ready(symmetric).f_linalg_eigh("L")?;
    let size = vectors.size()[1];
    Ok(vectors.f_narrow(1, size - count, count)?.f_flip([1])?)
}
