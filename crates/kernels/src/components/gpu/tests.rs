//! The kernels against the CPU's own passes, bit for bit: on the CPU, from the text that a GPU
//! gets, and on a GPU where there is one.
#![allow(clippy::unwrap_used)]

#[path = "../../../../test_matrices.rs"]
mod test_matrices;

use proptest::prelude::*;
use tch::Kind;

use super::super::cpu;
use super::super::plan::{Encoded, Plan};
use super::super::rounding::Rounding;
use super::super::small_float::gain;
use super::super::widths::EXACT;
use super::super::{Components, decode, reference};
use super::*;
use test_matrices::{matrix, normal, shapes};

const ROUNDINGS: [Rounding; 3] = [Rounding::Trellis, Rounding::Nearest, Rounding::Stochastic];

#[allow(unsafe_code, reason = "memory is handed to a kernel by its address")]
fn on_host() -> Kernels {
    // SAFETY: it runs the kernels of the same text.
    unsafe { Kernels::on_host(kernels_host::launch) }.unwrap()
}

/// On the CPU always, on a GPU when there is one.
fn on_each_device() -> Vec<Kernels> {
    let gpu = Cuda::is_available()
        .then(|| Kernels::on(Device::Cuda(0)).expect("a GPU without kernels: see the warning"));
    std::iter::once(on_host()).chain(gpu).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Every width, every rounding, odd numbers of rows, components of zeros, values far beyond the
    /// last level.
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
        let Encoded { codes, energies, along } = cpu::encode(&y, rows, &plan, rounding, seed);
        let gains: Vec<i16> = normal(rows, seed ^ 1).iter().map(|value| (value.abs().to_bits() >> 15) as i16).collect();
        let floats: Vec<f32> = gains.iter().map(|&code| gain(code.cast_unsigned())).collect();
        let trellis = rounding == Rounding::Trellis;
        let decoded = cpu::decode(&codes, &plan, &floats, trellis);

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
        let mut host = Components::new(y.copy(), None).unwrap();
        let squares = host.scale_rows(&factors, ratios).unwrap();
        host.clear(&cleared).unwrap();
        for kernels in on_each_device() {
            let mut card = Components::new(y.copy().to_device(kernels.device), Some(kernels)).unwrap();
            prop_assert!(bits(&card.scale_rows(&factors, ratios).unwrap()) == bits(&squares), "squares");
            card.clear(&cleared).unwrap();
            let (Components::Host(values, _), Components::Gpu(y, _)) = (&host, &card) else { unreachable!() };
            prop_assert!(bits(&Vec::<f32>::try_from(y.view([-1])).unwrap()) == bits(values), "scaled");
            prop_assert!(card.spreads(2).unwrap() == host.spreads(2).unwrap(), "spreads");
        }
    }
}

#[test]
fn nvrtc_compiles_the_kernels_for_every_generation_and_contracts_nothing() {
    for generation in [75, 80, 90] {
        let ptx = match cuda::compile(FILE, SOURCE, &format!("compute_{generation}")) {
            Ok(ptx) => String::from_utf8(ptx).unwrap(),
            Err(reason) if reason.contains("there is no NVRTC") => {
                return println!("skipped: {reason}");
            }
            Err(reason) => panic!("{generation}: {reason}"),
        };
        let entries: Vec<&str> = ptx
            .lines()
            .filter_map(|line| line.split_once(".entry ")?.1.split('(').next())
            .collect();
        assert_eq!(entries.len(), Kernel::ALL.len(), "{entries:?}");
        for kernel in Kernel::ALL {
            assert!(
                entries.contains(&kernel.name().to_str().unwrap()),
                "{kernel:?} is not among {entries:?}"
            );
        }
        assert!(!ptx.contains("fma.rn"), "a product and a sum are rounded as one");
        let code = cuda::compile(FILE, SOURCE, &format!("sm_{generation}")).unwrap();
        assert!(code.starts_with(b"\x7fELF"));
    }
    let refused = cuda::compile(FILE, SOURCE, "sm_1").unwrap_err();
    assert!(refused.contains("gpu-architecture"), "{refused}");
}

#[test]
fn a_machine_without_a_gpu_has_no_kernels_and_does_not_panic() {
    assert!(Kernels::on(Device::Cpu).is_none());
    if !Cuda::is_available() {
        assert!(Kernels::on(Device::Cuda(0)).is_none());
    }
}
