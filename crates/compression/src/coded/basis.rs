use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use kernels::components::TRELLIS_LOST;

use super::unit_rows::UnitRows;
use super::water_filling::{Until, normal_losses, widths};
use crate::Error;
use crate::measure::{check_finite, check_matrix};
use crate::orthonormalize::orthonormalize;
use crate::projection::{gram, leading_eigenvectors};
use crate::rounded::owned;

const OPERATION: &str = "basis";

/// An orthonormal basis of a site's rows, and how their energy is spread over it.
///
/// It is a value: what is coded with one keeps it (by [`Arc`](std::sync::Arc), so that many codes
/// and several sites may share one), and [`Basis::update`] makes another.
#[derive(Debug)]
pub struct Basis {
    /// `[columns, components]`, columns orthonormal.
    vectors: SharedTensor,
    /// `[components]` in f32 on the CPU: the mean square of each component of a row of unit norm,
    /// most first.
    variances: SharedTensor,
}

/// A tensor that threads may share, as the backward pass of another thread may read a code:
/// libtorch's reference counts are atomic and nobody writes into it, but `Tensor` does not say so,
/// hence the lock, which is held for as long as a handle is copied.
#[derive(Debug)]
struct SharedTensor(Mutex<Tensor>);

impl SharedTensor {
    /// A copy with a storage of its own.
    fn new(tensor: &Tensor, kind: Kind) -> Result<Self, Error> {
        Ok(Self(Mutex::new(owned(tensor, kind)?)))
    }

    fn get(&self) -> Tensor {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone()
    }
}

impl Basis {
    /// The principal basis of `matrix` `[rows, columns]` with its rows scaled to unit norm: the
    /// eigenvectors of their second moment, all `columns` of them, held in f32. In f64 `2 rows
    /// columns²` operations and an eigendecomposition.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Kind`], [`Error::NotFinite`]; those of libtorch.
    pub fn from_matrix(matrix: &Tensor) -> Result<Self, Error> {
        let rows = UnitRows::new(OPERATION, matrix)?;
        let columns = rows.rows.size2()?.1;
        let moment = gram(&rows.rows)?;
        let vectors = leading_eigenvectors(&moment, columns)?;
        let variances = moment.f_matmul(&vectors)?.f_mul(&vectors)?.f_sum_dim_intlist(
            0,
            false,
            Kind::Double,
        )?;
        let variances = variances.f_clamp_min(0.0)?.f_div_scalar(rows.counted() as f64)?;
        Ok(Self {
            vectors: SharedTensor::new(&vectors, Kind::Float)?,
            variances: SharedTensor::new(&variances.f_to_device(Device::Cpu)?, Kind::Float)?,
        })
    }

    /// From `vectors` `[columns, components]`, orthonormal, and the mean square of each component
    /// of a row of unit norm.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Kind`], [`Error::NotFinite`] for vectors that are no basis.
    pub fn from_parts(vectors: &Tensor, variances: &[f64]) -> Result<Self, Error> {
        let (columns, components, _) = check_matrix(OPERATION, vectors)?;
        if components > columns || variances.len() as i64 != components {
            let expected = format!("[columns, {}], no more than columns", variances.len());
            return Err(Error::Shape { operation: OPERATION, expected, got: vectors.size() });
        }
        check_finite(OPERATION, vectors)?;
        Ok(Self {
            vectors: SharedTensor::new(&vectors.f_detach()?, vectors.kind())?,
            variances: SharedTensor::new(&Tensor::f_from_slice(variances)?, Kind::Float)?,
        })
    }

