use tch::{Device, Kind, Tensor};

use crate::Result;

/// Memory for the intermediate tensors of a step, allocated once.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) buffer: Tensor,
    used: usize,
}

/// Alignment of tensors in bytes, for vector instructions.
const ALIGNMENT: usize = 64;

impl Workspace {
    /// A workspace of `bytes` bytes.
    pub fn new(bytes: usize, device: Device) -> Result<Self> {
        Ok(Self { buffer: Tensor::f_empty([bytes as i64], (Kind::Uint8, device))?, used: 0 })
    }

    /// Bytes that a tensor takes, padding included.
    pub fn bytes(kind: Kind, elements: usize) -> usize {
        (elements * kind.elt_size_in_bytes()).next_multiple_of(ALIGNMENT)
    }

    /// Frees all of it.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// An uninitialized tensor, to be used until the next [`Workspace::clear`].
    ///
    /// # Errors
    /// Those of libtorch, also if there is not enough space left.
    pub fn take(&mut self, kind: Kind, shape: &[i64]) -> Result<Tensor> {
        let elements = shape.iter().product::<i64>() as usize;
        let bytes = (elements * kind.elt_size_in_bytes()) as i64;
        let tensor =
            self.buffer.f_narrow(0, self.used as i64, bytes)?.f_view_dtype(kind)?.f_view(shape)?;
        self.used += Self::bytes(kind, elements);
        Ok(tensor)
    }
}
