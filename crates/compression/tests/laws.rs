//! Laws of the decompositions, on odd shapes and all dtypes, against f64.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use proptest::prelude::*;
use tch::{Kind, Tensor};

use loract_compression::{
    Code, Error, Factors, Method, Options, Rank, SiteState, TestMatrix, decompose, orthonormalize,
};

use drawing::{device, norm, normal, values};

/// Singular values that fall off by a third each, as those of activations do.
fn decaying(rows: i64, columns: i64, seed: u64) -> Tensor {
    let rank = rows.min(columns);
    let u = orthonormalize(&normal(rows, rank, seed)).unwrap();
    let v = orthonormalize(&normal(columns, rank, seed + 1)).unwrap();
    let falling: Vec<f64> = (0..rank).map(|i| (2.0f64 / 3.0).powi(i as i32)).collect();
    (u * values(&falling)).matmul(&v.tr())
}

fn options(rank: i64, test_matrix: TestMatrix) -> Options {
    Options {
        method: Method::Qb { test_matrix },
        rank: Rank::Components(rank),
        keep_norms: false,
        factors: Kind::Double,
    }
}

fn qb(matrix: &Tensor, options: &Options, seed: u64) -> Result<Factors, Error> {
    decompose(matrix, options, seed, &mut SiteState::default()).map(|code| match code {
        Code::Factors(factors) => factors,
        _ => panic!("factors were asked for"),
    })
}

const TEST_MATRICES: [TestMatrix; 3] =
    [TestMatrix::Norm, TestMatrix::Uniform, TestMatrix::Gaussian];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Q is orthonormal, B = QᵀA, so the residual is orthogonal to what is kept: ‖A‖² = ‖QB‖² + ‖A
    /// − QB‖².
    #[test]
    fn qb_is_an_orthogonal_projection(rows in 1i64..40, columns in 1i64..40, part in 0.0f64..1.0, which in 0usize..3, seed in 0u64..1000) {
        let a = normal(rows, columns, seed);
        let rank = 1 + (part * (rows.min(columns) - 1) as f64) as i64;
        let factors = qb(&a, &options(rank, TEST_MATRICES[which]), seed).unwrap();
        let q = &factors.left(Kind::Double).unwrap();
        let identity = Tensor::eye(rank, (Kind::Double, device()));
        prop_assert!(norm(&(q.tr().matmul(q) - identity)) < 1e-10);
        let kept = factors.restore(Kind::Double).unwrap();
        let (total, parts) = (norm(&a).powi(2), norm(&kept).powi(2) + norm(&(&a - &kept)).powi(2));
        prop_assert!((total - parts).abs() < 1e-9 * total);
        prop_assert_eq!(factors.bytes(), (8 * rank * (rows + columns)) as u64);
        // Never better than the optimum, which drops the smallest singular values.
        let (_, s, _) = a.svd(true, true);
        let optimum = norm(&s.narrow(0, rank, s.size()[0] - rank));
        prop_assert!(norm(&(&a - &kept)) >= optimum - 1e-9);
    }

    /// Products through the factors equal products with the restored matrix.
    #[test]
    fn contraction_equals_the_restored_matrix(rows in 1i64..30, columns in 1i64..30, m in 1i64..9, seed in 0u64..1000) {
        let rank = rows.min(columns).min(5);
        let factors = Factors::new(&normal(rows, rank, seed), &normal(rank, columns, seed + 1), Kind::Double).unwrap();
        let restored = factors.restore(Kind::Double).unwrap();
        let (g, w) = (normal(rows, m, seed + 2), normal(m, columns, seed + 3));
        prop_assert!(norm(&(factors.contract(&g).unwrap() - g.tr().matmul(&restored))) < 1e-10);
        prop_assert!(norm(&(factors.project(&w).unwrap() - restored.matmul(&w.tr()))) < 1e-10);
    }

    /// With `keep_norms` each row has exactly the norm it had.
    #[test]
    fn rows_keep_their_norms(rows in 2i64..40, columns in 4i64..40, seed in 0u64..1000) {
        let a = decaying(rows, columns, seed);
        let rank = rows.min(columns).min(3);
        let factors = qb(&a, &Options { keep_norms: true, ..options(rank, TestMatrix::Gaussian) }, seed).unwrap();
        let rows_of = |tensor: &Tensor| tensor.square().sum_dim_intlist(1, false, Kind::Double);
        let (kept, exact) = (rows_of(&factors.restore(Kind::Double).unwrap()), rows_of(&a));
        prop_assert!(kept.allclose(&exact, 1e-6, 1e-18, false));
    }
}

