use std::sync::Once;

use tch::{Device, Tensor};

/// `matrix`, on a device whose solvers are loaded. libtorch loads its GPU solvers with the first
/// call, and fails if two threads make it at once.
pub(crate) fn ready(matrix: &Tensor) -> &Tensor {
    static LOADED: Once = Once::new();
    if matrix.device() != Device::Cpu {
        LOADED.call_once(|| {
            // What goes wrong here goes wrong again where it is reported.
            let _ = Tensor::f_eye(1, (tch::Kind::Float, matrix.device()))
                .and_then(|one| one.f_linalg_cholesky_ex(true, false));
        });
    }
    matrix
}
