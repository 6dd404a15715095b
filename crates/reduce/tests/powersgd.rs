//! PowerSGD against the paper's algorithms in plain f64, and its laws.
#![allow(clippy::unwrap_used)]

mod simulation;

use tch::{Device, Kind, Tensor};

use reduce::{Config, Error, GradientReducer, Method, PowerSgdConfig};

use simulation::{
    Reference, gradient, normal, parameters, ranks, relative_error, same_bits, set_gradient,
};

/// Two of one shape, which are stacked; a tensor of three dimensions; one that is wider than high;
/// and some that stay exact.
const SHAPES: &[&[i64]] = &[&[12, 9], &[12, 9], &[8, 3, 5], &[5, 20], &[7], &[2, 2], &[]];
const COMPRESSED: &[usize] = &[0, 1, 2, 3];
const REST_ELEMENTS: u64 = 7 + 4 + 1;

/// Ratios of the compressed shapes at rank 2: 2.57, 2.57, 2.6, 2.0; of `[2, 2]` 0.5.
const RANK_2: PowerSgdConfig = PowerSgdConfig {
    rank: 2,
    start_step: 0,
    min_ratio: 2.0,
    error_feedback: true,
    warm_start: true,
};

fn config(powersgd: PowerSgdConfig) -> Config {
    Config { method: Method::PowerSgd(powersgd), seed: 11, ..Config::default() }
}

fn as_matrix(tensor: &Tensor) -> Tensor {
    tensor.view([tensor.size()[0], -1]).to_kind(Kind::Double)
}

fn gradients(world_size: usize, step: u64, index: usize) -> Vec<Tensor> {
    (0..world_size).map(|rank| gradient(SHAPES[index], rank, step, index)).collect()
}

fn mean(tensors: &[Tensor]) -> Tensor {
    tensors.iter().fold(tensors[0].zeros_like(), |sum, tensor| sum + tensor) / tensors.len() as f64
}

fn set_gradients(parameters: &[(String, Tensor)], rank: usize, step: u64) {
    for (index, (_, parameter)) in parameters.iter().enumerate() {
        set_gradient(parameter, &gradient(SHAPES[index], rank, step, index));
    }
}

fn find<'a>(state: &'a [(String, Tensor)], name: &str) -> &'a Tensor {
    &state.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// Runs steps on `world_size` ranks: each rank's gradients of each step, and its states before and
/// after.
struct Run {
    gradients: Vec<Vec<Tensor>>,
    before: Vec<(String, Tensor)>,
    after: Vec<(String, Tensor)>,
}

fn run(world_size: usize, kind: Kind, config: Config, steps: u64) -> Vec<Run> {
    ranks(world_size, |group| {
        let parameters = parameters(SHAPES, kind);
        let mut reducer = GradientReducer::new(group.clone(), &parameters, config).unwrap();
        let before = reducer.state();
        let gradients = (0..steps)
            .map(|step| {
                set_gradients(&parameters, group.rank(), step);
                reducer.reduce(step).unwrap();
                parameters.iter().map(|(_, parameter)| parameter.grad().copy()).collect()
            })
            .collect();
        Run { gradients, before, after: reducer.state() }
    })
}

#[test]
fn twenty_steps_follow_the_reference() {
    for (world_size, error_feedback) in [(1, true), (2, true), (3, true), (3, false)] {
        let runs =
            run(world_size, Kind::Float, config(PowerSgdConfig { error_feedback, ..RANK_2 }), 20);
        for &index in COMPRESSED {
            let query = find(&runs[0].before, &format!("query.p{index}"));
            let mut reference = Reference::new(query, SHAPES[index][0], world_size, error_feedback);
            for step in 0..20 {
                let inputs: Vec<Tensor> =
                    gradients(world_size, step, index).iter().map(as_matrix).collect();
                let expected = reference.step(&inputs);
                let actual = as_matrix(&runs[0].gradients[step as usize][index]);
                let error = relative_error(&actual, &expected);
                assert!(
                    error < 1e-3,
                    "p{index} at step {step} on {world_size} ranks is off by {error}"
                );
                let exact = mean(&inputs);
                assert!(
                    relative_error(&actual, &exact) > 1e-3,
                    "p{index} was not compressed at all"
                );
            }
        }
        for index in [4, 5, 6] {
            let expected = mean(&gradients(world_size, 19, index));
            assert!(
                relative_error(&runs[0].gradients[19][index], &expected) < 1e-6,
                "p{index} is not compressed"
            );
        }
    }
}

