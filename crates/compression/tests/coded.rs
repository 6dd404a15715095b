//! What coded activations owe: laws on odd shapes, at all widths, for every rounding.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::sync::Arc;

use proptest::prelude::*;
use tch::{Kind, Tensor};

use loract_compression::coded::{Basis, Coded, Coding, Rate, Rounding};
use loract_compression::{
    Code, Error, Method, Options, Rank, SiteState, decompose, per_token_error, relative_error,
};

use drawing::{device, norm, normal, values};

const ROUNDINGS: [Rounding; 3] = [Rounding::Trellis, Rounding::Nearest, Rounding::Stochastic];

fn coding(bits: f64, rounding: Rounding, keep_norms: bool) -> Coding {
    Coding { rate: Rate::Bits(bits), rounding, keep_norms }
}

/// Rows whose components fall off, in a turned basis.
fn decaying(rows: i64, columns: i64, seed: u64) -> Tensor {
    let scales: Vec<f64> = (0..columns).map(|column| 0.9f64.powi(column as i32)).collect();
    let turn = loract_compression::orthonormalize(&normal(columns, columns, seed + 1)).unwrap();
    (normal(rows, columns, seed) * values(&scales)).matmul(&turn)
}

fn of_itself(matrix: &Tensor, coding: &Coding, seed: u64) -> Coded {
    Coded::new(matrix, &Arc::new(Basis::from_matrix(matrix).unwrap()), coding, seed).unwrap()
}

