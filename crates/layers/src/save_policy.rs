use std::sync::Arc;

use tch::{Device, Tensor};

use compression::{Options, Rank, decompose};

use crate::saved_activation::Form;
use crate::{Error, SavedActivation, Scope};

/// The policy of a site: in what form a tensor is saved for backward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum SavePolicy {
    /// As it is.
    #[default]
    Exact,
    /// Compressed ([`compression::decompose`]); as it is where that would be no smaller.
    Code(Options),
    /// Compressed, as the difference from what the last block's input was restored to; as it is
    /// where that would be no smaller. For the inputs of blocks that are recomputed: they come back
    /// once, from the last to the first.
    Delta(Options),
}

impl SavePolicy {
    /// Bytes that a site of this width remembers from step to step.
    pub fn state_bytes(&self, width: i64) -> u64 {
        match self {
            Self::Exact => 0,
            Self::Code(options) | Self::Delta(options) => options.state_bytes(width),
        }
    }

    /// Saves `tensor` `[.., width]`, all but the last dimension being rows, at the site of `scope`.
    ///
    /// # Errors
    /// Those of the decomposition, as a NaN in the tensor, with the site. On a GPU that is found by
    /// [`crate::ActivationStore::check_finite`].
    pub fn save(&self, tensor: &Tensor, scope: &Scope) -> Result<SavedActivation, Error> {
        if let Some(observer) = scope.store().observer() {
            observer.observe(scope.site_id(), &tensor.detach());
        }
        let exact = (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        let (form, bytes) = match self.compressed(tensor, exact, scope)? {
            Some(form) => form,
            None => (
                Form::Exact { tensor: tensor.detach(), version: tensor.f_internal_version()? },
                exact,
            ),
        };
        let entry = Arc::new(scope.saved_bytes().record(bytes, exact));
        Ok(SavedActivation::new(form, tensor, scope.site_id(), entry))
    }

    /// The code and its bytes, if the policy asks for one and it is smaller than the tensor's
    /// `exact` bytes.
    fn compressed(
        &self,
        tensor: &Tensor,
        exact: u64,
        scope: &Scope,
    ) -> Result<Option<(Form, u64)>, Error> {
        let (Self::Code(options) | Self::Delta(options)) = self else { return Ok(None) };
        let width = tensor.size().last().copied().unwrap_or(1);
        let rows = if width == 0 { 0 } else { tensor.numel() as i64 / width };
        let (site_id, store) = (scope.site_id(), scope.store());
        let fault = |source| Error::Compression { site_id, source };
        // The rank of an automatic one is known afterwards; one that a small matrix cannot have
        // would save nothing.
        let pays = match options.bytes(rows, width) {
            Ok(bytes) => bytes < exact || (rows > 0 && matches!(options.rank, Rank::Auto { .. })),
            Err(compression::Error::Rank { .. }) => false,
            Err(setting) => return Err(fault(setting)),
        };
        if !pays {
            return Ok(None);
        }
        let matrix = tensor.detach().f_reshape([rows, width])?;
        if let Self::Delta(_) = self {
            if matrix.device() != Device::Cpu {
                store.watch(site_id, &matrix)?;
            }
            let entry = scope.delta_chain().extend(&matrix, options, scope)?;
            let bytes = entry.bytes();
            return Ok(Some((Form::Delta(entry), bytes)));
        }
        let code = || {
            store
                .with_state(site_id, |state| decompose(&matrix, options, scope.seed(), state))
                .map_err(fault)
        };
        let (code, ready) = match store.side() {
            Some(side) => {
                let (code, ready) = side.run(&[&matrix], || {
                    store.watch(site_id, &matrix)?;
                    code()
                })?;
                (code?, Some(Arc::new(ready)))
            }
            None => {
                if matrix.device() != Device::Cpu {
                    store.watch(site_id, &matrix)?;
                }
                (code()?, None)
            }
        };
        let bytes = code.bytes();
        Ok((bytes < exact).then_some((Form::Code { code, ready }, bytes)))
    }
}
