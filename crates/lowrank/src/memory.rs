use crate::coded::{Basis, Coded, Coding, Following};
use crate::decompose::Inputs;
use crate::projection::Projection;
use crate::shared_basis::SharedBasis;
use crate::{Error, Factors};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// What a site remembers from one matrix to the next, for the methods that start where the last one ended
/// ([`TestMatrix::Warm`](crate::TestMatrix::Warm)) or code in a basis of the site ([`Method::Coded`](crate::Method::Coded),
/// [`Method::Shared`](crate::Method::Shared)); empty for all others.
///
/// One site, one memory: the same sequence of matrices gives the same codes.
#[derive(Debug)]
pub struct Memory {
    basis: Option<Tensor>,
    coded: Option<Following>,
    shared: Option<SharedBasis>,
    looks: bool,
    sharers: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::of_sharers(1)
    }
}

impl Memory {
    /// An empty one that so many sites share, each showing it a matrix a step.
    pub fn of_sharers(sharers: u64) -> Self {
        Self { basis: None, coded: None, shared: None, looks: false, sharers }
    }

    pub(crate) fn of_parts(basis: Option<Tensor>, coded: Option<Following>, shared: Option<Tensor>) -> Self {
        let sharers = coded.as_ref().map_or(1, Following::sharers);
        let shared = shared.map(|vectors| SharedBasis { vectors, seen: None });
        Self { basis, coded, shared, ..Self::of_sharers(sharers) }
    }

    pub(crate) fn following(&self) -> Option<&Following> {
        self.coded.as_ref()
    }

    /// One that starts from a right basis `[columns, any]`, such as a [`Memory::basis`] that was written down.
    pub fn from_basis(basis: Tensor) -> Self {
        Self { basis: Some(basis), ..Self::default() }
    }

    /// One that codes in `basis`, which other memories may hold too.
    pub fn from_coded_basis(basis: Arc<Basis>) -> Self {
        Self { coded: Some(Following::from_basis(basis, 1)), ..Self::default() }
    }

    /// The right basis of the last matrix `[columns, rank]`, in bf16 (f32 where the factors are); `None` before the first.
    pub fn basis(&self) -> Option<&Tensor> {
        self.basis.as_ref()
    }

    /// The basis in which the next matrix is coded; `None` before the first.
    pub fn coded_basis(&self) -> Option<&Arc<Basis>> {
        self.coded.as_ref().map(Following::basis)
    }

    /// The basis of [`Method::Shared`](crate::Method::Shared) `[columns, rank]`, orthonormal; `None` before the first matrix.
    pub fn shared_basis(&self) -> Option<&Tensor> {
        self.shared.as_ref().map(|shared| &shared.vectors)
    }

    /// Whether the matrices that come now are seen by the basis of [`Method::Shared`](crate::Method::Shared), which costs one product more.
    pub fn look(&mut self, looks: bool) {
        self.looks = looks;
    }

    /// What that basis has seen since it was agreed on, `[columns, rank]`: to be summed over all ranks, and given to [`Memory::agree`].
    pub fn seen(&self) -> Option<&Tensor> {
        self.shared.as_ref()?.seen.as_ref()
    }

    /// Turns that basis to what all ranks have seen, and forgets what was seen here. Without such a basis nothing happens.
    ///
    /// # Errors
    /// [`Error::Shape`] if `sum` is not shaped as the basis; those of libtorch.
    pub fn agree(&mut self, sum: &Tensor) -> Result<(), Error> {
        self.shared.as_mut().map_or(Ok(()), |shared| shared.agree(sum))
    }

    /// Bytes held between two matrices, a basis that other memories hold too counted in full. While a basis of
    /// [`Method::Coded`](crate::Method::Coded) follows what it sees, there are two of it.
    pub fn bytes(&self) -> u64 {
        let warm = self.basis.as_ref().map_or(0, |basis| (basis.numel() * basis.kind().elt_size_in_bytes()) as u64);
        warm + self.coded.as_ref().map_or(0, Following::bytes) + self.shared.as_ref().map_or(0, SharedBasis::bytes)
    }

    /// The basis as `like` has its dtype and device.
    pub(crate) fn recall(&self, like: &Tensor) -> Result<Option<Tensor>, Error> {
        let Some(basis) = &self.basis else { return Ok(None) };
        let columns = like.size2()?.1;
        match basis.size()[..] {
            [length, _] if length == columns => Ok(Some(basis.f_detach()?.f_to_device(like.device())?.f_to_kind(like.kind())?)),
            _ => {
                let expected = format!("[{columns}, rank] for the warm basis");
                Err(Error::Shape { operation: "decompose", expected, got: basis.size() })
            }
        }
    }

    /// Codes in the basis, which is made of the first matrix, in `kind`, and follows as [`Method::Coded`](crate::Method::Coded) says.
    pub(crate) fn code(&mut self, matrix: &Tensor, coding: &Coding, drift: f64, kind: Kind, seed: u64) -> Result<Coded, Error> {
        if let Some(following) = &mut self.coded {
            return following.code(matrix, coding, drift, seed, false);
        }
        let mut following = Following::of(matrix, kind, self.sharers)?;
        let coded = following.code(matrix, coding, drift, seed, true)?;
        self.coded = Some(following);
        Ok(coded)
    }

    /// The projection on the shared basis, which is made of the first matrix.
    pub(crate) fn share(&mut self, inputs: &Inputs<'_>, rank: i64) -> Result<Projection, Error> {
        let columns = inputs.a.size2()?.1;
        let shared = match &mut self.shared {
            Some(shared) if shared.vectors.size() != [columns, rank] => {
                let expected = format!("[{columns}, {rank}] for the shared basis");
                return Err(Error::Shape { operation: "decompose", expected, got: shared.vectors.size() });
            }
            Some(shared) => shared,
            None => self.shared.insert(SharedBasis::of(inputs, rank)?),
        };
        let projection = Projection::onto_rows(inputs.a, &shared.vectors)?;
        if self.looks {
            shared.see(inputs.a, &projection.left)?;
        }
        Ok(projection)
    }

    pub(crate) fn remember(&mut self, factors: &Factors) -> Result<(), Error> {
        let kind = if matches!(factors.kind(), Kind::Float | Kind::Double) { factors.kind() } else { Kind::BFloat16 };
        self.basis = Some(factors.right_basis(Kind::Float)?.f_to_kind(kind)?);
        Ok(())
    }
}
