use crate::Result;
use tch::{Device, Kind, Tensor};

/// Room for the tensors that a step computes on the way, allocated once.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) room: Tensor,
    used: usize,
}

/// Tensors begin at multiples of so many bytes, as vector instructions like them.
const ALIGNMENT: usize = 64;

impl Space {
    /// `bytes` of room.
    pub fn new(bytes: usize, device: Device) -> Result<Self> {
        Ok(Self { room: Tensor::f_empty([bytes as i64], (Kind::Uint8, device))?, used: 0 })
    }

    /// What a tensor takes.
    pub fn bytes(kind: Kind, elements: usize) -> usize {
        (elements * kind.elt_size_in_bytes()).next_multiple_of(ALIGNMENT)
    }

    /// Gives all of it back.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// A tensor that holds anything, to be used until the next [`Space::clear`].
    ///
    /// # Errors
    /// Those of libtorch, as if there is not enough room.
    pub fn take(&mut self, kind: Kind, shape: &[i64]) -> Result<Tensor> {
        let elements = shape.iter().product::<i64>() as usize;
        let bytes = (elements * kind.elt_size_in_bytes()) as i64;
        let tensor = self.room.f_narrow(0, self.used as i64, bytes)?.f_view_dtype(kind)?.f_view(shape)?;
        self.used += Self::bytes(kind, elements);
        Ok(tensor)
    }
}
