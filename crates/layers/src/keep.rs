use crate::ledger::Entry;
use crate::{Error, Scope};
use lowrank::{Code, Options, decompose};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The policy of a site: in what form a tensor is kept for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keep {
    /// As it is.
    #[default]
    Exact,
    /// Compressed ([`lowrank::decompose`]); as it is where that would be no smaller.
    Code(Options),
}

impl Keep {
    /// Keeps `tensor` `[.., width]`, all but the last dimension being rows.
    ///
    /// # Errors
    /// Those of the decomposition, as a NaN in the tensor.
    pub fn keep(&self, tensor: &Tensor, scope: &Scope) -> Result<Kept, Error> {
        let shape = tensor.size();
        let kind = tensor.kind();
        let exact = (tensor.numel() * kind.elt_size_in_bytes()) as u64;
        let width = shape.last().copied().unwrap_or(1);
        let rows = if width == 0 { 0 } else { tensor.numel() as i64 / width };
        let (form, bytes) = match self {
            // A rank that a small matrix cannot have has no size either.
            Self::Code(options) if options.bytes(rows, width).is_ok_and(|bytes| bytes < exact) => {
                let code = decompose(&tensor.detach().f_reshape([rows, width])?, options, scope.seed(), None)?;
                let bytes = code.bytes();
                (Form::Code(code), bytes)
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
    Code(Code),
}

impl Clone for Form {
    fn clone(&self) -> Self {
        match self {
            Self::Exact(tensor) => Self::Exact(tensor.shallow_clone()),
            Self::Code(code) => Self::Code(code.shallow_clone()),
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
            Form::Code(code) => Ok(code.restore(self.kind)?.f_reshape(&self.shape)?),
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
            Form::Code(code) => Ok(code.contract(gradient)?),
        }
    }

    /// `x wᵀ` `[rows, m]` for a weight `w` `[m, width]`, through the factors.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        match &self.form {
            Form::Exact(_) => Ok(self.restore_rows()?.f_matmul(&weight.f_tr()?)?),
            Form::Code(code) => Ok(code.project(weight)?),
        }
    }
}
