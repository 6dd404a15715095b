use tch::{Kind, Tensor};

use crate::linalg::ready;
use crate::measure::check_matrix;
use crate::projection::gram;
use crate::{Error, check_finite};

/// How the energy of tokens is spread over directions: the eigenvalues of `NᵀN`, largest first and
/// with the sum 1, where `N` is `matrix` `[rows, columns]` with each row scaled to unit norm.
/// `min(rows, columns)` numbers, in f64; none for a zero matrix.
///
/// `sqrt(1 − the sum of the first k)` is the least per-token error of any `k` components (Eckart
/// and Young 1936).
///
/// # Errors
/// [`Error::NotFinite`], [`Error::Shape`], [`Error::Kind`]; those of libtorch.
pub fn spectrum(matrix: &Tensor) -> Result<Vec<f64>, Error> {
    let (rows, columns, _) = check_matrix("spectrum", matrix)?;
    check_finite("spectrum", matrix)?;
    let matrix = matrix.f_detach()?.f_to_kind(Kind::Double)?;
    let largest = matrix.f_abs()?.f_amax([1], true)?;
    let matrix = matrix.f_div(&largest.f_masked_fill(&largest.f_eq(0.0)?, 1.0)?)?;
    let norms = matrix.f_square()?.f_sum_dim_intlist(1, true, Kind::Double)?.f_sqrt()?;
    let unit = matrix.f_div(&norms.f_masked_fill(&norms.f_eq(0.0)?, 1.0)?)?;
    let short = if rows >= columns { unit } else { unit.f_tr()? };
    let values = ready(&gram(&short)?).f_linalg_eigvalsh("L")?.f_flip([0])?.f_clamp_min(0.0)?;
    let total = values.f_sum(Kind::Double)?.f_double_value(&[])?;
    if total == 0.0 { Ok(Vec::new()) } else { Ok(Vec::try_from(values.f_div_scalar(total)?)?) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Method, Options, Rank, SiteState, decompose, per_token_error};
    use tch::Device;

    #[test]
    fn it_predicts_the_least_error_of_a_token() {
        tch::manual_seed(3);
        for (rows, columns) in [(40, 12), (9, 30)] {
            let a = Tensor::randn([rows, columns], (Kind::Double, Device::Cpu))
                * Tensor::randn([rows, 1], (Kind::Double, Device::Cpu));
            let shares = spectrum(&a).unwrap();
            assert_eq!(shares.len() as i64, rows.min(columns));
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let norms = a.square().sum_dim_intlist(1, true, Kind::Double).sqrt();
            let options = Options {
                method: Method::Svd,
                rank: Rank::Components(5),
                keep_norms: false,
                factors: Kind::Double,
            };
            let unit = &a / norms;
            let least = per_token_error(
                &unit,
                &decompose(&unit, &options, 0, &mut SiteState::default())
                    .unwrap()
                    .restore(Kind::Double)
                    .unwrap(),
            );
            assert!((1.0 - shares[..5].iter().sum::<f64>() - least.unwrap().powi(2)).abs() < 1e-12);
        }
        assert!(spectrum(&Tensor::zeros([3, 4], (Kind::Float, Device::Cpu))).unwrap().is_empty());
    }
}
