use tch::{Device, Kind, TchError, Tensor};

use crate::linalg::ready;

/// An orthonormal basis of each matrix's column space, by Householder QR.
///
/// `matrix` is `[..., rows, columns]` in f32 or f64 with `columns <= rows`; so is the result.
/// Columns stay orthonormal when the matrix is rank-deficient or zero (the extra directions are
/// then arbitrary). The result is contiguous and owns its storage.
///
/// # Errors
/// Those of libtorch: an unsupported dtype, fewer than two dimensions.
pub fn orthonormalize(matrix: &Tensor) -> Result<Tensor, TchError> {
    let (q, _) = Tensor::f_linalg_qr(ready(matrix), "reduced")?;
    q.f_contiguous()
}

/// How far `QᵀQ` may be from the identity after the first pass of [`cholesky_qr`]; half of what its
/// second pass can bear.
const FIRST_PASS: f64 = 0.5;

/// An orthonormal basis of the column space of one matrix `[rows, columns]`, `columns <= rows`, in
/// f32 or f64, by Cholesky QR; `None` if its columns are too nearly dependent for that, and then
/// [`orthonormalize`] is the way.
///
/// Two passes of `Q = Y R⁻¹` with `RᵀR = YᵀY`. The first Gram matrix is computed and factorised in
/// f64 (mixed precision: Yamazaki, Tomov and Dongarra 2015) with a shift of a few units in the last
/// place (shifted CholeskyQR: Fukaya et al. 2020), so that it bears a condition number of about
/// 1e6, where an f32 Gram matrix ends near 1e3. The second pass starts from `QᵀQ`, whose distance
/// from the identity is the check: below a half, the result is orthonormal to rounding.
///
/// All but the factorisations of `[columns, columns]` matrices are matrix products. The check makes
/// the host wait for a GPU.
///
/// # Errors
/// Those of libtorch: an unsupported dtype, not two dimensions.
pub fn cholesky_qr(matrix: &Tensor) -> Result<Option<Tensor>, TchError> {
    let kind = matrix.f_kind()?;
    let columns = matrix.size2()?.1;
    let exact = matrix.f_to_kind(Kind::Double)?;
    let gram = exact.f_tr()?.f_matmul(&exact)?;
    drop(exact);
    let identity = Tensor::f_eye(columns, (Kind::Double, matrix.device()))?;
    let shift = gram.f_trace()?.f_mul_scalar(4.0 * f64::EPSILON)?;
    let Some(inverse) = inverse_of_root(&gram.f_add(&identity.f_mul(&shift)?)?, &identity)? else {
        return Ok(None);
    };
    let first = matrix.f_matmul(&inverse.f_to_kind(kind)?)?;
    let gram = first.f_tr()?.f_matmul(&first)?.f_to_kind(Kind::Double)?;
    let distance = gram.f_sub(&identity)?.f_norm()?.f_double_value(&[])?;
    if distance.is_nan() || distance >= FIRST_PASS {
        return Ok(None);
    }
    let Some(inverse) = inverse_of_root(&gram, &identity)? else { return Ok(None) };
    first.f_matmul(&inverse.f_to_kind(kind)?).map(Some)
}

/// `R⁻¹` for the upper triangular `R` with `RᵀR = gram`, if there is one.
fn inverse_of_root(gram: &Tensor, identity: &Tensor) -> Result<Option<Tensor>, TchError> {
    let (root, fault) = ready(gram).f_linalg_cholesky_ex(true, false)?;
    if fault.f_int64_value(&[])? != 0 {
        return Ok(None);
    }
    root.f_linalg_solve_triangular(identity, true, true, false).map(Some)
}

/// An orthonormal basis of the column space of one matrix, the fastest safe way: Cholesky QR of a
/// tall matrix on a CPU, checked, else Householder. On a GPU the check would make the host wait
/// within a training step, so there it is Householder at once.
pub(crate) fn basis(matrix: &Tensor) -> Result<Tensor, TchError> {
    let (rows, columns) = matrix.size2()?;
    if matrix.device() == Device::Cpu
        && rows >= 2 * columns
        && let Some(basis) = cholesky_qr(matrix)?
    {
        return Ok(basis);
    }
    orthonormalize(matrix)
}
