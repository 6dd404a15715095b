use tch::{Device, Kind, Tensor};

use crate::auto::auto;
use crate::coded::{Coded, Coding};
use crate::components::components;
use crate::inputs::Inputs;
use crate::measure::{check_finite, check_matrix};
use crate::projection::Projection;
use crate::{Code, Error, Factors, Method, Options, Quantized, Rank, SiteState};

const OPERATION: &str = "decompose";

/// Codes `matrix` `[rows, columns]` (f32, f64, f16 or bf16; arithmetic is in f32, or in f64 for
/// f64).
///
/// The same seed and state give the same code; no global generator is used, and no graph is
/// recorded. `state` is the site's own, read and written by the methods that need it.
///
/// The host never waits for a GPU here: a NaN in a matrix on one makes a code of NaN, which
/// [`is_finite`](crate::is_finite) of the matrix tells whenever it suits. ([`Rank::Auto`], Cholesky
/// QR and the unusual scale of elements beyond 1e15 are the CPU's; on a GPU `Auto` waits, and so
/// does [`Method::Coded`].)
///
/// # Errors
/// [`Error::NotFinite`] for a NaN or infinity (on the CPU); [`Error::Shape`], [`Error::Kind`],
/// [`Error::Rank`], [`Error::Setting`] for what it does not take; those of libtorch.
pub fn decompose(
    matrix: &Tensor,
    options: &Options,
    seed: u64,
    state: &mut SiteState,
) -> Result<Code, Error> {
    let (rows, columns, kind) = check_matrix(OPERATION, matrix)?;
    if let Method::Coded { .. } = options.method {
        return Ok(Code::Coded(coded(&matrix.f_detach()?, options, seed, state)?));
    }
    let a = matrix.f_detach()?.f_to_kind(kind)?;
    // The look at the largest element would make the host wait for a GPU.
    let largest = if a.device() == Device::Cpu { check_finite(OPERATION, &a)? } else { 1.0 };
    if let Method::Quantized { bits, group } = options.method {
        return Ok(Code::Quantized(Quantized::new(&a, bits, group)?));
    }
    if let Method::Rsvd { oversampling: got @ ..0, .. } = options.method {
        return Err(Error::Setting {
            operation: OPERATION,
            option: "oversampling",
            expected: "at least 0",
            got: got.to_string(),
        });
    }
    let shares = options.method == Method::Shared;
    let rank = options.rank.resolve(if shares { columns } else { rows }, columns)?;
    let warm = if options.method.is_warm() { state.load(&a)? } else { None };

    // Squares of such elements would leave the range of f32.
    let unit = if largest > 0.0 && !(1e-15..1e15).contains(&largest) { largest } else { 1.0 };
    let a = if unit == 1.0 { a } else { a.f_div_scalar(unit)? };
    let inputs = Inputs { a: &a, seed, warm: warm.as_ref() };
    let mut found = match options.rank {
        _ if shares => state.share(&inputs, rank)?,
        Rank::Auto { error, .. } => {
            auto(&inputs, options.method, error, rank, options.keep_norms, options.factors)?
        }
        _ => components(&inputs, options.method, rank)?,
    };
    if options.factors == Kind::Int8 {
        found = found.balanced()?;
    }
    if options.keep_norms {
        found.left = found.left.f_mul(&row_scales(&a, &found)?)?;
    }
    if unit != 1.0 {
        found.left = found.left.f_mul_scalar(unit)?;
    }
    if shares {
        return Ok(Code::Factors(Factors::sharing(&found.left, found.right, options.factors)?));
    }
    let factors = Factors::new(&found.left, &found.right, options.factors)?;
    if options.method.is_warm() {
        state.store(&factors)?;
    }
    Ok(Code::Factors(factors))
}

/// A code in the basis of the site, which is made or brought up to date as its method says.
fn coded(a: &Tensor, options: &Options, seed: u64, state: &mut SiteState) -> Result<Coded, Error> {
    let Method::Coded { rate, rounding, drift, rotate } = options.method else {
        unreachable!("asked for one method only")
    };
    if drift.is_nan() {
        return Err(Error::Setting {
            operation: OPERATION,
            option: "drift",
            expected: "a number",
            got: drift.to_string(),
        });
    }
    let coding = Coding { rate, rounding, keep_norms: options.keep_norms };
    if rotate {
        state.code(a, &coding, drift, options.factors, seed)
    } else {
        Coded::by_columns(a, &coding, seed)
    }
}

/// `‖a_i‖ / ‖â_i‖` for each row, `[rows, 1]`; 1 where the approximation is zero.
fn row_scales(a: &Tensor, found: &Projection) -> Result<Tensor, Error> {
    let exact = a.f_square()?.f_sum_dim_intlist(1, true, a.kind())?;
    let approximate = found.row_energies()?;
    // A row that the basis hardly sees is not blown up from rounding noise: its direction means
    // nothing.
    let visible = approximate.f_gt_tensor(&exact.f_mul_scalar(1e-8)?)?;
    let scale = exact.f_div(&approximate)?.f_sqrt()?;
    Ok(scale.f_where_self(&visible, &scale.f_ones_like()?)?)
}
