//! Coded activations on those of real models (SmolLM2-135M and MiniLM, 512 tokens each), against
//! all else that there is.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use tch::{Kind, Tensor};

use loract_compression::coded::{Basis, Coded, Coding, Rate, Rounding, bits_at_bound, bound};
use loract_compression::{
    Method, Options, Rank, SiteState, TestMatrix, decompose, per_token_error,
};

fn matrices() -> Vec<(String, Tensor)> {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/fixtures/activations/activations.safetensors"
    );
    let matrices = Tensor::read_safetensors(file).unwrap();
    matrices.into_iter().map(|(name, matrix)| (name, matrix.to_kind(Kind::Float))).collect()
}

fn code(a: &Tensor, basis: &Arc<Basis>, bits: f64) -> Coded {
    Coded::new(
        a,
        basis,
        &Coding { rate: Rate::Bits(bits), rounding: Rounding::Trellis, keep_norms: true },
        0,
    )
    .unwrap()
}

fn error(a: &Tensor, code: &Coded) -> f64 {
    per_token_error(a, &code.restore(Kind::Float).unwrap()).unwrap()
}

/// The least error of the low-rank pairs of rank `bits · width / 16`: their long factor in bf16,
/// which has as many bits as the code; the short one stands beside it, as the basis does.
fn low_rank(a: &Tensor, bits: f64) -> f64 {
    let (_, width) = a.size2().unwrap();
    let unit = a / a.square().sum_dim_intlist(1, true, Kind::Float).sqrt();
    let methods =
        [Method::Svd, Method::RowSpace { test_matrix: TestMatrix::Norm, unit_rows: true }];
    let mut least = f64::INFINITY;
    for keep_norms in [false, true] {
        for method in methods {
            for matrix in [a, &unit] {
                let rank = Rank::Components((bits * width as f64 / 16.0).round() as i64);
                let options = Options { method, rank, keep_norms, factors: Kind::BFloat16 };
                let pair = decompose(matrix, &options, 0, &mut SiteState::default()).unwrap();
                least = least
                    .min(per_token_error(matrix, &pair.restore(Kind::Float).unwrap()).unwrap());
            }
        }
    }
    least
}

/// Integers of `bits` in groups of 32, symmetric or from the least to the largest, whichever is
/// better, with scales that cost nothing.
fn grouped(a: &Tensor, bits: u32) -> f64 {
    let (rows, width) = a.size2().unwrap();
    let groups = a.view([rows, width / 32, 32]);
    let (least, most) = groups.aminmax(2, true);
    let steps = f64::from((1 << bits) - 1);
    let scale = (&most - &least).clamp_min(1e-30) / steps;
    let ranged = ((&groups - &least) / &scale).round() * &scale + &least;
    let half = f64::from(1 << (bits - 1));
    let extreme = most.where_self(&most.gt_tensor(&least.neg()), &least);
    let scale: Tensor = extreme / -half;
    let signed = (&groups / &scale).round().clamp(-half, half - 1.0) * &scale;
    let error = |kept: Tensor| per_token_error(a, &kept.view([rows, width])).unwrap();
    error(ranged).min(error(signed))
}

#[test]
fn coded_has_at_most_half_the_error_of_low_rank_pairs_and_of_grouped_integers() {
    for (name, a) in matrices() {
        let basis = Arc::new(Basis::from_matrix(&a).unwrap());
        let variances = basis.variances().unwrap();
        for bits in [2.0, 4.0] {
            let code = code(&a, &basis, bits);
            let found = error(&a, &code);
            let used = 8.0 * code.bytes() as f64 / a.numel() as f64;
            assert!(used <= bits);
            let (pair, integers) = (low_rank(&a, bits), grouped(&a, bits as u32));
            let width = a.size()[1] as f64;
            let (least, above) =
                (bound(&variances, used * width), used - bits_at_bound(&variances, found) / width);
            println!(
                "{name} at {used:.3} bits: {found:.4}; low rank {pair:.4}, integers {integers:.4}, bound {least:.4}, {above:.3} bits above it"
            );
            assert!(
                found <= 0.5 * pair && found <= 0.5 * integers,
                "{name} at {bits} bits: {found}, {pair}, {integers}"
            );
            assert!(
                found >= least && above < if bits == 4.0 { 0.65 } else { 0.45 },
                "{name} at {bits} bits: {above}"
            );
            assert!(
                (code.drift().unwrap() - 1.0).abs() < 0.15,
                "{name}: {}",
                code.drift().unwrap()
            );
        }
    }
}

#[test]
fn a_basis_of_the_batch_before_serves_and_an_update_serves_better() {
    let named = |name: &str| matrices().into_iter().find(|(is, _)| is == name).unwrap().1;
    let (before, now) = (named("smollm2.l15.layer_in.b0"), named("smollm2.l15.layer_in.b1"));
    let (own, old) = (
        Arc::new(Basis::from_matrix(&now).unwrap()),
        Arc::new(Basis::from_matrix(&before).unwrap()),
    );
    let updated = Arc::new(old.update(&now, 0.5).unwrap());
    for bits in [2.0, 4.0] {
        let of = |basis: &Arc<Basis>| code(&now, basis, bits);
        let (best, stale, fresh) = (of(&own), of(&old), of(&updated));
        println!(
            "{bits} bits: own {:.4}, old {:.4}, updated {:.4}, drift {:.2}",
            best.error(),
            stale.error(),
            fresh.error(),
            stale.drift().unwrap()
        );
        assert!(best.error() < fresh.error() && fresh.error() < stale.error());
        assert!(stale.drift().unwrap() > 1.2 && fresh.drift().unwrap() < stale.drift().unwrap());
        assert!(stale.error() < 0.6 * low_rank(&now, bits));
    }
}

#[test]
fn a_wanted_error_is_met_with_few_bits_too_many() {
    for (name, a) in matrices() {
        let basis = Arc::new(Basis::from_matrix(&a).unwrap());
        for wanted in [0.4, 0.1, 0.05, 0.01] {
            let coding = Coding { rate: Rate::Error(wanted), ..Coding::default() };
            let code = Coded::new(&a, &basis, &coding, 0).unwrap();
            let found = error(&a, &code);
            assert!(found <= wanted && found > 0.9 * wanted, "{name}: {found} of {wanted}");
        }
    }
}
