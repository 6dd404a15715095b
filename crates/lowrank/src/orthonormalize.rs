use tch::{TchError, Tensor};

/// An orthonormal basis of each matrix's column space, by Householder QR.
///
/// `matrix` is `[..., rows, columns]` in f32 or f64 with `columns <= rows`; so is the answer. Columns stay orthonormal when the matrix is
/// rank-deficient or zero (the extra directions are then arbitrary). The result is contiguous and owns its storage.
///
/// # Errors
/// Those of libtorch: an unsupported dtype, fewer than two dimensions.
pub fn orthonormalize(matrix: &Tensor) -> Result<Tensor, TchError> {
    let (q, _) = Tensor::f_linalg_qr(matrix, "reduced")?;
    q.f_contiguous()
}
