use autograd::Parameter;
use layers::{Matrix, Packed};
use std::sync::Arc;
use tch::{Device, Kind, TchError, Tensor};

/// A weight of a model as it is held.
#[derive(Debug)]
pub enum Weight {
    /// In the model's dtype; it may be trained.
    Dense(Parameter),
    /// In few bits, and frozen.
    Packed(Arc<Packed>),
}

impl Weight {
    /// The name under which checkpoints hold it.
    pub fn name(&self) -> &str {
        match self {
            Self::Dense(weight) => weight.name(),
            Self::Packed(weight) => weight.name(),
        }
    }

    /// Its shape.
    pub fn size(&self) -> Vec<i64> {
        self.matrix().size()
    }

    /// The dtype that it is read in.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Dense(weight) => weight.kind(),
            Self::Packed(weight) => weight.kind(),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Packed(weight) => weight.device(),
        }
    }

    /// The weight itself, or a new tensor that it expands to.
    ///
    /// # Errors
    /// Those of libtorch, as too little memory.
    pub fn dense(&self) -> Result<Tensor, TchError> {
        self.matrix().dense()
    }

    /// The parameter, if it is one.
    pub fn parameter(&self) -> Option<&Parameter> {
        match self {
            Self::Dense(weight) => Some(weight),
            Self::Packed(_) => None,
        }
    }

    /// What is held in few bits, if it is.
    pub fn packed(&self) -> Option<&Packed> {
        match self {
            Self::Dense(_) => None,
            Self::Packed(weight) => Some(weight),
        }
    }

    /// As operations read it.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        match self {
            Self::Dense(weight) => Matrix::Dense(weight.tensor()),
            Self::Packed(weight) => Matrix::Packed(weight),
        }
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        match self {
            Self::Dense(weight) => Self::Dense(Parameter::new(weight.name(), weight.shallow_clone())),
            Self::Packed(weight) => Self::Packed(weight.clone()),
        }
    }
}
