//! The exact mean, and what ranks hear of each other's faults.
#![allow(clippy::unwrap_used)]

mod simulation;

use tch::{Device, Kind, Tensor};

use reduce::{Config, Error, GradientReducer, Method, PowerSgdConfig};

use simulation::{gradient, parameters, ranks, relative_error, same_bits, set_gradient};

const SHAPES: &[&[i64]] = &[&[7, 5], &[], &[13], &[0, 3], &[3, 2, 4], &[1]];
const ELEMENTS: u64 = 35 + 1 + 13 + 24 + 1;

fn mean(shape: &[i64], world_size: usize, step: u64, index: usize) -> Tensor {
    (0..world_size)
        .map(|rank| gradient(shape, rank, step, index))
        .reduce(|sum, next| sum + next)
        .unwrap()
        / world_size as f64
}

/// Reduces three steps on `world_size` ranks; returns each rank's gradients of the last step.
fn reduced(world_size: usize, kind: Kind, config: Config, bytes: u64) -> Vec<Vec<Tensor>> {
    ranks(world_size, |group| {
        let parameters = parameters(SHAPES, kind);
        let mut reducer = GradientReducer::new(group.clone(), &parameters, config).unwrap();
        for step in 0..3 {
            for (index, (_, parameter)) in parameters.iter().enumerate() {
                set_gradient(parameter, &gradient(SHAPES[index], group.rank(), step, index));
            }
            let traffic = reducer.reduce(step).unwrap();
            assert_eq!((traffic.bytes, traffic.exact_bytes), (bytes, ELEMENTS * 4));
        }
        parameters.iter().map(|(_, parameter)| parameter.grad()).collect()
    })
}

fn check(kind: Kind, method: Method, bucket_bytes: usize, bytes: u64, tolerance: f64) {
    for world_size in [1, 2, 3] {
        let all =
            reduced(world_size, kind, Config { method, bucket_bytes, ..Config::default() }, bytes);
        for (index, shape) in SHAPES.iter().enumerate() {
            let error = relative_error(&all[0][index], &mean(shape, world_size, 2, index));
            assert!(error <= tolerance, "{shape:?} on {world_size} ranks is off by {error}");
            assert!(all.iter().all(|gradients| same_bits(&gradients[index], &all[0][index])));
        }
    }
}

#[test]
fn gradients_become_their_mean() {
    check(Kind::Float, Method::Exact, 25 << 20, ELEMENTS * 4, 1e-6);
}

#[test]
fn buckets_of_any_size_give_the_same() {
    for bucket_bytes in [1, 60, 100, 200] {
        check(Kind::Float, Method::Exact, bucket_bytes, ELEMENTS * 4, 1e-6);
    }
}

#[test]
fn gradients_in_bf16_are_averaged_in_f32() {
    // The inputs are rounded to bf16 (2^-9 of each), and the mean once more; of larger summands
    // more than the mean shows.
    check(Kind::BFloat16, Method::Exact, 25 << 20, ELEMENTS * 4, 1.5e-2);
}

#[test]
fn half_the_bytes_in_bf16() {
    check(Kind::Float, Method::Bf16, 25 << 20, ELEMENTS * 2, 3e-2);
}

#[test]
fn powersgd_is_exact_before_its_start() {
    let powersgd = PowerSgdConfig { start_step: 3, min_ratio: 0.0, ..PowerSgdConfig::default() };
    check(Kind::Float, Method::PowerSgd(powersgd), 25 << 20, ELEMENTS * 4, 1e-6);
}

#[test]
fn no_parameters_are_no_traffic() {
    for method in [Method::Exact, Method::default()] {
        ranks(2, |group| {
            let mut reducer =
                GradientReducer::new(group, &[], Config { method, ..Config::default() }).unwrap();
            let traffic = reducer.reduce(20).unwrap();
            assert_eq!((traffic.bytes, traffic.exact_bytes), (0, 0));
        });
    }
}

#[test]
fn a_gradient_of_another_shape_on_one_rank_is_named_on_all() {
    for method in [Method::Exact, Method::default()] {
        let errors = ranks(3, |group| {
            let mut parameters = parameters(&[&[2, 2], &[3], &[4]], Kind::Float);
            let mut reducer = GradientReducer::new(
                group.clone(),
                &parameters,
                Config { method, ..Config::default() },
            )
            .unwrap();
            parameters
                .iter()
                .for_each(|(_, parameter)| set_gradient(parameter, &parameter.ones_like()));
            // A parameter that shrinks takes its gradient along.
            let whole = parameters[1].1.detach().copy();
            if group.rank() == 1 {
                parameters[1].1.set_data(&Tensor::zeros([5], (Kind::Float, Device::Cpu)));
                autograd::set_gradient(
                    &parameters[1].1,
                    Some(&Tensor::zeros([5], (Kind::Float, Device::Cpu))),
                )
                .unwrap();
            }
            let error = reducer.reduce(5).unwrap_err();
            assert!(
                parameters[0].1.grad().eq_tensor(&Tensor::from(1.0_f32)).all().int64_value(&[])
                    == 1,
                "gradients are untouched"
            );
            // Once the gradients are as they should be, the same reducer continues.
            if group.rank() == 1 {
                autograd::set_gradient(&parameters[1].1, None).unwrap();
                parameters[1].1.set_data(&whole);
            }
            parameters
                .iter()
                .for_each(|(_, parameter)| set_gradient(parameter, &parameter.ones_like()));
            reducer.reduce(5).unwrap();
            error.to_string()
        });
        for error in errors {
            let expected = "step 5: rank 1 (host node1): `p1` has a gradient of another shape, dtype or device; ";
            assert!(error.starts_with(expected), "{error}");
        }
    }
}

