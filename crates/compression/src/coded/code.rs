use std::sync::Arc;

use rayon::prelude::*;
use tch::{Kind, Tensor};

use kernels::components::{
    Components, EXACT, Encoded, Kernels, LANES, Losses, Plan, Scales, WIDTHS, decode, gain,
    gain_near, upload,
};

use super::basis::Basis;
use super::outliers::{Exact, worth_storing};
use super::unit_rows::Normed;
use super::water_filling::{Until, widths};
use super::{Coding, Rate, Rounding};
use crate::Error;
use crate::rounded::owned;

const OPERATION: &str = "coded";

/// A matrix whose rows are coded in a [`Basis`], each component with its own number of bits. See
/// the [module](super) for how.
#[derive(Debug)]
pub struct Coded {
    /// Absent if the components are the columns themselves.
    basis: Option<Arc<Basis>>,
    columns: i64,
    /// Packed codes, uint8, filled up with zeros to the bytes predicted.
    codes: Tensor,
    /// `[rows]`, 16 bits each.
    gains: Tensor,
    /// `[2, components]`, uint8, on the CPU: widths and scales.
    plan: Tensor,
    /// Rows that are stored exactly.
    exact: Option<Exact>,
    trellis: bool,
    error: f64,
    weighted_error: f64,
}

/// Where components belong.
enum Vectors {
    /// On these basis vectors, `[columns, active]`.
    Of(Tensor),
    /// In these columns; all of them if there are none.
    Columns(Option<Tensor>),
}

/// A matrix being coded.
struct Attempt {
    plan: Plan,
    encoded: Encoded<Tensor>,
    gains: Vec<u16>,
    /// Of each row, relative to its norm.
    errors: Vec<f64>,
}

impl Coded {
    /// Codes `matrix` `[rows, columns]` (f32, f64, f16 or bf16; arithmetic is in f32) in `basis`.
    ///
    /// The same seed gives the same code, however many cores there are; only
    /// [`Rounding::Stochastic`] uses it.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or infinity; [`Error::Shape`], [`Error::Kind`],
    /// [`Error::Setting`] for what it does not take; those of libtorch.
    pub fn new(
        matrix: &Tensor,
        basis: &Arc<Basis>,
        coding: &Coding,
        seed: u64,
    ) -> Result<Self, Error> {
        Self::with(Kernels::on(matrix.device()), matrix, Some(basis), coding, seed)
    }

    /// Codes `matrix` column by column, without a basis: its columns serve as components, which
    /// costs no product and holds nothing in addition to the code; good where energy is spread
    /// evenly.
    ///
    /// # Errors
    /// As [`Coded::new`].
    pub fn by_columns(matrix: &Tensor, coding: &Coding, seed: u64) -> Result<Self, Error> {
        Self::with(Kernels::on(matrix.device()), matrix, None, coding, seed)
    }

    /// By these kernels of the matrix's device; by the CPU if there are none.
    pub(super) fn with(
        kernels: Option<Kernels>,
        matrix: &Tensor,
        basis: Option<&Arc<Basis>>,
        coding: &Coding,
        seed: u64,
    ) -> Result<Self, Error> {
        let Normed { rows: matrix_rows, norms, inverses } = Normed::new(OPERATION, matrix)?;
        let y = rotated(&matrix_rows, basis)?;
        let (rows, columns) = (norms.len(), matrix_rows.size2()?.1 as usize);
        let components = basis.map_or(columns, |basis| basis.components() as usize);
        drop(matrix_rows);
        let mut y = Components::new(y, kernels)?;
        // The mean of a stochastic code is the row only if what it was divided by is what it is
        // multiplied with, to the last bit.
        let ratio = |&norm: &f32| if norm > 0.0 { norm / gain(gain_near(norm)) } else { 0.0 };
        let ratios: Option<Vec<f32>> =
            (coding.rounding == Rounding::Stochastic).then(|| norms.iter().map(ratio).collect());
        let squares = y.scale_rows(&inverses, ratios.as_deref())?;
        // What a complete basis does not hold is rounding.
        let energies = if components == columns { squares } else { vec![1.0; rows] };
        let bytes = coding.rate.bytes(rows, columns, components)?;

        let attempt = |y: &Components, norms: &[f32], kept: u64| {
            let spent = kept * Exact::bytes_of(columns) + fixed_bytes(rows, components);
            let bits = bytes.map(|bytes| bytes.saturating_sub(spent) / rows.div_ceil(LANES) as u64);
            attempt(&Rows { y, norms, energies: &energies }, coding, bits, seed)
        };
        let mut found = attempt(&y, &norms, 0)?;
        // No more than half of the codes' bytes.
        let affordable = bytes.map_or(rows, |bytes| {
            ((bytes - fixed_bytes(rows, components)) / 2 / Exact::bytes_of(columns)) as usize
        });
        let outliers = worth_storing(&found.errors, columns, found.plan.active().len(), affordable);
        let mut exact = None;
        if !outliers.is_empty() {
            let mut others = norms.clone();
            outliers.iter().for_each(|&row| others[row] = 0.0);
            y.clear(&outliers)?;
            found = attempt(&y, &others, outliers.len() as u64)?;
            exact = Some(Exact::new(matrix, &outliers)?);
        }

        let Attempt { plan, encoded, gains, errors } = found;
        let mut codes = encoded.codes;
        if let Some(bytes) = bytes {
            let rest = fixed_bytes(rows, components) + exact.as_ref().map_or(0, Exact::bytes);
            codes = codes.f_constant_pad_nd([0, (bytes - rest) as i64 - codes.numel() as i64])?;
        }
        let device = matrix.device();
        let (error, weighted_error) = mean_errors(&norms, &errors);
        let gains: Vec<i16> = gains.into_iter().map(u16::cast_signed).collect();
        Ok(Self {
            basis: basis.cloned(),
            columns: columns as i64,
            codes: codes.f_to_device(device)?,
            gains: upload(&gains, device)?,
            plan: Tensor::f_from_slice(&[plan.widths, plan.scales].concat())?
                .f_view([2, components as i64])?,
            exact,
            trellis: coding.rounding == Rounding::Trellis,
            error,
            weighted_error,
        })
    }

