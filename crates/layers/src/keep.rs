use crate::ledger::Entry;
use crate::{Error, Scope};
use lowrank::{Factors, Qb, TestMatrix, qb};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The rank of a low-rank pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rank {
    /// A fraction of the width, rounded to the nearest integer, at least 1.
    Fraction(f64),
    /// A number of components.
    Components(i64),
}

impl Rank {
    /// Components for a matrix `[rows, width]`, never more than it can have.
    pub fn of(&self, rows: i64, width: i64) -> i64 {
        let wanted = match self {
            Self::Fraction(fraction) => (fraction * width as f64).round() as i64,
            Self::Components(components) => *components,
        };
        wanted.clamp(1, rows.min(width).max(1))
    }
}

/// How a tensor is kept as a low-rank pair ([`lowrank::qb`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    /// Components.
    pub rank: Rank,
    /// What the test matrix is made of.
    pub test_matrix: TestMatrix,
    /// Rescale each token's row to its exact norm.
    pub keep_norms: bool,
    /// The dtype of the factors.
    pub factors: Kind,
}

impl LowRank {
    /// Bytes of the factors of a `[rows, width]` matrix: `rank · (rows + width) · bytes of the dtype`.
    pub fn bytes(&self, rows: i64, width: i64) -> u64 {
        (self.rank.of(rows, width) * (rows + width)) as u64 * self.factors.elt_size_in_bytes() as u64
    }
}

/// The policy of a site: in what form a tensor is kept for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keep {
    /// As it is.
    #[default]
    Exact,
    /// As a low-rank pair; as it is where a pair would be no smaller.
    LowRank(LowRank),
}

impl Keep {
    /// Keeps `tensor` `[.., width]`, all but the last dimension being rows.
    ///
    /// # Errors
    /// Those of the decomposition.
    pub fn keep(&self, tensor: &Tensor, scope: &Scope) -> Result<Kept, Error> {
        let shape = tensor.size();
        let kind = tensor.kind();
        let exact = (tensor.numel() * kind.elt_size_in_bytes()) as u64;
        let width = shape.last().copied().unwrap_or(1);
        let rows = if width == 0 { 0 } else { tensor.numel() as i64 / width };
        let (form, bytes) = match self {
            Self::LowRank(policy) if rows > 0 && policy.bytes(rows, width) < exact => {
                let options = Qb {
                    rank: policy.rank.of(rows, width),
                    test_matrix: policy.test_matrix,
                    keep_norms: policy.keep_norms,
                    factors: policy.factors,
                };
                let factors = qb(&tensor.detach().f_reshape([rows, width])?, &options, scope.seed())?;
                let bytes = factors.bytes();
                (Form::Factors(factors), bytes)
            }
            _ => (Form::Exact(tensor.detach()), exact),
        };
        let entry = Arc::new(scope.ledger().enter(bytes, exact));
        Ok(Kept { form, shape, kind, entry })
    }
}

/// A tensor kept for backward. Clones share it; it is freed, and leaves the ledger, with the last of them.
#[derive(Clone, Debug)]
pub struct Kept {
    form: Form,
    shape: Vec<i64>,
    kind: Kind,
    entry: Arc<Entry>,
}

#[derive(Debug)]
enum Form {
    Exact(Tensor),
    Factors(Factors),
}

impl Clone for Form {
    fn clone(&self) -> Self {
        match self {
            Self::Exact(tensor) => Self::Exact(tensor.shallow_clone()),
            Self::Factors(factors) => Self::Factors(factors.shallow_clone()),
        }
    }
}

impl Kept {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.entry.kept
    }

    /// Bytes the tensor itself would take.
    pub fn exact_bytes(&self) -> u64 {
        self.entry.exact
    }

    /// The tensor, in its shape and dtype: itself, or rebuilt.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self) -> Result<Tensor, Error> {
        match &self.form {
            Form::Exact(tensor) => Ok(tensor.shallow_clone()),
            Form::Factors(factors) => Ok(factors.restore(self.kind)?.f_reshape(&self.shape)?),
        }
    }

    /// The tensor as `[rows, width]`.
    fn restore_rows(&self) -> Result<Tensor, Error> {
        let width = self.shape.last().copied().unwrap_or(1);
        Ok(self.restore()?.f_reshape([-1, width])?)
    }

    /// `gᵀ x` `[m, width]` for a gradient `g` `[rows, m]`, through the factors.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        match &self.form {
            Form::Exact(_) => Ok(gradient.f_tr()?.f_matmul(&self.restore_rows()?)?),
            Form::Factors(factors) => Ok(factors.contract(gradient)?),
        }
    }

    /// `x wᵀ` `[rows, m]` for a weight `w` `[m, width]`, through the factors.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        match &self.form {
            Form::Exact(_) => Ok(self.restore_rows()?.f_matmul(&weight.f_tr()?)?),
            Form::Factors(factors) => Ok(factors.project(weight)?),
        }
    }
}
