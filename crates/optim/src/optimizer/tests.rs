//! Every rule against the equations of its paper, written out in f64.
#![allow(clippy::unwrap_used)]

use super::*;
use autograd::random::{Distribution, draw};

mod reference;
use reference::Reference;

const STEPS: u64 = 25;
const RATE: f64 = 0.03;

fn options(text: &str) -> config::Optimizer {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(
        &path,
        format!("[model]\npath = \"m\"\n[lora]\n[data]\ntrain = \"t\"\n[optimizer]\n{text}\n"),
    )
    .unwrap();
    config::Run::load(&path, &[]).unwrap().optimizer
}

fn normal(shape: &[i64], seed: u64) -> Tensor {
    draw(Distribution::Normal, shape, Kind::Float, Device::Cpu, seed).unwrap()
}

fn parameter(shape: &[i64], seed: u64) -> Tensor {
    normal(shape, seed).set_requires_grad(true)
}

fn set_gradient(parameter: &Tensor, gradient: &Tensor) {
    let mut parameter = parameter.shallow_clone();
    parameter.zero_grad();
    (&parameter * gradient).sum(parameter.kind()).backward();
}

fn optimizer(parameters: &[&Tensor], options: &config::Optimizer) -> Optimizer {
    let trained = |tensor| TrainedParam { tensor, lr_scale: 1.0, is_hidden_matrix: true };
    Optimizer::new(
        &parameters.iter().copied().map(trained).collect::<Vec<_>>(),
        options,
        Partition::WHOLE,
    )
    .unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn apart(ours: &[f64], expected: &[f64]) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    (square(&mut ours.iter().zip(expected).map(|(a, b)| a - b))
        / square(&mut expected.iter().copied()))
    .sqrt()
}

/// Steps along random gradients, whose size changes, as `reference` steps.
fn follows(text: &str, shape: &[i64], tolerance: f64, mut reference: impl Reference) {
    let options = options(text);
    let ours = parameter(shape, 1);
    let start = values(&ours);
    let mut expected = start.clone();
    let mut optimizer = optimizer(&[&ours], &options);
    for step in 1..=STEPS {
        let gradient = normal(shape, 100 + step) * (1.0 + (step % 4) as f64);
        set_gradient(&ours, &gradient);
        optimizer.step(RATE / step as f64).unwrap();
        reference.step(&mut expected, &values(&gradient), RATE / step as f64);
        let error = apart(&values(&ours), &expected);
        assert!(error < tolerance, "{text}: step {step}: {error:e}");
    }
    assert!(apart(&values(&ours), &start) > 100.0 * tolerance, "{text}: it has moved");
}

#[test]
fn adamw_follows_its_equations() {
    follows("weight_decay = 0.1", &[5, 7], 1e-6, reference::AdamW::new([0.9, 0.999], 1e-8, 0.1));
    follows(
        "betas = [0.5, 0.8]\neps = 0.01",
        &[35],
        1e-6,
        reference::AdamW::new([0.5, 0.8], 0.01, 0.0),
    );
}

#[test]
fn lion_follows_its_equations() {
    follows(
        "method = \"lion\"\nweight_decay = 0.1",
        &[5, 7],
        1e-6,
        reference::Lion::new([0.9, 0.99], 0.1),
    );
}

#[test]
fn sgd_follows_its_equations() {
    follows(
        "method = \"sgd\"\nweight_decay = 0.1",
        &[5, 7],
        1e-6,
        reference::Sgd::new(0.9, false, 0.1),
    );
    follows(
        "method = \"sgd\"\nmomentum = 0.8\nnesterov = true",
        &[5, 7],
        1e-6,
        reference::Sgd::new(0.8, true, 0.0),
    );
    follows("method = \"sgd\"\nmomentum = 0", &[5, 7], 1e-6, reference::Sgd::new(0.0, false, 0.0));
}

