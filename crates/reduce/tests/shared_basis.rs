//! Gradients whose rows lie in bases that all ranks know: the exact mean of less bytes, on ranks
//! that are threads, against f64.
#![allow(clippy::unwrap_used)]

mod simulation;

use std::sync::Arc;

use tch::{Kind, Tensor};

use collective::ProcessGroup;
use reduce::{Config, GradientReducer, Method, ParamHints};

use simulation::{
    device, gradient, normal, parameters, ranks, relative_error, same_bits, set_gradient,
};

const SHAPES: &[&[i64]] = &[&[9, 12], &[5], &[6, 20], &[7, 12], &[4, 3, 2], &[0, 12]];
/// Of the parameters with a basis, its columns.
const RANKS: &[(usize, i64)] = &[(0, 3), (2, 5), (5, 3)];
/// Coefficients of p0 and p2, and all of p1, p3 and p4.
const SENT: u64 = 4 * (9 * 3 + 6 * 5 + 5 + 7 * 12 + 4 * 3 * 2);
const SHARED: Method = Method::SharedBasis { min_ratio: 2.0 };

/// Orthonormal columns, in f64.
fn basis(index: usize, rank: i64, seed: u8) -> Tensor {
    Tensor::linalg_qr(&normal(&[SHAPES[index][1], rank], &[seed, 1, 1, index as u8]), "reduced").0
}

fn bases(seed: u8) -> Vec<(String, Tensor)> {
    let of = |&(index, rank)| {
        (format!("p{index}"), basis(index, rank, seed).to_kind(Kind::Float).to_device(device()))
    };
    RANKS.iter().map(of).collect()
}

/// A rank's gradient: within the basis, if there is one.
fn within(rank: usize, step: u64, index: usize, seed: u8) -> Tensor {
    let gradient = gradient(SHAPES[index], rank, step, index);
    match RANKS.iter().find(|(of, _)| *of == index) {
        Some((_, columns)) => {
            let basis = basis(index, *columns, seed);
            gradient.matmul(&basis).matmul(&basis.tr())
        }
        None => gradient,
    }
}

fn mean(world_size: usize, of: impl Fn(usize) -> Tensor) -> Tensor {
    (0..world_size).map(of).reduce(|sum, next| sum + next).unwrap() / world_size as f64
}

fn reducer(
    group: &Arc<dyn ProcessGroup>,
    parameters: &[(String, Tensor)],
    config: Config,
) -> GradientReducer {
    let with_basis = RANKS.iter().map(|(index, _)| format!("p{index}")).collect();
    GradientReducer::with_hints(
        group.clone(),
        parameters,
        &ParamHints { with_basis, ..ParamHints::default() },
        config,
    )
    .unwrap()
}

fn config(bucket_bytes: usize, overlap: bool) -> Config {
    Config { method: SHARED, bucket_bytes, overlap, ..Config::default() }
}

#[test]
fn gradients_in_shared_bases_become_their_exact_mean() {
    for (world_size, bucket_bytes, overlap) in [
        (1, 25 << 20, true),
        (2, 1, true),
        (2, 25 << 20, false),
        (3, 300, true),
        (3, 25 << 20, true),
    ] {
        let all = ranks(world_size, |group| {
            let parameters = parameters(SHAPES, Kind::Float);
            let mut reducer = reducer(&group, &parameters, config(bucket_bytes, overlap));
            // Without bases, exactly; then in bases, which turn.
            let mut found = Vec::new();
            for (step, seed) in [(0, None), (1, Some(1)), (2, Some(1)), (3, Some(2))] {
                if let Some(seed) = seed {
                    reducer.set_bases(&bases(seed)).unwrap();
                }
                reducer.begin(step);
                for (index, (_, parameter)) in parameters.iter().enumerate().rev() {
                    set_gradient(parameter, &within(group.rank(), step, index, seed.unwrap_or(9)));
                }
                let traffic = reducer.reduce(step).unwrap();
                assert_eq!(
                    traffic.bytes,
                    if seed.is_some() { SENT } else { traffic.exact_bytes },
                    "step {step}"
                );
                found = parameters.iter().map(|(_, parameter)| parameter.grad().copy()).collect();
                reducer.zero_gradients().unwrap();
            }
            found
        });
        for index in 0..SHAPES.len() {
            let expected = mean(world_size, |rank| within(rank, 3, index, 2));
            let error = relative_error(&all[0][index], &expected);
            assert!(
                error < 1e-5,
                "p{index} on {world_size} ranks, buckets of {bucket_bytes}: off by {error}"
            );
            assert!(all.iter().all(|gradients| same_bits(&gradients[index], &all[0][index])));
        }
    }
}