fn shapes() -> impl Strategy<Value = (i64, i64)> {
    prop_oneof![
        Just((1, 1)),
        Just((1, 7)),
        Just((7, 1)),
        Just((3, 50)),
        Just((50, 3)),
        Just((16, 16)),
        (1i64..60, 1i64..60)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Bytes are predicted, the error is known without a product, and products are those with the
    /// restored matrix.
    #[test]
    fn a_code_is_what_it_says(
        (rows, columns) in shapes(), bits in 0.2f64..18.0, part in 0.0f64..1.0, which in 0usize..3, keep_norms: bool, m in 1i64..9, seed in 0u64..1000,
    ) {
        let a = decaying(rows, columns, seed);
        let components = 1 + (part * (columns - 1) as f64) as i64;
        let basis = Arc::new(Basis::from_matrix(&a).unwrap().first(components).unwrap());
        let coding = coding(bits, ROUNDINGS[which], keep_norms);
        let code = Coded::new(&a, &basis, &coding, seed).unwrap();
        prop_assert_eq!(code.bytes(), Coded::bytes_of(rows, columns, components, coding.rate).unwrap());
        let asked = (bits * (rows * columns) as f64 / 8.0) as u64;
        prop_assert!(code.bytes() <= asked.max((2 * (rows + components) + (rows + 7) / 8) as u64));
        prop_assert_eq!(basis.bytes(), (components * (4 * columns + 4)) as u64);

        let restored = code.restore(Kind::Double).unwrap();
        prop_assert_eq!(restored.size(), [rows, columns]);
        prop_assert!((code.error() - per_token_error(&a, &restored).unwrap()).abs() < 2e-3, "{} {}", code.error(), per_token_error(&a, &restored).unwrap());
        prop_assert!((code.relative_error() - relative_error(&a, &restored).unwrap()).abs() < 2e-3);
        let (g, w) = (normal(rows, m, seed + 2), normal(m, columns, seed + 3));
        let near = |found: &Tensor, exact: &Tensor| norm(&(found - exact)) < 1e-9 * (1.0 + norm(exact));
        prop_assert!(near(&code.contract(&g).unwrap(), &g.tr().matmul(&restored)));
        prop_assert!(near(&code.project(&w).unwrap(), &restored.matmul(&w.tr())));
        prop_assert_eq!(code.contract(&g.to_kind(Kind::Float)).unwrap().kind(), Kind::Float);
        prop_assert_eq!(code.shallow_clone().restore(Kind::Double).unwrap(), restored);
    }

    /// With `keep_norms`, rows have the norms that they had, to the 16 bits in which norms are
    /// kept; without, the error is no larger.
    #[test]
    fn norms_are_kept(rows in 2i64..60, columns in 4i64..60, bits in 1.5f64..8.0, nearest: bool, seed in 0u64..1000) {
        let a = decaying(rows, columns, seed);
        let rounding = if nearest { Rounding::Nearest } else { Rounding::Trellis };
        let kept = of_itself(&a, &coding(bits, rounding, true), seed);
        let norms = |tensor: &Tensor| tensor.square().sum_dim_intlist(1, false, Kind::Double).sqrt();
        let found = norms(&kept.restore(Kind::Double).unwrap());
        // A row may be too small a part of the code to be seen at all.
        let seen = found.gt(0.0);
        prop_assert!(found.masked_select(&seen).allclose(&norms(&a).masked_select(&seen), 1.0 / 400.0, 0.0, false));
        let least = of_itself(&a, &coding(bits, rounding, false), seed);
        prop_assert!(least.error() <= kept.error() + 1e-3);
    }

    /// A wanted error is met, whatever the rows are like, with no more bits than three more to an
    /// element than the bound.
    #[test]
    fn a_wanted_error_is_met(rows in 8i64..80, columns in 8i64..40, error in 0.02f64..0.9, which in 0usize..2, keep_norms: bool, seed in 0u64..1000) {
        let a = decaying(rows, columns, seed);
        let wanted = Coding { rate: Rate::Error(error), rounding: ROUNDINGS[which], keep_norms };
        let code = of_itself(&a, &wanted, seed);
        let found = per_token_error(&a, &code.restore(Kind::Double).unwrap()).unwrap();
        prop_assert!(found <= error + 1e-4, "{} of {}", found, error);
        prop_assert!(code.bytes() <= Coded::bytes_of(rows, columns, columns, wanted.rate).unwrap());
    }
}

#[test]
fn every_width_is_decoded_as_it_was_coded_and_a_bit_more_halves_the_error() {
    let a = normal(400, 16, 3);
    for rounding in [Rounding::Trellis, Rounding::Nearest] {
        let mut before = f64::INFINITY;
        for width in 1..=8u8 {
            // All components alike: each gets the same width.
            let code = of_itself(
                &a,
                &coding(f64::from(width) + (16.0 + 32.0 / 25.0 + 0.1) / 16.0, rounding, false),
                0,
            );
            assert!(
                code.widths().unwrap().iter().all(|&found| found.abs_diff(width) <= 1),
                "{:?}",
                code.widths().unwrap()
            );
            let error = per_token_error(&a, &code.restore(Kind::Float).unwrap()).unwrap();
            assert!(
                (error - code.error()).abs() < 1e-3,
                "{rounding:?} {width}: {error} {}",
                code.error()
            );
            assert!(error < 0.63 * before, "{rounding:?} {width}: {error} after {before}");
            before = error;
        }
    }
}

#[test]
fn a_trellis_loses_a_quarter_less_than_the_nearest_level() {
    let a = normal(1024, 24, 5);
    for bits in [2.0, 3.0, 4.0, 5.0] {
        let error = |rounding| of_itself(&a, &coding(bits, rounding, false), 0).error();
        let ratio = error(Rounding::Trellis) / error(Rounding::Nearest);
        assert!(ratio < 0.93, "{bits}: {ratio}");
    }
}

#[test]
fn stochastic_rounding_is_right_in_the_mean() {
    let a = decaying(24, 12, 9);
    let basis = Arc::new(Basis::from_matrix(&a).unwrap());
    // Bits for all components, as one without would be lost in every draw.
    let coding = coding(9.0, Rounding::Stochastic, true);
    let draws = 400;
    let mut sum = Tensor::zeros([24, 12], (Kind::Double, device()));
    let mut squares = 0.0;
    for seed in 0..draws {
        let code = Coded::new(&a, &basis, &coding, seed).unwrap();
        assert!(code.widths().unwrap().iter().all(|&width| width > 0));
        let restored = code.restore(Kind::Double).unwrap();
        squares += norm(&(&restored - &a)).powi(2);
        sum += restored;
    }
    let mean = sum / draws as f64;
    let (off, noise) = (norm(&(&mean - &a)), (squares / draws as f64).sqrt());
    // What is left of the noise of one draw after so many; rounding to the nearest would leave
    // about all of it.
    assert!(off < 1.5 * noise / (draws as f64).sqrt(), "{off} with a noise of {noise}");
}

#[test]
fn seeds_decide_and_no_global_generator_is_used() {
    let a = decaying(30, 20, 1);
    for rounding in ROUNDINGS {
        let of =
            |seed| of_itself(&a, &coding(3.0, rounding, true), seed).restore(Kind::Double).unwrap();
        tch::manual_seed(1);
        let next = Tensor::rand([1], (Kind::Double, device()));
        tch::manual_seed(1);
        assert_eq!(of(1), of(1));
        assert_eq!(Tensor::rand([1], (Kind::Double, device())), next);
        assert_eq!(of(1) != of(2), rounding == Rounding::Stochastic, "{rounding:?}");
    }
}

#[test]
fn deficient_constant_zero_and_extreme_matrices_stay_finite() {
    let deficient = normal(40, 3, 1).matmul(&normal(3, 24, 2)).to_kind(Kind::Float);
    let constant = Tensor::ones([40, 24], (Kind::Float, device()));
    for matrix in [deficient, constant] {
        for zeroed in [4, 39] {
            let _ = matrix.get(zeroed).zero_();
        }
        for scale in [1.0, 1e30, 1e-30, 0.0] {
            for rounding in ROUNDINGS {
                for keep_norms in [true, false] {
                    for rate in [Rate::Bits(4.0), Rate::Error(0.05)] {
                        let a = &matrix * scale;
                        let code = of_itself(&a, &Coding { rate, rounding, keep_norms }, 1);
                        let kept = code.restore(Kind::Double).unwrap();
                        let error = per_token_error(&a, &kept).unwrap();
                        assert!(
                            error < 0.05,
                            "{scale} {rounding:?} {keep_norms} {rate:?}: {error}"
                        );
                        assert_eq!((norm(&kept.get(4)), norm(&kept.get(39))), (0.0, 0.0));
                    }
                }
            }
        }
    }
}

#[test]
fn one_huge_token_and_one_strange_one_spoil_no_other() {
    // The last direction belongs to one token alone.
    let a = decaying(200, 64, 3);
    let a = (&a * values(&[vec![1.0f64; 63], vec![0.0]].concat())).to_kind(Kind::Float);
    let others = |a: &Tensor, kept: &Tensor| {
        per_token_error(&a.narrow(0, 10, 190), &kept.narrow(0, 10, 190)).unwrap()
    };
    let plain = of_itself(&a, &coding(4.0, Rounding::Trellis, true), 0).error();
    let strange = a.copy();
    let _ = strange.get(3).zero_();
    let _ = strange.get(3).get(63).fill_(1e20);
    let code = of_itself(&strange, &coding(4.0, Rounding::Trellis, true), 0);
    let kept = code.restore(Kind::Float).unwrap();
    assert!(others(&strange, &kept) < 1.1 * plain, "{} {plain}", others(&strange, &kept));
    assert!(per_token_error(&strange.narrow(0, 3, 1), &kept.narrow(0, 3, 1)).unwrap() < 0.2);
}

/// Tokens that the basis does not know are kept as they are, from the same bytes.
#[test]
fn a_token_that_the_basis_does_not_know_is_stored_exactly() {
    let a = decaying(256, 48, 4).to_kind(Kind::Float);
    let basis = Arc::new(Basis::from_matrix(&a).unwrap().first(24).unwrap());
    let strangers = normal(2, 48, 9).to_kind(Kind::Float);
    let strangers = &strangers
        - strangers
            .matmul(&basis.vectors(Kind::Float).unwrap())
            .matmul(&basis.vectors(Kind::Float).unwrap().tr());
    let mixed = a.copy();
    mixed.narrow(0, 100, 2).copy_(&strangers);
    for rate in [Rate::Bits(4.0), Rate::Error(0.15)] {
        let code = Coded::new(&mixed, &basis, &Coding { rate, ..Coding::default() }, 0).unwrap();
        assert_eq!(code.exact_rows(), 2);
        let kept = code.restore(Kind::Float).unwrap();
        assert!(relative_error(&strangers, &kept.narrow(0, 100, 2)).unwrap() < 0.004);
        assert!((code.error() - per_token_error(&mixed, &kept).unwrap()).abs() < 1e-3);
        let (g, w) =
            (normal(256, 5, 1).to_kind(Kind::Float), normal(5, 48, 2).to_kind(Kind::Float));
        assert!(relative_error(&g.tr().matmul(&kept), &code.contract(&g).unwrap()).unwrap() < 1e-5);
        assert!(relative_error(&kept.matmul(&w.tr()), &code.project(&w).unwrap()).unwrap() < 1e-5);
        if let Rate::Bits(bits) = rate {
            assert_eq!(code.bytes(), (bits * 256.0 * 48.0 / 8.0) as u64);
        } else {
            assert!(code.error() <= 0.15, "{}", code.error());
        }
    }
}

#[test]
fn every_dtype_goes_in_and_out_and_a_basis_may_be_rounded() {
    let exact = decaying(64, 24, 1);
    for kind in [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Half] {
        let a = exact.to_kind(kind);
        let basis = Basis::from_matrix(&a).unwrap();
        for held in [Kind::Float, Kind::BFloat16] {
            let basis = Arc::new(basis.rounded(held).unwrap());
            assert_eq!(basis.bytes(), 24 * (24 * held.elt_size_in_bytes() as u64 + 4));
            let code = Coded::new(&a, &basis, &coding(8.0, Rounding::Trellis, true), 0).unwrap();
            let restored = code.restore(kind).unwrap();
            assert_eq!(restored.kind(), kind);
            let error = per_token_error(&exact, &restored).unwrap();
            assert!(error < 0.012, "{kind:?} {held:?}: {error}");
        }
    }
    assert!(
        Basis::from_matrix(&exact)
            .unwrap()
            .rounded(Kind::Int8)
            .unwrap_err()
            .to_string()
            .contains("got Int8")
    );
}

#[test]
fn nan_and_infinity_are_reported_not_spread() {
    let basis = Arc::new(Basis::from_matrix(&normal(9, 5, 2)).unwrap());
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let a = normal(9, 5, 1).to_kind(kind);
            let _ = a.get(3).get(2).fill_(bad);
            for error in [
                Basis::from_matrix(&a).unwrap_err(),
                basis.update(&a, 0.5).unwrap_err(),
                Coded::new(&a, &basis, &Coding::default(), 0).unwrap_err(),
            ] {
                assert!(matches!(error, Error::NotFinite { rows: 9, columns: 5, .. }), "{error}");
            }
        }
    }
}

