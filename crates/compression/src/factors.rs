use tch::{Kind, Tensor};

use crate::{Error, rounded::Rounded};

/// A matrix held as the product of two thin ones: `A ≈ left · right`.
///
/// Tensors are contiguous and own their storage: no larger storage is kept alive by them. But the
/// right factor may be that of many matrices, which their site's [`SiteState`](crate::SiteState)
/// holds.
#[derive(Debug)]
pub struct Factors {
    left: Rounded,
    right: Rounded,
    /// Whether the right factor is held elsewhere, and not counted here.
    shares_right: bool,
}

impl Factors {
    /// From `left` `[rows, rank]` and `right` `[rank, columns]`, converted to `kind` (the form in
    /// which they are held): a floating dtype, or `Int8`, which takes one bf16 scale for each row
    /// of `left` and each column of `right`.
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit together, [`Error::Kind`] for another `kind`.
    pub fn new(left: &Tensor, right: &Tensor, kind: Kind) -> Result<Self, Error> {
        let (l, r) = (left.size(), right.size());
        if l.len() != 2 || r.len() != 2 || l[1] != r[0] {
            let expected =
                format!("[{}, columns] for the right factor", l.last().copied().unwrap_or(0));
            return Err(Error::Shape { operation: "factors", expected, got: r });
        }
        Ok(Self {
            left: Rounded::new(left, kind, 1)?,
            right: Rounded::new(right, kind, 0)?,
            shares_right: false,
        })
    }

    /// The same with a `right` that others hold, too: it stays as it is, and only `left` is held in
    /// `kind`.
    pub(crate) fn sharing(left: &Tensor, right: Tensor, kind: Kind) -> Result<Self, Error> {
        Ok(Self {
            left: Rounded::new(left, kind, 1)?,
            right: Rounded::as_is(right),
            shares_right: true,
        })
    }

    /// The same factors, sharing their storage.
    pub fn shallow_clone(&self) -> Self {
        Self {
            left: self.left.shallow_clone(),
            right: self.right.shallow_clone(),
            shares_right: self.shares_right,
        }
    }

    /// `[rows, rank]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn left(&self, kind: Kind) -> Result<Tensor, Error> {
        self.left.to_kind(kind)
    }

    /// `[rank, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn right(&self, kind: Kind) -> Result<Tensor, Error> {
        self.right.to_kind(kind)
    }

    /// The right basis `[columns, rank]` in `kind`, each column of unit length (or zero): what a
    /// [`SiteState`](crate::SiteState) holds for the next matrix of the same site. A tensor of its
    /// own.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn right_basis(&self, kind: Kind) -> Result<Tensor, Error> {
        let right = self.right.to_kind(kind)?;
        let norms = right.f_square()?.f_sum_dim_intlist(1, true, kind)?.f_sqrt()?;
        let zero = norms.f_eq(0.0)?;
        Ok(right.f_div(&norms.f_masked_fill(&zero, 1.0)?)?.f_tr()?.f_contiguous()?)
    }

    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.left.tensors().chain(self.right.tensors()).collect()
    }

    /// The dtype in which the factors are held, the left one where the right one is shared.
    pub fn kind(&self) -> Kind {
        self.left.values().kind()
    }

    /// The number of components.
    pub fn rank(&self) -> i64 {
        self.left.values().size()[1]
    }

    /// Bytes held, as [`Factors::bytes_of`]; without a right factor that is shared.
    pub fn bytes(&self) -> u64 {
        self.left.bytes() + if self.shares_right { 0 } else { self.right.bytes() }
    }

    /// Bytes of the left factor.
    pub fn left_bytes(&self) -> u64 {
        self.left.bytes()
    }

    /// Bytes of the right factor, which do not grow with the rows.
    pub fn right_bytes(&self) -> u64 {
        self.right.bytes()
    }

    /// Bytes of the factors of a `[rows, columns]` matrix: `rank · (rows + columns) · bytes of the
    /// dtype`, and for int8 `2 · (rows + columns)` more for the scales.
    pub fn bytes_of(rows: i64, columns: i64, rank: i64, kind: Kind) -> u64 {
        let scales = if kind == Kind::Int8 { Kind::BFloat16.elt_size_in_bytes() } else { 0 };
        (rows + columns) as u64 * (rank as u64 * kind.elt_size_in_bytes() as u64 + scales as u64)
    }

    /// The matrix they stand for, `[rows, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        Ok(self.left.to_kind(kind)?.f_matmul(&self.right.to_kind(kind)?)?)
    }

    /// `gᵀ A` as `(gᵀ left) right`, `[m, columns]`, for a gradient `g` `[rows, m]`, in `g`'s dtype.
    ///
    /// Costs `2 m rank (rows + columns)` floating-point operations instead of `2 m rows columns`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        let kind = gradient.kind();
        let small = gradient.f_tr()?.f_matmul(&self.left.to_kind(kind)?)?;
        Ok(small.f_matmul(&self.right.to_kind(kind)?)?)
    }

    /// `A wᵀ` as `left (right wᵀ)`, `[rows, m]`, for a weight `w` `[m, columns]`, in `w`'s dtype.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        let kind = weight.kind();
        let small = self.right.to_kind(kind)?.f_matmul(&weight.f_tr()?)?;
        Ok(self.left.to_kind(kind)?.f_matmul(&small)?)
    }
}
