use tch::{Kind, Tensor};

use super::super::pack::LANES;
use super::super::plan::{BLOCK, Encoded, Plan};
use super::super::rounding::Rounding;
use super::super::scalar::key;
use super::super::spread::{BINS, Spread};
use super::super::upload::upload;
use super::Argument::{Absent, Number, Of};
use super::{Kernel, Kernels};
use crate::Error;

/// Sums into which [`Spread::from_values`] gathers squares, and rows after which it begins new
/// ones.
const SUMMED: usize = 16;
const PART: usize = 64 * SUMMED;

/// 32-bit words in which `coded.cu` reads a component.
const WORDS: i64 = 8;

/// Threads of a block.
const THREADS: usize = 128;
/// Of `spread`: four parts.
const SPREAD_THREADS: usize = 4 * SUMMED;
/// Of `trellis`: its threads are few and busy for long, so they are spread over all processors.
const STREAM_THREADS: usize = 32;

impl Kernels {
    /// As [`scale_rows`](super::super) on the CPU, `y` `[components, rows]` in f32 in place.
    pub(crate) fn scale_rows(
        &self,
        y: &mut Tensor,
        factors: &[f32],
        ratios: Option<&[f32]>,
    ) -> Result<Vec<f32>, Error> {
        let (components, rows) = sizes(y)?;
        let blocks = components.div_ceil(BLOCK);
        let squares = self.empty(&[1, blocks, rows], Kind::Float)?;
        let factors = upload(factors, self.device)?;
        let ratios = ratios.map(|ratios| upload(ratios, self.device)).transpose()?;
        let ratios = ratios.as_ref().map_or(Absent, Of);
        let arguments = [
            Of(y),
            Of(&factors),
            ratios,
            Of(&squares),
            Number(components as i64),
            Number(rows as i64),
        ];
        self.launch(Kernel::ScaleRows, [rows.div_ceil(THREADS), blocks], THREADS, &arguments)?;
        self.added(&squares)
    }

    /// `[sums, blocks, rows]` to the sums, one after another.
    fn added(&self, parts: &Tensor) -> Result<Vec<f32>, Error> {
        let (count, blocks, rows) = parts.size3()?;
        let sums = self.empty(&[count as usize, rows as usize], Kind::Float)?;
        let grid = [(rows as usize).div_ceil(THREADS), count as usize];
        self.launch(
            Kernel::AddBlocks,
            grid,
            THREADS,
            &[Of(parts), Of(&sums), Number(blocks), Number(rows)],
        )?;
        Ok(Vec::try_from(sums.f_view([-1])?)?)
    }

    /// As [`Spread::from_values`], of each component of `y` `[components, rows]`.
    pub(crate) fn spreads(&self, y: &Tensor, absent: usize) -> Result<Vec<Spread>, Error> {
        let (components, rows) = sizes(y)?;
        let parts = rows.div_ceil(PART);
        let counts =
            Tensor::f_zeros([components as i64, BINS as i64 + 1], (Kind::Int, self.device))?;
        let squares = self.empty(&[components, parts, SUMMED], Kind::Float)?;
        let grid = [components, parts.div_ceil(SPREAD_THREADS / SUMMED)];
        let arguments =
            [Of(y), Of(&counts), Of(&squares), Number(rows as i64), Number(parts as i64)];
        self.launch(Kernel::Spread, grid, SPREAD_THREADS, &arguments)?;
        let energies = self.empty(&[components], Kind::Double)?;
        let arguments =
            [Of(&squares), Of(&energies), Number(components as i64), Number(parts as i64)];
        self.launch(Kernel::Energies, [components.div_ceil(THREADS), 1], THREADS, &arguments)?;

        let counts = Vec::<i32>::try_from(counts.f_view([-1])?)?;
        let energies = Vec::<f64>::try_from(energies)?;
        let spread = |(counts, energy): (&[i32], f64)| {
            let mut bins = [0; BINS];
            bins.iter_mut().zip(counts).for_each(|(bin, count)| *bin = count.cast_unsigned());
            Spread::from_counts(bins, energy, f32::from_bits(counts[BINS].cast_unsigned()), absent)
        };
        Ok(counts.chunks(BINS + 1).zip(energies).map(spread).collect())
    }

