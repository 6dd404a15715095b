//! What every method owes: laws on odd shapes, for all dtypes, against f64.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use loract_compression::{
    Code, Error, Factors, Method, Options, Rank, SiteState, TestMatrix, cholesky_qr, decompose,
    relative_error,
};

use drawing::{device, norm, normal, values};

const METHODS: [Method; 11] = [
    Method::Svd,
    Method::Qb { test_matrix: TestMatrix::Norm },
    Method::Qb { test_matrix: TestMatrix::Uniform },
    Method::Qb { test_matrix: TestMatrix::Gaussian },
    Method::Qb { test_matrix: TestMatrix::Warm },
    Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true },
    Method::RowSpace { test_matrix: TestMatrix::Gaussian, unit_rows: false },
    Method::Rsvd { oversampling: 0, power_iterations: 0 },
    Method::Rsvd { oversampling: 5, power_iterations: 0 },
    Method::Rsvd { oversampling: 5, power_iterations: 2 },
    Method::Nystrom,
];

fn options(method: Method, rank: i64) -> Options {
    Options { method, rank: Rank::Components(rank), keep_norms: false, factors: Kind::Double }
}

fn factors(code: Code) -> Factors {
    match code {
        Code::Factors(factors) => factors,
        _ => panic!("quantized"),
    }
}

fn restored(a: &Tensor, options: &Options) -> Tensor {
    decompose(a, options, 5, &mut SiteState::default()).unwrap().restore(Kind::Double).unwrap()
}

