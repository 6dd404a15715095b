//! NF4, the four-bit numbers of QLoRA (arXiv 2305.14314), as bitsandbytes computes and stores them
//! (`quantize_4bit` with `quant_type="nf4"`).

use tch::{Device, Kind, TchError, Tensor};

use autograd::Parameter;

/// A weight `[out, in]` in NF4: a code of four bits for each number, and for each 64 their largest
/// magnitude, in f32 or in eight bits.
#[derive(Debug)]
pub struct Nf4 {
    shape: [i64; 2],
    /// `[numbers / 2]`: the earlier number of two in the upper bits.
    codes: Parameter,
    scales: Scales,
}

#[derive(Debug)]
enum Scales {
    /// `[numbers / 64]`, f32.
    Whole(Parameter),
    /// Quantized in their turn (double quantization): `codes` `[numbers / 64]` of what each differs
    /// by from their mean, `largest` `[numbers / 64 / 256]` of those differences, and the mean.
    Coded { codes: Parameter, largest: Parameter, mean: Parameter },
}

/// Numbers that share a largest magnitude.
const BLOCK: i64 = 64;
/// Largest magnitudes that share one in their turn.
const GROUP: i64 = 256;

/// The code book (`get_4bit_type("nf4")`): quantiles of the normal distribution, made to hold zero.
#[rustfmt::skip]
#[allow(clippy::excessive_precision, reason = "as it is published")]
const LEVELS: [f32; 16] = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
];

impl Nf4 {
    /// Bytes of `elements` numbers, the largest magnitudes being quantized; none if they are not
    /// whole blocks.
    pub fn bytes(elements: i64) -> Option<u64> {
        let (blocks, is_whole) = (elements / BLOCK, elements > 0 && elements % BLOCK == 0);
        let bytes = elements / 2 + blocks + 4 * groups_of(blocks) + 4;
        is_whole.then_some(bytes as u64)
    }

    /// Quantizes `weight` `[out, in]`, whole blocks of it row by row; with `double_quantization`
    /// the largest magnitudes, too. The parts are called as bitsandbytes saves them.
    ///
    /// The mean of the largest magnitudes is rounded once, where bitsandbytes takes it as libtorch
    /// happens to add them up in f32.
    ///
    /// # Errors
    /// Those of libtorch, as a weight that is not whole blocks.
    pub fn quantize(
        name: &str,
        weight: &Tensor,
        double_quantization: bool,
    ) -> Result<Self, TchError> {
        let (rows, columns) = weight.size2()?;
        let blocks = weight.f_detach()?.f_reshape([-1, BLOCK])?.f_to_kind(Kind::Float)?;
        let largest = blocks.f_abs()?.f_amax(1, true)?;
        let codes = coded(&blocks, &largest, &LEVELS)?.f_view([-1, 2])?;
        let upper = codes.f_select(1, 0)?.f_bitwise_left_shift_tensor_scalar(4)?;
        let codes = upper.f_bitwise_or_tensor(&codes.f_select(1, 1)?)?;
        let largest = largest.f_view([-1])?;
        let part = |what: &str, tensor: Tensor| Parameter::new(format!("{name}.{what}"), tensor);
        let scales = if double_quantization {
            let mean = largest.f_mean(Kind::Double)?.f_to_kind(Kind::Float)?;
            let (codes, groups) = dynamic(&largest.f_sub(&mean)?)?;
            Scales::Coded {
                codes: part("absmax", codes),
                largest: part("nested_absmax", groups),
                mean: part("nested_offset", mean),
            }
        } else {
            Scales::Whole(part("absmax", largest))
        };
        Ok(Self { shape: [rows, columns], codes: Parameter::new(name, codes), scales })
    }