    /// The same code, sharing its storage.
    pub fn shallow_clone(&self) -> Self {
        Self {
            basis: self.basis.clone(),
            codes: self.codes.shallow_clone(),
            gains: self.gains.shallow_clone(),
            plan: self.plan.shallow_clone(),
            exact: self.exact.as_ref().map(Exact::shallow_clone),
            ..*self
        }
    }

    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        let mut tensors = vec![&self.codes, &self.gains, &self.plan];
        tensors.extend(self.exact.iter().flat_map(Exact::tensors));
        tensors
    }

    /// The basis in which it is coded; `None` if it is coded column by column. Its bytes are not
    /// among the code's, as others may share it.
    pub fn basis(&self) -> Option<&Arc<Basis>> {
        self.basis.as_ref()
    }

    /// Bytes held without the basis: at a rate in bits, [`Coded::bytes_of`].
    pub fn bytes(&self) -> u64 {
        let own = self.codes.numel() + 2 * self.gains.numel() + self.plan.numel();
        own as u64 + self.exact.as_ref().map_or(0, Exact::bytes)
    }

    /// Bytes of a `[rows, columns]` matrix in a basis of `components`, the most of them for
    /// [`Rate::Error`]: `⌊bits · rows · columns / 8⌋`, but at least one bit for each row in
    /// addition to the fixed parts, 2 bytes for each row and 2 for each component, and at most 16
    /// bits for each component of each row, rows counted in eights.
    ///
    /// # Errors
    /// [`Error::Setting`] for a rate outside its range.
    pub fn bytes_of(rows: i64, columns: i64, components: i64, rate: Rate) -> Result<u64, Error> {
        let (rows, columns, components) = (rows as usize, columns as usize, components as usize);
        Ok(rate.bytes(rows, columns, components)?.unwrap_or_else(|| most_bytes(rows, components)))
    }

    /// The [per-token error](crate::per_token_error), known from coding.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// The [relative error](crate::relative_error), known from coding.
    pub fn relative_error(&self) -> f64 {
        self.weighted_error
    }

    /// The number of bits of each component's code, of 0 to 8 or 16.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn widths(&self) -> Result<Vec<u8>, Error> {
        Ok(self.plan()?.widths)
    }

    /// How many rows are stored exactly.
    pub fn exact_rows(&self) -> i64 {
        self.exact.as_ref().map_or(0, Exact::len)
    }

    /// The error over that which the basis promises at these bits: about 1 for rows such as it was
    /// made of, and the more the less it fits; 1 without a basis. It costs nothing but the bits'
    /// distribution, and tells when to [update](Basis::update) the basis.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn drift(&self) -> Result<f64, Error> {
        let Some(basis) = &self.basis else { return Ok(1.0) };
        let expected = basis.expected_error(self.plan()?.bits())?;
        Ok(if expected > 0.0 { self.error / expected } else { 1.0 })
    }

    /// The matrix it stands for, `[rows, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        let (components, vectors) = self.components(kind)?;
        let mut matrix = self.turned_back(&components, &vectors)?;
        if let Some(exact) = &self.exact {
            matrix = exact.put_into(matrix)?;
        }
        Ok(matrix)
    }

    /// `gᵀ A` as `(gᵀ Y) Vᵀ`, `[m, columns]`, for a gradient `g` `[rows, m]`, in `g`'s dtype; `Y`
    /// are the decoded components.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        let (components, vectors) = self.components(gradient.kind())?;
        let contracted = self.turned_back(&gradient.f_tr()?.f_matmul(&components)?, &vectors)?;
        match &self.exact {
            None => Ok(contracted),
            Some(exact) => exact.add_contraction(contracted, gradient),
        }
    }

    /// `A wᵀ` as `Y (w V)ᵀ`, `[rows, m]`, for a weight `w` `[m, columns]`, in `w`'s dtype; `Y` are
    /// the decoded components.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        let (components, vectors) = self.components(weight.kind())?;
        let weight_there = match &vectors {
            Vectors::Of(vectors) => weight.f_matmul(vectors)?,
            Vectors::Columns(None) => weight.shallow_clone(),
            Vectors::Columns(Some(columns)) => weight.f_index_select(1, columns)?,
        };
        let projected = components.f_matmul(&weight_there.f_tr()?)?;
        match &self.exact {
            None => Ok(projected),
            Some(exact) => exact.put_projection(projected, weight),
        }
    }

    /// `[m, active]` components to `[m, columns]`.
    fn turned_back(&self, components: &Tensor, vectors: &Vectors) -> Result<Tensor, Error> {
        Ok(match vectors {
            Vectors::Of(vectors) => components.f_matmul(&vectors.f_tr()?)?,
            Vectors::Columns(None) => components.f_contiguous()?,
            Vectors::Columns(Some(columns)) => {
                let whole = [components.size()[0], self.columns];
                Tensor::f_zeros(whole, (components.kind(), components.device()))?
                    .f_index_copy_(1, columns, components)?
            }
        })
    }

    /// The decoded components that have bits, `[rows, active]`, and where they belong.
    fn components(&self, kind: Kind) -> Result<(Tensor, Vectors), Error> {
        let plan = self.plan()?;
        let active: Vec<i64> =
            plan.active().into_iter().map(|component| component as i64).collect();
        let device = self.codes.device();
        let y = decode(
            &self.codes,
            &plan,
            &self.gains,
            self.trellis,
            kind,
            Kernels::on(device).as_ref(),
        )?;
        let some =
            if active.len() < plan.widths.len() { Some(upload(&active, device)?) } else { None };
        let vectors = match (&self.basis, some) {
            (None, some) => Vectors::Columns(some),
            (Some(basis), None) => Vectors::Of(basis.vectors(kind)?),
            (Some(basis), Some(some)) => {
                Vectors::Of(basis.vectors(kind)?.f_index_select(1, &some)?)
            }
        };
        Ok((y.f_tr()?, vectors))
    }

    fn plan(&self) -> Result<Plan, Error> {
        let mut widths = Vec::<u8>::try_from(self.plan.f_view([-1])?)?;
        let scales = widths.split_off(widths.len() / 2);
        Ok(Plan { widths, scales })
    }
}

