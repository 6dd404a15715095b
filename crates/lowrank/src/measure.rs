use crate::Error;
use tch::{Kind, Tensor};

/// The per-token error of an approximation: `sqrt(mean over rows with a_i ≠ 0 of ‖a_i − â_i‖² / ‖a_i‖²)`, in f64; 0 for a zero matrix.
///
/// Unlike the Frobenius error, it does not let a few tokens of huge norm speak for all the others.
///
/// # Errors
/// Those of libtorch: shapes that differ.
pub fn per_token_error(exact: &Tensor, approximate: &Tensor) -> Result<f64, Error> {
    let exact = exact.f_to_kind(Kind::Double)?;
    let energy = |tensor: &Tensor| tensor.f_square()?.f_sum_dim_intlist(1, false, Kind::Double);
    let (norms, lost) = (energy(&exact)?, energy(&exact.f_sub(approximate)?)?);
    let rows = norms.f_gt(0.0)?;
    let shares = lost.f_masked_select(&rows)?.f_div(&norms.f_masked_select(&rows)?)?;
    if shares.numel() == 0 { Ok(0.0) } else { Ok(shares.f_mean(Kind::Double)?.f_sqrt()?.f_double_value(&[])?) }
}

/// The relative Frobenius error of an approximation: `‖A − Â‖ / ‖A‖`, in f64; 0 for a zero matrix.
///
/// # Errors
/// Those of libtorch: shapes that differ.
pub fn relative_error(exact: &Tensor, approximate: &Tensor) -> Result<f64, Error> {
    let exact = exact.f_to_kind(Kind::Double)?;
    let total = exact.f_norm()?.f_double_value(&[])?;
    let lost = exact.f_sub(approximate)?.f_norm()?.f_double_value(&[])?;
    Ok(if total == 0.0 { 0.0 } else { lost / total })
}

/// The largest magnitude in `matrix`, or [`Error::NotFinite`] if it holds NaN or infinity. One reduction; on a GPU the host waits for it.
///
/// # Errors
/// [`Error::NotFinite`].
pub fn check_finite(operation: &'static str, matrix: &Tensor) -> Result<f64, Error> {
    // A NaN is both the least and the largest; sums would overflow for finite elements too.
    let (least, most) = matrix.f_aminmax(None, false)?;
    let largest = least.f_neg()?.f_maximum(&most)?.f_double_value(&[])?;
    if largest.is_finite() {
        return Ok(largest);
    }
    let (rows, columns) = matrix.size2()?;
    Err(Error::NotFinite { operation, rows, columns })
}
