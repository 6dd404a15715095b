//! How many bytes tensors hold, now and at most.
//!
//! On the CPU the count is exact to the byte, of all tensors made after [`count_cpu`]; on CUDA it
//! is the caching allocator's, which rounds each tensor up to 512 bytes.

use tch::Device;

use crate::Error;
use crate::ffi::{self, check, device_index};

/// Starts counting on the CPU; call it first thing in the program. Tensors made before are not
/// counted. Calling it again does nothing.
pub fn count_cpu() {
    // SAFETY: installs an allocator that lives as long as the program.
    unsafe { ffi::loract_memory_install() };
}

fn statistics(device: Device) -> Result<(u64, u64), Error> {
    let (mut current, mut peak) = (0, 0);
    let index = device_index("memory", device)?;
    // SAFETY: writes two integers.
    check(unsafe { ffi::loract_memory(index, &mut current, &mut peak) })?;
    Ok((current.max(0) as u64, peak.max(0) as u64))
}

/// Bytes in tensors now.
///
/// # Errors
/// If the device is not there.
pub fn current(device: Device) -> Result<u64, Error> {
    Ok(statistics(device)?.0)
}

/// The most bytes in tensors at any moment since the start or [`reset_peak`].
///
/// # Errors
/// If the device is not there.
pub fn peak(device: Device) -> Result<u64, Error> {
    Ok(statistics(device)?.1)
}

/// Lets the peak start again from what is held now.
///
/// # Errors
/// If the device is not there.
pub fn reset_peak(device: Device) -> Result<(), Error> {
    let index = device_index("memory", device)?;
    // SAFETY: plain call.
    check(unsafe { ffi::loract_memory_reset_peak(index) })
}
