use tch::{Kind, Tensor};

use crate::Error;

/// A matrix as it is held in memory: in a floating dtype, or as int8 with one bf16 scale per row or
/// column. Contiguous, with a storage of its own, but for [`Rounded::as_is`].
#[derive(Debug)]
pub(crate) struct Rounded {
    values: Tensor,
    /// `[rows, 1]` or `[1, columns]`, for int8.
    scales: Option<Tensor>,
}

impl Rounded {
    /// `across` is the dimension whose elements share an int8 scale.
    pub(crate) fn new(matrix: &Tensor, kind: Kind, across: i64) -> Result<Self, Error> {
        match kind {
            Kind::Float | Kind::Double | Kind::BFloat16 | Kind::Half => {
                Ok(Self { values: owned(matrix, kind)?, scales: None })
            }
            Kind::Int8 => {
                let scales = scales(&matrix.f_abs()?.f_amax([across], true)?, 127.0)?;
                let values = quantize(matrix, &scales, -127.0, 127.0)?;
                Ok(Self {
                    values: owned(&values, Kind::Int8)?,
                    scales: Some(owned(&scales, Kind::BFloat16)?),
                })
            }
            got => Err(Error::Kind {
                operation: "factors",
                expected: "f32, f64, f16, bf16 or int8",
                got,
            }),
        }
    }

    /// A floating matrix that others hold, too, neither copied nor rounded.
    pub(crate) fn as_is(values: Tensor) -> Self {
        Self { values, scales: None }
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        Self {
            values: self.values.shallow_clone(),
            scales: self.scales.as_ref().map(Tensor::shallow_clone),
        }
    }

    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.values).chain(&self.scales)
    }

    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// The matrix in `kind`; itself where it is held so.
    pub(crate) fn to_kind(&self, kind: Kind) -> Result<Tensor, Error> {
        let values = self.values.f_to_kind(kind)?;
        match &self.scales {
            None => Ok(values),
            Some(scales) => Ok(values.f_mul(&scales.f_to_kind(kind)?)?),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        bytes(&self.values) + self.scales.as_ref().map_or(0, bytes)
    }
}

/// A contiguous tensor of this dtype whose storage is no larger than itself.
pub(crate) fn owned(tensor: &Tensor, kind: Kind) -> Result<Tensor, Error> {
    let mut copy = Tensor::f_empty(tensor.size(), (kind, tensor.device()))?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// `largest / steps` rounded to bf16 but held in `largest`'s dtype; 1 where that is zero, so that
/// nothing is divided by it.
///
/// Rounding moves a scale by 2⁻⁹ at most: 127 steps become 127.25 at most, which still round to
/// 127. A bf16 scale, unlike an f16 one, has the range of f32.
pub(crate) fn scales(largest: &Tensor, steps: f64) -> Result<Tensor, Error> {
    let kind = largest.kind();
    let scales = largest.f_div_scalar(steps)?.f_to_kind(Kind::BFloat16)?.f_to_kind(kind)?;
    let zero = scales.f_eq(0.0)?;
    Ok(scales.f_masked_fill(&zero, 1.0)?)
}

/// `values / scales` rounded to integers within the bounds, still in the dtype of `values`.
pub(crate) fn quantize(
    values: &Tensor,
    scales: &Tensor,
    least: f64,
    most: f64,
) -> Result<Tensor, Error> {
    Ok(values.f_div(scales)?.f_round_()?.f_clamp_(least, most)?)
}