/// Column by column, as if the basis were the unit vectors.
#[test]
fn without_a_basis_the_columns_are_coded_as_they_stand() {
    let a = decaying(100, 20, 3);
    let unit = Arc::new(
        Basis::from_parts(&Tensor::eye(20, (Kind::Float, device())), &[0.05; 20]).unwrap(),
    );
    let (g, w) = (normal(100, 5, 1).to_kind(Kind::Float), normal(4, 20, 2).to_kind(Kind::Float));
    for bits in [0.7, 2.0, 8.0] {
        let coding = coding(bits, Rounding::Trellis, true);
        let (with, without) = (
            Coded::new(&a, &unit, &coding, 0).unwrap(),
            Coded::by_columns(&a, &coding, 0).unwrap(),
        );
        assert!(
            without.basis().is_none()
                && without.bytes() == with.bytes()
                && without.drift().unwrap() == 1.0
        );
        let near = |a: &Tensor, b: &Tensor| assert!(relative_error(a, b).unwrap() < 1e-5);
        near(&with.restore(Kind::Float).unwrap(), &without.restore(Kind::Float).unwrap());
        near(&with.contract(&g).unwrap(), &without.contract(&g).unwrap());
        near(&with.project(&w).unwrap(), &without.project(&w).unwrap());
    }
}

