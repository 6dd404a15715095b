use tch::{Kind, Tensor};

use crate::Error;

/// The per-token error of an approximation: `sqrt(mean over rows with a_i ≠ 0 of ‖a_i − â_i‖² /
/// ‖a_i‖²)`, in f64; 0 for a zero matrix.
///
/// Unlike the Frobenius error, it is not dominated by a few tokens of huge norm.
///
/// # Errors
/// Those of libtorch: shapes that differ.
pub fn per_token_error(exact: &Tensor, approximate: &Tensor) -> Result<f64, Error> {
    let exact = exact.f_to_kind(Kind::Double)?;
    let energy = |tensor: &Tensor| tensor.f_square()?.f_sum_dim_intlist(1, false, Kind::Double);
    let (norms, lost) = (energy(&exact)?, energy(&exact.f_sub(approximate)?)?);
    let rows = norms.f_gt(0.0)?;
    let shares = lost.f_masked_select(&rows)?.f_div(&norms.f_masked_select(&rows)?)?;
    if shares.numel() == 0 {
        Ok(0.0)
    } else {
        Ok(shares.f_mean(Kind::Double)?.f_sqrt()?.f_double_value(&[])?)
    }
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

/// Rows, columns and the dtype of the arithmetic for a matrix to be coded: f32, or f64 for f64.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Kind`] for what is not taken.
pub(crate) fn check_matrix(
    operation: &'static str,
    matrix: &Tensor,
) -> Result<(i64, i64, Kind), Error> {
    let size = matrix.size();
    let (rows, columns) = match size[..] {
        [rows, columns] if rows > 0 && columns > 0 => (rows, columns),
        _ => {
            return Err(Error::Shape {
                operation,
                expected: "[rows, columns], neither of them 0".into(),
                got: size,
            });
        }
    };
    match matrix.kind() {
        Kind::Double => Ok((rows, columns, Kind::Double)),
        Kind::Float | Kind::Half | Kind::BFloat16 => Ok((rows, columns, Kind::Float)),
        got => Err(Error::Kind { operation, expected: "f32, f64, f16 or bf16", got }),
    }
}

/// Whether `tensor` holds neither NaN nor infinity: one boolean on its device, for which nobody
/// waits. One reduction.
///
/// # Errors
/// Those of libtorch.
pub fn is_finite(tensor: &Tensor) -> Result<Tensor, Error> {
    // A NaN is both the least and the largest; sums would overflow for finite elements too.
    let (least, most) = tensor.f_aminmax(None, false)?;
    Ok(least.f_isfinite()?.f_logical_and(&most.f_isfinite()?)?)
}

/// The largest magnitude in `matrix`, or [`Error::NotFinite`] if it holds NaN or infinity. One
/// reduction; on a GPU the host waits for it.
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
