pub(crate) mod footprint;

use std::sync::Arc;

use tch::{Kind, Tensor};

use autograd::Ready;
use compression::Code;

use crate::delta_chain::DeltaEntry;
use crate::saved_bytes::Entry;
use crate::{Error, SiteId};

/// A tensor saved for backward. Clones share it; it is freed, and no longer counted, with the last
/// of them.
#[derive(Clone, Debug)]
pub struct SavedActivation {
    form: Form,
    shape: Vec<i64>,
    kind: Kind,
    site_id: SiteId,
    entry: Arc<Entry>,
}

/// What holds the tensor.
#[derive(Debug)]
pub(crate) enum Form {
    /// With the number of in-place edits that it had seen when it was saved.
    Exact { tensor: Tensor, version: i64 },
    /// With the event that ends the work that made it, if that ran on a second stream.
    Code { code: Code, ready: Option<Arc<Ready>> },
    /// As a delta from the input before.
    Delta(DeltaEntry),
}

impl Clone for Form {
    fn clone(&self) -> Self {
        match self {
            Self::Exact { tensor, version } => {
                Self::Exact { tensor: tensor.shallow_clone(), version: *version }
            }
            Self::Code { code, ready } => {
                Self::Code { code: code.shallow_clone(), ready: ready.clone() }
            }
            Self::Delta(entry) => Self::Delta(entry.clone()),
        }
    }
}

/// What is saved, ready to be read.
enum Read<'a> {
    Exact(Tensor),
    Code(&'a Code),
}

impl SavedActivation {
    /// `tensor` at `site_id`, held as `form` says and counted by `entry`.
    pub(crate) fn new(form: Form, tensor: &Tensor, site_id: SiteId, entry: Arc<Entry>) -> Self {
        Self { form, shape: tensor.size(), kind: tensor.kind(), site_id, entry }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.entry.held
    }

    /// Bytes the tensor itself would take.
    pub fn exact_bytes(&self) -> u64 {
        self.entry.exact
    }

    fn read(&self) -> Result<Read<'_>, Error> {
        match &self.form {
            Form::Exact { tensor, version } if tensor.f_internal_version()? == *version => {
                Ok(Read::Exact(tensor.shallow_clone()))
            }
            Form::Exact { .. } => Err(Error::Edited { site_id: self.site_id }),
            Form::Code { code, ready } => {
                if let Some(ready) = ready {
                    ready.wait(&code.tensors())?;
                }
                Ok(Read::Code(code))
            }
            Form::Delta(entry) => Ok(Read::Exact(entry.restore()?.f_reshape(&self.shape)?)),
        }
    }

    /// The tensor, in its shape and dtype: itself, or rebuilt.
    ///
    /// # Errors
    /// [`Error::Edited`]; those of libtorch.
    pub fn restore(&self) -> Result<Tensor, Error> {
        match self.read()? {
            Read::Exact(tensor) => Ok(tensor),
            Read::Code(code) => Ok(code.restore(self.kind)?.f_reshape(&self.shape)?),
        }
    }

    /// An exact tensor as `[rows, width]`.
    fn rows(&self, tensor: &Tensor) -> Result<Tensor, Error> {
        let width = self.shape.last().copied().unwrap_or(1);
        Ok(tensor.f_reshape([-1, width])?)
    }

    /// `gᵀ x` `[m, width]` for a gradient `g` `[rows, m]`, through the factors.
    ///
    /// # Errors
    /// [`Error::Edited`]; those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        match self.read()? {
            Read::Exact(tensor) => Ok(gradient.f_tr()?.f_matmul(&self.rows(&tensor)?)?),
            Read::Code(code) => Ok(code.contract(gradient)?),
        }
    }

    /// `x wᵀ` `[rows, m]` for a weight `w` `[m, width]`, through the factors.
    ///
    /// # Errors
    /// [`Error::Edited`]; those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        match self.read()? {
            Read::Exact(tensor) => Ok(self.rows(&tensor)?.f_matmul(&weight.f_tr()?)?),
            Read::Code(code) => Ok(code.project(weight)?),
        }
    }
}