#[test]
fn muon_follows_its_equations_in_wide_and_tall_matrices_and_adamw_elsewhere() {
    for (rows, columns) in [(5, 7), (7, 5), (6, 6)] {
        let original = (rows as f64 / columns as f64).max(1.0).sqrt();
        let reference = reference::Muon::new(rows as usize, 0.95, true, 0.1, original);
        follows(
            "method = \"muon\"\nscale = \"original\"\nweight_decay = 0.1",
            &[rows, columns],
            1e-4,
            reference,
        );
        let matched = 0.2 * (rows.max(columns) as f64).sqrt();
        let reference = reference::Muon::new(rows as usize, 0.9, false, 0.0, matched);
        follows(
            "method = \"muon\"\nnesterov = false\nmomentum = 0.9",
            &[rows, columns],
            1e-4,
            reference,
        );
    }
    follows(
        "method = \"muon\"\nweight_decay = 0.1",
        &[35],
        1e-6,
        reference::AdamW::new([0.9, 0.999], 1e-8, 0.1),
    );
}

#[test]
fn muon_turns_every_singular_value_towards_one() {
    let ours = parameter(&[12, 30], 1);
    let before = ours.detach().copy();
    let mut optimizer = optimizer(&[&ours], &options("method = \"muon\"\nscale = \"original\""));
    set_gradient(&ours, &normal(&[12, 30], 2));
    optimizer.step(1.0).unwrap();
    let (_, singular, _) = (before - ours.detach()).svd(true, false);
    let singular = values(&singular);
    assert!(singular.iter().all(|value| (0.6..1.3).contains(value)), "{singular:?}");
}

/// The least of `sum of c (p - target)²` is `target`; the coefficients span three decades.
fn quadratic(text: &str, steps: u64) -> Vec<f64> {
    let shape = [3, 700];
    let ours = parameter(&shape, 1);
    let (target, slopes) = (normal(&shape, 2), (normal(&shape, 3) * 1.5).exp());
    let mut optimizer = optimizer(&[&ours], &options(text));
    let distances = (0..steps).map(|step| {
        let distance = (ours.detach() - &target).norm().double_value(&[]);
        set_gradient(&ours, &((ours.detach() - &target) * &slopes));
        optimizer.step(0.1 * (1.0 - step as f64 / steps as f64)).unwrap();
        distance
    });
    distances.collect()
}

#[test]
fn eight_bits_descend_as_thirty_two_do() {
    let (exact, coded) =
        (quadratic("method = \"adamw\"", 200), quadratic("method = \"adamw8bit\"", 200));
    let (first, last) = (exact[0], exact[199]);
    assert!(
        last < 0.02 * first && coded[199] < 0.02 * first,
        "{first} to {last}, in 8 bits {}",
        coded[199]
    );
    for (step, (exact, coded)) in exact.iter().zip(&coded).enumerate() {
        assert!((coded - exact).abs() < 0.05 * first, "step {step}: {coded}, in 32 bits {exact}");
    }
}

#[test]
fn eight_bit_states_take_two_bytes_an_element_and_two_scales_a_block() {
    let shapes: [&[i64]; 3] = [&[3, 700], &[256], &[7]];
    let parameters: Vec<Tensor> = shapes.iter().map(|shape| parameter(shape, 1)).collect();
    let bytes = |name: &str| {
        let optimizer = optimizer(
            &parameters.iter().collect::<Vec<_>>(),
            &options(&format!("method = \"{name}\"")),
        );
        let tensors = optimizer.states().flat_map(|state| state.tensors);
        tensors.map(|(_, tensor)| tensor.numel() * tensor.kind().elt_size_in_bytes()).sum::<usize>()
    };
    let (elements, blocks) = (2100 + 256 + 7, 9 + 1 + 1);
    assert_eq!(bytes("adamw8bit"), 2 * (elements + 4 * blocks));
    assert_eq!(bytes("adamw"), 8 * elements);
    assert_eq!(
        (bytes("lion"), bytes("sgd"), bytes("muon")),
        (4 * elements, 4 * elements, 4 * elements + 4 * (256 + 7))
    );
}