#[test]
fn a_basis_follows_what_it_is_shown() {
    let (old, new) = (decaying(300, 32, 1), decaying(300, 32, 20));
    let code = |basis: &Arc<Basis>| {
        Coded::new(&new, basis, &coding(2.0, Rounding::Trellis, true), 0).unwrap()
    };
    let best = code(&Arc::new(Basis::from_matrix(&new).unwrap()));
    let mut basis = Arc::new(Basis::from_matrix(&old).unwrap());
    let stale = code(&basis);
    assert!(
        stale.error() > 1.5 * best.error() && stale.drift().unwrap() > 1.3,
        "{} {}",
        stale.error(),
        stale.drift().unwrap()
    );
    for _ in 0..12 {
        basis = Arc::new(basis.update(&new, 0.5).unwrap());
    }
    let fresh = code(&basis);
    assert!(fresh.error() < 1.03 * best.error(), "{} {}", fresh.error(), best.error());
    assert!((fresh.drift().unwrap() - 1.0).abs() < 0.1, "{}", fresh.drift().unwrap());
    let vectors = basis.vectors(Kind::Double).unwrap();
    assert!(
        norm(&(vectors.tr().matmul(&vectors) - Tensor::eye(32, (Kind::Double, device())))) < 1e-5
    );
    let total: f64 = basis.variances().unwrap().iter().sum();
    assert!((total - 1.0).abs() < 1e-3, "{total}");
    // What is shared is not changed by an update.
    assert!(Arc::ptr_eq(stale.shallow_clone().basis().unwrap(), stale.basis().unwrap()));
    assert_eq!(
        stale.restore(Kind::Float).unwrap(),
        stale.shallow_clone().restore(Kind::Float).unwrap()
    );
}

