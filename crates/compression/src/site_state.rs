mod tensors;

use std::sync::Arc;

use tch::{Kind, Tensor};

use crate::coded::{AdaptiveBasis, Basis, Coded, Coding};
use crate::inputs::Inputs;
use crate::projection::Projection;
use crate::shared_basis::SharedBasis;
use crate::{Error, Factors};

/// What a site remembers from one matrix to the next, for the methods that start where the last one
/// ended ([`TestMatrix::Warm`](crate::TestMatrix::Warm)) or code in a basis of the site
/// ([`Method::Coded`](crate::Method::Coded), [`Method::Shared`](crate::Method::Shared)); empty for
/// all others.
///
/// One site, one state: the same sequence of matrices gives the same codes.
#[derive(Debug)]
pub struct SiteState {
    basis: Option<Tensor>,
    coded: Option<AdaptiveBasis>,
    shared: Option<SharedBasis>,
    observes: bool,
    sharers: u64,
}

impl Default for SiteState {
    fn default() -> Self {
        Self::shared_by(1)
    }
}

impl SiteState {
    /// An empty one that `sharers` sites share, each showing it a matrix per step.
    pub fn shared_by(sharers: u64) -> Self {
        Self { basis: None, coded: None, shared: None, observes: false, sharers }
    }

    pub(crate) fn from_parts(
        basis: Option<Tensor>,
        coded: Option<AdaptiveBasis>,
        shared: Option<Tensor>,
    ) -> Self {
        let sharers = coded.as_ref().map_or(1, AdaptiveBasis::sharers);
        let shared = shared.map(|vectors| SharedBasis { vectors, accumulated: None });
        Self { basis, coded, shared, ..Self::shared_by(sharers) }
    }

    pub(crate) fn adaptive(&self) -> Option<&AdaptiveBasis> {
        self.coded.as_ref()
    }

    /// One that starts from a right basis `[columns, any]`, such as a saved [`SiteState::basis`].
    pub fn from_basis(basis: Tensor) -> Self {
        Self { basis: Some(basis), ..Self::default() }
    }

    /// One that codes in `basis`, which other states may hold too.
    pub fn from_coded_basis(basis: Arc<Basis>) -> Self {
        Self { coded: Some(AdaptiveBasis::from_basis(basis, 1)), ..Self::default() }
    }

    /// The right basis of the last matrix `[columns, rank]`, in bf16 (f32 where the factors are);
    /// `None` before the first.
    pub fn basis(&self) -> Option<&Tensor> {
        self.basis.as_ref()
    }

    /// The basis in which the next matrix is coded; `None` before the first.
    pub fn coded_basis(&self) -> Option<&Arc<Basis>> {
        self.coded.as_ref().map(AdaptiveBasis::basis)
    }

    /// The basis of [`Method::Shared`](crate::Method::Shared) `[columns, rank]`, orthonormal;
    /// `None` before the first matrix.
    pub fn shared_basis(&self) -> Option<&Tensor> {
        self.shared.as_ref().map(|shared| &shared.vectors)
    }

    /// Whether the basis of [`Method::Shared`](crate::Method::Shared) observes the matrices from
    /// now on, which costs one product more.
    pub fn observe(&mut self, observes: bool) {
        self.observes = observes;
    }

    /// What that basis has accumulated since the last sync, `[columns, rank]`: to be all-reduced,
    /// and given to [`SiteState::sync`].
    pub fn accumulated(&self) -> Option<&Tensor> {
        self.shared.as_ref()?.accumulated.as_ref()
    }

    /// Updates that basis from the sum over all ranks, and resets what this one accumulated.
    /// Without such a basis nothing happens.
    ///
    /// # Errors
    /// [`Error::Shape`] if `sum` is not shaped as the basis; those of libtorch.
    pub fn sync(&mut self, sum: &Tensor) -> Result<(), Error> {
        self.shared.as_mut().map_or(Ok(()), |shared| shared.sync(sum))
    }

    /// Bytes held between two matrices, a basis that other states hold too counted in full. While a
    /// basis of [`Method::Coded`](crate::Method::Coded) follows what it sees, there are two of it.
    pub fn bytes(&self) -> u64 {
        let warm = self
            .basis
            .as_ref()
            .map_or(0, |basis| (basis.numel() * basis.kind().elt_size_in_bytes()) as u64);
        warm + self.coded.as_ref().map_or(0, AdaptiveBasis::bytes)
            + self.shared.as_ref().map_or(0, SharedBasis::bytes)
    }

    /// The basis as `like` has its dtype and device.
    pub(crate) fn load(&self, like: &Tensor) -> Result<Option<Tensor>, Error> {
        let Some(basis) = &self.basis else { return Ok(None) };
        let columns = like.size2()?.1;
        match basis.size()[..] {
            [length, _] if length == columns => {
                Ok(Some(basis.f_detach()?.f_to_device(like.device())?.f_to_kind(like.kind())?))
            }
            _ => {
                let expected = format!("[{columns}, rank] for the warm basis");
                Err(Error::Shape { operation: "decompose", expected, got: basis.size() })
            }
        }
    }

    /// Codes in the basis, which is made of the first matrix, in `kind`, and follows as
    /// [`Method::Coded`](crate::Method::Coded) says.
    pub(crate) fn code(
        &mut self,
        matrix: &Tensor,
        coding: &Coding,
        drift: f64,
        kind: Kind,
        seed: u64,
    ) -> Result<Coded, Error> {
        if let Some(adaptive) = &mut self.coded {
            return adaptive.code(matrix, coding, drift, seed, false);
        }
        let mut adaptive = AdaptiveBasis::from_matrix(matrix, kind, self.sharers)?;
        let coded = adaptive.code(matrix, coding, drift, seed, true)?;
        self.coded = Some(adaptive);
        Ok(coded)
    }

    /// The projection on the shared basis, which is made of the first matrix.
    pub(crate) fn share(&mut self, inputs: &Inputs<'_>, rank: i64) -> Result<Projection, Error> {
        let columns = inputs.a.size2()?.1;
        let shared = match &mut self.shared {
            Some(shared) if shared.vectors.size() != [columns, rank] => {
                let expected = format!("[{columns}, {rank}] for the shared basis");
                return Err(Error::Shape {
                    operation: "decompose",
                    expected,
                    got: shared.vectors.size(),
                });
            }
            Some(shared) => shared,
            None => self.shared.insert(SharedBasis::from_matrix(inputs, rank)?),
        };
        let projection = Projection::onto_rows(inputs.a, &shared.vectors)?;
        if self.observes {
            shared.see(inputs.a, &projection.left)?;
        }
        Ok(projection)
    }

    pub(crate) fn store(&mut self, factors: &Factors) -> Result<(), Error> {
        let kind = if matches!(factors.kind(), Kind::Float | Kind::Double) {
            factors.kind()
        } else {
            Kind::BFloat16
        };
        self.basis = Some(factors.right_basis(Kind::Float)?.f_to_kind(kind)?);
        Ok(())
    }
}
