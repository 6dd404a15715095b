use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use autograd::Parameter;
use layers::{Matrix, QuantizedWeight};

/// A weight of a model as it is held.
#[derive(Debug)]
pub enum Weight {
    /// In the model's dtype; it may be trained.
    Dense(Parameter),
    /// Quantized, and frozen.
    Quantized(Arc<QuantizedWeight>),
}

impl Weight {
    /// The name under which checkpoints hold it.
    pub fn name(&self) -> &str {
        match self {
            Self::Dense(weight) => weight.name(),
            Self::Quantized(weight) => weight.name(),
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
            Self::Quantized(weight) => weight.kind(),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device(),
            Self::Quantized(weight) => weight.device(),
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
            Self::Quantized(_) => None,
        }
    }

    /// What is held quantized, if it is.
    pub fn quantized(&self) -> Option<&QuantizedWeight> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(weight) => Some(weight),
        }
    }

    /// As operations read it.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        match self {
            Self::Dense(weight) => Matrix::Dense(weight.tensor()),
            Self::Quantized(weight) => Matrix::Quantized(weight),
        }
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        match self {
            Self::Dense(weight) => {
                Self::Dense(Parameter::new(weight.name(), weight.shallow_clone()))
            }
            Self::Quantized(weight) => Self::Quantized(weight.clone()),
        }
    }
}