/// The backward pass may run on another thread than the forward.
#[test]
fn codes_and_states_go_to_other_threads() {
    fn sent<T: Send + 'static>(of: T) -> T {
        std::thread::spawn(move || of).join().unwrap()
    }
    let a = decaying(30, 12, 1);
    let code = of_itself(&a, &Coding::default(), 0);
    let (basis, restored) = (Arc::clone(code.basis().unwrap()), code.restore(Kind::Float).unwrap());
    assert_eq!(sent(Code::Coded(code)).restore(Kind::Float).unwrap(), restored);
    assert!(Arc::ptr_eq(
        sent(SiteState::from_coded_basis(Arc::clone(&basis))).coded_basis().unwrap(),
        &basis
    ));
}

#[test]
fn codes_own_no_more_than_they_say_and_record_no_graph() {
    let a = decaying(64, 48, 1).to_kind(Kind::Float).set_requires_grad(true);
    let code = of_itself(&a, &Coding::default(), 0);
    assert!(!code.restore(Kind::Float).unwrap().requires_grad());
    assert!(!code.basis().unwrap().vectors(Kind::Float).unwrap().requires_grad());
}

#[test]
fn wrong_use_is_refused_with_the_numbers() {
    let a = normal(6, 5, 1);
    let basis = Arc::new(Basis::from_matrix(&a).unwrap());
    let message = |matrix: &Tensor, rate| {
        Coded::new(matrix, &basis, &Coding { rate, ..Coding::default() }, 0)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        message(&normal(6, 4, 1), Rate::Bits(2.0)),
        "coded: expected [rows, 5], as wide as the basis, got a tensor of shape [6, 4]"
    );
    assert!(
        message(&a.view([2, 3, 5]), Rate::Bits(2.0)).contains("got a tensor of shape [2, 3, 5]")
    );
    assert!(message(&a.to_kind(Kind::Int64), Rate::Bits(2.0)).contains("got Int64"));
    for bits in [0.0, -1.0, 33.0, f64::NAN] {
        assert!(message(&a, Rate::Bits(bits)).contains("it must be above 0 and at most 32"));
    }
    assert!(message(&a, Rate::Error(0.0)).contains("error = 0; it must be above 0"));
    assert!(
        basis
            .update(&a, 1.5)
            .unwrap_err()
            .to_string()
            .contains("memory = 1.5; it must be between 0 and 1")
    );
    assert!(basis.first(6).unwrap_err().to_string().contains("between 1 and 5"));
    assert!(Basis::from_parts(&a, &[1.0; 5]).is_ok() && Basis::from_parts(&a, &[1.0; 4]).is_err());
}

/// Sites that share a basis: it is made of the first one's matrix alone, and of all of them from
/// the second round on.
#[test]
fn sharers_have_one_basis_from_all_of_them() {
    let sites = [decaying(300, 24, 1), decaying(300, 24, 30), decaying(300, 24, 30)];
    let options = Options {
        method: Method::Coded {
            rate: Rate::Bits(2.5),
            rounding: Rounding::Trellis,
            drift: f64::INFINITY,
            rotate: true,
        },
        rank: Rank::Fraction(1.0),
        keep_norms: true,
        factors: Kind::Float,
    };
    let mut state = SiteState::shared_by(3);
    let mut round = || -> Vec<f64> {
        let codes: Vec<Code> =
            sites.iter().map(|site| decompose(site, &options, 0, &mut state).unwrap()).collect();
        codes
            .iter()
            .zip(&sites)
            .map(|(code, site)| {
                per_token_error(site, &code.restore(Kind::Double).unwrap()).unwrap()
            })
            .collect()
    };
    let (first, second, third) = (round(), round(), round());
    assert!(first[1] > 1.08 * second[1] && second[0] > first[0], "{first:?} {second:?}");
    assert_eq!(second, third);
    assert_eq!(state.bytes(), 24 * (4 * 24 + 4));
}