    /// The same on `device`.
    ///
    /// # Errors
    /// Those of libtorch, as too little memory.
    pub fn to_device(&self, device: Device) -> Result<Self, TchError> {
        let moved = |part: &Parameter| {
            Ok::<_, TchError>(Parameter::new(part.name(), part.f_to_device(device)?))
        };
        let scales = match &self.scales {
            Scales::Whole(largest) => Scales::Whole(moved(largest)?),
            Scales::Coded { codes, largest, mean } => {
                Scales::Coded { codes: moved(codes)?, largest: moved(largest)?, mean: moved(mean)? }
            }
        };
        Ok(Self { shape: self.shape, codes: moved(&self.codes)?, scales })
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [i64; 2] {
        self.shape
    }

    /// What is held: codes, largest magnitudes, and with double quantization the largest of those
    /// and their mean.
    pub fn tensors(&self) -> Vec<&Parameter> {
        match &self.scales {
            Scales::Whole(largest) => vec![&self.codes, largest],
            Scales::Coded { codes, largest, mean } => vec![&self.codes, codes, largest, mean],
        }
    }

    /// What gives `length` numbers from `start` on, both whole groups but at the end: `[blocks,
    /// 64]` in f32.
    pub(super) fn pieces(&self) -> Result<impl Fn(i64, i64) -> Result<Tensor, TchError>, TchError> {
        let device = self.codes.device();
        // Both numbers of a byte at once, as the eight bytes that they are: single entries are
        // looked up faster than rows of two.
        let pairs: Vec<f32> =
            (0..256).flat_map(|byte| [LEVELS[byte >> 4], LEVELS[byte & 15]]).collect();
        let pairs = Tensor::f_from_slice(&pairs)?.f_view_dtype(Kind::Int64)?.f_to_device(device)?;
        let levels = Tensor::f_from_slice(&dynamic_map())?.f_to_device(device)?;
        Ok(move |start, length| {
            let (first, blocks) = (start / BLOCK, length / BLOCK);
            let largest = match &self.scales {
                Scales::Whole(largest) => largest.f_narrow(0, first, blocks)?,
                Scales::Coded { codes, largest, mean } => {
                    let differences = looked_up(&levels, &codes.f_narrow(0, first, blocks)?)?;
                    let groups = largest.f_narrow(0, first / GROUP, groups_of(blocks))?;
                    let each = groups
                        .f_unsqueeze(1)?
                        .f_expand([-1, GROUP], false)?
                        .f_reshape([-1])?
                        .f_narrow(0, 0, blocks)?;
                    differences.f_mul(&each)?.f_add_(mean)?
                }
            };
            let numbers = looked_up(&pairs, &self.codes.f_narrow(0, start / 2, length / 2)?)?
                .f_view_dtype(Kind::Float)?;
            numbers.f_view([blocks, BLOCK])?.f_mul(&largest.f_unsqueeze(1)?)
        })
    }
}

/// Entries of `table` for codes `[n]`.
fn looked_up(table: &Tensor, codes: &Tensor) -> Result<Tensor, TchError> {
    table.f_index_select(0, &codes.f_to_kind(Kind::Int)?)
}

/// The nearest of `levels` to each number over the largest magnitude of its row, `[blocks, 1]`,
/// piece by piece.
fn coded(blocks: &Tensor, largest: &Tensor, levels: &[f32]) -> Result<Tensor, TchError> {
    // Half way between two levels, rounded as an f32, the lower is taken.
    let between: Vec<f32> = levels.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
    let between = Tensor::f_from_slice(&between)?.f_to_device(blocks.device())?;
    let codes = Tensor::f_empty(blocks.size(), (Kind::Uint8, blocks.device()))?;
    let (count, width) = blocks.size2()?;
    for start in (0..count).step_by((super::PIECE / width) as usize) {
        let length = (super::PIECE / width).min(count - start);
        let inverse = largest.f_narrow(0, start, length)?.f_clamp_min(1e-38)?.f_reciprocal()?;
        let scaled = blocks.f_narrow(0, start, length)?.f_mul(&inverse)?.f_clamp_(-1.0, 1.0)?;
        codes.f_narrow(0, start, length)?.f_copy_(&scaled.f_bucketize(&between, true, false)?)?;
    }
    codes.f_view([-1])
}

/// Codes of eight bits for `x` `[n]`, and the largest magnitude of each group (`quantize_blockwise`
/// with a block size of 256).
fn dynamic(x: &Tensor) -> Result<(Tensor, Tensor), TchError> {
    let (count, levels) = (x.size1()?, dynamic_map());
    let (mut codes, mut largest) = (Vec::new(), Vec::new());
    // Of a rest the numbers are divided, as they are there; of whole groups they are multiplied
    // with the inverse.
    for (start, length) in [(0, count / GROUP * GROUP), (count / GROUP * GROUP, count % GROUP)]
        .into_iter()
        .filter(|(_, length)| *length > 0)
    {
        let groups = x.f_narrow(0, start, length)?.f_view([-1, length.min(GROUP)])?;
        let mut most = groups.f_abs()?.f_amax(1, true)?;
        if length < GROUP {
            most = most.f_clamp_min(1e-38)?;
            codes.push(coded(&groups.f_div(&most)?, &most.f_ones_like()?, &levels)?);
        } else {
            codes.push(coded(&groups, &most, &levels)?);
        }
        largest.push(most.f_view([-1])?);
    }
    Ok((Tensor::f_cat(&codes, 0)?, Tensor::f_cat(&largest, 0)?))
}

/// The number of groups of this many blocks, the last of which may be less than full.
fn groups_of(blocks: i64) -> i64 {
    (blocks + GROUP - 1) / GROUP
}

/// The code book of eight bits (`create_dynamic_map(signed=True)`): a sign, an exponent of ten in
/// unary, and a fraction in the bits that it leaves.
fn dynamic_map() -> [f32; 256] {
    let mut levels = vec![0.0, 1.0];
    for (exponent, power) in [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0].into_iter().enumerate() {
        let fractions = 1_u8 << exponent;
        let bounds: Vec<f32> =
            (0..=fractions).map(|index| between_tenth_and_one(index, fractions)).collect();
        for pair in bounds.windows(2) {
            let level = power * f32::midpoint(pair[0], pair[1]);
            levels.extend([level, -level]);
        }
    }
    levels.sort_by(f32::total_cmp);
    std::array::from_fn(|index| levels[index])
}

/// Bound `index` of `parts` equal parts from 0.1 to 1, as `torch.linspace` computes it: from the
/// nearer end, with one rounding.
fn between_tenth_and_one(index: u8, parts: u8) -> f32 {
    let step = (1.0 - 0.1_f32) / f32::from(parts);
    match index < parts.div_ceil(2) {
        true => step.mul_add(f32::from(index), 0.1),
        false => (-step).mul_add(f32::from(parts - index), 1.0),
    }
}
