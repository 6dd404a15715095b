use tch::{Device, Kind, Tensor};

use crate::Result;

/// Elements that share a scale.
pub(super) const BLOCK: i64 = 256;

/// The 256 values between -1 and 1 (or 0 and 1) that a code of eight bits stands for: finer near
/// zero, by a dynamic exponent (Dettmers et al. 2022, arXiv 2110.02861, section 2.2;
/// `create_dynamic_map` of bitsandbytes).
#[derive(Debug)]
pub(super) struct Levels {
    /// In rising order, `[256]`.
    values: Tensor,
    /// Midway between neighbours, `[255]`.
    bounds: Tensor,
}

impl Levels {
    /// For values of either sign.
    pub fn signed(device: Device) -> Result<Self> {
        Self::new(dynamic(true), device)
    }

    /// For values that are not negative.
    pub fn unsigned(device: Device) -> Result<Self> {
        Self::new(dynamic(false), device)
    }

    fn new(values: Vec<f64>, device: Device) -> Result<Self> {
        let bounds: Vec<f64> = values.windows(2).map(|pair| 0.5 * (pair[0] + pair[1])).collect();
        let tensor = |values: &[f64]| {
            Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?.f_to_device(device)
        };
        Ok(Self { values: tensor(&values)?, bounds: tensor(&bounds)? })
    }

    fn shallow_clone(&self) -> Self {
        Self { values: self.values.shallow_clone(), bounds: self.bounds.shallow_clone() }
    }
}

