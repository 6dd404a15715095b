use tch::{Kind, Tensor};

use crate::Error;
use crate::linalg::ready;
use crate::projection::{Projection, gram, leading_eigenvectors};

/// The best projection of `a` of this rank.
///
/// From the eigenvectors of the f64 Gram matrix of its shorter side, which is several times faster
/// than a singular value decomposition and resolves singular values down to 1e-8 of the largest,
/// beyond what f32 can hold. An f64 matrix goes through the decomposition itself.
pub(crate) fn svd(a: &Tensor, rank: i64) -> Result<Projection, Error> {
    let (rows, columns) = a.size2()?;
    if a.kind() == Kind::Double {
        let (u, _, v) = ready(a).f_svd(true, true)?;
        return if rows >= columns {
            Projection::onto_rows(a, &v.f_narrow(1, 0, rank)?)
        } else {
            Projection::onto_columns(a, u.f_narrow(1, 0, rank)?)
        };
    }
    if rows >= columns {
        Projection::onto_rows(a, &leading_eigenvectors(&gram(a)?, rank)?.f_to_kind(a.kind())?)
    } else {
        Projection::onto_columns(
            a,
            leading_eigenvectors(&gram(&a.f_tr()?)?, rank)?.f_to_kind(a.kind())?,
        )
    }
}