#[test]
fn full_rank_is_exact_in_every_dtype() {
    for (kind, tolerance) in
        [(Kind::Double, 1e-12), (Kind::Float, 1e-5), (Kind::BFloat16, 2e-2), (Kind::Half, 3e-3)]
    {
        for test_matrix in TEST_MATRICES {
            let a = normal(17, 9, 1).to_kind(kind);
            let factors = qb(&a, &Options { factors: kind, ..options(9, test_matrix) }, 3).unwrap();
            assert_eq!(factors.kind(), kind);
            let exact = a.to_kind(Kind::Double);
            let error = norm(&(factors.restore(Kind::Double).unwrap() - &exact)) / norm(&exact);
            assert!(error < tolerance, "{kind:?} {test_matrix:?} {error}");
        }
    }
}

#[test]
fn rank_deficient_and_zero_matrices_stay_finite() {
    let deficient = normal(20, 3, 1).matmul(&normal(3, 11, 2));
    let zero = Tensor::zeros([6, 5], (Kind::Float, device()));
    for keep_norms in [false, true] {
        for test_matrix in TEST_MATRICES {
            let options = Options { keep_norms, ..options(5, test_matrix) };
            let kept = qb(&deficient, &options, 1).unwrap().restore(Kind::Double).unwrap();
            assert!(norm(&(&kept - &deficient)) < 1e-9 * norm(&deficient), "{test_matrix:?}");
            let kept = qb(&zero, &options, 1).unwrap().restore(Kind::Double).unwrap();
            assert_eq!(norm(&kept), 0.0);
        }
    }
}

#[test]
fn a_row_of_zeros_stays_zero_and_one_huge_row_is_no_trouble() {
    let a = decaying(30, 12, 5);
    let _ = a.get(4).zero_();
    let _ = a.get(7).g_mul_scalar_(1e6);
    let factors = qb(&a, &Options { keep_norms: true, ..options(4, TestMatrix::Norm) }, 0).unwrap();
    let kept = factors.restore(Kind::Double).unwrap();
    assert_eq!(norm(&kept.get(4)), 0.0);
    assert!(bool::try_from(kept.isfinite().all()).unwrap());
}

#[test]
fn norm_columns_are_the_largest_and_seeds_decide_the_rest() {
    let mut a = normal(50, 10, 1) * 1e-3;
    for column in [2, 7] {
        a.narrow(1, column, 1).copy_(&normal(50, 1, column as u64));
    }
    a = a.contiguous();
    let kept = qb(&a, &options(2, TestMatrix::Norm), 0).unwrap().restore(Kind::Double).unwrap();
    for column in [2, 7] {
        assert!(norm(&(kept.narrow(1, column, 1) - a.narrow(1, column, 1))) < 1e-10);
    }
    for test_matrix in [TestMatrix::Uniform, TestMatrix::Gaussian] {
        let left =
            |seed| qb(&a, &options(2, test_matrix), seed).unwrap().left(Kind::Double).unwrap();
        assert_eq!(left(1), left(1));
        assert_ne!(left(1), left(2));
    }
}

#[test]
fn wrong_ranks_shapes_and_kinds_are_refused_with_the_numbers() {
    let message = |matrix: &Tensor, rank| {
        qb(matrix, &options(rank, TestMatrix::Norm), 0).unwrap_err().to_string()
    };
    let a = normal(4, 3, 1);
    assert_eq!(message(&a, 0), "decompose: rank 0 of a [4, 3] matrix; it must lie between 1 and 3");
    assert_eq!(message(&a, 4), "decompose: rank 4 of a [4, 3] matrix; it must lie between 1 and 3");
    assert!(message(&a.view([2, 2, 3]), 1).contains("got a tensor of shape [2, 2, 3]"));
    assert!(message(&a.to_kind(Kind::Int64), 1).contains("got Int64"));
}