/// Odd shapes: one row, one column, rows ≪ columns and the reverse; a rank up to the most, often
/// one less.
fn shapes() -> impl Strategy<Value = (i64, i64, i64)> {
    let sizes = prop_oneof![
        Just((1, 7)),
        Just((7, 1)),
        Just((1, 1)),
        Just((3, 50)),
        Just((50, 3)),
        (1i64..40, 1i64..40)
    ];
    (sizes, 0i64..4, 0.0f64..1.0).prop_map(|((rows, columns), near, part)| {
        let most: i64 = rows.min(columns);
        let rank = if near < 2 { most - near } else { 1 + (part * (most - 1) as f64) as i64 };
        (rows, columns, rank.max(1))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Projections: A = Â + rest with both orthogonal, the error never below the optimum, which the
    /// SVD reaches.
    #[test]
    fn a_projection_is_orthogonal_and_the_svd_the_best((rows, columns, rank) in shapes(), which in 0usize..METHODS.len(), seed in 0u64..1000) {
        let a = normal(rows, columns, seed);
        let method = METHODS[which];
        let code = decompose(&a, &options(method, rank), seed, &mut SiteState::default()).unwrap();
        let kept = code.restore(Kind::Double).unwrap();
        let (total, held, lost) = (norm(&a), norm(&kept), norm(&(&a - &kept)));
        let values = a.svd(true, true).1;
        let optimum = norm(&values.narrow(0, rank, values.size()[0] - rank));
        prop_assert!(lost >= optimum - 1e-9 * total, "{:?}: {} < {}", method, lost, optimum);
        if method == Method::Svd {
            prop_assert!(lost <= optimum + 1e-9 * total, "{} > {}", lost, optimum);
        }
        if method != Method::Nystrom {
            prop_assert!((total * total - held * held - lost * lost).abs() < 1e-9 * total * total, "{:?}", method);
            let found = factors(code);
            let (left, right) = (found.left(Kind::Double).unwrap(), found.right(Kind::Double).unwrap());
            let off = |gram: Tensor| norm(&(gram - Tensor::eye(rank, (Kind::Double, device()))));
            prop_assert!(off(left.tr().matmul(&left)).min(off(right.matmul(&right.tr()))) < 1e-9, "{:?}", method);
        }
    }

    /// At the full rank, and for a matrix of lower rank than asked, nothing is lost.
    #[test]
    fn what_has_that_rank_is_reproduced((rows, columns, rank) in shapes(), of in 1i64..6, which in 0usize..METHODS.len(), seed in 0u64..1000) {
        let of = of.min(rank);
        let a = normal(rows, of, seed).matmul(&normal(of, columns, seed + 1));
        let kept = restored(&a, &options(METHODS[which], rank));
        // Columns drawn at random from f64 noise may be nearly dependent; their error then grows
        // with that.
        prop_assert!(norm(&(&a - &kept)) < 1e-6 * norm(&a), "{:?} {}", METHODS[which], norm(&(&a - &kept)) / norm(&a));
    }

    /// Products through a code are products with what it restores, and its bytes are those
    /// predicted.
    #[test]
    fn products_equal_those_with_the_restored_matrix(
        (rows, columns, rank) in shapes(), m in 1i64..9, which in 0usize..METHODS.len() + 4, held in 0usize..5, seed in 0u64..1000,
    ) {
        let quantized = [(8, 32), (4, 32), (8, 3), (4, 5)].map(|(bits, group)| Method::Quantized { bits, group });
        let method = METHODS.iter().chain(&quantized).copied().nth(which).unwrap();
        let kind = [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Half, Kind::Int8][held];
        let options = Options { factors: kind, ..options(method, rank) };
        let a = normal(rows, columns, seed);
        let code = decompose(&a, &options, seed, &mut SiteState::default()).unwrap();
        prop_assert_eq!(code.bytes(), options.bytes(rows, columns).unwrap());
        let restored = code.restore(Kind::Double).unwrap();
        prop_assert_eq!(restored.size(), [rows, columns]);
        let (g, w) = (normal(rows, m, seed + 2), normal(m, columns, seed + 3));
        let near = |found: &Tensor, exact: &Tensor| norm(&(found - exact)) < 1e-9 * (1.0 + norm(exact));
        prop_assert!(near(&code.contract(&g).unwrap(), &g.tr().matmul(&restored)));
        prop_assert!(near(&code.project(&w).unwrap(), &restored.matmul(&w.tr())));
        prop_assert_eq!(code.contract(&g.to_kind(Kind::Float)).unwrap().kind(), Kind::Float);
    }

    /// With `keep_norms` each row has the norm it had.
    #[test]
    fn rows_keep_their_norms(rows in 2i64..40, columns in 4i64..40, which in 0usize..METHODS.len(), seed in 0u64..1000) {
        let a = normal(rows, columns, seed);
        let kept = restored(&a, &Options { keep_norms: true, ..options(METHODS[which], 3.min(rows.min(columns))) });
        let norms = |tensor: &Tensor| tensor.square().sum_dim_intlist(1, false, Kind::Double);
        // A row that the method did not see at all stays as it is.
        let seen = norms(&kept).gt_tensor(&(norms(&a) * 1e-7));
        prop_assert!(norms(&kept).masked_select(&seen).allclose(&norms(&a).masked_select(&seen), 1e-6, 0.0, false), "{:?}", METHODS[which]);
    }

    /// Cholesky QR gives the basis that Householder QR gives, or says that it cannot.
    #[test]
    fn cholesky_qr_is_orthonormal_or_declines(rows in 1i64..200, part in 0.0f64..1.0, exponent in 0.0f64..9.0, double: bool, seed in 0u64..1000) {
        let columns = 1 + (part * (rows.min(30) - 1) as f64) as i64;
        let kind = if double { Kind::Double } else { Kind::Float };
        let scales: Vec<f64> = (0..columns).map(|j| 10f64.powf(-exponent * j as f64 / columns as f64)).collect();
        let turn = loract_compression::orthonormalize(&normal(columns, columns, seed)).unwrap();
        let a = (normal(rows, columns, seed + 1) * values(&scales)).matmul(&turn).to_kind(kind);
        let epsilon = if double { 1e-13 } else { 1e-5 };
        match cholesky_qr(&a).unwrap() {
            None => prop_assert!(exponent > 3.0 || columns * 2 > rows, "declines {} columns of condition 1e{}", columns, exponent),
            Some(q) => {
                prop_assert_eq!(q.kind(), kind);
                let q = q.to_kind(Kind::Double);
                prop_assert!(norm(&(q.tr().matmul(&q) - Tensor::eye(columns, (Kind::Double, device())))) < epsilon * columns as f64);
                let a = a.to_kind(Kind::Double);
                prop_assert!(norm(&(&a - q.matmul(&q.tr().matmul(&a)))) < epsilon * columns as f64 * norm(&a));
            }
        }
    }
}

#[test]
fn cholesky_qr_declines_dependent_columns_and_zero() {
    let one = normal(20, 1, 1).to_kind(Kind::Float);
    for matrix in [Tensor::cat(&[&one, &one], 1), Tensor::zeros([20, 2], (Kind::Float, device()))] {
        assert!(cholesky_qr(&matrix).unwrap().is_none());
    }
}

#[test]
fn every_dtype_goes_in_and_out() {
    let exact = normal(33, 6, 1).matmul(&normal(6, 17, 2));
    for (input, tolerance) in
        [(Kind::Double, 1e-9), (Kind::Float, 1e-4), (Kind::BFloat16, 2e-2), (Kind::Half, 3e-3)]
    {
        for method in METHODS {
            let a = exact.to_kind(input);
            for (held, more) in [
                (Kind::Double, 0.0),
                (Kind::Float, 1e-6),
                (Kind::BFloat16, 1e-2),
                (Kind::Half, 2e-3),
                (Kind::Int8, 3e-2),
            ] {
                let code = decompose(
                    &a,
                    &Options { factors: held, ..options(method, 12) },
                    3,
                    &mut SiteState::default(),
                )
                .unwrap();
                let error = relative_error(&exact, &code.restore(Kind::Double).unwrap()).unwrap();
                assert!(error < tolerance + more, "{input:?} {held:?} {method:?}: {error}");
            }
        }
    }
}

#[test]
fn f32_comes_as_near_to_the_optimum_as_f64() {
    let a = normal(120, 40, 1) * values(&(0..40).map(|j| 0.7f64.powi(j)).collect::<Vec<_>>());
    for a in [a.shallow_clone(), a.tr()] {
        let double = relative_error(&a, &restored(&a, &options(Method::Svd, 25))).unwrap();
        let single =
            relative_error(&a, &restored(&a.to_kind(Kind::Float), &options(Method::Svd, 25)))
                .unwrap();
        assert!((single / double - 1.0).abs() < 1e-3, "{single} {double}");
    }
}

#[test]
fn deficient_zero_and_extreme_matrices_stay_finite() {
    let a = normal(20, 3, 1).matmul(&normal(3, 11, 2)).to_kind(Kind::Float);
    let _ = a.get(4).zero_();
    let auto = Rank::Auto { error: 0.01, max_rank: 10 };
    for method in METHODS
        .into_iter()
        .chain([Method::Quantized { bits: 8, group: 4 }, Method::Quantized { bits: 4, group: 4 }])
    {
        for (scale, keep_norms) in
            [(1.0, true), (1e30, true), (1e-30, true), (0.0, true), (0.0, false)]
        {
            // For unusual scales the host would wait for a GPU.
            if device() != Device::Cpu && (1e30f64 == scale || 1e-30 == scale) {
                continue;
            }
            for (factors, rank) in [
                (Kind::Float, Rank::Components(10)),
                (Kind::Int8, Rank::Components(10)),
                (Kind::Float, auto),
            ] {
                let a = &a * scale;
                let kept = restored(&a, &Options { method, rank, keep_norms, factors });
                let error = relative_error(&a, &kept).unwrap();
                let most =
                    if matches!(method, Method::Quantized { bits: 4, .. }) { 0.1 } else { 0.02 };
                assert!(
                    error < most,
                    "{method:?} {scale} {keep_norms} {factors:?} {rank:?}: {error}"
                );
                assert_eq!(norm(&kept.get(4)), 0.0, "{method:?} {scale}");
            }
        }
    }
}

#[test]
fn nan_and_infinity_are_reported_not_spread() {
    // On a GPU nobody waits to know.
    if device() != Device::Cpu {
        return;
    }
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let a = normal(9, 5, 1).to_kind(kind);
            let _ = a.get(3).get(2).fill_(bad);
            for method in METHODS.into_iter().chain([Method::Quantized { bits: 8, group: 4 }]) {
                let error =
                    decompose(&a, &options(method, 2), 0, &mut SiteState::default()).unwrap_err();
                assert!(matches!(error, Error::NotFinite { rows: 9, columns: 5, .. }), "{error}");
            }
        }
    }
}

