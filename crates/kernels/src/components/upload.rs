use tch::kind::Element;
use tch::{Device, Tensor};

use crate::Error;

/// These values on a device. The host does not wait for it: CUDA has read them when its call
/// returns, as they are not in pinned memory.
///
/// # Errors
/// Those of libtorch.
pub fn upload<T: Element>(values: &[T], device: Device) -> Result<Tensor, Error> {
    Ok(Tensor::f_from_slice(values)?.f_to_device_(device, T::KIND, true, false)?)
}
