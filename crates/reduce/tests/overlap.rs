//! Gradients that leave while backward runs: the same as those that wait for its end.
#![allow(clippy::unwrap_used)]

mod simulation;

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use collective::ProcessGroup;
use reduce::{Config, GradientReducer, Method, PowerSgdConfig};

use simulation::{normal, ranks, relative_error, same_bits};

const WIDTH: i64 = 24;
const LAYERS: usize = 5;

/// A chain of layers, the first of which is used again at the end (a tied weight), and one that
/// only odd steps use.
fn parameters() -> Vec<(String, Tensor)> {
    let weight = |index: usize| {
        (normal(&[WIDTH, WIDTH], &[index as u8, 0, 0, 1]) * 0.2)
            .to_kind(Kind::Float)
            .set_requires_grad(true)
    };
    let mut parameters: Vec<_> =
        (0..LAYERS).map(|index| (format!("weight{index}"), weight(index))).collect();
    parameters.push((
        "bias".into(),
        Tensor::zeros([WIDTH], (Kind::Float, Device::Cpu)).set_requires_grad(true),
    ));
    parameters.push(("sometimes".into(), weight(LAYERS)));
    parameters
}

/// The loss of `rows` rows of a rank's share of a step.
fn loss(
    parameters: &[(String, Tensor)],
    step: u64,
    rank: usize,
    micro: usize,
    rows: i64,
) -> Tensor {
    let mut x =
        normal(&[rows, WIDTH], &[step as u8, rank as u8, micro as u8, 2]).to_kind(Kind::Float);
    for (_, weight) in &parameters[..LAYERS] {
        x = x.mm(weight).tanh();
    }
    x = x.mm(&parameters[0].1) + &parameters[LAYERS].1;
    if step % 2 == 1 {
        x = x.mm(&parameters[LAYERS + 1].1);
    }
    x.square().mean(Kind::Float)
}

/// Plain steps of gradient descent, two micro-batches each; the parameters after them.
fn descend(group: Arc<dyn ProcessGroup>, config: Config, begin: bool, steps: u64) -> Vec<Tensor> {
    let parameters = parameters();
    let mut reducer = GradientReducer::new(group.clone(), &parameters, config).unwrap();
    for step in 0..steps {
        for micro in 0..2 {
            if micro == 1 && begin {
                reducer.begin(step);
            }
            loss(&parameters, step, group.rank(), micro, 3).backward();
        }
        reducer.reduce(step).unwrap();
        let _no_grad = tch::no_grad_guard();
        for (_, parameter) in &parameters {
            let gradient = parameter.grad();
            if gradient.defined() {
                let _ = parameter.shallow_clone().f_sub_(&(gradient * 0.1)).unwrap();
            }
        }
        reducer.zero_gradients().unwrap();
    }
    parameters.into_iter().map(|(_, parameter)| parameter.detach()).collect()
}

fn methods() -> [Method; 3] {
    let powersgd = PowerSgdConfig { rank: 2, start_step: 2, ..PowerSgdConfig::default() };
    [Method::Exact, Method::Bf16, Method::PowerSgd(powersgd)]
}

#[test]
fn overlap_changes_no_bit() {
    for method in methods() {
        for bucket_bytes in [1, 5000, 25 << 20] {
            let all = |overlap: bool, begin: bool| {
                let config = Config { method, bucket_bytes, overlap, seed: 3 };
                ranks(3, |group| descend(group, config, begin, 6))
            };
            let waiting = all(false, false);
            for (overlap, begin) in [(true, true), (true, false), (false, true)] {
                for (rank, parameters) in all(overlap, begin).iter().enumerate() {
                    for (index, parameter) in parameters.iter().enumerate() {
                        let what = format!(
                            "{method:?}, buckets of {bucket_bytes}, rank {rank}, parameter {index}"
                        );
                        assert!(same_bits(parameter, &waiting[0][index]), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn ranks_follow_one_process_with_the_joined_batch() {
    for world_size in [1, 2, 3] {
        let own = &ranks(world_size, |group| {
            descend(group, Config { method: Method::Exact, ..Config::default() }, true, 20)
        })[0];
        // One process that sees all micro-batches of all ranks.
        let parameters = parameters();
        for step in 0..20 {
            for rank in 0..world_size {
                for micro in 0..2 {
                    (loss(&parameters, step, rank, micro, 3) / world_size as f64).backward();
                }
            }
            let _no_grad = tch::no_grad_guard();
            for (_, parameter) in &parameters {
                if parameter.grad().defined() {
                    let _ = parameter.shallow_clone().f_sub_(&(parameter.grad() * 0.1)).unwrap();
                    autograd::set_gradient(parameter, None).unwrap();
                }
            }
        }
        for ((name, expected), parameter) in parameters.iter().zip(own) {
            let error = relative_error(parameter, &expected.to_kind(Kind::Double));
            assert!(error < 1e-5, "{name} on {world_size} ranks is off by {error}");
        }
    }
}

#[test]
fn a_step_that_was_not_begun_is_refused() {
    ranks(2, |group| {
        let parameters = parameters();
        let mut reducer =
            GradientReducer::new(group.clone(), &parameters, Config::default()).unwrap();
        reducer.begin(4);
        let error = reducer.reduce(5).unwrap_err();
        assert!(error.to_string().starts_with("gradients of step 4 are on their way"), "{error}");
    });
}