    /// As [`cpu::encode`](super::super::cpu::encode), with the codes on the device.
    pub(crate) fn encode(
        &self,
        y: &Tensor,
        plan: &Plan,
        rounding: Rounding,
        seed: u64,
    ) -> Result<Encoded<Tensor>, Error> {
        let rows = sizes(y)?.1;
        let (active, groups) = (plan.active().len(), rows.div_ceil(LANES));
        let codes = Tensor::f_zeros([plan.code_bytes(rows) as i64], (Kind::Uint8, self.device))?;
        if active == 0 {
            return Ok(Encoded { codes, energies: vec![0.0; rows], along: vec![0.0; rows] });
        }
        let components = self.components(plan, rows, seed)?;
        let given = [Of(y), Of(&components), Number(active as i64), Number(rows as i64)];
        let along_trellis = rounding == Rounding::Trellis;
        let trace =
            self.empty(&[if along_trellis { active * groups * LANES } else { 0 }], Kind::Uint8)?;
        if along_trellis {
            let starts = self.starts.f_get(1)?;
            let arguments =
                [given.as_slice(), &[Of(&starts), Of(&self.classes), Of(&trace)]].concat();
            self.launch(
                Kernel::Trellis,
                [(active * LANES).div_ceil(STREAM_THREADS), 1],
                STREAM_THREADS,
                &arguments,
            )?;
        }
        let blocks = active.div_ceil(BLOCK);
        let parts = self.empty(&[2, blocks, rows], Kind::Float)?;
        let tables = [
            Number(rounding as i64),
            Of(&self.levels),
            Of(&self.starts),
            Of(&trace),
            Of(&codes),
            Of(&parts),
        ];
        self.launch(
            Kernel::Encode,
            [groups.div_ceil(THREADS), blocks],
            THREADS,
            &[given.as_slice(), &tables].concat(),
        )?;
        let mut energies = self.added(&parts)?;
        let along = energies.split_off(rows);
        Ok(Encoded { codes, energies, along })
    }

    /// As [`cpu::decode`](super::super::cpu::decode), from `gains` `[rows]` in their 16 bits:
    /// `[active, rows]` in bf16, or else in f32.
    pub(crate) fn decode(
        &self,
        codes: &Tensor,
        plan: &Plan,
        gains: &Tensor,
        trellis: bool,
        kind: Kind,
    ) -> Result<Tensor, Error> {
        let (active, rows) = (plan.active().len(), gains.size1()? as usize);
        let kind = if kind == Kind::BFloat16 { kind } else { Kind::Float };
        let y = self.empty(&[active, rows], kind)?;
        if active == 0 || rows == 0 {
            return Ok(y);
        }
        let components = self.components(plan, rows, 0)?;
        let (trellis, bf16) = (i64::from(trellis), i64::from(kind == Kind::BFloat16));
        let arguments = [
            Of(codes),
            Of(&components),
            Number(rows as i64),
            Number(trellis),
            Of(&self.levels),
            Of(gains),
            Number(bf16),
            Of(&y),
        ];
        self.launch(Kernel::Decode, [active, rows.div_ceil(THREADS)], THREADS, &arguments)?;
        Ok(y)
    }

    /// `[active, WORDS]`, int32: the active components, as `coded.cu` reads them.
    fn components(&self, plan: &Plan, rows: usize, seed: u64) -> Result<Tensor, Error> {
        let (mut words, mut at) = (Vec::new(), 0u64);
        for component in plan.active() {
            let (width, step) = (plan.widths[component], plan.step(component));
            let own = [
                at as u32,
                (at >> 32) as u32,
                component as u32,
                u32::from(width),
                step.to_bits(),
                (1.0 / step).to_bits(),
            ];
            words.extend(own.into_iter().chain([key(seed, component), 0]).map(u32::cast_signed));
            at += (rows.div_ceil(LANES) * usize::from(width)) as u64;
        }
        Ok(upload(&words, self.device)?.f_view([-1, WORDS])?)
    }

    fn empty(&self, size: &[usize], kind: Kind) -> Result<Tensor, Error> {
        let size: Vec<i64> = size.iter().map(|&size| size as i64).collect();
        Ok(Tensor::f_empty(size, (kind, self.device))?)
    }
}

fn sizes(y: &Tensor) -> Result<(usize, usize), Error> {
    let (components, rows) = y.size2()?;
    Ok((components as usize, rows as usize))
}