impl Rate {
    /// Bytes of a code at a rate in bits; `None` at a rate that follows from an error.
    fn bytes(self, rows: usize, columns: usize, components: usize) -> Result<Option<u64>, Error> {
        let setting = |option, expected, got: f64| {
            Err(Error::Setting { operation: OPERATION, option, expected, got: got.to_string() })
        };
        match self {
            Self::Bits(bits) if bits > 0.0 && bits <= 32.0 => {
                let asked = (bits * (rows * columns) as f64 / 8.0) as u64;
                let least = fixed_bytes(rows, components) + rows.div_ceil(LANES) as u64;
                Ok(Some(asked.clamp(least, most_bytes(rows, components))))
            }
            Self::Bits(bits) => setting("bits", "above 0 and at most 32", bits),
            Self::Error(error) if error > 0.0 && error.is_finite() => Ok(None),
            Self::Error(error) => setting("error", "above 0", error),
        }
    }
}

/// The components `[components, rows]` of `matrix` in a basis; its columns without one.
fn rotated(matrix: &Tensor, basis: Option<&Arc<Basis>>) -> Result<Tensor, Error> {
    let Some(basis) = basis else {
        // Not the matrix itself, as rows are scaled in place.
        return owned(&matrix.f_tr()?, Kind::Float);
    };
    basis.check(OPERATION, matrix)?;
    // A bf16 matrix is no more exact than a product in bf16.
    Ok(basis.vectors(matrix.kind())?.f_tr()?.f_matmul(&matrix.f_tr()?)?)
}