#[test]
fn all_ranks_have_the_same_bits() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let runs = run(3, kind, config(RANK_2), 5);
        for other in &runs[1..] {
            for (a, b) in runs[0].gradients.iter().flatten().zip(other.gradients.iter().flatten()) {
                assert_eq!(a.kind(), kind);
                assert!(same_bits(a, b));
            }
        }
    }
}

#[test]
fn what_is_not_applied_is_remembered() {
    // The updates and the mean of what the ranks remember add up to the exact gradients.
    let runs = run(3, Kind::Float, config(RANK_2), 15);
    for &index in COMPRESSED {
        let applied = runs[0]
            .gradients
            .iter()
            .fold(Tensor::zeros([], (Kind::Double, Device::Cpu)), |sum, step| {
                sum + as_matrix(&step[index])
            });
        let remembered: Vec<Tensor> = runs
            .iter()
            .map(|run| find(&run.after, &format!("error.p{index}")).to_kind(Kind::Double))
            .collect();
        let exact = (0..15)
            .map(|step| as_matrix(&mean(&gradients(3, step, index))))
            .reduce(|sum, next| sum + next)
            .unwrap();
        let error = relative_error(&(applied + mean(&remembered)), &exact);
        assert!(error < 1e-5, "p{index} lost {error}");
        assert!(
            remembered[0].abs().max().double_value(&[]) > 1e-2,
            "p{index} was not compressed at all"
        );
    }
}

#[test]
fn at_full_rank_the_mean_is_exact() {
    for warm_start in [true, false] {
        let full = PowerSgdConfig { rank: 64, min_ratio: 0.0, warm_start, ..RANK_2 };
        let runs = run(3, Kind::Float, config(full), 4);
        for (step, gradients_of_step) in runs[0].gradients.iter().enumerate() {
            for (index, actual) in gradients_of_step.iter().enumerate() {
                let error = relative_error(actual, &mean(&gradients(3, step as u64, index)));
                assert!(error < 1e-4, "p{index} at step {step} is off by {error}");
            }
        }
    }
}

#[test]
fn bytes_are_those_of_the_factors() {
    let p_and_q = 2 * (12 + 9) + 2 * (12 + 9) + 2 * (8 + 15) + 2 * (5 + 20);
    let exact = 12 * 9 * 2 + 8 * 15 + 5 * 20 + REST_ELEMENTS;
    let traffic = ranks(2, |group| {
        let parameters = parameters(SHAPES, Kind::BFloat16);
        let start_late = PowerSgdConfig { start_step: 2, ..RANK_2 };
        let mut reducer =
            GradientReducer::new(group.clone(), &parameters, config(start_late)).unwrap();
        (0..4)
            .map(|step| {
                set_gradients(&parameters, group.rank(), step);
                reducer.reduce(step).unwrap()
            })
            .collect::<Vec<_>>()
    });
    for traffic in traffic.iter().flatten() {
        assert_eq!(traffic.exact_bytes, exact * 4);
    }
    for rank in traffic {
        let bytes: Vec<u64> = rank.iter().map(|traffic| traffic.bytes).collect();
        let compressed = (p_and_q + REST_ELEMENTS) * 4;
        assert_eq!(bytes, [exact * 4, exact * 4, compressed, compressed]);
    }
}

