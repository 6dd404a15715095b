//! Matrices coded by the GPU kernels against those coded by the CPU: on the CPU, from the text that
//! a GPU gets, and on a GPU where there is one.
#![allow(clippy::unwrap_used)]

#[path = "../../../test_matrices.rs"]
mod test_matrices;

use std::sync::Arc;

use proptest::prelude::*;
use tch::{Cuda, Device, Kind};

use kernels::components::Kernels;

use super::{Basis, Coded, Coding, Rate, Rounding};
use crate::per_token_error;
use test_matrices::{Shape, matrix, shapes};

const ROUNDINGS: [Rounding; 3] = [Rounding::Trellis, Rounding::Nearest, Rounding::Stochastic];

#[allow(unsafe_code, reason = "memory is handed to a kernel by its address")]
fn on_host() -> Kernels {
    // SAFETY: it runs the kernels of the same text.
    unsafe { Kernels::on_host(kernels_host::launch) }.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The whole of it, in a basis and column by column: the same bytes, whichever way was taken,
    /// and the matrix as it was.
    #[test]
    fn a_matrix_is_coded_by_kernels_as_by_the_cpu(
        shape in shapes(), rows in prop_oneof![Just(1i64), 2i64..200], columns in prop_oneof![Just(1i64), 2i64..60],
        rate in prop_oneof![(0.3f64..17.0).prop_map(Rate::Bits), (0.02f64..0.8).prop_map(Rate::Error)],
        which in 0usize..3, keep_norms: bool, bf16: bool, turned: bool, seed in 0u64..1000,
    ) {
        let matrix = matrix(shape, rows, columns, seed).to_kind(if bf16 { Kind::BFloat16 } else { Kind::Float });
        let before = matrix.copy();
        let coding = Coding { rate, rounding: ROUNDINGS[which], keep_norms };
        let basis = turned.then(|| Arc::new(Basis::from_matrix(&matrix).unwrap()));
        let coded = |kernels| Coded::with(kernels, &matrix, basis.as_ref(), &coding, seed).unwrap();
        let (found, expected) = (coded(Some(on_host())), coded(None));
        prop_assert_eq!(found.tensors(), expected.tensors());
        prop_assert_eq!((found.error(), found.relative_error()), (expected.error(), expected.relative_error()));
        prop_assert_eq!(matrix, before);
    }
}

/// On a GPU norms and products are summed in another order, so that codes need not be those of the
/// CPU; but they are what they say.
#[test]
fn a_gpu_codes_what_it_says() {
    let Some(device) = Cuda::is_available().then_some(Device::Cuda(0)) else { return };
    for shape in [
        Shape::Falling,
        Shape::Deficient,
        Shape::Constant,
        Shape::ZeroRows,
        Shape::Outlier,
        Shape::Spike,
    ] {
        let matrix = matrix(shape, 500, 96, 1).to_device(device);
        let basis = Arc::new(Basis::from_matrix(&matrix).unwrap());
        for rounding in ROUNDINGS {
            let coding = Coding { rate: Rate::Bits(3.0), rounding, keep_norms: true };
            let (code, on_cpu) = (
                Coded::new(&matrix, &basis, &coding, 1).unwrap(),
                Coded::with(None, &matrix, Some(&basis), &coding, 1).unwrap(),
            );
            assert_eq!((code.bytes(), code.tensors()[0].device()), (on_cpu.bytes(), device));
            let found = per_token_error(&matrix, &code.restore(Kind::Float).unwrap()).unwrap();
            assert!(
                (code.error() - found).abs() < 2e-3,
                "{shape:?} {rounding:?}: {} {found}",
                code.error()
            );
            assert!(
                (code.error() - on_cpu.error()).abs() < 0.02 * on_cpu.error() + 1e-4,
                "{shape:?} {rounding:?}"
            );
        }
    }
}