/// The levels of a map with up to seven bits of exponent: `2^i` values (twice as many without a
/// sign) spread evenly over each decade `10^(i - 6) * [0.1, 1]`, and 0 and 1.
fn dynamic(signed: bool) -> Vec<f64> {
    const EXPONENT_BITS: i32 = 7;
    let mut values = vec![0.0, 1.0];
    for decade in 0..EXPONENT_BITS {
        let count = 1_u32 << (decade + i32::from(!signed));
        let scale = 10_f64.powi(decade - (EXPONENT_BITS - 1));
        for index in 0..count {
            let value = scale * (0.1 + 0.9 * (f64::from(index) + 0.5) / f64::from(count));
            values.push(value);
            if signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    values
}

/// A tensor of `elements` in one byte each, and one f32 for each block of [`BLOCK`].
#[derive(Debug)]
pub(super) struct Blockwise {
    levels: Levels,
    codes: Tensor,
    /// The largest magnitude of each block.
    scales: Tensor,
}

/// A range of the elements that starts at a multiple of [`BLOCK`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub start: i64,
    pub length: i64,
}

impl Chunk {
    fn blocks(self) -> (i64, i64) {
        (self.start / BLOCK, (self.length + BLOCK - 1) / BLOCK)
    }

    /// The part of a buffer that holds the blocks of this chunk, zero after its elements.
    fn padded(self, buffer: &Tensor) -> Result<Tensor> {
        let whole = self.blocks().1 * BLOCK;
        if whole > self.length {
            let _ = buffer.f_narrow(0, self.length, whole - self.length)?.f_zero_()?;
        }
        Ok(buffer.f_narrow(0, 0, whole)?.f_view([-1, BLOCK])?)
    }
}

impl Blockwise {
    /// Zeros.
    pub fn zeros(elements: i64, levels: &Levels, device: Device) -> Result<Self> {
        let zero = (0..256).find(|code| levels.values.double_value(&[*code]) == 0.0).unwrap_or(0);
        let codes = Tensor::f_full([elements], zero, (Kind::Uint8, device))?;
        let scales = Tensor::f_ones([(elements + BLOCK - 1) / BLOCK], (Kind::Float, device))?;
        Ok(Self { levels: levels.shallow_clone(), codes, scales })
    }

    /// One byte for each element.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// One f32 for each block.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// Writes the elements of `chunk` into `values` (f32), of whole blocks; `index` (i32) is as
    /// long.
    pub fn read(&self, chunk: Chunk, values: &Tensor, index: &Tensor) -> Result<()> {
        let index = index.f_narrow(0, 0, chunk.length)?;
        index.shallow_clone().f_copy_(&self.codes.f_narrow(0, chunk.start, chunk.length)?)?;
        let _ = self.levels.values.f_index_select_out(
            &values.f_narrow(0, 0, chunk.length)?,
            0,
            &index,
        )?;
        let (first, blocks) = chunk.blocks();
        let _ = chunk
            .padded(values)?
            .f_mul_(&self.scales.f_narrow(0, first, blocks)?.f_unsqueeze(1)?)?;
        Ok(())
    }

    /// Rounds `values` to the nearest levels; `spare` (f32) and `index` (i32) are as long as
    /// `values`.
    pub fn write(
        &mut self,
        chunk: Chunk,
        values: &Tensor,
        spare: &Tensor,
        index: &Tensor,
    ) -> Result<()> {
        let (first, blocks) = chunk.blocks();
        let mut scales = self.scales.f_narrow(0, first, blocks)?;
        let (values, ratio) = (chunk.padded(values)?, chunk.padded(spare)?);
        let _ = values.f_abs_out(&ratio)?;
        let _ = ratio.f_amax_out(&scales, [1_i64].as_slice(), false)?;
        // A block of zeros is no fraction of its largest.
        let _ = scales.f_clamp_min_(f64::from(f32::MIN_POSITIVE))?;
        let _ = values.f_div_out(&ratio, &scales.f_unsqueeze(1)?)?;
        let index = index.f_narrow(0, 0, chunk.length)?;
        let _ = spare.f_narrow(0, 0, chunk.length)?.f_bucketize_tensor_out(
            &index,
            &self.levels.bounds,
            true,
            false,
        )?;
        self.codes.f_narrow(0, chunk.start, chunk.length)?.f_copy_(&index)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use autograd::random::{Distribution, draw};

    #[test]
    fn there_are_256_levels_as_in_bitsandbytes() {
        let (signed, unsigned) = (dynamic(true), dynamic(false));
        assert_eq!((signed.len(), unsigned.len()), (256, 256));
        assert!(signed.windows(2).chain(unsigned.windows(2)).all(|pair| pair[0] < pair[1]));
        // The first and last entries of bitsandbytes.functional.create_dynamic_map(signed=True) and
        // (signed=False).
        let close = |ours: f64, theirs: f64| (ours / theirs - 1.0).abs() < 1e-6;
        assert!(
            close(signed[0], -0.9929687) && close(signed[254], 0.9929687) && signed[255] == 1.0
        );
        assert!(
            close(unsigned[1], 3.25e-7) && close(unsigned[254], 0.9964844) && unsigned[0] == 0.0
        );
    }

    #[test]
    fn every_element_is_rounded_to_the_nearest_level_of_its_block() {
        let (elements, levels) = (2 * BLOCK + 31, Levels::signed(Device::Cpu).unwrap());
        let mut values = draw(Distribution::Normal, &[3 * BLOCK], Kind::Float, Device::Cpu, 5)
            .unwrap()
            .pow_tensor_scalar(3);
        let _ = values.narrow(0, 0, BLOCK).zero_();
        let _ = values.get(2 * BLOCK).fill_(-1000.0);
        let exact = Vec::<f32>::try_from(&values.narrow(0, 0, elements)).unwrap();
        let mut state = Blockwise::zeros(elements, &levels, Device::Cpu).unwrap();
        let (spare, index) = (values.zeros_like(), values.zeros_like().to_kind(Kind::Int));
        let chunk = Chunk { start: 0, length: elements };
        state.write(chunk, &values, &spare, &index).unwrap();
        let _ = values.fill_(7.0);
        state.read(chunk, &values, &index).unwrap();
        let ours = Vec::<f32>::try_from(&values.narrow(0, 0, elements)).unwrap();
        for (block, (exact, ours)) in
            exact.chunks(BLOCK as usize).zip(ours.chunks(BLOCK as usize)).enumerate()
        {
            let scale = exact.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
            for (exact, ours) in exact.iter().zip(ours) {
                let distance = |level: &f64| (level * scale - f64::from(*exact)).abs();
                let nearest = dynamic(true).iter().map(distance).fold(f64::INFINITY, f64::min);
                let off = f64::from((exact - ours).abs());
                assert!(
                    off <= nearest + 1e-6 * scale,
                    "block {block}: {exact} became {ours}, {nearest} is possible"
                );
            }
        }
    }
}