/// Stochastic gradient descent on a sum of quadratics `|X - T_i|² / 2`, on two ranks; returns the
/// last `X`. The `T_i` of a rank lie far to either side of their mean along one direction: that
/// hides the rest of the gradient from a factor of rank 1.
fn descend(method: Method) -> Tensor {
    let (m, n) = (6, 5);
    let targets = |rank: usize| normal(&[m, n], &[rank as u8, 0, 0, 1]);
    let side = || normal(&[m, 1], &[0, 0, 0, 2]).mm(&normal(&[1, n], &[0, 0, 0, 3])) * 5.0;
    let mut last = ranks(2, |group| {
        let parameters = parameters(&[&[m, n]], Kind::Float);
        let mut x = parameters[0].1.shallow_clone();
        let mut reducer = GradientReducer::new(
            group.clone(),
            &parameters,
            Config { method, ..Config::default() },
        )
        .unwrap();
        for step in 0..1500 {
            let sign = if step % 2 == 0 { 1.0 } else { -1.0 };
            let target = targets(group.rank()) + side() * sign;
            set_gradient(&x, &(x.detach().to_kind(Kind::Double) - target));
            reducer.reduce(step).unwrap();
            let _no_grad = tch::no_grad_guard();
            let _ = x.g_sub_(&(x.grad() * 0.01));
        }
        x.detach().copy()
    });
    assert!(same_bits(&last[0], &last[1]));
    last.swap_remove(0).to_kind(Kind::Double)
}

#[test]
fn error_feedback_brings_rank_1_to_the_exact_optimum() {
    let exact = descend(Method::Exact);
    let rank_1 = PowerSgdConfig { rank: 1, min_ratio: 0.0, ..RANK_2 };
    let with = relative_error(&descend(Method::PowerSgd(rank_1)), &exact);
    let without = relative_error(
        &descend(Method::PowerSgd(PowerSgdConfig { error_feedback: false, ..rank_1 })),
        &exact,
    );
    assert!(with < 0.15, "with error feedback the parameters are off by {with}");
    assert!(
        without > 0.5,
        "without error feedback they are off by {without} only: the test shows nothing"
    );
}

#[test]
fn a_saved_state_continues_bit_for_bit() {
    for warm_start in [true, false] {
        let config = config(PowerSgdConfig { warm_start, ..RANK_2 });
        ranks(2, |group| {
            let parameters = parameters(SHAPES, Kind::Float);
            let new = || GradientReducer::new(group.clone(), &parameters, config).unwrap();
            let step = |reducer: &mut GradientReducer, step: u64| {
                set_gradients(&parameters, group.rank(), step);
                reducer.reduce(step).unwrap();
                parameters.iter().map(|(_, parameter)| parameter.grad().copy()).collect::<Vec<_>>()
            };
            let mut first = new();
            (0..5).for_each(|number| drop(step(&mut first, number)));
            let saved = first.state();
            assert_eq!(saved.len(), COMPRESSED.len() * if warm_start { 2 } else { 1 });
            let expected: Vec<_> = (5..8).map(|number| step(&mut first, number)).collect();
            let mut second = new();
            second.load_state(&saved).unwrap();
            let actual: Vec<_> = (5..8).map(|number| step(&mut second, number)).collect();
            assert!(
                expected
                    .iter()
                    .flatten()
                    .zip(actual.iter().flatten())
                    .all(|(a, b)| same_bits(a, b))
            );
            let fresh = step(&mut new(), 5);
            assert!(
                !fresh.iter().zip(&expected[0]).all(|(a, b)| same_bits(a, b)),
                "the state makes no difference: the test shows nothing"
            );
        });
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_leaves_no_trace() {
    ranks(1, |group| {
        let parameters = parameters(SHAPES, Kind::Float);
        let mut reducer = GradientReducer::new(group, &parameters, config(RANK_2)).unwrap();
        let before = reducer.state();
        let ones = || {
            before
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.ones_like()))
                .collect::<Vec<_>>()
        };
        let mut missing = ones();
        missing.pop();
        let mut unknown = ones();
        unknown[0].0 = "error.lm_head".into();
        let mut reshaped = ones();
        reshaped[1].1 = reshaped[1].1.tr();
        let mut double = ones();
        double[2].1 = double[2].1.to_kind(Kind::Double);
        for (state, reason) in
            [(missing, "missing"), (unknown, "unknown"), (reshaped, "shape"), (double, "f32")]
        {
            let error = reducer.load_state(&state).unwrap_err();
            assert!(
                matches!(error, Error::State { .. }) && error.to_string().contains(reason),
                "{error}"
            );
            assert!(reducer.state().iter().zip(&before).all(|((_, a), (_, b))| same_bits(a, b)));
        }
        reducer.load_state(&ones()).unwrap();
    });
}