#[test]
fn codes_own_no_more_than_they_say_and_record_no_graph() {
    let a = normal(64, 48, 1).to_kind(Kind::Float).set_requires_grad(true);
    for method in METHODS {
        for held in [Kind::Float, Kind::BFloat16, Kind::Int8] {
            for rank in [Rank::Components(7), Rank::Auto { error: 0.9, max_rank: 20 }] {
                let code = decompose(
                    &a,
                    &Options { method, rank, keep_norms: true, factors: held },
                    0,
                    &mut SiteState::default(),
                )
                .unwrap();
                let found = factors(code.shallow_clone());
                // In the dtype in which it is held, the factor itself comes out.
                for tensor in [found.left(held).unwrap(), found.right(held).unwrap()] {
                    assert!(tensor.is_contiguous() && !tensor.requires_grad(), "{method:?}");
                    if held != Kind::Int8 {
                        // A new tensor of that shape has a storage of just that size.
                        assert!(
                            tensor.internal_has_same_storage_numel(&tensor.empty_like()),
                            "{method:?} {held:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn seeds_decide_and_no_global_generator_is_used() {
    let a = normal(30, 20, 1);
    for method in METHODS {
        let of = |seed| {
            decompose(&a, &options(method, 4), seed, &mut SiteState::default())
                .unwrap()
                .restore(Kind::Double)
                .unwrap()
        };
        tch::manual_seed(1);
        let next = Tensor::rand([1], (Kind::Double, device()));
        tch::manual_seed(1);
        assert_eq!(of(1), of(1), "{method:?}");
        assert_eq!(Tensor::rand([1], (Kind::Double, device())), next, "{method:?}");
        let random = !matches!(
            method,
            Method::Svd
                | Method::Qb { test_matrix: TestMatrix::Norm | TestMatrix::Warm }
                | Method::RowSpace { test_matrix: TestMatrix::Norm, .. }
        );
        assert_eq!(of(1) != of(2), random, "{method:?}");
    }
}

#[test]
fn a_warm_basis_is_used_and_filled_up() {
    let a = normal(30, 5, 1).matmul(&normal(5, 20, 2));
    let warm = |rank| options(Method::Qb { test_matrix: TestMatrix::Warm }, rank);
    let best = decompose(&a, &options(Method::Svd, 5), 0, &mut SiteState::default()).unwrap();
    let basis = factors(best).right_basis(Kind::Float).unwrap();
    assert_eq!(basis.size(), [20, 5]);
    let lost = |rank, basis: &Tensor| {
        let mut state = SiteState::from_basis(basis.shallow_clone());
        let code = decompose(&a, &warm(rank), 0, &mut state).unwrap();
        assert_eq!(code.rank(), Some(rank));
        assert_eq!(
            state.basis().unwrap().size(),
            [20, rank],
            "the next matrix starts from this one"
        );
        relative_error(&a, &code.restore(Kind::Double).unwrap()).unwrap()
    };
    assert!(lost(5, &basis) < 1e-6);
    assert!(
        (lost(3, &basis) - relative_error(&a, &restored(&a, &options(Method::Svd, 3))).unwrap())
            .abs()
            < 1e-6
    );
    assert!(lost(5, &basis.narrow(1, 0, 2)) < 1e-6);
    let message =
        decompose(&a, &warm(5), 0, &mut SiteState::from_basis(basis.tr())).unwrap_err().to_string();
    assert_eq!(
        message,
        "decompose: expected [20, rank] for the warm basis, got a tensor of shape [5, 20]"
    );
}

#[test]
fn wrong_use_is_refused_with_the_numbers() {
    let a = normal(4, 3, 1);
    let message = |matrix: &Tensor, options: &Options| {
        decompose(matrix, options, 0, &mut SiteState::default()).unwrap_err().to_string()
    };
    assert_eq!(
        message(&a, &options(Method::Svd, 4)),
        "decompose: rank 4 of a [4, 3] matrix; it must lie between 1 and 3"
    );
    assert!(
        message(&a.view([2, 2, 3]), &options(Method::Svd, 1))
            .contains("got a tensor of shape [2, 2, 3]")
    );
    assert!(
        message(&Tensor::zeros([0, 3], (Kind::Float, device())), &options(Method::Svd, 1))
            .contains("neither of them 0")
    );
    assert!(message(&a.to_kind(Kind::Int64), &options(Method::Svd, 1)).contains("got Int64"));
    assert!(
        message(&a, &Options { factors: Kind::Int64, ..options(Method::Svd, 1) })
            .contains("int8, got Int64")
    );
    assert!(
        message(&a, &options(Method::Quantized { bits: 3, group: 32 }, 1))
            .contains("bits = 3; it must be 4 or 8")
    );
    assert!(
        message(&a, &options(Method::Quantized { bits: 4, group: 0 }, 1))
            .contains("group = 0; it must be at least 1")
    );
    assert!(
        message(&a, &options(Method::Rsvd { oversampling: -1, power_iterations: 0 }, 1))
            .contains("oversampling = -1")
    );
}