/// An update that gains nothing is not made again at once.
#[test]
fn a_basis_follows_no_oftener_than_it_pays() {
    let options = Options {
        // So low that every matrix seems to have drifted.
        method: Method::Coded {
            rate: Rate::Bits(3.0),
            rounding: Rounding::Trellis,
            drift: 0.5,
            rotate: true,
        },
        rank: Rank::Fraction(1.0),
        keep_norms: true,
        factors: Kind::Float,
    };
    let mut state = SiteState::default();
    let updates = |rounds: std::ops::Range<u64>, state: &mut SiteState| {
        let mut follows = |round: u64| {
            drop(decompose(&decaying(300, 16, round), &options, 0, state).unwrap());
            state.bytes() > 16 * (4 * 16 + 4)
        };
        rounds.filter(|round| follows(*round % 2)).count()
    };
    let (early, late) = (updates(0..40, &mut state), updates(40..80, &mut state));
    assert!(early >= 3 && late <= 3 && late < early, "{early} {late}");
}

/// Through the face of all methods: the first matrix makes the basis, others update it, and bytes
/// are predicted.
#[test]
fn a_site_remembers_its_basis_and_updates_it() {
    let (old, new) = (decaying(200, 32, 1), decaying(200, 32, 20));
    let options = |drift| Options {
        method: Method::Coded {
            rate: Rate::Bits(3.0),
            rounding: Rounding::Trellis,
            drift,
            rotate: true,
        },
        rank: Rank::Fraction(1.0),
        keep_norms: true,
        factors: Kind::Float,
    };
    let basis_bytes = 32 * (4 * 32 + 4);
    let mut state = SiteState::default();
    let errors: Vec<f64> = (0..9)
        .map(|step| {
            let matrix = if step == 0 { &old } else { &new };
            let code = decompose(matrix, &options(0.0), 0, &mut state).unwrap();
            assert_eq!(code.bytes(), options(0.0).bytes(200, 32).unwrap());
            // The first matrix makes the basis, each other one the next.
            assert_eq!(state.bytes(), if step == 0 { basis_bytes } else { 2 * basis_bytes });
            let restored = code.restore(Kind::Double).unwrap();
            let Code::Coded(code) = code else { panic!("not coded") };
            assert!(
                (code.relative_error() - relative_error(matrix, &restored).unwrap()).abs() < 2e-3
            );
            assert!(Arc::ptr_eq(state.coded_basis().unwrap(), code.basis().unwrap()));
            code.error()
        })
        .collect();
    assert!(errors[1] > 1.5 * errors[0] && errors[8] < 0.7 * errors[1], "{errors:?}");

    let mut other = SiteState::from_coded_basis(Arc::clone(state.coded_basis().unwrap()));
    let first = decompose(&old, &options(f64::INFINITY), 0, &mut other).unwrap();
    drop(state);
    assert_eq!(other.bytes(), basis_bytes);
    drop(first);
    let coded = |matrix: &Tensor, drift, state: &mut SiteState| match decompose(
        matrix,
        &options(drift),
        0,
        state,
    )
    .unwrap()
    {
        Code::Coded(code) => code,
        _ => panic!("not coded"),
    };
    // While a code is held in a basis, none other takes over.
    let held = coded(&new, 0.0, &mut other);
    let beside = coded(&new, 0.0, &mut other);
    assert!(
        Arc::ptr_eq(held.basis().unwrap(), beside.basis().unwrap())
            && other.bytes() == 2 * basis_bytes
    );
    drop((held, beside));
    let after = coded(&new, f64::INFINITY, &mut other);
    assert!(
        other.bytes() == basis_bytes && after.error() < 0.9 * errors[1],
        "{} {errors:?}",
        after.error()
    );
    let message =
        decompose(&normal(4, 5, 1), &options(1.0), 0, &mut other).unwrap_err().to_string();
    assert!(message.contains("as wide as the basis"), "{message}");
}