/// The ranks' gradients after one step in bases, from what `of` gives a rank for a parameter.
fn reduced(seed: u8, of: impl Fn(usize, usize) -> Tensor + Sync) -> Vec<Vec<Tensor>> {
    ranks(2, |group| {
        let parameters = parameters(SHAPES, Kind::Float);
        let mut reducer = reducer(&group, &parameters, config(25 << 20, true));
        reducer.set_bases(&bases(seed)).unwrap();
        for (index, (_, parameter)) in parameters.iter().enumerate() {
            set_gradient(parameter, &of(group.rank(), index));
        }
        reducer.reduce(0).unwrap();
        parameters.iter().map(|(_, parameter)| parameter.grad()).collect()
    })
}

#[test]
fn what_lies_outside_is_projected() {
    let all = reduced(4, |rank, index| gradient(SHAPES[index], rank, 0, index));
    for &(index, rank) in RANKS {
        let basis = basis(index, rank, 4);
        let exact = mean(2, |rank| gradient(SHAPES[index], rank, 0, index));
        assert!(relative_error(&all[0][index], &exact.matmul(&basis).matmul(&basis.tr())) < 1e-5);
    }
    assert!(
        relative_error(&all[1][3], &mean(2, |rank| gradient(SHAPES[3], rank, 0, 3))) < 1e-6,
        "no basis, no loss"
    );
}

#[test]
fn a_basis_that_saves_too_little_is_not_used() {
    ranks(2, |group| {
        let parameters = parameters(SHAPES, Kind::Float);
        let mut reducer = reducer(&group, &parameters, config(25 << 20, true));
        let wide = basis(0, 7, 1).to_kind(Kind::Float).to_device(device());
        reducer.set_bases(&[("p0".to_owned(), wide)]).unwrap();
        for (index, (_, parameter)) in parameters.iter().enumerate() {
            set_gradient(parameter, &gradient(SHAPES[index], group.rank(), 0, index));
        }
        let traffic = reducer.reduce(0).unwrap();
        assert_eq!(traffic.bytes, traffic.exact_bytes);
        // And none is left when none is given.
        reducer.set_bases(&bases(1)).unwrap();
        reducer.set_bases(&[]).unwrap();
        let traffic = reducer.reduce(1).unwrap();
        assert_eq!(traffic.bytes, traffic.exact_bytes);
    });
}

#[test]
fn nan_stays_where_it_is() {
    let all = reduced(1, |rank, index| {
        let gradient = within(rank, 0, index, 1);
        if index == 2 && rank == 1 {
            let _ = gradient.get(3).get(4).fill_(f64::NAN);
        }
        gradient
    });
    for gradients in &all {
        for (index, gradient) in gradients.iter().enumerate() {
            let count = gradient.isnan().sum(Kind::Int64).int64_value(&[]);
            assert_eq!(count, i64::from(index == 2), "p{index}");
        }
        assert!(gradients[2].get(3).get(4).isnan().int64_value(&[]) == 1);
    }
}

#[test]
fn bases_that_do_not_fit_are_an_error_on_every_rank() {
    let refused = |name: &str, shape: &[i64], on: usize, columns: Option<i64>| {
        let messages = ranks(2, |group| {
            let parameters = parameters(SHAPES, Kind::Float);
            let mut reducer = reducer(&group, &parameters, config(25 << 20, true));
            let given = |shape: &[i64]| {
                vec![(
                    name.to_owned(),
                    normal(shape, &[1; 4]).to_kind(Kind::Float).to_device(device()),
                )]
            };
            let bases = match columns {
                Some(columns) if group.rank() == on => given(&[shape[0], columns]),
                None if group.rank() != on => bases(1),
                _ => given(shape),
            };
            let message = reducer.set_bases(&bases).unwrap_err().to_string();
            let traffic = reducer.reduce(0).unwrap();
            assert_eq!(traffic.bytes, traffic.exact_bytes, "nothing has changed");
            message
        });
        messages.join("\n")
    };
    let unknown = refused("p9", &[12, 3], 1, None);
    assert!(
        unknown.contains("`p9`")
            && unknown.contains("none was announced")
            && unknown.contains("rank 1 (host node1)"),
        "{unknown}"
    );
    let shape = refused("p0", &[11, 3], 1, None);
    assert!(shape.contains("must be f32 of [12, rank]") && shape.contains("[11, 3]"), "{shape}");
    let other = refused("p3", &[12, 3], 0, None);
    assert!(other.contains("none was announced"), "{other}");
    let longer = refused("p0", &[12, 3], 1, Some(4));
    assert!(
        longer.contains("rank 1 (host node1) has bases that differ from those of rank 0"),
        "{longer}"
    );
}
