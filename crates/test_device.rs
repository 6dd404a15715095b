//! Where the tests of several packages have their tensors.

use tch::Device;

/// The first GPU with `LORACT_TEST_DEVICE=cuda`, or the CPU.
pub fn device() -> Device {
    if std::env::var("LORACT_TEST_DEVICE").is_ok_and(|name| name == "cuda") {
        Device::Cuda(0)
    } else {
        Device::Cpu
    }
}
