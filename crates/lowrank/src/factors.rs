use crate::Error;
use tch::{Kind, Tensor};

/// A matrix held as the product of two thin ones: `A ≈ left · right`.
///
/// Both are contiguous and own their storage: nothing larger is kept alive behind them.
#[derive(Debug)]
pub struct Factors {
    left: Tensor,
    right: Tensor,
}

impl Factors {
    /// From `left` `[rows, rank]` and `right` `[rank, columns]`, converted to `kind` (the form in which they are held).
    ///
    /// # Errors
    /// [`Error::Shape`] if they do not fit together.
    pub fn new(left: &Tensor, right: &Tensor, kind: Kind) -> Result<Self, Error> {
        let (l, r) = (left.size(), right.size());
        if l.len() != 2 || r.len() != 2 || l[1] != r[0] {
            return Err(Error::Shape {
                operation: "factors",
                expected: format!("[{}, columns] for the right factor", l[l.len() - 1]),
                got: r,
            });
        }
        Ok(Self { left: owned(left, kind)?, right: owned(right, kind)? })
    }

    /// The same factors, sharing their storage.
    pub fn shallow_clone(&self) -> Self {
        Self { left: self.left.shallow_clone(), right: self.right.shallow_clone() }
    }

    /// `[rows, rank]`.
    pub fn left(&self) -> &Tensor {
        &self.left
    }

    /// `[rank, columns]`.
    pub fn right(&self) -> &Tensor {
        &self.right
    }

    /// The number of components.
    pub fn rank(&self) -> i64 {
        self.left.size()[1]
    }

    /// Bytes held: `rank · (rows + columns) · bytes of the dtype`.
    pub fn bytes(&self) -> u64 {
        let bytes = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        bytes(&self.left) + bytes(&self.right)
    }

    /// The matrix they stand for, `[rows, columns]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn restore(&self, kind: Kind) -> Result<Tensor, Error> {
        Ok(self.left.f_to_kind(kind)?.f_matmul(&self.right.f_to_kind(kind)?)?)
    }

    /// `gᵀ A` as `(gᵀ left) right`, `[m, columns]`, for a gradient `g` `[rows, m]`, in `g`'s dtype.
    ///
    /// Costs `2 m rank (rows + columns)` floating-point operations instead of `2 m rows columns`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn contract(&self, gradient: &Tensor) -> Result<Tensor, Error> {
        let kind = gradient.kind();
        let small = gradient.f_tr()?.f_matmul(&self.left.f_to_kind(kind)?)?;
        Ok(small.f_matmul(&self.right.f_to_kind(kind)?)?)
    }

    /// `A wᵀ` as `left (right wᵀ)`, `[rows, m]`, for a weight `w` `[m, columns]`, in `w`'s dtype.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn project(&self, weight: &Tensor) -> Result<Tensor, Error> {
        let kind = weight.kind();
        let small = self.right.f_to_kind(kind)?.f_matmul(&weight.f_tr()?)?;
        Ok(self.left.f_to_kind(kind)?.f_matmul(&small)?)
    }
}

/// A contiguous tensor of this dtype whose storage is no larger than itself.
fn owned(tensor: &Tensor, kind: Kind) -> Result<Tensor, Error> {
    let mut copy = Tensor::f_empty(tensor.size(), (kind, tensor.device()))?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}