    /// The basis after `matrix` `[rows, columns]` has been seen: one step of subspace iteration on
    /// the running second moment, of which the old share is `memory` (0 to 1) and the matrix's the
    /// rest. In f32 `4 rows columns components` operations and a QR factorisation.
    ///
    /// The running moment itself is not held: the basis and its variances stand for it.
    ///
    /// # Errors
    /// [`Error::Setting`] for a `memory` outside 0 to 1; [`Error::Shape`], [`Error::Kind`],
    /// [`Error::NotFinite`]; those of libtorch.
    pub fn update(&self, matrix: &Tensor, memory: f64) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&memory) {
            return Err(Error::Setting {
                operation: OPERATION,
                option: "memory",
                expected: "between 0 and 1",
                got: memory.to_string(),
            });
        }
        let rows = UnitRows::new(OPERATION, matrix)?;
        self.check(OPERATION, &rows.rows)?;
        let old = self.vectors(Kind::Float)?;
        let kept = self.variances.get().f_to_device(old.device())?.f_mul_scalar(memory)?;
        let share = (1.0 - memory) / rows.counted() as f64;
        let seen = rows.rows.f_tr()?.f_matmul(&rows.rows.f_matmul(&old)?)?.f_mul_scalar(share)?;
        let vectors = orthonormalize(&old.f_mul(&kept)?.f_add(&seen)?)?;

        let overlaps = old.f_tr()?.f_matmul(&vectors)?.f_square()?;
        let remembered = kept.f_unsqueeze(0)?.f_matmul(&overlaps)?.f_squeeze_dim(0)?;
        let seen = rows
            .rows
            .f_matmul(&vectors)?
            .f_square()?
            .f_sum_dim_intlist(0, false, Kind::Float)?
            .f_mul_scalar(share)?;
        let (variances, order) = remembered.f_add(&seen)?.f_sort(0, true)?;
        let vectors = vectors.f_index_select(1, &order)?;
        Ok(Self {
            vectors: SharedTensor::new(&vectors, self.vectors.get().kind())?,
            variances: SharedTensor::new(&variances.f_to_device(Device::Cpu)?, Kind::Float)?,
        })
    }

    /// The first `components` of this basis: rows lose what the others hold.
    ///
    /// # Errors
    /// [`Error::Rank`] for none or more than there are.
    pub fn first(&self, components: i64) -> Result<Self, Error> {
        let (columns, rank) = self.vectors.get().size2()?;
        if !(1..=rank).contains(&components) {
            return Err(Error::Rank {
                operation: OPERATION,
                rank: components,
                rows: columns,
                columns: rank,
            });
        }
        let vectors = SharedTensor::new(
            &self.vectors.get().f_narrow(1, 0, components)?,
            self.vectors.get().kind(),
        )?;
        Ok(Self {
            vectors,
            variances: SharedTensor::new(
                &self.variances.get().f_narrow(0, 0, components)?,
                Kind::Float,
            )?,
        })
    }

    /// The same basis held in `kind`: in bf16 it takes half the bytes of f32, and adds about 0.002
    /// to an error.
    ///
    /// # Errors
    /// [`Error::Kind`] for a dtype that is not floating.
    pub fn rounded(&self, kind: Kind) -> Result<Self, Error> {
        match kind {
            Kind::Float | Kind::Double | Kind::BFloat16 | Kind::Half => Ok(Self {
                vectors: SharedTensor::new(&self.vectors.get(), kind)?,
                variances: SharedTensor::new(&self.variances.get(), Kind::Float)?,
            }),
            got => {
                Err(Error::Kind { operation: OPERATION, expected: "f32, f64, f16 or bf16", got })
            }
        }
    }

    /// `[columns, components]` in `kind`.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn vectors(&self, kind: Kind) -> Result<Tensor, Error> {
        Ok(self.vectors.get().f_to_kind(kind)?)
    }

    /// The mean square of each component of a row of unit norm, most first.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn variances(&self) -> Result<Vec<f64>, Error> {
        Ok(Vec::<f64>::try_from(self.variances.get())?)
    }

    /// The width of the rows.
    pub fn columns(&self) -> i64 {
        self.vectors.get().size()[0]
    }

    /// The dtype in which the vectors are held.
    pub fn kind(&self) -> Kind {
        self.vectors.get().kind()
    }

    /// The number of basis vectors.
    pub fn components(&self) -> i64 {
        self.vectors.get().size()[1]
    }

    /// Bytes held: `components · (columns · bytes of the dtype + 4)`.
    pub fn bytes(&self) -> u64 {
        (self.vectors.get().numel() * self.vectors.get().kind().elt_size_in_bytes()
            + 4 * self.variances.get().numel()) as u64
    }

    /// The [per-token error](crate::per_token_error) to expect of a code with `bits` to a row, were
    /// its rows spread as those that the basis was made of.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn expected_error(&self, bits: u64) -> Result<f64, Error> {
        let variances = self.variances()?;
        let losses: Vec<_> = variances.iter().map(|&variance| normal_losses(variance)).collect();
        let lost = |(&width, variance): (&u8, &f64)| {
            variance * TRELLIS_LOST.get(usize::from(width)).copied().unwrap_or(0.0)
        };
        Ok(widths(&losses, Until::Bits(bits)).iter().zip(&variances).map(lost).sum::<f64>().sqrt())
    }

    /// Whether rows of this matrix can be coded with it.
    pub(crate) fn check(&self, operation: &'static str, matrix: &Tensor) -> Result<(), Error> {
        let (columns, _) = self.vectors.get().size2()?;
        if matrix.size2()?.1 == columns {
            return Ok(());
        }
        Err(Error::Shape {
            operation,
            expected: format!("[rows, {columns}], as wide as the basis"),
            got: matrix.size(),
        })
    }
}
