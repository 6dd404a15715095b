//! The blocks of GGUF files, each with its own scales (`dequantize_row_*` of ggml-quants.c).

use tch::{Kind, TchError, Tensor};

use super::BlockSize;

/// How the numbers of a block are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are ggml's")]
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// Bytes of blocks, `[blocks, bytes]`, or of a part of each.
struct Bytes(Tensor);

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The size of a block.
    pub fn size(self) -> BlockSize {
        let (bytes, elements) = match self {
            Self::Q4_0 => (2 + 16, 32),
            Self::Q4_1 => (4 + 16, 32),
            Self::Q5_0 => (2 + 4 + 16, 32),
            Self::Q5_1 => (4 + 4 + 16, 32),
            Self::Q8_0 => (2 + 32, 32),
            Self::Q2K => (16 + 64 + 4, 256),
            Self::Q3K => (32 + 64 + 12 + 2, 256),
            Self::Q4K => (4 + 12 + 128, 256),
            Self::Q5K => (4 + 12 + 32 + 128, 256),
            Self::Q6K => (128 + 64 + 16 + 2, 256),
        };
        BlockSize { bytes, elements }
    }

    /// Blocks `[n, bytes]` to the numbers they hold, `[n, groups, numbers of a group]` in f32.
    /// Products and sums are rounded one by one, in the order of the original.
    pub(super) fn expand(self, blocks: &Tensor) -> Result<Tensor, TchError> {
        let at =
            |start: i64, length: i64| Ok::<_, TchError>(Bytes(blocks.f_narrow(1, start, length)?));
        let number = |start: i64| at(start, 2)?.half();
        match self {
            Self::Q4_0 => at(2, 16)?.nibbles(16)?.f_sub_scalar(8)?.f_mul(&number(0)?),
            Self::Q4_1 => at(4, 16)?.nibbles(16)?.f_mul(&number(0)?)?.f_add_(&number(2)?),
            Self::Q5_0 => fifth(at(6, 16)?.nibbles(16)?, &at(2, 4)?.bits_in_order()?)?
                .f_sub_scalar_(16)?
                .f_mul(&number(0)?),
            Self::Q5_1 => fifth(at(8, 16)?.nibbles(16)?, &at(4, 4)?.bits_in_order()?)?
                .f_mul(&number(0)?)?
                .f_add_(&number(2)?),
            Self::Q8_0 => at(2, 32)?.signed()?.f_mul(&number(0)?),
            Self::Q2K => {
                let scales = at(0, 16)?;
                let (scale, least) =
                    (number(80)?.f_mul(&scales.low()?)?, number(82)?.f_mul(&scales.high()?)?);
                let numbers = at(16, 64)?.pairs_of_bits()?.f_view([-1, 16, 16])?;
                numbers.f_mul(&scale.f_unsqueeze(2)?)?.f_sub_(&least.f_unsqueeze(2)?)
            }
            Self::Q3K => {
                let scale =
                    number(108)?.f_mul(&six_bits(&at(96, 8)?, &at(104, 4)?)?.f_sub_scalar_(32)?)?;
                // The third bit says that 4 is not to be taken away.
                let third = at(0, 32)?
                    .bits_by_place()?
                    .f_view([-1, 256])?
                    .f_mul_scalar_(4)?
                    .f_sub_scalar_(4)?;
                let numbers = at(32, 64)?.pairs_of_bits()?.f_view([-1, 256])?.f_add_(&third)?;
                numbers.f_view([-1, 16, 16])?.f_mul(&scale.f_unsqueeze(2)?)
            }
            Self::Q4K => scaled(at(16, 128)?.nibbles(32)?, [&number(0)?, &number(2)?], &at(4, 12)?),
            Self::Q5K => {
                let numbers = fifth(
                    at(48, 128)?.nibbles(32)?,
                    &at(16, 32)?.bits_by_place()?.f_view([-1, 256])?,
                )?;
                scaled(numbers, [&number(0)?, &number(2)?], &at(4, 12)?)
            }
            Self::Q6K => {
                let scale = number(208)?.f_mul(&at(192, 16)?.signed()?)?;
                let high = at(128, 64)?.pairs_of_bits()?.f_view([-1, 256])?.f_mul_scalar_(16)?;
                let numbers = at(0, 128)?.nibbles(64)?.f_add_(&high)?.f_sub_scalar_(32)?;
                numbers.f_view([-1, 16, 16])?.f_mul(&scale.f_unsqueeze(2)?)
            }
        }
    }
}

