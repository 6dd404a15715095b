//! Quantized weights: NF4 against what bitsandbytes recorded (tests/fixtures/quantization), and
//! operations against the same ones on the expanded weight, bit for bit.
#![allow(clippy::unwrap_used, missing_docs)]

mod drawing;

use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use compression::{Method, Options};
use layers::{
    BlockFormat, Dispatch, Lora, Matrix, Nf4, Projection, QuantizedWeight, SavePolicy, Scope,
    embedding, expert_inputs, project,
};
use loract_layers as layers;

use drawing::{device, gradients, values};

fn recorded() -> HashMap<String, Tensor> {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/quantization/nf4.safetensors");
    Tensor::read_safetensors(path)
        .unwrap()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_device(device())))
        .collect()
}

/// `large.weight` of the recording.
fn large() -> Tensor {
    let index = Tensor::arange(80 * 208, (Kind::Int64, device()));
    let numbers = (&index * &index * 7919 + &index * 104_729).remainder(8191) - 4095;
    let factors = index.floor_divide_scalar(208).remainder(4) + 1;
    (numbers * factors).to_kind(Kind::Float).view([80, 208]) / 65536
}

#[track_caller]
fn same(ours: &Tensor, recorded: &Tensor, what: &str) {
    assert_eq!((ours.size(), ours.kind()), (recorded.size(), recorded.kind()), "{what}");
    assert!(ours.equal(recorded), "{what}: {} differ", ours.ne_tensor(recorded).sum(Kind::Int64));
}

#[test]
fn nf4_is_that_of_bitsandbytes_bit_for_bit() {
    let recorded = recorded();
    for (name, weight) in [("small", recorded["small.weight"].shallow_clone()), ("large", large())]
    {
        for (nested, parts) in
            [(false, &["absmax"][..]), (true, &["absmax", "nested_absmax", "nested_offset"])]
        {
            let quantized = Nf4::quantize("w", &weight, nested).unwrap();
            let prefix = format!("{name}.{}", if nested { "nested" } else { "plain" });
            let tensors = quantized.tensors();
            assert_eq!(tensors.len(), 1 + parts.len());
            same(tensors[0], &recorded[&format!("{name}.codes")], &format!("{prefix}: codes"));
            for (tensor, part) in tensors[1..].iter().zip(parts) {
                assert_eq!(tensor.name(), format!("w.{part}"));
                same(tensor, &recorded[&format!("{prefix}.{part}")], &format!("{prefix}: {part}"));
            }
            let expanded = QuantizedWeight::nf4(quantized, Kind::Float).expand().unwrap();
            assert_eq!(expanded.size(), weight.size());
            let rows = if name == "small" {
                expanded
            } else {
                expanded.index_select(0, &values(&[0_i64, 79]))
            };
            same(&rows, &recorded[&format!("{prefix}.expanded")], &format!("{prefix}: expanded"));
        }
    }
}

#[test]
fn nf4_expands_its_code_books() {
    let recorded = recorded();
    // Each level is its own nearest one.
    let levels = &recorded["levels"].repeat([4]).view([1, 64]);
    let back = QuantizedWeight::nf4(Nf4::quantize("w", levels, false).unwrap(), Kind::Float)
        .expand()
        .unwrap();
    same(&back, levels, "levels");
    // A block whose largest magnitude is a level of eight bits above the mean; the largest of these
    // is one, and the mean of all zero.
    let map =
        &recorded["dynamic_map"].index_select(0, &(Tensor::arange(255, (Kind::Int64, device()))));
    let map = Tensor::cat(&[map, &values(&[1.0_f32])], 0);
    assert_eq!(map.size(), [256]);
    let mean = map.mean(Kind::Double).to_kind(Kind::Float);
    let magnitudes = &map + 1.0;
    let weight = magnitudes.unsqueeze(1).expand([256, 64], false).contiguous();
    let quantized = Nf4::quantize("w", &weight, true).unwrap();
    let off = (QuantizedWeight::nf4(quantized, Kind::Float).expand().unwrap() - &weight)
        .abs()
        .max()
        .double_value(&[]);
    // Half the widest step between two levels of eight bits, times the largest difference from the
    // mean.
    assert!(off < 0.5 * 0.0142 * 2.0 && mean.double_value(&[]).abs() < 0.01, "{off}");
}

