use crate::{Checkpoint, Result};
use autograd::Parameter;
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// Where the parts of a model get their tensors from when they are built: read from a checkpoint, or written down by name and shape only. A
/// part says once what it needs, for both.
#[derive(Debug)]
pub(crate) enum Tensors<'a> {
    /// Reads them.
    Read {
        /// From here.
        checkpoint: &'a Checkpoint,
        /// As this dtype.
        kind: Kind,
        /// Onto this device.
        device: Device,
    },
    /// Writes down what is asked for.
    List(RefCell<Vec<(String, Vec<i64>)>>),
}

impl Tensors<'_> {
    /// A list to be written.
    pub fn list() -> Self {
        Self::List(RefCell::default())
    }

    /// What was asked for, in that order.
    pub fn into_list(self) -> Vec<(String, Vec<i64>)> {
        match self {
            Self::Read { .. } => Vec::new(),
            Self::List(list) => list.into_inner(),
        }
    }

    /// The weight `name` of this shape; a list gives an undefined one.
    pub fn parameter(&self, name: String, shape: &[i64]) -> Result<Parameter> {
        let tensor = match self {
            Self::Read { kind, .. } => self.tensor_as(&name, shape, *kind)?,
            Self::List(_) => self.tensor_as(&name, shape, Kind::Float)?,
        };
        Ok(Parameter::new(name, tensor))
    }

    /// A tensor that is never trained and kept precise, in f32 or better.
    pub fn constant(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let kind = match self {
            Self::Read { kind: Kind::Double, .. } => Kind::Double,
            _ => Kind::Float,
        };
        self.tensor_as(name, shape, kind)
    }

    fn tensor_as(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        match self {
            Self::Read { checkpoint, device, .. } => checkpoint.tensor(name, kind, *device),
            Self::List(list) => {
                list.borrow_mut().push((name.to_owned(), shape.to_vec()));
                Ok(Tensor::new())
            }
        }
    }
}