/// Nibbles with a fifth bit above them.
fn fifth(mut nibbles: Tensor, bits: &Tensor) -> Result<Tensor, TchError> {
    nibbles.f_add_(&bits.f_mul_scalar(16)?)
}

/// `q · (d · scale) - least · minimum` for each group of 32, whose scale and minimum have six bits
/// each (`get_scale_min_k4`).
fn scaled(numbers: Tensor, [d, least]: [&Tensor; 2], scales: &Bytes) -> Result<Tensor, TchError> {
    let part = |start: i64| Ok::<_, TchError>(Bytes(scales.0.f_narrow(1, start, 4)?));
    let (first, second, third) = (part(0)?, part(4)?, part(8)?);
    let join = |whole: &Bytes, nibble: Tensor| {
        let last = nibble.f_add(&whole.shifted(6)?.f_mul_scalar(16)?)?;
        Tensor::f_cat(&[whole.masked(63)?, last], 1)
    };
    let scale = d.f_mul(&join(&first, third.low()?)?)?;
    let minimum = least.f_mul(&join(&second, third.high()?)?)?;
    numbers.f_view([-1, 8, 32])?.f_mul(&scale.f_unsqueeze(2)?)?.f_sub_(&minimum.f_unsqueeze(2)?)
}

/// The sixteen scales of Q3_K: their lower four bits, and the upper two of four scales in each
/// byte.
fn six_bits(nibbles: &Bytes, pairs: &Bytes) -> Result<Tensor, TchError> {
    let low = Tensor::f_cat(&[nibbles.low()?, nibbles.high()?], 1)?;
    let high = pairs.split([0, 2, 4, 6], 3)?.f_flatten(1, 2)?.f_mul_scalar(16)?;
    low.f_add(&high)
}

impl Bytes {
    /// A half-precision number, `[blocks, 1]` in f32.
    fn half(&self) -> Result<Tensor, TchError> {
        self.0.f_contiguous()?.f_view_dtype(Kind::Half)?.f_to_kind(Kind::Float)
    }

    /// Signed bytes.
    fn signed(&self) -> Result<Tensor, TchError> {
        self.0.f_view_dtype(Kind::Int8)?.f_to_kind(Kind::Float)
    }

    fn masked(&self, mask: i64) -> Result<Tensor, TchError> {
        self.0.f_bitwise_and(mask)?.f_to_kind(Kind::Float)
    }

    fn shifted(&self, places: i64) -> Result<Tensor, TchError> {
        self.0.f_bitwise_right_shift_tensor_scalar(places)?.f_to_kind(Kind::Float)
    }

    fn low(&self) -> Result<Tensor, TchError> {
        self.masked(15)
    }

    fn high(&self) -> Result<Tensor, TchError> {
        self.shifted(4)
    }

    /// The lower nibbles of each `run` bytes, then their upper ones: `[blocks, 2 · bytes]`.
    fn nibbles(&self, run: i64) -> Result<Tensor, TchError> {
        let runs = self.0.f_reshape([self.0.size()[0], -1, run])?;
        let both = [runs.f_bitwise_and(15)?, runs.f_bitwise_right_shift_tensor_scalar(4)?];
        Tensor::f_stack(&both, 2)?.f_flatten(1, 3)?.f_to_kind(Kind::Float)
    }

    /// Each byte shifted by every one of `places` and masked: `[blocks, places, bytes]`.
    fn split<const N: usize>(&self, places: [u8; N], mask: i64) -> Result<Tensor, TchError> {
        let places = Tensor::f_from_slice(&places)?.f_to_device(self.0.device())?.f_unsqueeze(1)?;
        self.0
            .f_unsqueeze(1)?
            .f_bitwise_right_shift(&places)?
            .f_bitwise_and_(mask)?
            .f_to_kind(Kind::Float)
    }

    /// The four pairs of bits of each 32 bytes, the lowest of all first: `[blocks · runs, 4, 32]`.
    fn pairs_of_bits(&self) -> Result<Tensor, TchError> {
        Self(self.0.f_reshape([-1, 32])?).split([0, 2, 4, 6], 3)
    }

    /// The lowest bits of all bytes, then the next: `[blocks, 8, bytes]`.
    fn bits_by_place(&self) -> Result<Tensor, TchError> {
        self.split([0, 1, 2, 3, 4, 5, 6, 7], 1)
    }

    /// All bits of the first byte from the lowest, then those of the next: `[blocks, 8 · bytes]`.
    fn bits_in_order(&self) -> Result<Tensor, TchError> {
        self.bits_by_place()?.f_transpose(1, 2)?.f_flatten(1, 2)
    }
}
