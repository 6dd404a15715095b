//! The kernels against the CPU's own passes, bit for bit: on the CPU, from the text that a GPU gets, and on a GPU where there is one.
#![allow(clippy::unwrap_used)]

use super::super::components::{Components, decode};
use super::super::pass::{self, Encoded, Plan};
use super::super::small_float::gain;
use super::super::water_filling::EXACT;
use super::super::{Basis, Coded, Coding, Rate, Rounding, reference};
use super::*;
use crate::{orthonormalize, per_token_error};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;
use std::sync::Arc;
use tch::Kind;

const ROUNDINGS: [Rounding; 3] = [Rounding::Trellis, Rounding::Nearest, Rounding::Stochastic];

fn on_host() -> Kernels {
    Kernels::with(Machine::Host, Device::Cpu).unwrap()
}

/// On the CPU always, on a GPU when there is one.
fn on_each_device() -> Vec<Kernels> {
    let card = Cuda::is_available().then(|| Kernels::on(Device::Cuda(0)).expect("a GPU without kernels: see the warning"));
    std::iter::once(on_host()).chain(card).collect()
}

fn normal(count: usize, seed: u64) -> Vec<f32> {
    rand_chacha::ChaCha8Rng::seed_from_u64(seed).sample_iter(StandardNormal).take(count).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What a matrix can be like, and what it must survive.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Falling,
    /// Half as many directions as columns.
    Deficient,
    Constant,
    ZeroRows,
    /// One row a million times as large as the others.
    Outlier,
    /// One element that is nearly all of its row.
    Spike,
}

fn matrix(shape: Shape, rows: i64, columns: i64, seed: u64) -> Tensor {
    let noise = |rows: i64, columns: i64, seed| Tensor::from_slice(&normal((rows * columns) as usize, seed)).view([rows, columns]);
    let falling = noise(rows, columns, seed) * Tensor::arange(columns, (Kind::Float, Device::Cpu)).neg().multiply_scalar(0.1).exp();
    match shape {
        Shape::Falling => falling.matmul(&orthonormalize(&noise(columns, columns, seed + 1)).unwrap()),
        Shape::Deficient => {
            let inner = (columns / 2).max(1);
            noise(rows, inner, seed).matmul(&noise(inner, columns, seed + 1))
        }
        Shape::Constant => Tensor::full([rows, columns], 0.75, (Kind::Float, Device::Cpu)),
        Shape::ZeroRows => {
            let zeroed = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).remainder(3).eq(0).unsqueeze(1);
            falling.masked_fill(&zeroed, 0.0)
        }
        Shape::Outlier => {
            let _ = falling.get(rows / 2).multiply_scalar_(1e6);
            falling
        }
        Shape::Spike => {
            let _ = falling.get(rows / 3).get(columns / 2).fill_(1e4);
            falling
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![Shape::Falling, Shape::Deficient, Shape::Constant, Shape::ZeroRows, Shape::Outlier, Shape::Spike])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Every width, every rounding, odd numbers of rows, components of zeros, values far beyond the last level.
    #[test]
    fn kernels_code_and_decode_as_the_cpu_does(
        rows in prop_oneof![1usize..80, 1000usize..1100], count in 1usize..80, which in 0usize..3, turn in 0usize..10, seed: u64,
    ) {
        let rounding = ROUNDINGS[which];
        let widths: Vec<u8> = (0..count).map(|component| [0, 1, 2, 3, 4, 5, 6, 7, 8, EXACT][(component * 7 + turn) % 10]).collect();
        let plan = Plan { widths, scales: (0..count).map(|component| 160 + (component % 90) as u8).collect() };
        let mut y = normal(count * rows, seed);
        for (component, values) in y.chunks_mut(rows).enumerate() {
            let factor = [0.0, 1e-3, 0.02, 0.1, 3.0][component % 5];
            values.iter_mut().for_each(|value| *value *= factor);
        }
        let tensor = Tensor::from_slice(&y).view([count as i64, rows as i64]);
        let Encoded { codes, energies, along } = pass::encode(&y, rows, &plan, rounding, seed);
        let gains: Vec<i16> = normal(rows, seed ^ 1).iter().map(|value| (value.abs().to_bits() >> 15) as i16).collect();
        let floats: Vec<f32> = gains.iter().map(|&code| gain(code.cast_unsigned())).collect();
        let trellis = rounding == Rounding::Trellis;
        let decoded = pass::decode(&codes, &plan, &floats, trellis);

        for kernels in on_each_device() {
            let device = kernels.device;
            let found = kernels.encode(&tensor.to_device(device), &plan, rounding, seed).unwrap();
            // Not `_eq`, which would show them all.
            prop_assert!(Vec::<u8>::try_from(&found.codes).unwrap() == codes, "codes on {device:?}");
            prop_assert!((bits(&found.energies), bits(&found.along)) == (bits(&energies), bits(&along)), "sums on {device:?}");

            let gains = Tensor::from_slice(&gains).to_device(device);
            let again = |kind| kernels.decode(&found.codes, &plan, &gains, trellis, kind).unwrap();
            prop_assert!(bits(&Vec::<f32>::try_from(again(Kind::Float).view([-1])).unwrap()) == bits(&decoded), "decoded on {device:?}");
            let rounded = Tensor::from_slice(&decoded).to_kind(Kind::BFloat16);
            prop_assert_eq!(again(Kind::BFloat16).view([-1]).to_device(Device::Cpu), rounded);
            let plain = decode(&found.codes, &plan, &gains, trellis, Kind::Float, None).unwrap();
            prop_assert_eq!(again(Kind::Float), plain);
            let floats = Tensor::from_slice(&floats).to_device(device);
            prop_assert_eq!(again(Kind::Float), reference::decode(&found.codes, &plan, &floats, trellis).unwrap());
        }
    }

    /// Rows are scaled and summed, cleared and counted, whatever they are like.
    #[test]
    fn kernels_scale_and_count_as_the_cpu_does(
        rows in prop_oneof![1usize..80, 900usize..9000], count in 1usize..70, shape in shapes(), stochastic: bool, seed in 0u64..1000,
    ) {
        let y = matrix(shape, rows as i64, count as i64, seed).tr().contiguous() * 0.1;
        let (factors, ratios) = (normal(rows, seed + 2), normal(rows, seed + 3));
        let ratios = stochastic.then_some(ratios.as_slice());
        let cleared = [0, rows / 2];
        let mut host = Components::of(y.copy(), None).unwrap();
        let squares = host.scale_rows(&factors, ratios).unwrap();
        host.clear(&cleared).unwrap();
        for kernels in on_each_device() {
            let mut card = Components::of(y.copy().to_device(kernels.device), Some(kernels)).unwrap();
            prop_assert!(bits(&card.scale_rows(&factors, ratios).unwrap()) == bits(&squares), "squares");
            card.clear(&cleared).unwrap();
            let (Components::Host(values, _), Components::Card(y, _)) = (&host, &card) else { unreachable!() };
            prop_assert!(bits(&Vec::<f32>::try_from(y.view([-1])).unwrap()) == bits(values), "scaled");
            prop_assert!(card.spreads(2).unwrap() == host.spreads(2).unwrap(), "spreads");
        }
    }

    /// The whole of it, in a basis and column by column: the same bytes, whichever way was taken, and the matrix as it was.
    #[test]
    fn a_matrix_is_coded_by_kernels_as_by_the_cpu(
        shape in shapes(), rows in prop_oneof![Just(1i64), 2i64..200], columns in prop_oneof![Just(1i64), 2i64..60],
        rate in prop_oneof![(0.3f64..17.0).prop_map(Rate::Bits), (0.02f64..0.8).prop_map(Rate::Error)],
        which in 0usize..3, keep_norms: bool, bf16: bool, turned: bool, seed in 0u64..1000,
    ) {
        let matrix = matrix(shape, rows, columns, seed).to_kind(if bf16 { Kind::BFloat16 } else { Kind::Float });
        let before = matrix.copy();
        let coding = Coding { rate, rounding: ROUNDINGS[which], keep_norms };
        let basis = turned.then(|| Arc::new(Basis::of(&matrix).unwrap()));
        let coded = |kernels| Coded::with(kernels, &matrix, basis.as_ref(), &coding, seed).unwrap();
        let (found, expected) = (coded(Some(on_host())), coded(None));
        prop_assert_eq!(found.tensors(), expected.tensors());
        prop_assert_eq!((found.error(), found.relative_error()), (expected.error(), expected.relative_error()));
        prop_assert_eq!(matrix, before);
    }
}