#[test]
fn a_parameter_unused_on_some_ranks_counts_as_zero_there_and_unused_on_all_has_no_gradient() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for overlap in [true, false] {
            ranks(3, |group| {
                let parameters = parameters(&[&[2, 2], &[3], &[4], &[40, 40]], kind);
                let powersgd =
                    PowerSgdConfig { start_step: 0, rank: 1, ..PowerSgdConfig::default() };
                let config =
                    Config { method: Method::PowerSgd(powersgd), overlap, ..Config::default() };
                let mut reducer = GradientReducer::new(group.clone(), &parameters, config).unwrap();
                // The third is used by rank 1 alone at first, then by nobody, then by all.
                for (step, users) in [[1].as_slice(), &[], &[0, 1, 2]].into_iter().enumerate() {
                    reducer.begin(step as u64);
                    let reaches = |index: usize| {
                        index == 0 || (index == 2 && users.contains(&group.rank())) || index == 3
                    };
                    for (_, parameter) in parameters
                        .iter()
                        .enumerate()
                        .filter(|(index, _)| reaches(*index))
                        .map(|(_, named)| named)
                    {
                        (parameter * 6.0).sum(kind).backward();
                    }
                    reducer.reduce(step as u64).unwrap();
                    let is_all = |index: usize, value: f64| {
                        let gradient = parameters[index].1.grad();
                        gradient.defined()
                            && (gradient - value).abs().max().double_value(&[]) < 1e-4
                    };
                    assert!(is_all(0, 6.0) && is_all(3, 6.0), "step {step}");
                    assert!(!parameters[1].1.grad().defined(), "nobody ever used it");
                    match users {
                        [] => assert!(!parameters[2].1.grad().defined()),
                        users => assert!(
                            is_all(2, 2.0 * users.len() as f64),
                            "step {step}: {:?}",
                            parameters[2].1.grad()
                        ),
                    }
                    reducer.zero_gradients().unwrap();
                }
            });
        }
    }
}

#[test]
fn ranks_at_different_steps_are_told() {
    let errors = ranks(2, |group| {
        let parameters = parameters(&[&[2]], Kind::Float);
        set_gradient(&parameters[0].1, &parameters[0].1.ones_like());
        let step = 3 + group.rank() as u64;
        GradientReducer::new(group, &parameters, Config::default())
            .unwrap()
            .reduce(step)
            .unwrap_err()
    });
    for (rank, error) in errors.iter().enumerate() {
        assert!(
            matches!(error, Error::Step { step, first: 3, last: 4 } if *step == 3 + rank as u64),
            "{error}"
        );
    }
}

#[test]
fn what_differs_between_ranks_is_told_at_the_start() {
    let other_shape = ranks(3, |group| {
        let shape: &[i64] = if group.rank() == 2 { &[3] } else { &[2] };
        GradientReducer::new(group, &parameters(&[shape], Kind::Float), Config::default())
            .err()
            .unwrap()
            .to_string()
    });
    for error in other_shape {
        assert!(
            error.contains(
                "rank 2 (host node2) has parameters that differ from those of rank 0 (host node0)"
            ),
            "{error}"
        );
    }
    let other_seed = ranks(2, |group| {
        let config = Config { seed: group.rank() as u64, ..Config::default() };
        GradientReducer::new(group, &parameters(&[&[2]], Kind::Float), config)
            .err()
            .unwrap()
            .to_string()
    });
    for error in other_seed {
        assert!(error.contains("rank 1 (host node1) has settings that differ"), "{error}");
    }
}

#[test]
fn a_parameter_that_one_rank_cannot_use_is_named_on_all() {
    let errors = ranks(2, |group| {
        let kind = if group.rank() == 1 { Kind::Double } else { Kind::Float };
        GradientReducer::new(group, &parameters(&[&[2]], kind), Config::default()).err().unwrap()
    });
    assert!(
        errors[0]
            .to_string()
            .contains("rank 1 (host node1): parameter `p0` cannot be reduced: its dtype is Double"),
        "{}",
        errors[0]
    );
    assert!(matches!(&errors[1], Error::Parameter { name, .. } if name == "p0"), "{}", errors[1]);
    let twice = ranks(1, |group| {
        let mut parameters = parameters(&[&[2], &[2]], Kind::Float);
        parameters[1].0 = "p0".into();
        GradientReducer::new(group, &parameters, Config::default()).err().unwrap().to_string()
    });
    assert!(twice[0].contains("two of that name"), "{}", twice[0]);
}