#[test]
fn nf4_takes_four_bits_and_an_eighth() {
    for shape in [[64, 1], [16, 4], [256, 128], [300, 192], [1024, 4096]] {
        let weight = Tensor::ones(shape, (Kind::Float, device()));
        let packed = QuantizedWeight::nf4(Nf4::quantize("w", &weight, true).unwrap(), Kind::Float);
        assert_eq!(Some(packed.bytes()), Nf4::bytes(shape[0] * shape[1]), "{shape:?}");
    }
    let large = Nf4::bytes(1 << 24).unwrap() as f64 * 8.0 / f64::from(1 << 24);
    assert!((large - (4.0 + 8.0 / 64.0 + 32.0 / (64.0 * 256.0))).abs() < 1e-5, "{large}");
    assert_eq!((Nf4::bytes(96), Nf4::bytes(0)), (None, None));
    assert!(Nf4::quantize("w", &Tensor::ones([3, 32], (Kind::Float, device())), true).is_err());
}

/// Random blocks of Q4_1 with modest scales, `[out, inputs]`.
fn blocks(out: i64, inputs: i64, kind: Kind, seed: u64) -> Arc<QuantizedWeight> {
    let numbers = drawing::normal(&[out, inputs / 32, 2], seed).to_kind(Kind::Half) * 0.1;
    let scales = numbers.view_dtype(Kind::Uint8).view([out, inputs / 32, 4]);
    let codes = (drawing::normal(&[out, inputs / 32, 16], seed + 1).abs() * 97)
        .remainder(256)
        .to_kind(Kind::Uint8);
    let bytes = Tensor::cat(&[scales, codes], 2).view([out, -1]);
    Arc::new(QuantizedWeight::blocks("w", BlockFormat::Q4_1, bytes, kind).unwrap())
}

fn nf4(out: i64, inputs: i64, kind: Kind, seed: u64) -> Arc<QuantizedWeight> {
    let weight = drawing::normal(&[out, inputs], seed);
    Arc::new(QuantizedWeight::nf4(Nf4::quantize("w", &weight, true).unwrap(), kind))
}

