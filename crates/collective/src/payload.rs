//! Which tensors a group carries, and their memory as bytes.
#![allow(unsafe_code)]

use std::fmt;

use tch::{Device, Kind, TchError, Tensor};

/// A dtype that groups carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F64,
    F16,
    Bf16,
    I64,
}

impl Element {
    #[cfg_attr(not(feature = "mpi"), allow(dead_code))]
    pub(crate) const ALL: [Element; 5] =
        [Element::F32, Element::F64, Element::F16, Element::Bf16, Element::I64];

    fn from_kind(kind: Kind) -> Option<Element> {
        match kind {
            Kind::Float => Some(Element::F32),
            Kind::Double => Some(Element::F64),
            Kind::Half => Some(Element::F16),
            Kind::BFloat16 => Some(Element::Bf16),
            Kind::Int64 => Some(Element::I64),
            _ => None,
        }
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Element::F32 => Kind::Float,
            Element::F64 => Kind::Double,
            Element::F16 => Kind::Half,
            Element::Bf16 => Kind::BFloat16,
            Element::I64 => Kind::Int64,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F64 => "f64",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::I64 => "i64",
        }
    }
}

/// Why a tensor is not carried. The numbers travel in the header of a call, so that other ranks can
/// say it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Refusal {
    Undefined = 1,
    Elsewhere,
    NotDense,
    NotContiguous,
    Dtype,
    Root,
    Rows,
}

impl Refusal {
    const ALL: [Refusal; 7] = [
        Refusal::Undefined,
        Refusal::Elsewhere,
        Refusal::NotDense,
        Refusal::NotContiguous,
        Refusal::Dtype,
        Refusal::Root,
        Refusal::Rows,
    ];

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Refusal::Undefined => "it is undefined",
            Refusal::Elsewhere => "it is neither on the CPU nor on the group's GPU",
            Refusal::NotDense => "it is sparse, quantized or a lazy negative",
            Refusal::NotContiguous => "it is not contiguous",
            Refusal::Dtype => "its dtype is not carried",
            Refusal::Root => "the root is not a rank",
            Refusal::Rows => "it has not one row for each rank",
        }
    }

    #[cfg_attr(not(feature = "mpi"), allow(dead_code))]
    pub(crate) fn from_number(number: u64) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|&refusal| refusal as u64 == number)
    }
}

/// A tensor that may be carried: its elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) element: Element,
    pub(crate) numel: usize,
    /// Whether it is on the group's GPU.
    pub(crate) on_gpu: bool,
}

impl fmt::Display for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}{}",
            self.numel,
            self.element.name(),
            if self.on_gpu { " on the GPU" } else { "" }
        )
    }
}

impl Payload {
    /// Looks at `tensor` without touching its memory; it may be on the CPU, or on `gpu`. Each
    /// question is asked only of tensors that can answer it: libtorch throws when an undefined
    /// tensor is asked for its dtype, or a sparse one for its strides.
    pub(crate) fn new(tensor: &Tensor, gpu: Option<Device>) -> Result<Payload, Refusal> {
        if !tensor.defined() {
            return Err(Refusal::Undefined);
        }
        if tensor.is_sparse() || tensor.is_mkldnn() || tensor.f_is_neg().unwrap_or(true) {
            return Err(Refusal::NotDense);
        }
        let element = tensor.f_kind().ok().and_then(Element::from_kind).ok_or(Refusal::Dtype)?;
        let on_gpu = gpu == Some(tensor.device());
        if !on_gpu && tensor.device() != Device::Cpu {
            return Err(Refusal::Elsewhere);
        }
        // Compressed sparse layouts answer `is_sparse` with no and throw at `is_contiguous`; to be
        // viewed flat they fail in an orderly way.
        if tensor.f_view([-1]).is_err() || !tensor.is_contiguous() {
            return Err(Refusal::NotContiguous);
        }
        Ok(Payload { element, numel: tensor.numel(), on_gpu })
    }

    /// The same, if it has a row for each of `world_size` ranks.
    pub(crate) fn from_rows(
        tensor: &Tensor,
        gpu: Option<Device>,
        world_size: usize,
    ) -> Result<Payload, Refusal> {
        let payload = Payload::new(tensor, gpu)?;
        if tensor.size().first() == Some(&(world_size as i64)) {
            Ok(payload)
        } else {
            Err(Refusal::Rows)
        }
    }

    /// Its length in bytes.
    #[cfg(feature = "mpi")]
    pub(crate) fn bytes(&self) -> usize {
        self.numel * self.element.kind().elt_size_in_bytes()
    }
}

