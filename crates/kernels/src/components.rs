//! A matrix's components `[components, rows]`: how each is spread over the rows, which follows from
//! it as scale and loss for each width, and the pass that quantizes and packs them, or restores
//! them.
//!
//! [`Components`] holds them where they are coded: in memory, or on a GPU that has the kernels.
//! `coded.cu` is the CUDA text.

mod cpu;
mod gpu;
mod levels;
mod pack;
mod plan;
mod quantizer;
mod reference;
mod rounding;
mod scalar;
mod small_float;
mod spread;
mod trellis;
mod upload;
mod widths;

use multiversion::multiversion;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::Error;
use plan::BLOCK;

pub use gpu::{HostLaunch, Kernels};
pub use levels::{TRELLIS_LOST, WIDEST};
pub use pack::LANES;
pub use plan::{Encoded, Plan};
pub use rounding::Rounding;
pub use small_float::{gain, gain_near};
pub use spread::Spread;
pub use upload::upload;
pub use widths::{EXACT, Losses, Scales, WIDTHS};

/// `[components, rows]` in f32.
#[derive(Debug)]
pub enum Components {
    /// In memory, and how many rows there are.
    Host(Vec<f32>, usize),
    /// On the device of its kernels.
    Gpu(Tensor, Kernels),
}

impl Components {
    /// `y` `[components, rows]`, on any device: brought to the CPU if there are no kernels for it.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn new(y: Tensor, kernels: Option<Kernels>) -> Result<Self, Error> {
        let y = y.f_to_kind(Kind::Float)?.f_contiguous()?;
        Ok(match kernels {
            Some(kernels) => Self::Gpu(y, kernels),
            None => {
                let rows = y.size2()?.1 as usize;
                Self::Host(Vec::try_from(y.f_view([-1])?)?, rows)
            }
        })
    }

    /// Multiplies each row with its factor, and then with its ratio; the sums of squares between
    /// the two.
    ///
    /// # Errors
    /// [`Error::Kernel`]; those of libtorch.
    pub fn scale_rows(
        &mut self,
        factors: &[f32],
        ratios: Option<&[f32]>,
    ) -> Result<Vec<f32>, Error> {
        match self {
            Self::Host(y, _) => Ok(scale_rows(y, factors, ratios)),
            Self::Gpu(y, kernels) => kernels.scale_rows(y, factors, ratios),
        }
    }

    /// Sets these rows to zero.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn clear(&mut self, cleared: &[usize]) -> Result<(), Error> {
        match self {
            Self::Host(y, rows) => y
                .par_chunks_mut(*rows)
                .for_each(|component| cleared.iter().for_each(|&row| component[row] = 0.0)),
            Self::Gpu(y, _) => {
                let places: Vec<i64> = cleared.iter().map(|&row| row as i64).collect();
                let _ = y.f_index_fill_(1, &upload(&places, y.device())?, 0.0)?;
            }
        }
        Ok(())
    }

    /// How each component is spread over the rows, of which `absent` are zeros that need no code.
    ///
    /// # Errors
    /// [`Error::Kernel`]; those of libtorch.
    pub fn spreads(&self, absent: usize) -> Result<Vec<Spread>, Error> {
        match self {
            Self::Host(y, rows) => {
                Ok(y.par_chunks(*rows).map(|values| Spread::from_values(values, absent)).collect())
            }
            Self::Gpu(y, kernels) => kernels.spreads(y, absent),
        }
    }

    /// Quantizes and packs: codes in uint8, where the components are.
    ///
    /// # Errors
    /// [`Error::Kernel`]; those of libtorch.
    pub fn encode(
        &self,
        plan: &Plan,
        rounding: Rounding,
        seed: u64,
    ) -> Result<Encoded<Tensor>, Error> {
        match self {
            Self::Host(y, rows) => {
                let Encoded { codes, energies, along } =
                    cpu::encode(y, *rows, plan, rounding, seed);
                Ok(Encoded { codes: Tensor::f_from_slice(&codes)?, energies, along })
            }
            Self::Gpu(y, kernels) => kernels.encode(y, plan, rounding, seed),
        }
    }
}

/// The components that have bits, times each row's gain, `[active, rows]` in `kind`: from `codes`
/// `[bytes]` in uint8 and `gains` `[rows]` in their 16 bits.
///
/// # Errors
/// [`Error::Kernel`]; those of libtorch.
pub fn decode(
    codes: &Tensor,
    plan: &Plan,
    gains: &Tensor,
    trellis: bool,
    kind: Kind,
    kernels: Option<&Kernels>,
) -> Result<Tensor, Error> {
    let y = match (kernels, codes.device()) {
        (Some(kernels), _) => kernels.decode(codes, plan, gains, trellis, kind)?,
        (None, Device::Cpu) => {
            let gains: Vec<f32> = Vec::<i16>::try_from(gains)?
                .into_iter()
                .map(|code| gain(code.cast_unsigned()))
                .collect();
            let decoded = cpu::decode(&Vec::<u8>::try_from(codes)?, plan, &gains, trellis);
            Tensor::f_from_slice(&decoded)?
                .f_view([plan.active().len() as i64, gains.len() as i64])?
        }
        (None, _) => {
            let gains = gains
                .f_to_kind(Kind::Int)?
                .f_bitwise_and(0xffff)?
                .f_bitwise_left_shift_tensor_scalar(15)?;
            reference::decode(codes, plan, &gains.f_view_dtype(Kind::Float)?, trellis)?
        }
    };
    Ok(y.f_to_kind(kind)?)
}

/// Multiplies each row of `y` `[components, rows]` with its factor, and then with its ratio; the
/// sums of squares between the two.
fn scale_rows(y: &mut [f32], factors: &[f32], ratios: Option<&[f32]>) -> Vec<f32> {
    let rows = factors.len();
    let blocks: Vec<Vec<f32>> =
        y.par_chunks_mut(BLOCK * rows).map(|block| scale_block(block, factors, ratios)).collect();
    let mut squares = vec![0.0; rows];
    for block in blocks {
        squares.iter_mut().zip(block).for_each(|(sum, part)| *sum += part);
    }
    squares
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2"))]
fn scale_block(block: &mut [f32], factors: &[f32], ratios: Option<&[f32]>) -> Vec<f32> {
    let rows = factors.len();
    let mut squares = vec![0.0; rows];
    for component in block.chunks_mut(rows) {
        for ((value, factor), square) in component.iter_mut().zip(factors).zip(&mut squares) {
            *value *= factor;
            *square += *value * *value;
        }
        if let Some(ratios) = ratios {
            component.iter_mut().zip(ratios).for_each(|(value, ratio)| *value *= ratio);
        }
    }
    squares
}