/// On a GPU norms and products are summed in another order, so that codes need not be those of the CPU; but they are what they say.
#[test]
fn a_gpu_codes_what_it_says() {
    let Some(device) = Cuda::is_available().then_some(Device::Cuda(0)) else { return };
    for shape in [Shape::Falling, Shape::Deficient, Shape::Constant, Shape::ZeroRows, Shape::Outlier, Shape::Spike] {
        let matrix = matrix(shape, 500, 96, 1).to_device(device);
        let basis = Arc::new(Basis::of(&matrix).unwrap());
        for rounding in ROUNDINGS {
            let coding = Coding { rate: Rate::Bits(3.0), rounding, keep_norms: true };
            let (code, on_cpu) =
                (Coded::new(&matrix, &basis, &coding, 1).unwrap(), Coded::with(None, &matrix, Some(&basis), &coding, 1).unwrap());
            assert_eq!((code.bytes(), code.tensors()[0].device()), (on_cpu.bytes(), device));
            let found = per_token_error(&matrix, &code.restore(Kind::Float).unwrap()).unwrap();
            assert!((code.error() - found).abs() < 2e-3, "{shape:?} {rounding:?}: {} {found}", code.error());
            assert!((code.error() - on_cpu.error()).abs() < 0.02 * on_cpu.error() + 1e-4, "{shape:?} {rounding:?}");
        }
    }
}

#[test]
fn nvrtc_compiles_the_kernels_for_every_generation_and_contracts_nothing() {
    for generation in [75, 80, 90] {
        let ptx = match cuda::compile(&format!("compute_{generation}")) {
            Ok(ptx) => String::from_utf8(ptx).unwrap(),
            Err(reason) if reason.contains("there is no NVRTC") => return println!("skipped: {reason}"),
            Err(reason) => panic!("{generation}: {reason}"),
        };
        let entries: Vec<&str> = ptx.lines().filter_map(|line| line.split_once(".entry ")?.1.split('(').next()).collect();
        assert_eq!(entries.len(), Kernel::ALL.len(), "{entries:?}");
        for kernel in Kernel::ALL {
            assert!(entries.contains(&kernel.name().to_str().unwrap()), "{kernel:?} is not among {entries:?}");
        }
        assert!(!ptx.contains("fma.rn"), "a product and a sum are rounded as one");
        let code = cuda::compile(&format!("sm_{generation}")).unwrap();
        assert!(code.starts_with(b"\x7fELF"));
    }
    let refused = cuda::compile("sm_1").unwrap_err();
    assert!(refused.contains("gpu-architecture"), "{refused}");
}

#[test]
fn a_machine_without_a_gpu_has_no_kernels_and_does_not_panic() {
    assert!(Kernels::on(Device::Cpu).is_none());
    if !Cuda::is_available() {
        assert!(Kernels::on(Device::Cuda(0)).is_none());
    }
}