/// An empty `[world_size, ...]` for what `world_size` ranks gather.
pub(crate) fn gathered_like(
    tensor: &Tensor,
    payload: &Payload,
    world_size: usize,
) -> Result<Tensor, TchError> {
    let shape: Vec<i64> = std::iter::once(world_size as i64).chain(tensor.size()).collect();
    Tensor::f_empty(shape, (payload.element.kind(), tensor.device()))
}

/// An empty `[...]` for one row of a tensor that was accepted by [`Payload::from_rows`].
pub(crate) fn row_like(tensor: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_empty(&tensor.size()[1..], (tensor.f_kind()?, tensor.device()))
}

/// Shape and dtype of a tensor that may be anything, for an error message.
pub(crate) fn describe(tensor: &Tensor) -> (Vec<i64>, String) {
    if !tensor.defined() {
        return (Vec::new(), "unknown".into());
    }
    (tensor.size(), tensor.f_kind().map_or("unknown".into(), |kind| format!("{kind:?}")))
}

/// The memory of a tensor on the CPU that [`Payload::new`] has accepted.
#[cfg(feature = "mpi")]
pub(crate) fn bytes_mut<'a>(tensor: &'a mut Tensor, payload: &Payload) -> &'a mut [u8] {
    let length = payload.bytes();
    if length == 0 {
        return &mut [];
    }
    // SAFETY: the payload was accepted, so the tensor is a dense, contiguous CPU tensor of `numel`
    // elements of that size, and its memory is initialised or may hold any bytes (every bit pattern
    // is a number). The borrow of the tensor keeps it alive; that no other handle writes to the
    // storage meanwhile is what `&mut` means for tch's tensors by convention.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<u8>(), length) }
}

/// The same, to read.
#[cfg(feature = "mpi")]
pub(crate) fn bytes<'a>(tensor: &'a Tensor, payload: &Payload) -> &'a [u8] {
    let length = payload.bytes();
    if length == 0 {
        return &[];
    }
    // SAFETY: as in `bytes_mut`.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<u8>(), length) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dense_contiguous_tensors_of_every_carried_dtype_are_accepted() {
        for element in Element::ALL {
            for shape in [&[0][..], &[], &[3, 5], &[1, 0, 2]] {
                let tensor = Tensor::zeros(shape, (element.kind(), Device::Cpu));
                let numel = shape.iter().product::<i64>() as usize;
                assert_eq!(
                    Payload::new(&tensor, None),
                    Ok(Payload { element, numel, on_gpu: false })
                );
                assert_eq!(
                    Payload::new(&tensor, Some(Device::Cuda(0))),
                    Ok(Payload { element, numel, on_gpu: false })
                );
                assert_eq!(
                    Payload::new(&tensor, Some(Device::Cpu)),
                    Ok(Payload { element, numel, on_gpu: true }),
                    "of tests"
                );
            }
        }
    }

    #[test]
    fn anything_else_is_refused_for_its_reason() {
        let matrix = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        assert_eq!(Payload::new(&Tensor::new(), None), Err(Refusal::Undefined));
        assert_eq!(Payload::new(&matrix.tr(), None), Err(Refusal::NotContiguous));
        assert_eq!(
            Payload::new(&Tensor::zeros([1], (Kind::Float, Device::Cpu)).expand([4], false), None),
            Err(Refusal::NotContiguous)
        );
        assert_eq!(Payload::new(&matrix.to_sparse_sparse_dim(2), None), Err(Refusal::NotDense));
        assert!(Payload::new(&matrix.to_sparse_csr(None), None).is_err());
        for kind in [Kind::Uint8, Kind::Int, Kind::Bool, Kind::ComplexFloat] {
            assert_eq!(
                Payload::new(&Tensor::zeros([2], (kind, Device::Cpu)), None),
                Err(Refusal::Dtype),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn what_is_shared_out_has_a_row_for_each_rank() {
        let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        for shape in [&[3][..], &[3, 2], &[3, 0]] {
            assert_eq!(
                Payload::from_rows(&zeros(shape), None, 3),
                Payload::new(&zeros(shape), None)
            );
            assert_eq!(row_like(&zeros(shape)).unwrap().size(), shape[1..]);
        }
        for shape in [&[][..], &[0], &[2, 3]] {
            assert_eq!(Payload::from_rows(&zeros(shape), None, 3), Err(Refusal::Rows), "{shape:?}");
        }
        assert_eq!(Payload::from_rows(&zeros(&[2, 3]).tr(), None, 3), Err(Refusal::NotContiguous));
    }

    #[test]
    fn refusals_survive_the_journey_as_numbers() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_number(refusal as u64), Some(refusal));
        }
        assert_eq!(Refusal::from_number(0), None);
    }
}
