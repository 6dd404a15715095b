//! Random tensors from a seed given with each call, and the state of the global generator.
//!
//! The same seed gives the same values whatever was drawn before, and the global generator is
//! neither read nor moved, so that switching one random choice on or off changes no other.

use tch::{Device, Kind, Tensor};

use crate::Error;
use crate::ffi::{self, check, device_index};

/// The distribution of a random tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Uniform in [0, 1).
    Uniform,
    /// Normal with mean 0 and variance 1.
    Normal,
    /// 1 with this probability, else 0.
    Bernoulli(f64),
}

/// A new tensor of independent draws from `distribution`, determined by `seed`, shape, kind and the
/// kind of device alone.
///
/// # Errors
/// Those of libtorch: a distribution that the kind cannot hold, a probability outside [0, 1].
pub fn draw(
    distribution: Distribution,
    shape: &[i64],
    kind: Kind,
    device: Device,
    seed: u64,
) -> Result<Tensor, Error> {
    let mut tensor = Tensor::f_empty(shape, (kind, device))?;
    let (number, p) = match distribution {
        Distribution::Uniform => (0, 0.0),
        Distribution::Normal => (1, 0.0),
        Distribution::Bernoulli(p) => (2, p),
    };
    // SAFETY: fills a tensor that is ours.
    check(unsafe { ffi::loract_random_fill(tensor.as_mut_ptr(), seed, number, p) })?;
    Ok(tensor)
}

/// A seed for one random choice, from the seeds and numbers that name it: (seed, step, rank, site),
/// say. Different lists give unrelated seeds (SplitMix64's finaliser over a running sum; Steele,
/// Lea and Flood 2014).
pub fn derive_seed(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9e37_79b9_7f4a_7c15, |state: u64, part| {
        let mut mixed = state.rotate_left(23) ^ part.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state.wrapping_mul(0xd129_0239_7b1c_8f3d).wrapping_add(mixed ^ (mixed >> 31))
    })
}

/// The state of a device's global generator.
///
/// # Errors
/// If the device is not there.
pub fn state(device: Device) -> Result<Tensor, Error> {
    let index = device_index("random state", device)?;
    let mut pointer = std::ptr::null_mut();
    // SAFETY: on success `pointer` is a new tensor handed over to us.
    check(unsafe { ffi::loract_random_state(index, &mut pointer) })?;
    // SAFETY: as above.
    Ok(unsafe { Tensor::from_ptr(pointer) })
}

/// Puts a device's global generator into a state from [`state`].
///
/// # Errors
/// If the device is not there, or the state is not one of its.
pub fn set_state(device: Device, state: &Tensor) -> Result<(), Error> {
    let index = device_index("random state", device)?;
    // SAFETY: the bridge copies the state.
    check(unsafe { ffi::loract_set_random_state(index, state.as_ptr()) })
}