/// Outputs and gradients of `run` with the packed weights and with the expanded ones are the same
/// bits.
fn agree(
    weights: &[Arc<QuantizedWeight>],
    leaves: &[Tensor],
    run: impl Fn(&[Matrix<'_>], &[Tensor]) -> Vec<Tensor>,
    what: &str,
) {
    let expanded: Vec<Tensor> = weights.iter().map(|weight| weight.expand().unwrap()).collect();
    let dense: Vec<Matrix<'_>> = expanded.iter().map(Matrix::from).collect();
    let packed: Vec<Matrix<'_>> = weights.iter().map(Matrix::from).collect();
    let both = [&packed, &dense].map(|weights| {
        let outputs = run(weights, leaves);
        let mut found: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
        found.extend(gradients(leaves, outputs));
        found
    });
    assert_eq!(both[0].len(), both[1].len());
    for (index, (packed, dense)) in both[0].iter().zip(&both[1]).enumerate() {
        same(packed, dense, &format!("{what}: {index}"));
        assert!(dense.abs().max().double_value(&[]) > 0.0, "{what}: {index} is zero");
    }
}

fn leaf(shape: &[i64], kind: Kind, seed: u64) -> Tensor {
    drawing::normal(shape, seed).to_kind(kind).set_requires_grad(true)
}

#[test]
fn a_linear_map_and_its_gradients_are_those_of_the_expanded_weight() {
    let (out, inputs) = (48, 64);
    for kind in [Kind::Float, Kind::BFloat16] {
        for (form, weight) in
            [("blocks", blocks(out, inputs, kind, 3)), ("nf4", nf4(out, inputs, kind, 4))]
        {
            let x = leaf(&[2, 7, inputs], kind, 5);
            let pair = [
                leaf(&[4, inputs], Kind::Float, 6),
                leaf(&[out, 4], Kind::Float, 7),
                leaf(&[out], Kind::Float, 8),
            ];
            let bias = leaf(&[out], kind, 9);
            let plain = [x.shallow_clone(), bias.shallow_clone()];
            let scope = || Scope::training(1, Arc::default());
            let run = |weights: &[Matrix<'_>], leaf: &[Tensor]| {
                let map = Projection { bias: Some(&leaf[1]), ..Projection::new(weights[0]) };
                project(&leaf[0], &[map], SavePolicy::Exact, &scope()).unwrap()
            };
            agree(std::slice::from_ref(&weight), &plain, run, &format!("{form} {kind:?}"));
            let code = SavePolicy::Code(Options {
                method: Method::Quantized { bits: 8, group: 64 },
                ..Options::default()
            });
            for (name, dropout, has_magnitude, policy) in [
                ("lora", 0.0, false, SavePolicy::Exact),
                ("lora of a compressed input", 0.0, false, code),
                ("dropout", 0.25, false, SavePolicy::Exact),
                ("dora", 0.0, true, SavePolicy::Exact),
                ("dora with dropout", 0.25, true, code),
            ] {
                let mut leaves =
                    vec![x.shallow_clone(), pair[0].shallow_clone(), pair[1].shallow_clone()];
                leaves.extend(has_magnitude.then(|| pair[2].shallow_clone()));
                let run = |weights: &[Matrix<'_>], leaf: &[Tensor]| {
                    let lora = Lora {
                        a: &leaf[1],
                        b: &leaf[2],
                        scale: 0.5,
                        dropout,
                        magnitude: leaf.get(3),
                    };
                    project(
                        &leaf[0],
                        &[Projection { lora: Some(lora), ..Projection::new(weights[0]) }],
                        policy,
                        &scope(),
                    )
                    .unwrap()
                };
                agree(
                    std::slice::from_ref(&weight),
                    &leaves,
                    run,
                    &format!("{form} {kind:?} {name}"),
                );
            }
        }
    }
}

#[test]
fn a_weight_stored_the_other_way_is_turned() {
    let (weight, x) = (blocks(32, 64, Kind::Float, 1), leaf(&[5, 32], Kind::Float, 2));
    let run = |weights: &[Matrix<'_>], leaf: &[Tensor]| {
        let map = Projection { fan_in_fan_out: true, ..Projection::new(weights[0]) };
        project(&leaf[0], &[map], SavePolicy::Exact, &Scope::training(1, Arc::default())).unwrap()
    };
    agree(&[weight], &[x], run, "fan_in_fan_out");
}

#[test]
fn experts_read_packed_weights() {
    let weights: Vec<_> = (0..3).map(|expert| blocks(32, 64, Kind::Float, 10 + expert)).collect();
    let dispatch = Dispatch::new(&values(&[0_i64, 2, 1, 2, 0, 1, 2, 0]).view([4, 2]), 3).unwrap();
    let run = |weights: &[Matrix<'_>], leaf: &[Tensor]| {
        let maps: Vec<_> = weights.iter().map(|weight| vec![Projection::new(*weight)]).collect();
        expert_inputs(
            &leaf[0],
            &maps,
            &dispatch,
            SavePolicy::Exact,
            &Scope::training(1, Arc::default()),
        )
        .unwrap()
    };
    agree(&weights, &[leaf(&[4, 64], Kind::Float, 3)], run, "experts");
}

#[test]
fn rows_are_those_of_the_expanded_weight() {
    let ids = values(&[3_i64, 0, 31, 3, 7, 8]).view([2, 3]);
    for weight in [blocks(32, 64, Kind::BFloat16, 1), nf4(32, 64, Kind::Float, 2)] {
        let expanded = weight.expand().unwrap();
        same(
            &embedding(&weight, &ids, Some(3)).unwrap(),
            &embedding(&expanded, &ids, None).unwrap(),
            "rows",
        );
    }
    // On a GPU a row that is none ends the process's use of it.
    if device() == Device::Cpu {
        assert!(embedding(&blocks(32, 64, Kind::Float, 1), &values(&[32_i64]), None).is_err());
    }
}

#[test]
fn blocks_that_are_not_whole_are_no_weight() {
    let bytes = |shape: &[i64], kind| Tensor::zeros(shape, (kind, device()));
    let weight = |bytes| QuantizedWeight::blocks("w", BlockFormat::Q4_1, bytes, Kind::Float);
    assert!(weight(bytes(&[3, 41], Kind::Uint8)).is_none());
    assert!(weight(bytes(&[40], Kind::Uint8)).is_none());
    assert!(weight(bytes(&[3, 40], Kind::Int8)).is_none());
    let whole = weight(bytes(&[3, 40], Kind::Uint8)).unwrap();
    assert_eq!(
        (whole.size(), whole.bytes(), whole.name(), whole.kind()),
        ([3, 64], 120, "w", Kind::Float)
    );
}

#[test]
fn a_weight_of_many_pieces_is_expanded_as_its_rows_are() {
    // More than two pieces, the last one partial.
    for weight in [blocks(1700, 320, Kind::Float, 1), nf4(1700, 320, Kind::Float, 2)] {
        let whole = weight.expand().unwrap();
        let bytes = weight.tensors();
        if let Some(own) = bytes[0].size().get(1) {
            let last = QuantizedWeight::blocks(
                "w",
                BlockFormat::Q4_1,
                bytes[0].narrow(0, 1690, 10).contiguous(),
                Kind::Float,
            )
            .unwrap();
            assert_eq!(*own, 200);
            same(&whole.narrow(0, 1690, 10), &last.expand().unwrap(), "last rows");
        } else {
            // What was quantized is near what it came from, to the end.
            let off = (whole - drawing::normal(&[1700, 320], 2))
                .abs()
                .amax([1].as_slice(), false)
                .max()
                .double_value(&[]);
            assert!(off < 1.0, "{off}");
        }
    }
}
