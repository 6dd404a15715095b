//! Rows that the code serves so badly that it is better to store them exactly, from the same bytes.

use tch::{Kind, Tensor};

use crate::Error;
use crate::rounded::owned;

/// Rows stored in bf16.
#[derive(Debug)]
pub(crate) struct Exact {
    /// `[rows stored]`, int32.
    places: Tensor,
    /// `[rows stored, columns]`, bf16.
    rows: Tensor,
}

/// No more than a sixteenth of the rows is stored exactly: beyond it, the code is not the right
/// one.
const MOST: usize = 16;

/// The rows to be stored exactly, by the share of its unit square that each loses, in ascending
/// order.
///
/// The bits of one such row are taken from all others: of `D` lost in all, they then lose `D · 2 ln
/// 2 · bits / (rows · active components)` more. A row is worth storing that loses more than that,
/// as far as rows are `affordable`; all are coded as they were unless a fiftieth is gained.
pub(crate) fn worth_storing(
    errors: &[f64],
    columns: usize,
    active: usize,
    affordable: usize,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..errors.len()).collect();
    order.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]));
    let lost: f64 = errors.iter().sum();
    let price = 2.0 * std::f64::consts::LN_2 * 8.0 * Exact::bytes_of(columns) as f64
        / (errors.len() * active.max(1)) as f64;
    let (mut left, mut kept) = (lost, 0);
    for &row in order.iter().take(affordable.min(errors.len() / MOST)) {
        if errors[row] <= left * price {
            break;
        }
        left -= errors[row];
        kept += 1;
    }
    let gained = lost - left * (1.0 + price * kept as f64);
    if gained < 0.02 * lost {
        return Vec::new();
    }
    order.truncate(kept);
    order.sort_unstable();
    order
}

impl Exact {
    pub(crate) fn new(matrix: &Tensor, places: &[usize]) -> Result<Self, Error> {
        let places: Vec<i32> = places.iter().map(|&place| place as i32).collect();
        let places = Tensor::f_from_slice(&places)?.f_to_device(matrix.device())?;
        let rows = owned(&matrix.f_detach()?.f_index_select(0, &places)?, Kind::BFloat16)?;
        Ok(Self { places, rows })
    }

    pub(crate) fn shallow_clone(&self) -> Self {
        Self { places: self.places.shallow_clone(), rows: self.rows.shallow_clone() }
    }

    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.places, &self.rows]
    }

    pub(crate) fn len(&self) -> i64 {
        self.places.size()[0]
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.len() as u64 * Self::bytes_of(self.rows.size()[1] as usize)
    }

    /// Bytes of one row and its place.
    pub(crate) fn bytes_of(columns: usize) -> u64 {
        2 * columns as u64 + 4
    }

    /// `matrix` with these rows in place of its own.
    pub(crate) fn put_into(&self, matrix: Tensor) -> Result<Tensor, Error> {
        let rows = self.rows.f_to_kind(matrix.kind())?;
        Ok(matrix.f_index_copy(0, &self.places.f_to_kind(Kind::Int64)?, &rows)?)
    }

    /// `contracted + gᵀ A` over these rows only.
    pub(crate) fn add_contraction(
        &self,
        contracted: Tensor,
        gradient: &Tensor,
    ) -> Result<Tensor, Error> {
        let own = gradient
            .f_index_select(0, &self.places)?
            .f_tr()?
            .f_matmul(&self.rows.f_to_kind(gradient.kind())?)?;
        Ok(contracted.f_add(&own)?)
    }

    /// `projected` with `A wᵀ` of these rows in place of its own.
    pub(crate) fn put_projection(
        &self,
        projected: Tensor,
        weight: &Tensor,
    ) -> Result<Tensor, Error> {
        let own = self.rows.f_to_kind(weight.kind())?.f_matmul(&weight.f_tr()?)?;
        Ok(projected.f_index_copy(0, &self.places.f_to_kind(Kind::Int64)?, &own)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_stored_exactly_when_it_loses_what_thirty_others_do() {
        let mut errors = vec![0.01; 1000];
        assert!(worth_storing(&errors, 100, 100, 5).is_empty());
        errors[7] = 0.9;
        errors[900] = 0.8;
        assert_eq!(worth_storing(&errors, 100, 100, 5), [7, 900]);
        assert_eq!(worth_storing(&errors, 100, 100, 1), [7]);
        // Sixteen times as long a row is not worth it.
        assert!(worth_storing(&errors, 1600, 10, 5).is_empty());
        assert!(worth_storing(&[0.5], 3, 3, 5).is_empty());
    }
}