#[test]
fn nan_and_infinity_reach_all_ranks_and_are_forgotten() {
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let all = ranks(3, |group| {
            let parameters = parameters(SHAPES, Kind::Float);
            let mut reducer =
                GradientReducer::new(group.clone(), &parameters, config(RANK_2)).unwrap();
            let step = |reducer: &mut GradientReducer, step: u64, poison: Option<f64>| {
                set_gradients(&parameters, group.rank(), step);
                if let Some(poison) = poison.filter(|_| group.rank() == 1) {
                    let _ = parameters[2].1.grad().get(3).get(1).get(2).fill_(poison);
                }
                reducer.reduce(step).unwrap();
                parameters.iter().map(|(_, parameter)| parameter.grad().copy()).collect::<Vec<_>>()
            };
            (0..3).for_each(|number| drop(step(&mut reducer, number, None)));
            let before = reducer.state();
            let poisoned = step(&mut reducer, 3, Some(poison));
            assert!(
                reducer.state().iter().zip(&before).all(|((_, a), (_, b))| same_bits(a, b)),
                "the step left a trace"
            );
            let after = step(&mut reducer, 4, None);
            assert!(after.iter().all(|gradient| gradient.isfinite().all().int64_value(&[]) == 1));
            poisoned
        });
        for gradients_of_rank in &all {
            for (index, gradient) in gradients_of_rank.iter().enumerate() {
                let broken = gradient.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]);
                assert_eq!(broken, i64::from(index == 2), "p{index}");
                if index != 2 {
                    assert!(
                        relative_error(gradient, &mean(&gradients(3, 3, index))) < 1e-6,
                        "p{index} is exact in that step"
                    );
                }
            }
            let value = gradients_of_rank[2].double_value(&[3, 1, 2]);
            assert!(if poison.is_nan() { value.is_nan() } else { value == poison }, "{value}");
        }
    }
}

#[test]
fn a_gradient_of_zero_does_no_harm() {
    // The gradients of LoRA's A are zero until B is not.
    ranks(2, |group| {
        let parameters = parameters(&[&[12, 9]], Kind::Float);
        let mut reducer = GradientReducer::new(group.clone(), &parameters, config(RANK_2)).unwrap();
        set_gradient(&parameters[0].1, &parameters[0].1.zeros_like());
        reducer.reduce(0).unwrap();
        assert_eq!(parameters[0].1.grad(), parameters[0].1.zeros_like());
        // Of rank 1: followed exactly once its direction is found, although the warm start was
        // zero.
        let (u, v) = (normal(&[12, 1], &[1; 4]), normal(&[1, 9], &[2; 4]));
        let mut applied = Tensor::zeros([12, 9], (Kind::Double, Device::Cpu));
        for step in 1..6 {
            set_gradient(&parameters[0].1, &u.mm(&v));
            reducer.reduce(step).unwrap();
            applied += parameters[0].1.grad();
        }
        assert!(relative_error(&applied, &(u.mm(&v) * 5.0)) < 1e-4);
    });
}
