use crate::chain::Link;
use crate::ledger::Entry;
use crate::{Error, Place, Scope};
use autograd::Ready;
use lowrank::{Code, Options, Rank, decompose};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// The policy of a site: in what form a tensor is kept for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keep {
    /// As it is.
    #[default]
    Exact,
    /// Compressed ([`lowrank::decompose`]); as it is where that would be no smaller.
    Code(Options),
    /// Compressed, as the difference from what the last block's input was restored to; as it is where that would be no smaller. For the inputs
    /// of blocks that are recomputed: they come back once, from the last to the first.
    Difference(Options),
}

impl Keep {
    /// Keeps `tensor` `[.., width]`, all but the last dimension being rows, at the place of `scope`.
    ///
    /// # Errors
    /// Those of the decomposition, as a NaN in the tensor, with the place. On a GPU that is found by [`crate::Sites::check_finite`].
    pub fn keep(&self, tensor: &Tensor, scope: &Scope) -> Result<Kept, Error> {
        if let Some(observer) = scope.sites().observer() {
            observer.observe(scope.place(), &tensor.detach());
        }
        let exact = (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        let (form, bytes) = match self.compressed(tensor, exact, scope)? {
            Some(form) => form,
            None => (Form::Exact { tensor: tensor.detach(), version: tensor.f_internal_version()? }, exact),
        };
        let entry = Arc::new(scope.ledger().enter(bytes, exact));
        Ok(Kept { form, shape: tensor.size(), kind: tensor.kind(), place: scope.place(), entry })
    }

    /// The code and its bytes, if the policy asks for one and it is smaller than the tensor's `exact` bytes.
    fn compressed(&self, tensor: &Tensor, exact: u64, scope: &Scope) -> Result<Option<(Form, u64)>, Error> {
        let (Self::Code(options) | Self::Difference(options)) = self else { return Ok(None) };
        let width = tensor.size().last().copied().unwrap_or(1);
        let rows = if width == 0 { 0 } else { tensor.numel() as i64 / width };
        // A rank that a small matrix cannot have has no size either; that of an automatic one is known afterwards.
        let most = options.bytes(rows, width);
        if !most.is_ok_and(|bytes| bytes < exact || (rows > 0 && matches!(options.rank, Rank::Auto { .. }))) {
            return Ok(None);
        }
        let (place, sites) = (scope.place(), scope.sites());
        let fault = |source| Error::Compression { place, source };
        let matrix = tensor.detach().f_reshape([rows, width])?;
        if let Self::Difference(_) = self {
            if matrix.device() != Device::Cpu {
                sites.watch(place, &matrix)?;
            }
            let link = scope.chain().extend(&matrix, options, scope)?;
            let bytes = link.bytes();
            return Ok(Some((Form::Link(link), bytes)));
        }
        let code = || sites.with_state(place, |state| decompose(&matrix, options, scope.seed(), state)).map_err(fault);
        let (code, ready) = match sites.side() {
            Some(side) => {
                let (code, ready) = side.run(&[&matrix], || {
                    sites.watch(place, &matrix)?;
                    code()
                })?;
                (code?, Some(Arc::new(ready)))
            }
            None => {
                if matrix.device() != Device::Cpu {
                    sites.watch(place, &matrix)?;
                }
                (code()?, None)
            }
        };
        let bytes = code.bytes();
        Ok((bytes < exact).then_some((Form::Code { code, ready }, bytes)))
    }
}

/// A tensor kept for backward. Clones share it; it is freed, and leaves the ledger, with the last of them.
#[derive(Clone, Debug)]
pub struct Kept {
    form: Form,
    shape: Vec<i64>,
    kind: Kind,
    place: Place,
    entry: Arc<Entry>,
}

#[derive(Debug)]
enum Form {
    /// With the number of edits in place that it had seen when it was kept.
    Exact { tensor: Tensor, version: i64 },
    /// With the end of the work that made it, if that was done beside the forward.
    Code { code: Code, ready: Option<Arc<Ready>> },
    /// As a difference.
    Link(Link),
}

impl Clone for Form {
    fn clone(&self) -> Self {
        match self {
            Self::Exact { tensor, version } => Self::Exact { tensor: tensor.shallow_clone(), version: *version },
            Self::Code { code, ready } => Self::Code { code: code.shallow_clone(), ready: ready.clone() },
            Self::Link(link) => Self::Link(link.clone()),
        }
    }
}

/// What is kept, fit to be read.
enum Read<'a> {
    Exact(Tensor),
    Code(&'a Code),
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

    fn read(&self) -> Result<Read<'_>, Error> {
        match &self.form {
            Form::Exact { tensor, version } if tensor.f_internal_version()? == *version => Ok(Read::Exact(tensor.shallow_clone())),
            Form::Exact { .. } => Err(Error::Edited { place: self.place }),
            Form::Code { code, ready } => {
                if let Some(ready) = ready {
                    ready.wait(&code.tensors())?;
                }
                Ok(Read::Code(code))
            }
            Form::Link(link) => Ok(Read::Exact(link.restore()?.f_reshape(&self.shape)?)),
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
