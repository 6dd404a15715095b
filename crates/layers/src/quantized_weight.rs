mod blocks;
mod nf4;

pub use blocks::BlockFormat;
pub use nf4::Nf4;

use crate::footprint::{Allocation, MemorySim};
use std::sync::Arc;

use tch::{Device, Kind, TchError, Tensor};

use autograd::Parameter;

/// A frozen weight `[out, in]` that is held quantized and expanded each time it is used.
///
/// The expansion is written in operations of libtorch, so that it runs wherever the weight is. Each
/// of its roundings is one of its format's own: the numbers are, bit for bit, those that the whole
/// weight would have.
#[derive(Debug)]
pub struct QuantizedWeight {
    shape: [i64; 2],
    kind: Kind,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// `[out, bytes of a row]`.
    Blocks(BlockFormat, Parameter),
    Nf4(Nf4),
}

/// Numbers expanded at a time: on the way to a MiB of f32 all stays in a processor's cache. A GPU
/// is given more, as each piece is a few kernels. Multiples of what any format groups.
const PIECE: i64 = 1 << 18;
const GPU_PIECE: i64 = 1 << 22;

impl QuantizedWeight {
    /// Blocks as a GGUF file holds them: `bytes` `[out, bytes of a row]`, which expand to `kind`.
    /// None if they are not rows of whole blocks.
    pub fn blocks(
        name: impl Into<String>,
        format: BlockFormat,
        bytes: Tensor,
        kind: Kind,
    ) -> Option<Self> {
        let (BlockSize { bytes: block, elements }, size) = (format.size(), bytes.size());
        let is_whole = bytes.kind() == Kind::Uint8 && size.len() == 2 && size[1] % block == 0;
        let form = Form::Blocks(format, Parameter::new(name, bytes));
        is_whole.then(|| Self { shape: [size[0], size[1] / block * elements], kind, form })
    }

    /// `weight` in NF4, to be expanded to `kind`.
    pub fn nf4(weight: Nf4, kind: Kind) -> Self {
        Self { shape: weight.shape(), kind, form: Form::Nf4(weight) }
    }

    /// `[out, in]`.
    pub fn size(&self) -> [i64; 2] {
        self.shape
    }

    /// What it expands to.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.tensors()[0].device()
    }

    /// The name under which checkpoints hold the weight.
    pub fn name(&self) -> &str {
        self.tensors()[0].name()
    }

    /// What is held, the weight's own name first.
    pub fn tensors(&self) -> Vec<&Parameter> {
        match &self.form {
            Form::Blocks(_, bytes) => vec![bytes],
            Form::Nf4(weight) => weight.tensors(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.tensors()
            .iter()
            .map(|tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64)
            .sum()
    }

    /// The weight `[out, in]`, a new tensor.
    ///
    /// # Errors
    /// Those of libtorch, as too little memory.
    pub fn expand(&self) -> Result<Tensor, TchError> {
        match &self.form {
            Form::Blocks(format, bytes) => self.expanded(*format, bytes),
            Form::Nf4(weight) => self.filled(self.shape[0], 1, weight.pieces()?),
        }
    }

    /// Rows `ids` `[..]` (integers): `[.., in]`. Of blocks, only those rows are expanded.
    ///
    /// # Errors
    /// Those of libtorch, as an id that is no row.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor, TchError> {
        let flat = ids.f_reshape([-1])?;
        let rows = match &self.form {
            Form::Blocks(format, bytes) => {
                self.expanded(*format, &bytes.f_index_select(0, &flat)?)?
            }
            Form::Nf4(_) => self.expand()?.f_index_select(0, &flat)?,
        };
        let mut size = ids.size();
        size.push(self.shape[1]);
        rows.f_view(&size[..])
    }

    fn expanded(&self, format: BlockFormat, bytes: &Tensor) -> Result<Tensor, TchError> {
        let BlockSize { bytes: block, elements } = format.size();
        let blocks = bytes.f_view([-1, block])?;
        self.filled(bytes.size()[0], elements, |start, length| {
            format.expand(&blocks.f_narrow(0, start / elements, length / elements)?)
        })
    }

    /// `[rows, in]`, filled piece by piece, each whole blocks: `piece` takes the first number and
    /// how many to give.
    fn filled(
        &self,
        rows: i64,
        block: i64,
        piece: impl Fn(i64, i64) -> Result<Tensor, TchError>,
    ) -> Result<Tensor, TchError> {
        let most = if self.device() == Device::Cpu { PIECE } else { GPU_PIECE } / block * block;
        let whole = Tensor::f_empty([rows, self.shape[1]], (self.kind, self.device()))?;
        let (flat, elements) = (whole.f_view([-1])?, rows * self.shape[1]);
        for start in (0..elements).step_by(most as usize) {
            let length = most.min(elements - start);
            flat.f_narrow(0, start, length)?.f_copy_(&piece(start, length)?.f_view([length])?)?;
        }
        Ok(whole)
    }
}

/// A block of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Its bytes.
    pub bytes: i64,
    /// The numbers that it holds.
    pub elements: i64,
}

/// A weight as an operation reads it.
#[derive(Clone, Copy, Debug)]
pub enum Matrix<'a> {
    /// As it is; it may be trained.
    Dense(&'a Tensor),
    /// Expanded in forward, and again in backward.
    Quantized(&'a Arc<QuantizedWeight>),
}

impl Matrix<'_> {
    /// Its shape.
    pub fn size(&self) -> Vec<i64> {
        match self {
            Self::Dense(weight) => weight.size(),
            Self::Quantized(weight) => weight.size().to_vec(),
        }
    }

    /// The weight itself, or a new tensor that it expands to.
    ///
    /// # Errors
    /// Those of libtorch, as too little memory.
    pub fn dense(&self) -> Result<Tensor, TchError> {
        match self {
            Self::Dense(weight) => Ok(weight.shallow_clone()),
            Self::Quantized(weight) => weight.expand(),
        }
    }
}

impl<'a> From<&'a Tensor> for Matrix<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self::Dense(weight)
    }
}

impl<'a> From<&'a Arc<QuantizedWeight>> for Matrix<'a> {
    fn from(weight: &'a Arc<QuantizedWeight>) -> Self {
        Self::Quantized(weight)
    }
}

impl MemorySim {
    /// The dequantized weight, if it is quantized; chunks of it pass through f32.
    pub fn dequantized(&self, quantized: bool, elements: u64) -> Option<Allocation> {
        quantized.then(|| {
            let whole = self.tensor(elements);
            drop(self.wide(2 * elements.min(PIECE as u64)));
            whole
        })
    }
}
