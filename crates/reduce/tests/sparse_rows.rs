//! Tables of which few rows have a gradient: their exact mean, for the bytes of those rows, on
//! ranks that are threads, against f64.
#![allow(clippy::unwrap_used)]

mod simulation;

use tch::{Kind, Tensor};

use reduce::{Config, GradientReducer, Method, ParamHints, PowerSgdConfig, Traffic};

use simulation::{device, gradient, parameters, ranks, relative_error, same_bits, set_gradient};

/// A table of more than 1 MiB, a small one, and one that is none.
const SHAPES: &[&[i64]] = &[&[1001, 300], &[30, 7], &[1001, 300], &[5]];
const ROWS: i64 = 1001;
const OTHERS: u64 = 30 * 7 + 1001 * 300 + 5;

fn hints() -> ParamHints {
    ParamHints {
        sparse_grad_embeddings: vec!["p0".into(), "p1".into(), "p3".into(), "unknown".into()],
        ..ParamHints::default()
    }
}

/// A rank's gradient of the large table: rows `start..start + count` and the one before the last.
fn of_table(rank: usize, step: u64, count: i64) -> Tensor {
    let all = gradient(SHAPES[0], rank, step, 0);
    let table = all.zeros_like();
    for (start, count) in [(rank as i64 * count, count), (ROWS - 2, 1)] {
        table.narrow(0, start, count).copy_(&all.narrow(0, start, count));
    }
    table.to_device(device())
}

fn of(rank: usize, step: u64, index: usize, count: i64) -> Tensor {
    if index == 0 {
        of_table(rank, step, count)
    } else {
        gradient(SHAPES[index], rank, step, index)
    }
}

/// One step with gradients from `of` on `world_size` ranks: what it sent, and each rank's
/// gradients.
fn reduced(
    world_size: usize,
    kind: Kind,
    config: Config,
    of: impl Fn(usize, usize) -> Tensor + Sync,
) -> Vec<(Traffic, Vec<Tensor>)> {
    ranks(world_size, |group| {
        let parameters = parameters(SHAPES, kind);
        let mut reducer =
            GradientReducer::with_hints(group.clone(), &parameters, &hints(), config).unwrap();
        reducer.begin(0);
        for (index, (_, parameter)) in parameters.iter().enumerate().rev() {
            set_gradient(parameter, &of(group.rank(), index));
        }
        let traffic = reducer.reduce(0).unwrap();
        (traffic, parameters.iter().map(|(_, parameter)| parameter.grad().copy()).collect())
    })
}

#[test]
fn rows_that_some_rank_has_become_their_mean_and_no_others_travel() {
    for (kind, method, tolerance) in [
        (Kind::Float, Method::Exact, 1e-6),
        (Kind::BFloat16, Method::Exact, 1e-2),
        (Kind::Float, Method::Bf16, 1e-2),
    ] {
        let wire = if method == Method::Bf16 { 2 } else { 4 };
        // As many rows as are sent alone on two ranks, and one more.
        for (world_size, count, overlap) in [
            (1, 9, true),
            (2, 3, true),
            (2, 249, false),
            (2, 250, true),
            (3, 1, true),
            (3, 0, false),
        ] {
            let all = reduced(
                world_size,
                kind,
                Config { method, overlap, ..Config::default() },
                |rank, index| of(rank, 0, index, count),
            );
            let rows = count * world_size as i64 + 1;
            let sent = match (world_size, 2 * rows > ROWS) {
                (1, _) => ROWS * 300 * wire,
                (_, true) => ROWS * 300 * wire + 2 * ROWS,
                (_, false) => rows * 300 * wire + 2 * ROWS,
            };
            for (traffic, gradients) in &all {
                assert_eq!(
                    traffic.bytes,
                    OTHERS * wire as u64 + sent as u64,
                    "{count} rows on {world_size} ranks"
                );
                assert_eq!(traffic.exact_bytes, 4 * (OTHERS + ROWS as u64 * 300));
                for (index, found) in gradients.iter().enumerate() {
                    let mean = (0..world_size)
                        .map(|rank| of(rank, 0, index, count))
                        .reduce(|sum, next| sum + next)
                        .unwrap()
                        / world_size as f64;
                    let error = relative_error(found, &mean);
                    assert!(
                        error <= tolerance,
                        "{kind:?} {method:?}: p{index} of {world_size} ranks is off by {error}"
                    );
                    assert!(same_bits(found, &all[0].1[index]));
                }
            }
        }
    }
}

#[test]
fn a_row_of_nan_travels_and_stays_where_it_is() {
    let of = |rank: usize, index: usize| {
        let gradient = of(rank, 0, index, 2);
        if index == 0 && rank == 1 {
            let _ = gradient.get(500).fill_(f64::NAN);
            let _ = gradient.get(600).get(299).fill_(f64::NEG_INFINITY);
        }
        gradient
    };
    for (_, gradients) in
        reduced(2, Kind::Float, Config { method: Method::Exact, ..Config::default() }, of)
    {
        let is_nan = gradients[0].isnan().any_dim(1, false).nonzero().flatten(0, -1);
        assert_eq!(Vec::<i64>::try_from(is_nan).unwrap(), [500]);
        assert_eq!(gradients[0].double_value(&[600, 299]), f64::NEG_INFINITY);
        assert!(
            gradients
                .iter()
                .skip(1)
                .all(|gradient| gradient.isfinite().all().int64_value(&[]) == 1)
        );
    }
}

#[test]
fn methods_that_compress_tables_still_do() {
    let method =
        Method::PowerSgd(PowerSgdConfig { rank: 2, start_step: 0, ..PowerSgdConfig::default() });
    let all = reduced(2, Kind::Float, Config { method, ..Config::default() }, |rank, index| {
        of(rank, 0, index, 3)
    });
    let matrix = |[m, n]: [u64; 2]| 2 * (m + n);
    assert_eq!(all[0].0.bytes, 4 * (2 * matrix([1001, 300]) + matrix([30, 7]) + 5));
}

#[test]
fn ranks_that_know_of_other_tables_hear_it() {
    let errors = ranks(2, |group| {
        let parameters = parameters(SHAPES, Kind::Float);
        let hints = if group.rank() == 1 { ParamHints::default() } else { hints() };
        GradientReducer::with_hints(group.clone(), &parameters, &hints, Config::default())
            .err()
            .unwrap()
            .to_string()
    });
    assert!(
        errors.iter().all(|error| error.contains("rank 1") && error.contains("settings")),
        "{errors:?}"
    );
}