#[test]
fn pieces_of_a_large_parameter_are_as_parameters_of_their_own() {
    let (whole, first) = (1 << 18, 300);
    let all = parameter(&[whole + first], 1);
    let rest = all.detach().narrow(0, whole, first).copy().set_requires_grad(true);
    let options = options("method = \"adamw8bit\"\nweight_decay = 0.1");
    let (mut of_all, mut of_rest) = (optimizer(&[&all], &options), optimizer(&[&rest], &options));
    for step in 0..3 {
        let gradient = normal(&[whole + first], 7 + step);
        set_gradient(&all, &gradient);
        set_gradient(&rest, &gradient.narrow(0, whole, first));
        of_all.step(0.1).unwrap();
        of_rest.step(0.1).unwrap();
    }
    assert!(all.detach().narrow(0, whole, first).equal(&rest.detach()));
}

#[test]
fn a_state_that_is_loaded_goes_on_as_the_one_that_was_saved() {
    for name in ["adamw", "adamw8bit", "lion", "sgd", "muon"] {
        let options = options(&format!("method = \"{name}\""));
        let (one, two) = (parameter(&[4, 90], 1), parameter(&[30], 2));
        let run = |optimizer: &mut Optimizer, steps: std::ops::Range<u64>| {
            for step in steps {
                set_gradient(&one, &normal(&[4, 90], 50 + step));
                set_gradient(&two, &normal(&[30], 90 + step));
                optimizer.step(0.01).unwrap();
            }
        };
        let mut first = optimizer(&[&one, &two], &options);
        run(&mut first, 0..3);
        let state: Vec<Tensor> = first
            .states()
            .flat_map(|state| state.tensors)
            .map(|(_, tensor)| tensor.copy())
            .collect();
        let middle = [one.detach().copy(), two.detach().copy()];
        run(&mut first, 3..6);
        let end = [one.detach().copy(), two.detach().copy()];

        let mut second = optimizer(&[&one, &two], &options);
        assert_eq!(second.states().flat_map(|state| state.tensors).count(), state.len());
        second
            .states()
            .flat_map(|state| state.tensors)
            .zip(&state)
            .for_each(|((_, tensor), saved)| tensor.shallow_clone().copy_(saved));
        second.set_steps(3);
        one.detach().copy_(&middle[0]);
        two.detach().copy_(&middle[1]);
        run(&mut second, 3..6);
        assert!(one.detach().equal(&end[0]) && two.detach().equal(&end[1]), "{name}");
    }
}

#[test]
fn a_parameter_learns_at_its_own_rate_and_one_without_a_gradient_stays() {
    let parameters = [(); 3].map(|()| parameter(&[4], 1));
    let trained: Vec<TrainedParam<'_>> = (0..3)
        .map(|index| TrainedParam {
            tensor: &parameters[index],
            lr_scale: if index == 1 { 16.0 } else { 1.0 },
            is_hidden_matrix: false,
        })
        .collect();
    let mut optimizer =
        Optimizer::new(&trained, &options("method = \"sgd\"\nmomentum = 0"), Partition::WHOLE)
            .unwrap();
    let before = parameters[0].detach().copy();
    let gradient = Tensor::from_slice(&[1.0_f32, 2.0, -4.0, 8.0]);
    parameters[..2].iter().for_each(|parameter| set_gradient(parameter, &gradient));
    optimizer.step(0.25).unwrap();
    let moved = |index: usize| &before - parameters[index].detach();
    assert!(moved(0).allclose(&(&gradient * 0.25), 1e-6, 1e-6, false));
    assert!(moved(1).allclose(&(&gradient * 4.0), 1e-6, 1e-6, false));
    assert!(parameters[2].detach().equal(&before));
}

