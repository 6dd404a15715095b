use std::cell::RefCell;
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use autograd::Parameter;
use autograd::random::{Distribution, derive_seed, draw};
use layers::{Nf4, QuantizedWeight};

use crate::quantization::{Role, WeightFormat};
use crate::{Checkpoint, Error, Quantization, Result, Weight};

/// Where the parts of a model get their tensors from when they are built: read from a checkpoint,
/// or written down by name and shape only. A part says once what it needs, for both.
#[derive(Debug)]
pub(crate) enum Tensors<'a> {
    /// Reads them.
    Read {
        /// What to make of a tensor that is not there: it is drawn, or an error.
        drawn: Option<Drawn>,
        /// From here.
        checkpoint: &'a Checkpoint,
        /// As this dtype.
        kind: Kind,
        /// Onto this device.
        device: Device,
        /// Which weights are quantized.
        quantization: Quantization,
    },
    /// Writes down what is asked for.
    List(RefCell<Vec<(String, Vec<i64>, Role)>>),
}

impl Tensors<'_> {
    /// A list to be written.
    pub fn list() -> Self {
        Self::List(RefCell::default())
    }

    /// What was asked for, in that order.
    pub fn into_list(self) -> Vec<(String, Vec<i64>)> {
        self.into_roles().into_iter().map(|(name, shape, _)| (name, shape)).collect()
    }

    /// The same, with what each is for.
    pub fn into_roles(self) -> Vec<(String, Vec<i64>, Role)> {
        match self {
            Self::Read { .. } => Vec::new(),
            Self::List(list) => list.into_inner(),
        }
    }

    /// The weight `name` of this shape, quantized if that is wanted of what has this role.
    pub fn weight(&self, name: String, shape: &[i64], role: Role) -> Result<Weight> {
        let (checkpoint, kind, device, quantization) = match self {
            Self::Read { checkpoint, kind, device, quantization, .. } => {
                (*checkpoint, *kind, *device, *quantization)
            }
            Self::List(list) => {
                list.borrow_mut().push((name.clone(), shape.to_vec(), role));
                return Ok(Weight::Dense(Parameter::new(name, Tensor::new())));
            }
        };
        let torch = || Error::torch(&name, checkpoint.path());
        let packed = match quantization.format(role, Some(checkpoint), &name, shape) {
            None => return self.parameter(name, shape).map(Weight::Dense),
            Some(WeightFormat::Blocks(format)) => QuantizedWeight::blocks(
                name.clone(),
                format,
                checkpoint.blocks(&name, device)?,
                kind,
            )
            .ok_or_else(|| {
                Error::corrupt(checkpoint.path(), format!("{name} is not rows of whole blocks"))
            })?,
            Some(WeightFormat::Nf4) => {
                // From what is stored, not from its rounding to the model's dtype, and on the CPU:
                // the same codes on every device.
                let whole = checkpoint.tensor(&name, Kind::Float, Device::Cpu)?;
                let codes = Nf4::quantize(&name, &whole, true)
                    .and_then(|codes| codes.to_device(device))
                    .map_err(torch())?;
                QuantizedWeight::nf4(codes, kind)
            }
        };
        Ok(Weight::Quantized(Arc::new(packed)))
    }

    /// The weight `name` of this shape; a list gives an undefined one.
    pub fn parameter(&self, name: String, shape: &[i64]) -> Result<Parameter> {
        let tensor = match self {
            Self::Read { kind, .. } => self.tensor_as(&name, shape, *kind)?,
            Self::List(_) => self.tensor_as(&name, shape, Kind::Float)?,
        };
        Ok(Parameter::new(name, tensor))
    }

    /// Where the tensors are.
    pub fn device(&self) -> Device {
        match self {
            Self::Read { device, .. } => *device,
            Self::List(_) => Device::Cpu,
        }
    }

    /// A tensor that is never trained, in high precision, in f32 or better.
    pub fn constant(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let kind = match self {
            Self::Read { kind: Kind::Double, .. } => Kind::Double,
            _ => Kind::Float,
        };
        self.tensor_as(name, shape, kind)
    }

    fn tensor_as(&self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor> {
        match self {
            Self::Read { checkpoint, device, drawn: Some(drawn), .. }
                if !checkpoint.holds(name, shape) =>
            {
                drawn
                    .tensor(name, shape, kind, *device)
                    .map_err(Error::torch(name, checkpoint.path()))
            }
            Self::Read { checkpoint, device, .. } => checkpoint.tensor(name, kind, *device),
            Self::List(list) => {
                list.borrow_mut().push((name.to_owned(), shape.to_vec(), Role::Other));
                Ok(Tensor::new())
            }
        }
    }
}

/// How tensors begin that no checkpoint holds: normal with this deviation, the scales of norms one,
/// and biases zero, as in `_init_weights` of transformers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    pub seed: u64,
    pub deviation: f64,
}

impl Drawn {
    fn tensor(
        &self,
        name: &str,
        shape: &[i64],
        kind: Kind,
        device: Device,
    ) -> std::result::Result<Tensor, TchError> {
        if name.ends_with(".bias") {
            return Tensor::f_zeros(shape, (kind, device));
        }
        if name.ends_with(".weight") && shape.len() == 1 {
            return Tensor::f_ones(shape, (kind, device));
        }
        let name = name.bytes().map(u64::from).collect::<Vec<_>>();
        // Drawn on the CPU, so that a seed means the same everywhere.
        let drawn = draw(
            Distribution::Normal,
            shape,
            Kind::Float,
            Device::Cpu,
            derive_seed(&[self.seed, derive_seed(&name)]),
        );
        let drawn = drawn.map_err(|why| TchError::Torch(why.to_string()))?;
        drawn.f_mul_scalar(self.deviation)?.f_to_device(device)?.f_to_kind(kind)
    }
}