/// The per-token error and the relative error, from the norms of rows and the share of its square
/// that each loses.
fn mean_errors(norms: &[f32], errors: &[f64]) -> (f64, f64) {
    let counted = norms.iter().filter(|&&norm| norm > 0.0).count().max(1) as f64;
    let square = |norm: f32| f64::from(norm) * f64::from(norm);
    let (total, lost) =
        norms.iter().zip(errors).fold((0.0, 0.0), |(total, lost), (&norm, error)| {
            (total + square(norm), lost + square(norm) * error)
        });
    (
        (errors.iter().sum::<f64>() / counted).sqrt(),
        if total > 0.0 { (lost / total).sqrt() } else { 0.0 },
    )
}

/// Gains, widths and scales.
fn fixed_bytes(rows: usize, components: usize) -> u64 {
    (2 * rows + 2 * components) as u64
}

fn most_bytes(rows: usize, components: usize) -> u64 {
    fixed_bytes(rows, components) + (rows.div_ceil(LANES) * usize::from(EXACT) * components) as u64
}

/// Rows to be coded.
struct Rows<'a> {
    y: &'a Components,
    /// Rows whose norm is zero need no code.
    norms: &'a [f32],
    /// The square of each row, about 1, as far as the basis could hold it.
    energies: &'a [f32],
}

/// Codes rows with `bits` bits each, or with what the wanted error asks for.
fn attempt(
    rows: &Rows<'_>,
    coding: &Coding,
    bits: Option<u64>,
    seed: u64,
) -> Result<Attempt, Error> {
    let count = rows.norms.len();
    let absent = rows.norms.iter().filter(|&&norm| norm == 0.0).count();
    let counted = (count - absent).max(1);
    let plans: Vec<(Losses, Scales)> = rows
        .y
        .spreads(absent)?
        .par_iter()
        .map(|spread| spread.plan(coding.rounding, counted))
        .collect();
    let losses: Vec<Losses> = plans.iter().map(|(losses, _)| *losses).collect();
    let run = |until: Until| -> Result<Attempt, Error> {
        let widths = widths(&losses, until);
        let place = |width: u8| WIDTHS.iter().position(|&known| known == width).unwrap_or(0);
        let scales =
            widths.iter().zip(&plans).map(|(&width, (_, scales))| scales[place(width)]).collect();
        let plan = Plan { widths, scales };
        let encoded = rows.y.encode(&plan, coding.rounding, seed)?;
        let (gains, errors) = gains(rows, &encoded, coding);
        Ok(Attempt { plan, encoded, gains, errors })
    };
    let Rate::Error(error) = coding.rate else {
        return run(Until::Bits(bits.unwrap_or(u64::MAX)));
    };
    // What is lost is estimated beforehand, and asked for more strictly until it is met.
    let wanted = error * error * counted as f64;
    let outside = counted as f64 - losses.iter().map(|losses| losses[0]).sum::<f64>();
    let mut strict = (wanted - outside.max(0.0)).max(0.0);
    for _ in 0..ATTEMPTS {
        let found = run(Until::Lost(strict))?;
        let lost = found.errors.iter().sum::<f64>();
        if lost <= wanted {
            return Ok(found);
        }
        strict *= (wanted / lost).min(0.98);
    }
    run(Until::Bits(u64::MAX))
}

/// How often an error may be missed before all bits are given.
const ATTEMPTS: usize = 8;

/// The gain of each row's code, and what the row then loses of its square.
fn gains(rows: &Rows<'_>, encoded: &Encoded<Tensor>, coding: &Coding) -> (Vec<u16>, Vec<f64>) {
    let of = |row: usize| {
        let (norm, energy, along) = (rows.norms[row], encoded.energies[row], encoded.along[row]);
        if norm == 0.0 {
            return (0, 0.0);
        }
        let ideal = match coding.rounding {
            Rounding::Stochastic => 1.0,
            // A row that the code hardly captures is not scaled up.
            _ if energy <= 1e-8 => 0.0,
            _ if coding.keep_norms => 1.0 / energy.sqrt(),
            _ => (along / energy).max(0.0),
        };
        let code = gain_near((norm * ideal).min(f32::MAX));
        let (found, energy, along) =
            (f64::from(gain(code)) / f64::from(norm), f64::from(energy), f64::from(along));
        let exact = f64::from(rows.energies[row]);
        let lost = match coding.rounding {
            // These sums are over rows divided by their gain instead of their norm.
            Rounding::Stochastic => exact + found * found * (energy - 2.0 * along),
            _ => exact - 2.0 * found * along + found * found * energy,
        };
        (code, lost.max(0.0))
    };
    (0..rows.norms.len()).map(of).unzip()
}