#[test]
fn bfloat16_parameters_have_moments_in_f32() {
    for name in ["adamw", "adamw8bit", "lion", "sgd", "muon"] {
        let wide = parameter(&[6, 50], 1);
        let narrow = wide.detach().to_kind(Kind::BFloat16).set_requires_grad(true);
        let options = options(&format!("method = \"{name}\""));
        let mut both = [optimizer(&[&wide], &options), optimizer(&[&narrow], &options)];
        for step in 0..4 {
            let gradient = normal(&[6, 50], 7 + step).to_kind(Kind::BFloat16);
            set_gradient(&wide, &gradient.to_kind(Kind::Float));
            set_gradient(&narrow, &gradient);
            both.iter_mut().for_each(|optimizer| optimizer.step(0.05).unwrap());
        }
        let error = apart(&values(&narrow), &values(&wide));
        assert!(error < 0.01, "{name}: {error}");
    }
}

#[test]
fn shares_step_as_the_whole_does_to_the_bit() {
    let shapes: [&[i64]; 4] = [&[37, 53], &[1001], &[3], &[64, 40]];
    for name in ["adamw", "adamw8bit", "lion", "sgd", "muon"] {
        let options = options(&format!("method = \"{name}\"\nweight_decay = 0.1"));
        for world_size in [2, 3, 5] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let make = || {
                    shapes.map(|shape| {
                        parameter(shape, 1).detach().to_kind(kind).set_requires_grad(true)
                    })
                };
                let (together, apart) = (make(), make());
                let new = |tensors: &[Tensor], part| {
                    let trained: Vec<_> = tensors
                        .iter()
                        .map(|tensor| TrainedParam {
                            tensor,
                            lr_scale: 1.0,
                            is_hidden_matrix: true,
                        })
                        .collect();
                    Optimizer::new(&trained, &options, part).unwrap()
                };
                let mut whole = new(&together, Partition::WHOLE);
                // All partitions on the same parameters: what each steps, the others see without an
                // exchange.
                let mut partitions: Vec<Optimizer> = (0..world_size)
                    .map(|rank| new(&apart, Partition { rank, world_size }))
                    .collect();
                for step in 0..4 {
                    for (index, shape) in shapes.iter().enumerate() {
                        let gradient = normal(shape, 10 * step + index as u64).to_kind(kind);
                        set_gradient(&together[index], &gradient);
                        set_gradient(&apart[index], &gradient);
                    }
                    whole.step(0.01).unwrap();
                    partitions.iter_mut().for_each(|part| part.step(0.01).unwrap());
                    for (index, (one, other)) in together.iter().zip(&apart).enumerate() {
                        assert!(
                            one.equal(other),
                            "{name} on {world_size} ranks, {kind:?}, parameter {index}, step {step}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_partition_holds_the_states_of_its_elements_only() {
    let parameters = [parameter(&[30, 40], 1), parameter(&[600], 2)];
    let trained: Vec<_> = parameters
        .iter()
        .map(|tensor| TrainedParam { tensor, lr_scale: 1.0, is_hidden_matrix: false })
        .collect();
    for world_size in [1, 2, 3, 4, 6] {
        for rank in 0..world_size {
            let optimizer = Optimizer::new(
                &trained,
                &options("method = \"adamw\""),
                Partition { rank, world_size },
            )
            .unwrap();
            let elements: usize = optimizer
                .states()
                .flat_map(|state| state.tensors)
                .map(|(_, tensor)| tensor.numel())
                .sum();
            assert_eq!(elements, 2 * 1800 / world_size, "rank {rank} of {world_size}");
        }
    }
}

#[test]
fn a_weight_in_bf16_gathers_steps_that_it_cannot_show() {
    let moved = |keys: &str| {
        let weight = Tensor::ones([8], (Kind::BFloat16, Device::Cpu)).set_requires_grad(true);
        let mut optimizer =
            optimizer(&[&weight], &options(&format!("method = \"sgd\"\nmomentum = 0\n{keys}")));
        for _ in 0..100 {
            set_gradient(&weight, &Tensor::ones([8], (Kind::BFloat16, Device::Cpu)));
            optimizer.step(1e-3).unwrap();
        }
        1.0 - values(&weight)[0]
    };
    // A step of 0.001 is less than half of what separates one from its neighbour, 2^-8.
    assert!((moved("") - 0.1).abs() < 2e-3, "{}", moved(""));
    assert_eq!(moved("master_weights = false"), 0.0);
}
